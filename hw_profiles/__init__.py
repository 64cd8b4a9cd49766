"""Hardware profiles: what a kernel runs on, how it is detected, and TVM's target for it."""

from __future__ import annotations

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles.detect import CudaDevice, cuda_devices, detect_cpu
from autotune.hw_profiles.profile import (
    CpuIdentity,
    GpuLimits,
    HardwareProfile,
    Peaks,
    find_profile,
    load_profiles,
)
from autotune.hw_profiles.target import tvm_target

__all__ = [
    "CpuIdentity",
    "CudaDevice",
    "GpuLimits",
    "HardwareProfile",
    "Peaks",
    "cuda_devices",
    "detect_cpu",
    "find_profile",
    "load_profiles",
    "resolve_target",
    "tvm_target",
]

#: Names that :func:`resolve_target` knows.
TARGETS = ("cpu", "cuda")


def resolve_target(name: str) -> HardwareProfile:
    """Return the profile of the device that a user means by ``--target NAME``.

    Raises
    ------
    UnsupportedTarget
        If the name is unknown, no such device is present, or it cannot be tuned for yet.
    """
    if name == "cpu":
        return detect_cpu()
    if name != "cuda":
        raise UnsupportedTarget(f"unknown target {name!r}; choose one of {', '.join(TARGETS)}")
    devices = cuda_devices()
    if not devices:
        raise UnsupportedTarget(
            "no CUDA device found: nvidia-smi lists none; check the driver, or use --target cpu"
        )
    raise UnsupportedTarget(
        f"found {devices[0].name}, but this version has no CUDA templates yet; use --target cpu"
    )
