"""Peaks of a GPU that no data file knows: what an architecture does in a cycle, times the clock."""

from __future__ import annotations

from collections.abc import Mapping

from autotune.hw_profiles.cuda_driver import CudaError, Driver
from autotune.hw_profiles.profile import Peaks


def _rates(fp32: int, fp16: int = 0, int8: int = 0, tf32: int = 0, fp8: int = 0) -> dict[str, int]:
    bf16 = fp16 if tf32 else 0  # Ampere brought both
    rates = {"float32": fp32, "float16": fp16, "bfloat16": bf16, "int8": int8, "tfloat32": tf32}
    return {dtype: rate for dtype, rate in {**rates, "float8_e4m3fn": fp8}.items() if rate}


#: Multiply-adds of one multiprocessor in a cycle, dense, with sums in fp32, by compute capability:
#: CUDA C++ Programming Guide, "Arithmetic Instructions" (fp32), and the architectures' white papers
#: (tensor cores; of sm_75, 86, 89 and 120 those of GeForce, which add up at half the rate).
_PER_CYCLE = {
    50: _rates(128),
    60: _rates(64),
    61: _rates(128),
    70: _rates(64, 512),
    75: _rates(64, 256, 1024),
    80: _rates(64, 1024, 2048, 512),
    86: _rates(128, 256, 1024, 128),
    87: _rates(128, 1024, 2048, 512),
    89: _rates(128, 256, 1024, 128, 512),
    90: _rates(128, 2048, 4096, 1024, 4096),
    100: _rates(128, 4096, 8192, 2048, 8192),
    120: _rates(128, 256, 1024, 128, 512),
}


def rates_of(arch: str) -> Mapping[str, int]:
    """Return multiply-adds per cycle and multiprocessor by type; of a new architecture the last's.

    Parameters
    ----------
    arch
        Such as ``sm_86``.
    """
    capability = int(arch.removeprefix("sm_").rstrip("a"))
    known = [number for number in _PER_CYCLE if number <= capability]
    return _PER_CYCLE[max(known)] if known else {}


def computed_peaks(driver: Driver, device: int, arch: str, sms: int) -> Peaks | None:
    """Return the peaks at the clocks that the driver states; None if it states none."""
    try:
        clock, memory_clock, bus = (
            driver.attribute(device, name)
            for name in ("clock_khz", "memory_clock_khz", "memory_bus_bits")
        )
    except CudaError:
        return None
    rates = rates_of(arch)
    if not (clock and memory_clock and bus and rates):
        return None
    return Peaks(
        source=f"computed: rates of {arch}, and the driver's highest clocks",
        gflops=tuple((dtype, 2e-6 * rate * sms * clock) for dtype, rate in rates.items()),
        # Two transfers a cycle.
        memory_gb_s=2e-6 * memory_clock * bus / 8,
    )
