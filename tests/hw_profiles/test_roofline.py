from __future__ import annotations

import os
import re
import threading

import pytest

from autotune.errors import MeasureError, UnsupportedTarget
from autotune.hw_profiles import detect_cpu, load_profiles, roofline, tvm_target
from autotune.hw_profiles.roofline import (
    MeasuredPeaks,
    build_fma_kernel,
    fma_arguments,
    measure_peaks,
)


def _in_new_thread(function):
    """Run in a thread of its own.

    TVM makes a pool for each thread, reads the environment then, and narrows that thread's affinity
    mask, which must not happen to the thread that runs the other tests.
    """
    outcome = []

    def run():
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.mark.parametrize(
    ("name", "register", "accumulators"),
    [("genoa-vm", "zmm", 24), ("avx2-laptop", "ymm", 12), ("neoverse-n1", "v", 24)],
)
def test_fma_loop_is_nothing_but_multiply_adds_on_registers(machine, name, register, accumulators):
    from autotune.hw_profiles.roofline_kernels import compile_fma

    cpu = detect_cpu(machine(name))
    target = tvm_target(cpu, 1)
    assert roofline._accumulators(target, cpu.simd_bits) == accumulators
    module = compile_fma(target, cpu.simd_bits // 32, accumulators, 1 << 16, 1)
    lines = module.mod.inspect_source("asm").splitlines()
    multiply_adds = [i for i, line in enumerate(lines) if re.match(r"\s+(vfmadd|fmla|fmadd)", line)]
    body = lines[multiply_adds[0] : multiply_adds[-1] + 1]
    assert len(multiply_adds) >= accumulators
    written = re.compile(r"%zmm\d+$|%ymm\d+$|\bv\d+\.4s")
    assert len({written.search(lines[i]).group() for i in multiply_adds}) == accumulators
    assert all(register in lines[i] for i in multiply_adds)
    assert not [line for line in body if re.search(r"\((%\w+|\w+)|\[sp|\bldr|\bstr", line)]


@pytest.mark.parametrize("threads", [1, 3])
def test_fma_kernel_computes_and_counts_its_operations(threads):
    cpu = detect_cpu()
    target = tvm_target(cpu, threads)
    kernel, flops = build_fma_kernel(target, cpu.simd_bits, threads)
    coefficients, out = fma_arguments(target, cpu.simd_bits, threads)
    _in_new_thread(lambda: kernel(coefficients, out))
    assert (out.numpy() == 2.0).all()
    assert flops == 2 * out.shape[0] * roofline._ITERATIONS


def test_triad_covers_every_element():
    import numpy as np
    import tvm

    from autotune.hw_profiles.roofline_kernels import compile_triad

    fill, triad = compile_triad(tvm_target(detect_cpu(), 3), 16, 96, 3)
    arrays = [tvm.runtime.tensor(np.full(96, value, "float32")) for value in (0, 5, 7)]
    _in_new_thread(lambda: triad(*arrays))
    assert (arrays[0].numpy() == 26).all()
    _in_new_thread(lambda: fill(arrays[0]))
    assert (arrays[0].numpy() == 1).all()


def test_measured_peaks_are_believable(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    cpu = detect_cpu()
    measured = _in_new_thread(lambda: measure_peaks(cpu, 1, seconds=0.02))
    assert measured.threads == 1
    # Bounds that no machine leaves: 0.1 to 10 GHz at one to 64 multiply-adds a cycle.
    assert 0.2 < measured.fma_gflops < 1280
    assert 0.1 < measured.bandwidth_gb_s < 2000


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks here")
def test_measuring_leaves_the_affinity_mask_as_it_was(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    cpu = detect_cpu()

    def masks():
        before = os.sched_getaffinity(0)
        measure_peaks(cpu, 1, seconds=0.01)
        return before, os.sched_getaffinity(0)

    before, after = _in_new_thread(masks)
    assert before == after


def test_a_pool_that_is_too_small_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    cpu = detect_cpu()
    error = _in_new_thread(lambda: measure_peaks(cpu, 2))
    assert isinstance(error, MeasureError)
    assert "TVM_NUM_THREADS=2" in str(error)


def test_gpus_cannot_be_measured():
    with pytest.raises(UnsupportedTarget):
        measure_peaks(load_profiles()["h200"], 1)


def test_roofline_is_the_lower_of_the_two_ceilings():
    peaks = MeasuredPeaks(fma_gflops=100.0, bandwidth_gb_s=20.0, threads=1)
    assert peaks.bound_gflops(flops=10, moved_bytes=10) == 20.0
    assert peaks.bound_gflops(flops=1000, moved_bytes=10) == 100.0
