"""CPU feature flags: the kernel's names, LLVM's names, and what each LLVM CPU model implies.

Only flags of instructions that numeric code may contain are listed. LLVM's CPU models also imply
system instructions (``pku``, ``mwaitx``, ``wbnoinvd``, ``xsaves`` ...) that hypervisors often hide;
the compiler never emits them unless asked by name, so they play no part in choosing a model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

#: Kernel flag -> LLVM feature, x86-64.
X86_FEATURES = {
    "pni": "sse3",
    "ssse3": "ssse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "sse4a": "sse4a",
    "popcnt": "popcnt",
    "cx16": "cx16",
    "lahf_lm": "sahf",
    "3dnowprefetch": "prfchw",
    "aes": "aes",
    "pclmulqdq": "pclmul",
    "sha_ni": "sha",
    "movbe": "movbe",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "abm": "lzcnt",
    "adx": "adx",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "gfni": "gfni",
    "avx_vnni": "avxvnni",
    "avx_vnni_int8": "avxvnniint8",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_vp2intersect": "avx512vp2intersect",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "amx_fp16": "amx-fp16",
}

#: Kernel flag -> LLVM feature, AArch64.
ARM_FEATURES = {
    "asimd": "neon",
    "aes": "aes",
    "sha2": "sha2",
    "crc32": "crc",
    "atomics": "lse",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "fcma": "complxnum",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "sve": "sve",
    "sve2": "sve2",
    "i8mm": "i8mm",
    "bf16": "bf16",
}


@dataclass(frozen=True)
class CpuModel:
    """One LLVM CPU model, as sets of kernel flags.

    Parameters
    ----------
    vendor
        ``vendor_id`` that it belongs to; empty for the vendor-neutral levels.
    mcpu
        LLVM's name.
    requires
        Flags without which the model is not chosen.
    optional
        Flags that the model implies, that hypervisors hide, and that are switched off one by one
        (``-amx-tile``) where they are not reported.
    """

    vendor: str
    mcpu: str
    requires: frozenset[str]
    optional: frozenset[str] = frozenset()

    @property
    def implied(self) -> frozenset[str]:
        """Every listed flag that LLVM switches on with this model."""
        return (self.requires | self.optional) & (X86_FEATURES.keys() | ARM_FEATURES.keys())


def _flags(text: str) -> frozenset[str]:
    return frozenset(text.split())


_V2 = _flags("pni ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm")
_V3 = _V2 | _flags("avx avx2 bmi1 bmi2 f16c fma abm movbe")
_AVX512 = _flags("avx512f avx512bw avx512cd avx512dq avx512vl")
_CRYPTO = _flags("aes pclmulqdq")
_AVX512_ICE = _AVX512 | _flags(
    "avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq"
    " vaes vpclmulqdq gfni"
)
_ZEN = _V3 | _flags("adx")
_ZEN_OPTIONAL = _CRYPTO | _flags("sha_ni sse4a 3dnowprefetch")
_ZEN3 = _ZEN | _flags("vaes vpclmulqdq")
_ZEN4 = _ZEN | _AVX512_ICE | _flags("avx512_bf16")
_HASWELL_OPTIONAL = _flags("pclmulqdq")
_SKYLAKE = _V3 | _flags("adx clflushopt")
_SKYLAKE_OPTIONAL = _CRYPTO | _flags("3dnowprefetch")
_SKX = _SKYLAKE | _AVX512
_CLX = _SKX | _flags("avx512_vnni")
_ICL = _SKX | _AVX512_ICE
_ICL_OPTIONAL = _SKYLAKE_OPTIONAL | _flags("sha_ni")
_SPR = _ICL | _flags("avx512_bf16 avx512_fp16 avx_vnni")
_SPR_OPTIONAL = _ICL_OPTIONAL | _flags("amx_tile amx_int8 amx_bf16")
_ADL = _SKYLAKE | _flags("avx_vnni vaes vpclmulqdq gfni")

#: Newest first within a vendor, vendor-neutral levels last: the first that fits is taken. Flags
#: that X86_FEATURES does not list (clwb, wbnoinvd ...) only tell neighbouring models apart.
X86_MODELS = (
    CpuModel("AuthenticAMD", "znver5", _ZEN4 | {"avx_vnni", "avx512_vp2intersect"}, _ZEN_OPTIONAL),
    CpuModel("AuthenticAMD", "znver4", _ZEN4, _ZEN_OPTIONAL),
    CpuModel("AuthenticAMD", "znver3", _ZEN3, _ZEN_OPTIONAL),
    CpuModel("AuthenticAMD", "znver2", _ZEN | {"clwb"}, _ZEN_OPTIONAL),
    CpuModel("AuthenticAMD", "znver1", _ZEN, _ZEN_OPTIONAL),
    CpuModel("GenuineIntel", "graniterapids", _SPR | {"amx_fp16"}, _SPR_OPTIONAL),
    CpuModel("GenuineIntel", "sapphirerapids", _SPR, _SPR_OPTIONAL),
    CpuModel("GenuineIntel", "icelake-server", _ICL | {"clwb", "wbnoinvd"}, _ICL_OPTIONAL),
    CpuModel("GenuineIntel", "icelake-client", _ICL, _ICL_OPTIONAL),
    CpuModel("GenuineIntel", "cooperlake", _CLX | {"avx512_bf16"}, _SKYLAKE_OPTIONAL),
    CpuModel("GenuineIntel", "cascadelake", _CLX, _SKYLAKE_OPTIONAL),
    CpuModel("GenuineIntel", "skylake-avx512", _SKX, _SKYLAKE_OPTIONAL),
    CpuModel("GenuineIntel", "alderlake", _ADL, _ICL_OPTIONAL),
    CpuModel("GenuineIntel", "skylake", _SKYLAKE, _SKYLAKE_OPTIONAL),
    CpuModel("GenuineIntel", "haswell", _V3, _HASWELL_OPTIONAL),
    CpuModel("", "x86-64-v4", _V3 | _AVX512),
    CpuModel("", "x86-64-v3", _V3),
    CpuModel("", "x86-64-v2", _V2),
    CpuModel("", "x86-64", frozenset()),
)

_N1 = _flags("asimd crc32 atomics asimdhp asimdrdm asimddp")
_V1 = _N1 | _flags("fcma asimdfhm sve i8mm bf16")
_ARM_CRYPTO = _flags("aes sha2")
#: By the identification register's part number, which only proposes: the flags must all be there.
ARM_MODELS = {
    ("0x41", "0xd0c"): CpuModel("0x41", "neoverse-n1", _N1, _ARM_CRYPTO),
    ("0x41", "0xd40"): CpuModel("0x41", "neoverse-v1", _V1, _ARM_CRYPTO),
    ("0x41", "0xd49"): CpuModel("0x41", "neoverse-n2", _V1 | {"sve2"}),
    ("0x41", "0xd4f"): CpuModel("0x41", "neoverse-v2", _V1 | {"sve2"}),
}
ARM_GENERIC = CpuModel("", "generic", _flags("asimd"))


def x86_model(vendor: str, flags: Collection[str]) -> CpuModel:
    """Return the newest model of the vendor, or else the highest level, that the flags allow."""
    if vendor == "HygonGenuine":  # Zen 1 cores under another name
        vendor = "AuthenticAMD"
    return next(
        model
        for model in X86_MODELS
        if model.vendor in ("", vendor) and model.requires <= set(flags)
    )


def arm_model(implementer: str, part: str, flags: Collection[str]) -> CpuModel:
    """Return the model with that part number if the flags allow it, else the generic one."""
    model = ARM_MODELS.get((implementer, part), ARM_GENERIC)
    return model if model.requires <= set(flags) else ARM_GENERIC


def model_named(mcpu: str) -> CpuModel | None:
    """Return the model of that LLVM name, or None."""
    models = (*X86_MODELS, *ARM_MODELS.values(), ARM_GENERIC)
    return next((model for model in models if model.mcpu == mcpu), None)
