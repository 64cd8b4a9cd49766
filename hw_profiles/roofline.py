"""Measure the two ceilings of a roofline: the fp32 multiply-add rate and the memory bandwidth.

Both kernels are compiled by TVM for the target that templates are compiled for and run on TVM's own
thread pool, so that a kernel's share of the peak compares like with like. Of the repeats the
*maximum* rate is reported: a ceiling is what the machine can do when nothing disturbs it, and every
disturbance only lowers a reading.

TVM's pool belongs to the calling thread, is made at its first parallel call and takes its size from
``TVM_NUM_THREADS`` at that moment (without it: half the logical CPUs, at least one). It can be made
smaller afterwards but never larger, so set the variable before measuring. Unless
``TVM_BIND_THREADS=0`` is set, making the pool also narrows the affinity mask of the calling thread
to the first CPUs; :func:`measure_peaks` puts the mask back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autotune.errors import MeasureError, UnsupportedTarget
from autotune.hw_profiles.profile import HardwareProfile
from autotune.hw_profiles.target import tvm_target

#: Turns of the multiply-add loop in one call: about 0.4 ms, long against waking the pool and short
#: against the time slices of other processes, so that some repeats run undisturbed.
_ITERATIONS = 1 << 16
_MIN_REPEATS = 5
_MIN_ARRAY_BYTES = 64 << 20
_MAX_ARRAY_BYTES = 1 << 30
_FLOAT_BYTES = 4
_LANES = 16
#: The arrays are cut into windows, one a call, so that a call is short enough to run undisturbed;
#: before a window's turn comes again, all the others have passed through the caches.
_WINDOWS = 8


@dataclass(frozen=True)
class MeasuredPeaks:
    """Measured ceilings of one machine at one number of threads.

    Parameters
    ----------
    fma_gflops
        fp32 GFLOP/s of independent multiply-adds on registers, two operations each; maximum over
        the repeats.
    bandwidth_gb_s
        GB/s of ``a = b + s * c`` over arrays larger than the last-level caches; maximum over the
        repeats. 12 bytes an element are counted, as STREAM does: the read of ``a``'s cache lines
        before they are written is real traffic that is not counted.
    threads
        Threads of the pool that took part.
    """

    fma_gflops: float
    bandwidth_gb_s: float
    threads: int

    def to_json(self) -> dict[str, float | int]:
        """Return the fields as a plain dict."""
        return {
            "fma_gflops": self.fma_gflops,
            "bandwidth_gb_s": self.bandwidth_gb_s,
            "threads": self.threads,
        }

    def bound_gflops(self, flops: float, moved_bytes: float) -> float:
        """Return the roofline at ``flops / moved_bytes`` operations per byte, in GFLOP/s."""
        return min(self.fma_gflops, self.bandwidth_gb_s * flops / moved_bytes)


def measure_peaks(profile: HardwareProfile, threads: int, seconds: float = 0.3) -> MeasuredPeaks:
    """Measure both ceilings; takes ``seconds``, a second or two of compiling, and importing TVM.

    Parameters
    ----------
    profile
        The CPU this process runs on.
    threads
        Threads to use; TVM's pool must have at least as many (see the module's text).
    seconds
        Time for the repeats, half for each ceiling; at least five repeats are made of each.

    Raises
    ------
    MeasureError
        If TVM's pool has fewer threads.
    UnsupportedTarget
        If the profile is not a CPU's.
    """
    if profile.kind != "cpu":
        raise UnsupportedTarget(f"{profile.name} is not a CPU; only a CPU's ceilings are measured")
    target = tvm_target(profile, threads)
    with _restored_affinity():
        _check_pool(threads)
        kernel, flops = build_fma_kernel(target, profile.simd_bits, threads)
        arguments = fma_arguments(target, profile.simd_bits, threads)
        fma_seconds = _fastest(lambda: kernel(*arguments), seconds / 2)
        bandwidth = _measure_bandwidth(target, profile, threads, seconds / 2)
    return MeasuredPeaks(flops / fma_seconds / 1e9, bandwidth, threads)


def build_fma_kernel(target: dict[str, Any], simd_bits: int, threads: int) -> tuple[Any, int]:
    """Compile the multiply-add kernel; importing TVM is the caller's cost.

    Each thread runs ``acc[j] = acc[j] * x + y`` over enough independent vector accumulators to hide
    the latency and few enough to stay in registers. ``x`` and ``y`` are known only at run time, so
    that nothing can be folded; with 0.5 and 1.0 the accumulators stay at 2.0, far from denormals.

    Parameters
    ----------
    target
        From :func:`tvm_target`.
    simd_bits
        Vector width in bits.
    threads
        Tasks of one call, one for each thread of a pool that is at least as large.

    Returns
    -------
    function, flops
        The TVM function, called as ``function(coefficients, out)`` with the pair that
        :func:`fma_arguments` makes, and the floating-point operations of one call.
    """
    from autotune.hw_profiles.roofline_kernels import compile_fma

    lanes = simd_bits // 32
    accumulators = _accumulators(target, simd_bits)
    module = compile_fma(target, lanes, accumulators, _ITERATIONS, threads)
    return module["fma"], 2 * lanes * accumulators * _ITERATIONS * threads


def fma_arguments(target: dict[str, Any], simd_bits: int, threads: int) -> tuple[Any, Any]:
    """Return the arguments of the function that :func:`build_fma_kernel` made of the same three.

    They are float32 tensors on the CPU: coefficients of shape ``(2 * lanes,)``, x then y, and
    the output of shape ``(threads * accumulators * lanes,)``.
    """
    import numpy as np
    import tvm

    lanes = simd_bits // 32
    coefficients = np.repeat(np.array([0.5, 1.0], "float32"), lanes)
    elements = threads * _accumulators(target, simd_bits) * lanes
    return tvm.runtime.tensor(coefficients), tvm.runtime.empty((elements,), "float32")


def _accumulators(target: dict[str, Any], simd_bits: int) -> int:
    """Return how many accumulators leave room for x and y in the register file."""
    has_32_registers = simd_bits == 512 or not str(target.get("mtriple", "")).startswith("x86_64")
    return 24 if has_32_registers else 12


def _measure_bandwidth(
    target: dict[str, Any], profile: HardwareProfile, threads: int, seconds: float
) -> float:
    """Return the maximum of the triad's GB/s."""
    import tvm

    from autotune.hw_profiles.roofline_kernels import compile_triad

    vectors = _array_bytes(profile) // (_WINDOWS * _FLOAT_BYTES * _LANES)
    elements = vectors // threads * threads * _LANES
    fill, triad = compile_triad(target, _LANES, elements, threads)
    windows = []
    for _ in range(_WINDOWS):
        window = [tvm.runtime.empty((elements,), "float32") for _ in range(3)]
        for array in window:  # each thread touches its part first: its pages lie near it
            fill(array)
        windows.append(window)
    turn = itertools.cycle(windows)
    return 3 * _FLOAT_BYTES * elements / _fastest(lambda: triad(*next(turn)), seconds) / 1e9


def _array_bytes(profile: HardwareProfile) -> int:
    """Return the size of one whole array: four times all last-level caches, or less."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = max(_MIN_ARRAY_BYTES, 4 * profile.l3_bytes * profile.l3_instances)
    return min(wanted, _MAX_ARRAY_BYTES, memory // 16)


def _check_pool(threads: int) -> None:
    import tvm

    available = tvm.get_global_func("runtime.NumThreads")()
    if available < threads:
        raise MeasureError(
            f"TVM's thread pool has {available} threads, {threads} are wanted: set"
            f" TVM_NUM_THREADS={threads} in the environment"
        )


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the fastest call, after one to warm up."""
    call()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < _MIN_REPEATS or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@contextlib.contextmanager
def _restored_affinity() -> Iterator[None]:
    """Undo what TVM's pool does to the affinity mask of the thread that makes it."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    mask = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mask)
