"""From a CPU profile to the dictionary of ``tvm.target.Target``."""

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

    Parameters
    ----------
    profile
        A profile of kind ``cpu``.
    threads
        Value of ``num-cores``, at least 1.

    Raises
    ------
    UnsupportedTarget
        If the profile is not a CPU's, or ``threads`` is below 1.
    """
    if profile.kind != "cpu":
        raise UnsupportedTarget(f"{profile.name} is not a CPU; this version tunes for cpu only")
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
