"""The multiply-accumulate instructions of CPUs for bf16, fp16 and int8, best first.

An entry says which flags it needs, how many consecutive k it multiplies at once, and what its
operands look like. Templates, the measured peak and messages to the user all read this one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.hw_profiles.profile import HardwareProfile


@dataclass(frozen=True)
class DotInstruction:
    """One way to multiply and accumulate.

    Both operands are vectors (or tiles) of 32-bit words, and a word holds ``group`` consecutive k.

    Parameters
    ----------
    name
        Key in configs and logs.
    mnemonic
        What the compiler emits for it.
    dtypes
        Element types of A and B that it serves.
    flags
        Kernel names of the feature flags that it needs; none for any CPU.
    operand
        Type of the elements in a word: a type narrower than the input's never occurs, a wider one
        means that elements are converted while they are packed.
    group
        Elements in a word, that is 4 bytes over the size of ``operand``.
    lanes
        Words in a vector; 0 where the compiler takes vectors of any length.
    unsigned_a
        A is taken as unsigned, so that signed input is offset by 128 and the sums are corrected.
    intrinsic
        LLVM's name; empty for plain arithmetic.
    """

    name: str
    mnemonic: str
    dtypes: tuple[str, ...]
    flags: tuple[str, ...]
    operand: str
    group: int
    lanes: int = 0
    unsigned_a: bool = False
    intrinsic: str = ""

    @property
    def tiles(self) -> bool:
        """Whether it works on AMX tiles of 16 rows of 16 words."""
        return self.name.startswith("amx")

    @property
    def acc_dtype(self) -> str:
        """Type of the sums."""
        return "int32" if self.operand.startswith("int") else "float32"


_BF16, _FP16, _INT8 = ("bfloat16",), ("float16",), ("int8",)

#: For each element type the ladder, best first; the last rung of each is there on any CPU.
INSTRUCTIONS = (
    # Sums are rounded by an instruction of AVX512-BF16, which every CPU with this one has.
    DotInstruction("amx_bf16", "tdpbf16ps", _BF16, ("amx_tile", "amx_bf16", "avx512_bf16"),
                   "bfloat16", 2, 16, intrinsic="llvm.x86.tdpbf16ps"),
    DotInstruction("amx_fp16", "tdpfp16ps", _FP16, ("amx_tile", "amx_fp16"), "float16", 2, 16,
                   intrinsic="llvm.x86.tdpfp16ps"),
    DotInstruction("amx_int8", "tdpbssd", _INT8, ("amx_tile", "amx_int8"), "int8", 4, 16,
                   intrinsic="llvm.x86.tdpbssd"),
    DotInstruction("avx512_bf16", "vdpbf16ps", _BF16, ("avx512_bf16",), "bfloat16", 2, 16,
                   intrinsic="llvm.x86.avx512bf16.dpbf16ps.512"),
    DotInstruction("avx512_vnni", "vpdpbusd", _INT8, ("avx512_vnni",), "int8", 4, 16,
                   unsigned_a=True, intrinsic="llvm.x86.avx512.vpdpbusd.512"),
    DotInstruction("avx_vnni_int8", "vpdpbssd", _INT8, ("avx_vnni_int8",), "int8", 4, 8,
                   intrinsic="llvm.x86.avx2.vpdpbssd.256"),
    DotInstruction("avx_vnni", "vpdpbusd", _INT8, ("avx_vnni",), "int8", 4, 8,
                   unsigned_a=True, intrinsic="llvm.x86.avx512.vpdpbusd.256"),
    DotInstruction("avx512bw", "vpmaddwd", _INT8, ("avx512bw",), "int16", 2, 16,
                   intrinsic="llvm.x86.avx512.pmaddw.d.512"),
    DotInstruction("avx2", "vpmaddwd", _INT8, ("avx2",), "int16", 2, 8,
                   intrinsic="llvm.x86.avx2.pmadd.wd"),
    DotInstruction("fp32", "fp32 multiply-add", ("bfloat16", "float16"), (), "float32", 1),
    DotInstruction("int32", "int32 multiply-add", _INT8, (), "int32", 1),
)  # fmt: skip
_BY_NAME = {each.name: each for each in INSTRUCTIONS}


def ladder(dtype: str, profile: HardwareProfile) -> tuple[DotInstruction, ...]:
    """Return the instructions that this CPU has for the element type, best first."""
    have = set(profile.features)
    return tuple(i for i in INSTRUCTIONS if dtype in i.dtypes and have.issuperset(i.flags))


def instruction(name: str) -> DotInstruction:
    """Return an instruction by name; raises KeyError."""
    return _BY_NAME[name]


def peak_instruction(dtype: str, profile: HardwareProfile) -> str:
    """Return the name of the instruction whose rate bounds products of a type.

    Empty where that is plain vector arithmetic, whose rate is taken to be that of fp32.
    """
    rungs = ladder(dtype, profile)
    return rungs[0].name if rungs and rungs[0].intrinsic else ""


def describe(dtype: str, profile: HardwareProfile) -> str:
    """Return one line for the user: which instruction is used, and what better one is missing."""
    best = ladder(dtype, profile)[0]
    name = f"{best.name} {best.mnemonic}" if best.intrinsic else best.mnemonic
    line = f"inner kernel: {name}"
    if profile.isa != "x86_64":
        return line
    wanted = [i for i in INSTRUCTIONS if dtype in i.dtypes]
    missing = [i.name for i in wanted[: wanted.index(best)]]
    return line + (f"; this CPU has no {', no '.join(missing)}" if missing else "")
