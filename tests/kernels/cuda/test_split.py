"""Split K: who computes what, what is left behind, what it costs, and the machine code."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import emulator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_code import disassembled
from test_wgmma import H100, WGMMA, config

from autotune.hw_profiles import load_profiles
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import compile_cubin
from autotune.kernels.cuda.model import estimate
from autotune.kernels.cuda.split import SLICES, Split, slices_for
from autotune.kernels.cuda.wgmma_tiles import WgmmaTiles
from autotune.kernels.verify import make_problem
from autotune.search.space import Config
from autotune.workload import Gemm

H200 = load_profiles()["h200"]
assert H200.gpu is not None
MMA = get_template("mma_sync")


@given(slices=st.sampled_from(SLICES), more=st.integers(0, 70))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_slices_take_every_step_once_and_none_is_empty(slices: int, more: int) -> None:
    split = Split(slices, slices + more, 1, 32, 8)
    counts = [split.count(part) for part in range(slices)]
    firsts = [split.first(part) for part in range(slices)]
    assert firsts == [sum(counts[:part]) for part in range(slices)]
    assert sum(counts) == slices + more and min(counts) >= 1
    assert max(counts) == split.most_steps <= min(counts) + 1


@given(
    slices=st.integers(2, 4), units=st.integers(1, 3), threads=st.sampled_from([32, 128]),
    sums=st.sampled_from([1, 2, 4, 6, 32]),
)  # fmt: skip
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_sum_has_a_place_of_its_own_and_a_warp_stores_whole_lines(
    slices: int, units: int, threads: int, sums: int
) -> None:
    s = Split(slices, slices, units, threads, sums)
    places = [
        s.place(unit, part, vector, thread) + x
        for unit in range(units)
        for part in range(slices)
        for vector in range(sums // s.width)
        for thread in range(threads)
        for x in range(s.width)
    ]
    assert places == list(range(s.partial_sums))


def test_what_does_not_fit_is_not_legal() -> None:
    gpu = H200.gpu
    assert gpu is not None
    assert Split(4, 4, 1, 128, 64).fits(gpu)
    assert not Split(4, 3, 1, 128, 64).fits(gpu)
    units = gpu.l2_bytes // (4 * 2 * 128 * 64)
    assert Split(2, 9, units, 128, 64).fits(gpu) and not Split(2, 9, units + 1, 128, 64).fits(gpu)
    assert slices_for(gpu.sms, 64, gpu) == (1,) and slices_for(gpu.sms - 1, 5, gpu) == (1, 2, 3, 4)


@pytest.mark.parametrize("name", ["mma_sync", "wgmma"])
@pytest.mark.parametrize(
    ("wanted", "instead"),
    [
        # A counter that is not put back: the next call finds nobody last.
        (r"counters_ptr\[[^;]*\] = 0;", ";"),
        # Sums of one slice too few, and of other places.
        (r"< 3; \+\+part", "< 2; ++part"),
        # Threads that look how many have come before that was written.
        (r"(?s)(atomic_add.*?tvm_builtin_cuda_thread_fence\(\);\s*}\s*)"
         r"tvm_builtin_cuda_(cta|warpgroup)_sync\([^;]*\);", r"\1"),
    ],
)  # fmt: skip
def test_the_emulator_finds_what_is_left_out(
    name: str, wanted: str, instead: str, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(40, 24, 192, dtype="float16", layout="nt")
    values = config(block_n=32, split_k=3)
    template = WGMMA
    if name == "mma_sync":
        names = ("block_m", "block_n", "block_k", "warps_m", "warps_n", "stages", "group")
        named = dict(zip(names, (32, 32, 32, 2, 1, 3, 1), strict=True))
        values = Config({**named, "split_k": 3, "unaligned": "read"})
        template = MMA
    source = emulator.broken(lowered(template, workload, values, "h100-sxm"), wanted, instead)
    message = emulator.check(source, workload, make_problem(workload), tmp_path)
    assert message is not None and "are wrong" in message


def test_k_is_cut_where_tiles_are_few() -> None:
    for rows in (1, 16, 128):
        workload = Gemm(rows, 4096, 4096, dtype="bfloat16", layout="nt")
        space = WGMMA.space(workload, H200, 1)
        default = space.defaults[0]
        t = WgmmaTiles.of(workload, default)
        assert t.slices > 1 and t.tiles // t.slices * t.cluster < 132
        assert t.tiles * t.cluster >= 96, "most of the GPU has work"
    large = WGMMA.space(Gemm(4096, 4096, 4096, dtype="bfloat16", layout="nt"), H200, 1)
    (knob,) = (p for p in large.parameters if p.name == "split_k")
    assert list(knob.values()) == [1]


def test_more_slices_help_until_adding_them_up_costs_more() -> None:
    workload = Gemm(64, 64, 65536, dtype="bfloat16", layout="nt")
    seconds = {s: estimate(WGMMA.work(workload, config(split_k=s, stages=8)), H200) for s in SLICES}
    assert seconds[1] > 1.8 * seconds[2] > 2 * seconds[8]
    short = Gemm(64, 64, 2048, dtype="bfloat16", layout="nt")
    few, many = (estimate(WGMMA.work(short, config(split_k=s)), H200) for s in (4, 32))
    assert many > few, "each of the 32 slices has one step"
    work = WGMMA.work(workload, config(split_k=4))
    assert work.blocks == 4 and estimate(work, H200) < math.inf
    assert estimate(work, H200) > estimate(dataclasses.replace(work, sum_bytes=0), H200)


def test_slices_are_counted_and_added_up_without_spills(
    compiler: Any, lowered: Any, tmp_path: Path
) -> None:
    workload = Gemm(512, 768, 3072, dtype="bfloat16", layout="nt", epilogue="bias_relu")
    values = config(
        block_m=128, block_n=256, consumers=2, stages=4, cluster_m=2, split_k=4, store="tma"
    )
    assert WGMMA.space(workload, H100, 1).violated(values) is None
    source = lowered(WGMMA, workload, values, "h100-sxm")
    t = WgmmaTiles.of(workload, values)
    # The sums of every slice of the 4 x 3 tiles, and a counter for each half of a tile.
    assert source.scratch == (4 * 512 * 768 * 4, 4 * 3 * 2 * 4)
    assert source.shared_bytes == t.shared_bytes
    cubin = compile_cubin(source.text, "sm_90a", source.threads, compiler)
    assert cubin.resources.registers == t.launch_registers
    assert (cubin.resources.stack_bytes, cubin.resources.warnings) == (0, ())
    code = disassembled(cubin.image, tmp_path)
    if code is None:
        assert "atomicAdd" in source.text and "__threadfence" in source.text
        return
    for word in (r"HGMMA\.64x256x16", r"ATOMG?\.E\.ADD", r"MEMBAR\.\w+\.GPU", r"STG\.E\.128",
                 r"LDG\.E\.128"):  # fmt: skip
        assert re.search(rf"\b{word}", code), word
    assert not re.search(r"\b(LDL|STL)\b", code), "local memory"
