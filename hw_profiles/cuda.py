"""Profiles of CUDA devices: one that is present, by its driver; another, by its name."""

from __future__ import annotations

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles.cuda_driver import LIBRARY, CudaError, Driver, DriverMissing
from autotune.hw_profiles.cuda_peaks import computed_peaks
from autotune.hw_profiles.profile import GpuLimits, HardwareProfile, load_profiles

#: CUDA devices have had this many registers per thread since compute capability 3.5.
_REGISTERS_PER_THREAD = 255


def detect_cuda(device: int = 0, library: str = LIBRARY) -> HardwareProfile:
    """Return the profile of a CUDA device of this machine, as its driver reports it.

    Datasheet peaks come from the data file of the same product; if there is none, they are computed
    from the driver's clocks.

    Raises
    ------
    UnsupportedTarget
        If there is no driver or no such device.
    """
    try:
        driver = Driver(library)
        count = driver.device_count()
    except (DriverMissing, CudaError) as error:
        raise UnsupportedTarget(f"no CUDA device found: {error}") from None
    if not 0 <= device < count:
        raise UnsupportedTarget(f"no CUDA device {device}: this machine has {count}")
    name = driver.device_name(device)
    major, minor = (driver.attribute(device, f"compute_{part}") for part in ("major", "minor"))
    limits = GpuLimits(
        max_registers_per_thread=_REGISTERS_PER_THREAD,
        memory_bytes=driver.total_memory(device),
        **{
            field: driver.attribute(device, field)
            for field in GpuLimits.__dataclass_fields__
            if field not in ("max_registers_per_thread", "memory_bytes")
        },
    )
    arch = f"sm_{major}{minor}"
    known = same_product(name, arch, limits.sms)
    peaks = known.peaks if known else computed_peaks(driver, device, arch, limits.sms)
    return HardwareProfile(kind="cuda", name=name, arch=arch, gpu=limits, peaks=peaks)


def named_gpu(name: str) -> HardwareProfile:
    """Return the data file's profile of a GPU by its file name, or by the start of it.

    ``h200`` and ``h100`` (for ``h100-sxm``) will do.

    Raises
    ------
    UnsupportedTarget
        If no CUDA device of that name is known, or more than one.
    """
    gpus = {stem: p for stem, p in load_profiles().items() if p.kind == "cuda"}
    wanted = name.lower().replace(" ", "-").replace("_", "-")
    found = [wanted] if wanted in gpus else [stem for stem in gpus if stem.startswith(wanted)]
    if len(found) != 1 or not wanted:
        raise UnsupportedTarget(f"unknown GPU {name!r}; choose one of {', '.join(gpus)}")
    return gpus[found[0]]


def same_product(name: str, arch: str, sms: int) -> HardwareProfile | None:
    """Return the data file's profile of what the driver calls ``name``; None where there is none.

    It has the same architecture and number of multiprocessors, and shares the product's word.
    """
    words = set(name.lower().replace("-", " ").split())
    candidates = [
        (len(words & set(p.name.lower().replace("-", " ").split())), p)
        for p in load_profiles().values()
        if p.kind == "cuda" and p.arch == arch and p.gpu is not None and p.gpu.sms == sms
    ]
    score, profile = max(candidates, key=lambda pair: pair[0], default=(0, None))
    # "NVIDIA" is in every name: one more word has to agree.
    return profile if score >= 2 else None
