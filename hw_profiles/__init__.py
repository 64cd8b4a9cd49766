"""Hardware profiles: what a kernel runs on, how it is detected, and TVM's target for it."""

from __future__ import annotations

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles.cuda import detect_cuda, named_gpu, same_product
from autotune.hw_profiles.detect import CudaDevice, cuda_devices, detect_cpu
from autotune.hw_profiles.profile import (
    CpuIdentity,
    GpuLimits,
    HardwareProfile,
    Peaks,
    find_profile,
    load_profiles,
)
from autotune.hw_profiles.target import cuda_arch, tvm_target

__all__ = [
    "CpuIdentity",
    "CudaDevice",
    "GpuLimits",
    "HardwareProfile",
    "Peaks",
    "cuda_arch",
    "cuda_devices",
    "detect_cpu",
    "detect_cuda",
    "find_profile",
    "load_profiles",
    "named_gpu",
    "resolve_target",
    "same_product",
    "tvm_target",
]

#: Names that :func:`resolve_target` knows.
TARGETS = ("cpu", "cuda", "cuda:NUMBER", "cuda:NAME")


def resolve_target(name: str) -> HardwareProfile:
    """Return the profile of the device that a user means by ``--target NAME``.

    ``cpu`` is this machine, ``cuda`` its first GPU, ``cuda:1`` its second, and ``cuda:h200`` an
    H200 that need not be here: kernels can be built for it, and not run.

    Raises
    ------
    UnsupportedTarget
        If the name is unknown, or no such device is present.
    """
    if name == "cpu":
        return detect_cpu()
    kind, _, which = name.partition(":")
    if kind != "cuda":
        raise UnsupportedTarget(f"unknown target {name!r}; choose one of {', '.join(TARGETS)}")
    if which and not which.isdecimal():
        return named_gpu(which)
    try:
        return detect_cuda(int(which or 0))
    except UnsupportedTarget as error:
        raise UnsupportedTarget(
            f"{error}; without one, name a GPU to build for, such as --target cuda:h200 (autotune"
            " gemm then wants --compile-only, and models can be compiled), or use --target cpu"
        ) from None
