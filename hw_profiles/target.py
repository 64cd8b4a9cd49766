"""From a profile to the dictionary of ``tvm.target.Target``."""

from __future__ import annotations

from typing import Any

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles.isa import ARM_FEATURES, X86_FEATURES, model_named
from autotune.hw_profiles.profile import HardwareProfile

_TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "arm64": "arm64-apple-darwin",
}


def tvm_target(profile: HardwareProfile, threads: int) -> dict[str, Any]:
    """Return the argument of ``tvm.target.Target`` (TVM 0.27 refuses command-line strings).

    ``mcpu`` is the profile's arch, which detection chose so that every vector extension it implies
    is reported. ``mattr`` then corrects it flag by flag: ``+x`` for reported flags the model does
    not imply, ``-x`` for implied ones that are not reported. That keeps the right scheduling model
    where a hypervisor hides a minor flag, and still no instruction can be emitted that the machine
    does not have. ``-prefer-256-bit`` undoes LLVM's habit of using half-width vectors on AVX-512.

    For a CUDA device the limits are spelled out, because TVM assumes 48 KiB of shared memory for
    all of them.

    Parameters
    ----------
    profile
        A profile of kind ``cpu`` or ``cuda``.
    threads
        Value of ``num-cores``, at least 1; a GPU has no use for it.

    Raises
    ------
    UnsupportedTarget
        If the profile is of another kind, or ``threads`` is below 1.
    """
    if profile.kind == "cuda" and profile.gpu is not None:
        return {
            "kind": "cuda",
            "arch": cuda_arch(profile),
            "max_threads_per_block": profile.gpu.max_threads_per_block,
            "max_shared_memory_per_block": profile.gpu.shared_bytes_per_block,
            "thread_warp_size": profile.gpu.warp_size,
        }
    if profile.kind != "cpu":
        raise UnsupportedTarget(
            f"{profile.name} is neither a CPU nor a CUDA device; this version has no kernels for it"
        )
    if threads < 1:
        raise UnsupportedTarget(f"threads must be at least 1, got {threads}")
    target: dict[str, Any] = {"kind": "llvm", "num-cores": threads}
    if profile.isa not in _TRIPLES:  # an instruction set we know nothing of: LLVM's defaults
        return target
    target["mtriple"] = _TRIPLES[profile.isa]
    target["mcpu"] = profile.arch
    attributes = _corrections(profile)
    if "avx512f" in profile.features:
        attributes.append("-prefer-256-bit")
    if attributes:
        target["mattr"] = attributes
    return target


def cuda_arch(profile: HardwareProfile) -> str:
    """Return the architecture to compile for: ``sm_90a`` for Hopper, with its own instructions."""
    return "sm_90a" if profile.arch == "sm_90" else profile.arch


def _corrections(profile: HardwareProfile) -> list[str]:
    """Return ``+x`` and ``-x`` that turn what the model implies into what is reported."""
    model = model_named(profile.arch)
    if model is None:  # Apple: the model is the baseline of every such machine
        return []
    names = X86_FEATURES if profile.isa == "x86_64" else ARM_FEATURES
    reported = names.keys() & set(profile.features)
    extra = sorted(names[flag] for flag in reported - model.implied)
    missing = sorted(names[flag] for flag in model.implied - reported)
    return [f"+{name}" for name in extra] + [f"-{name}" for name in missing]
