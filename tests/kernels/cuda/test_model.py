"""The static model: occupancy as NVIDIA's calculator has it, and what must make a kernel slower."""

from __future__ import annotations

import dataclasses
import math

import pytest

from autotune.hw_profiles import load_profiles
from autotune.kernels.cuda.model import Work, clock_hz, estimate, occupancy
from autotune.kernels.cuda.simt import read_passes

GPUS = load_profiles()
H200 = GPUS["h200"]
#: 4096 cubed in tiles of 128 x 128 x 8, as simt does it.
WORK = Work(
    blocks_m=32, blocks_n=32, threads=256, registers=128, shared_bytes=16896, steps=512,
    math="float32", multiply_adds=128 * 128 * 8, instructions=5000, shared_passes=600,
    a_bytes=4096, b_bytes=4096, c_bytes=65536, independent=64, overlapped=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "blocks"),
    [
        ("h200", 256, 128, 8192, 2),  # registers: 65536 / (256 * 128)
        ("h200", 384, 168, 230464, 1),  # shared memory
        ("h200", 256, 64, 33000, 4),  # registers again
        ("h200", 1024, 32, 0, 2),  # threads
        ("h200", 32, 16, 0, 32),  # blocks
        ("h200", 1024, 65, 0, 0),  # 1024 threads of 72 registers do not fit
        ("rtx-2080-ti", 256, 32, 0, 4),  # 1024 threads an SM
        ("rtx-2080-ti", 32, 16, 0, 16),  # blocks
        ("a100-sxm", 128, 40, 40000, 4),  # 164 KiB, of which each block loses 1
        ("gtx-1080-ti", 128, 40, 32768, 3),  # 96 KiB, nothing reserved
    ],
)
def test_occupancy_is_the_calculators(
    gpu: str, threads: int, registers: int, shared: int, blocks: int
) -> None:
    profile = GPUS[gpu]
    assert profile.gpu is not None
    assert occupancy(profile.gpu, profile.arch, threads, registers, shared) == blocks


@pytest.mark.parametrize(
    ("gpu", "ghz"), [("h200", 1.98), ("a100-sxm", 1.41), ("rtx-4090", 2.52), ("gtx-1080-ti", 1.58)]
)
def test_the_clock_is_that_of_the_datasheet(gpu: str, ghz: float) -> None:
    assert clock_hz(GPUS[gpu]) / 1e9 == pytest.approx(ghz, rel=0.02)


def test_no_estimate_beats_the_datasheet() -> None:
    flops = 2 * 4096**3
    peak = H200.datasheet_peak_gflops("float32")
    assert peak is not None
    assert 0.5 * peak < flops / estimate(WORK, H200) / 1e9 < peak
    thin = dataclasses.replace(WORK, multiply_adds=1, instructions=1, shared_passes=1)
    bytes_once = 4096 * 512 * 64 + 1024 * 65536
    assert estimate(thin, H200) > bytes_once / 4.8e12


@pytest.mark.parametrize(
    "worse",
    [
        {"shared_passes": 4000.0},
        {"shared_accesses": 4000.0},
        {"instructions": 20000.0},
        {"independent": 1, "threads": 32},
        {"registers": 255},
        {"blocks_m": 34},
        {"steps": 600},
    ],
)
def test_what_costs_time_on_a_gpu_costs_time_in_the_model(worse: dict[str, float]) -> None:
    assert estimate(dataclasses.replace(WORK, **worse), H200) > estimate(WORK, H200)  # type: ignore[arg-type]


def test_loads_that_nothing_hides_cost_their_latency() -> None:
    alone = dataclasses.replace(WORK, registers=255)
    waiting = dataclasses.replace(alone, overlapped=False)
    assert estimate(waiting, H200) > 1.3 * estimate(alone, H200)


@pytest.mark.parametrize(
    ("inner", "width", "fast", "along_fast", "passes"),
    [
        (1, 1, 32, True, 1),  # neighbours
        (1, 1, 32, False, 1),  # all the same
        (4, 4, 32, True, 4),  # 512 bytes
        (4, 4, 16, False, 4),  # eight threads at a time, whether or not they read the same
        (2, 1, 32, True, 4),  # two reads, each with every second bank
        (16, 4, 8, True, 64),  # four reads of four groups, each of whose threads share two places
        (8, 4, 16, True, 16),
    ],
)
def test_bank_conflicts_are_counted(
    inner: int, width: int, fast: int, along_fast: bool, passes: int
) -> None:
    assert read_passes(inner, width, fast, along_fast) == passes


def test_a_wave_more_costs_what_a_wave_costs() -> None:
    full = dataclasses.replace(WORK, blocks_m=132, blocks_n=2)
    more = dataclasses.replace(WORK, blocks_m=133, blocks_n=2)
    ratio = estimate(more, H200) / estimate(full, H200)
    assert 1.3 < ratio <= 2.0


def test_a_block_that_fits_nowhere_takes_for_ever() -> None:
    assert estimate(dataclasses.replace(WORK, shared_bytes=300_000), H200) == math.inf


def test_without_peaks_there_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="peaks"):
        estimate(WORK, dataclasses.replace(H200, peaks=None))
