"""The tensor-core template: its space, its kernels on the CPU, and their machine code."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import emulator
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from machine_code import disassembled

from autotune.errors import NotApplicable
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import compile_cubin
from autotune.kernels.cuda.mma_tiles import MmaTiles, Staged
from autotune.kernels.verify import make_problem
from autotune.search.space import Config
from autotune.workload import LAYOUTS, Gemm

GPUS = {name: p for name, p in load_profiles().items() if p.kind == "cuda"}
H200, A100 = GPUS["h200"], GPUS["a100-sxm"]
MMA = get_template("mma_sync")
NAMES = ("block_m", "block_n", "block_k", "warps_m", "warps_n", "stages", "group")


def config(*values: int, split_k: int = 1, unaligned: str = "read") -> Config:
    named = dict(zip(NAMES, values, strict=True))
    return Config({**named, "split_k": split_k, "unaligned": unaligned})


#: What needs code of its own: (dtype, shape, layout, epilogue, config).
CASES = {
    "whole tiles": ("float16", (64, 64, 64), "nn", "bias_relu", config(64, 64, 32, 2, 2, 3, 8)),
    "two stages, many blocks": (
        "float16", (128, 64, 96), "nt", "none", config(64, 32, 32, 2, 1, 2, 1),
    ),
    "zeros beyond aligned operands": (
        "float16", (72, 40, 104), "tt", "gelu", config(64, 32, 64, 1, 2, 4, 8),
    ),
    "lines that start anywhere": (
        "bfloat16", (33, 35, 37), "tn", "bias", config(32, 32, 32, 1, 1, 3, 8),
    ),
    "lines that start anywhere, copied": (
        "bfloat16", (33, 35, 37), "tn", "bias", config(32, 32, 32, 1, 1, 3, 8, unaligned="copy"),
    ),
    "A along k at odd places, copied, B lies right": (
        "float16", (40, 48, 70), "nn", "none", config(32, 16, 32, 2, 1, 3, 2, unaligned="copy"),
    ),
    "int8, A copied, B transposed, in slices": (
        "int8", (19, 35, 150), "nn", "bias",
        config(32, 32, 32, 1, 1, 3, 1, split_k=2, unaligned="copy"),
    ),
    "narrow lines, groups of two": (
        "bfloat16", (65, 48, 40), "nn", "bias", config(32, 16, 16, 2, 1, 3, 2),
    ),
    "fewer steps than stages": (
        "float16", (16, 16, 8), "tt", "none", config(16, 16, 32, 1, 1, 5, 1),
    ),
    "int8": ("int8", (64, 64, 128), "nt", "none", config(64, 64, 64, 2, 2, 3, 8)),
    "three slices, not of equal length": (
        "float16", (65, 40, 200), "nn", "bias_gelu", config(32, 32, 32, 2, 1, 3, 2, split_k=3),
    ),
    "as many slices as steps, lines that start anywhere": (
        "bfloat16", (17, 35, 61), "tt", "bias_relu", config(16, 32, 16, 1, 1, 4, 1, split_k=4),
    ),
    "int8 in slices": (
        "int8", (33, 48, 320), "nt", "bias_relu", config(32, 16, 64, 1, 1, 2, 1, split_k=2),
    ),
    "int8, both operands transposed": (
        "int8", (65, 48, 70), "tn", "bias", config(32, 16, 64, 1, 1, 2, 1, split_k=2),
    ),
    "int8, B transposed, A starts anywhere": (
        "int8", (19, 35, 150), "nn", "none", config(32, 32, 32, 1, 1, 3, 1),
    ),
    "int8, every tail": ("int8", (47, 51, 70), "nt", "bias_relu", config(32, 32, 64, 1, 2, 2, 8)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_the_product_on_the_cpu(case: str, emulate: Any) -> None:
    dtype, shape, layout, epilogue, values = CASES[case]
    workload = Gemm(*shape, dtype=dtype, layout=layout, epilogue=epilogue)
    assert emulate(MMA, workload, values, gpu="a100-sxm") is None


#: Batches and matrices that are added: (workload, config).
BATCHES = {
    "every tail, rows of blocks in groups": (
        Gemm(69, 40, 72, "nt", "float16", batch=3, epilogue="bias_gelu", scale=0.5),
        config(32, 32, 32, 2, 1, 3, 2),
    ),
    "lines that start anywhere, odd lines of C": (
        Gemm(33, 35, 37, "tn", "bfloat16", batch=2, epilogue="bias_residual"),
        config(32, 32, 32, 1, 1, 3, 1),
    ),
    "lines that start anywhere, copied, slices": (
        Gemm(33, 35, 101, "nt", "float16", batch=2, epilogue="residual", scale=0.25),
        config(32, 32, 32, 1, 1, 3, 1, split_k=3, unaligned="copy"),
    ),
    "whole tiles, along m and n, a residual in pairs": (
        Gemm(64, 64, 64, "tn", "bfloat16", batch=2, epilogue="bias_residual"),
        config(32, 64, 32, 2, 1, 3, 1),
    ),
    "one A for all, copied": (
        Gemm(40, 48, 70, "nn", "float16", batch=3, shared="a", epilogue="rowbias_residual_relu"),
        config(32, 16, 32, 2, 1, 3, 2, unaligned="copy"),
    ),
    "int8, transposed, slices, a residual in int32": (
        Gemm(19, 36, 150, "tn", "int8", batch=2, epilogue="bias_residual"),
        config(32, 16, 64, 1, 1, 2, 1, split_k=2),
    ),
    "int8, one B for all, transposed": (
        Gemm(19, 35, 70, "nn", "int8", batch=3, shared="b", epilogue="rowbias_relu"),
        config(32, 32, 32, 1, 1, 3, 1),
    ),
    "a residual of one product, stored as float32": (
        Gemm(33, 40, 72, "nt", "bfloat16", out_dtype="float32", epilogue="residual"),
        config(32, 32, 32, 1, 2, 2, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_batches_and_residuals_are_computed_on_the_cpu(case: str, emulate: Any) -> None:
    workload, values = BATCHES[case]
    assert MMA.space(workload, A100, 1).violated(values) is None
    assert emulate(MMA, workload, values, gpu="a100-sxm") is None


@pytest.mark.parametrize("split_k", [1, 2])
def test_every_product_has_tiles_and_counters_of_its_own(split_k: int) -> None:
    workload = Gemm(69, 40, 72, "nt", "float16", batch=3)
    t = MmaTiles.of(workload, config(32, 32, 32, 2, 1, 3, 2, split_k=split_k))
    places = [(t.product(tile), t.within(tile)) for tile in range(t.tiles)]
    assert places == [(product, tile) for product in range(3) for tile in range(3 * 2)]
    assert t.split.units == len(places)


def test_a_batch_fills_the_gpu_together() -> None:
    few, many = (
        MMA.space(Gemm(64, 64, 4096, "nt", "float16", batch=batch), A100, 1) for batch in (2, 200)
    )
    assert few.defaults[0]["split_k"] > 1  # type: ignore[operator]
    (knob,) = (p for p in many.parameters if p.name == "split_k")
    assert list(knob.values()) == [1]


@pytest.mark.parametrize(
    ("wanted", "instead"),
    [
        # One group fewer waited for: the last copies have not been made.
        ("cp_async_wait_group_async_wait_group_1();", "cp_async_wait_group_async_wait_group_2();"),
        # No barrier between the last read of a stage and its next copy.
        ("tvm_builtin_cuda_cta_sync();", ""),
    ],
)
def test_the_emulator_finds_what_is_not_waited_for(
    wanted: str, instead: str, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(32, 32, 128, dtype="float16")
    source = lowered(MMA, workload, config(32, 32, 16, 2, 2, 3, 1), "a100-sxm")
    head, kernel = source.text.rsplit('extern "C"', 1)
    assert kernel.count(wanted) == 1
    broken = dataclasses.replace(source, text=f'{head}extern "C"{kernel.replace(wanted, instead)}')
    message = emulator.check(broken, workload, make_problem(workload), tmp_path)
    assert message is not None and "elements are wrong" in message


@given(
    chunks=st.sampled_from([1, 2, 4, 8, 16, 32]),
    first=st.integers(0, 7),
    chunk=st.integers(0, 31),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_rows_of_an_ldmatrix_lie_in_different_banks(
    chunks: int, first: int, chunk: int
) -> None:
    assume(chunk < chunks)
    staged = Staged(True, 64, 64, 64, chunks * 8, 2, 32, 64)
    places = {staged.at(line, chunk) * 2 // 16 % 8 for line in range(8 * first, 8 * first + 8)}
    assert len(places) == 8
    whole_line = {staged.at(first, c) for c in range(chunks)}
    assert whole_line == {first * staged.run + c * 8 for c in range(chunks)}


@given(
    gpu=st.sampled_from(["h200", "a100-sxm", "rtx-4090"]),
    m=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    n=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    k=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    dtype=st.sampled_from(["float16", "bfloat16", "int8"]),
    layout=st.sampled_from(LAYOUTS),
    batch=st.sampled_from([1, 1, 7]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_shape_has_a_legal_default(
    gpu: str, m: int, n: int, k: int, dtype: str, layout: str, batch: int
) -> None:
    workload = Gemm(m, n, k, dtype=dtype, layout=layout, batch=batch)
    space = MMA.space(workload, GPUS[gpu], 1)
    tiles = MmaTiles.of(workload, space.defaults[0])
    assert tiles.shared_bytes <= GPUS[gpu].gpu.shared_bytes_per_block  # type: ignore[union-attr]
    assert space.is_legal(space.sample(random.Random(0)))


@pytest.mark.parametrize(
    ("workload", "gpu", "says"),
    [
        (Gemm(64, 64, 64), "h200", "fp32 would become tf32; use --template simt"),
        (Gemm(64, 64, 64, dtype="float16"), "rtx-2080-ti", "needs cp.async .* is sm_75"),
        (Gemm(64, 64, 64, dtype="float16", acc_dtype="float16"), "h200", "in float32, not float16"),
        (Gemm(64, 64, 64, dtype="int8", layout="nt", epilogue="gelu"), "h200", "no gelu"),
        (Gemm(64, 64, 64, dtype="int8", layout="nt", epilogue="bias_silu"), "h200", "no silu"),
    ],
)
def test_what_does_not_apply_says_why(workload: Gemm, gpu: str, says: str) -> None:
    with pytest.raises(NotApplicable, match=says):
        MMA.space(workload, GPUS[gpu], 1)


def test_illegal_configs_are_named_before_anything_is_compiled() -> None:
    space = MMA.space(Gemm(4096, 4096, 4096, dtype="float16"), A100, 1)
    assert space.violated(config(128, 128, 32, 2, 2, 3, 8)) is None
    assert "warps cut" in (space.violated(config(16, 128, 32, 2, 2, 3, 8)) or "")
    assert "shared memory" in (space.violated(config(256, 256, 64, 4, 4, 5, 8)) or "")
    assert "registers" in (space.violated(config(256, 128, 32, 2, 2, 3, 8)) or "")
    few = MMA.space(Gemm(64, 64, 200, dtype="float16"), A100, 1)
    assert few.violated(config(16, 16, 64, 1, 1, 3, 1, split_k=4)) is None
    assert "every slice" in (few.violated(config(16, 16, 64, 1, 1, 3, 1, split_k=6)) or "")


@pytest.mark.parametrize(
    ("arch", "dtype", "layout", "slices"),
    [
        ("sm_80", "float16", "nn", 1),
        ("sm_90a", "bfloat16", "tt", 3),
        ("sm_80", "int8", "nt", 1),
        ("sm_80", "int8", "tn", 2),
    ],
)
def test_the_machine_code_is_what_was_meant(
    arch: str, dtype: str, layout: str, slices: int, compiler: Any, lowered: Any, tmp_path: Path
) -> None:
    gpu = {"sm_80": "a100-sxm", "sm_90a": "h200"}[arch]
    workload = Gemm(1024, 1024, 1024, dtype=dtype, layout=layout)
    values = config(128, 64, 64 if dtype == "int8" else 32, 2, 2, 3, 8, split_k=slices)
    assert MMA.space(workload, GPUS[gpu], 1).is_legal(values)
    source = lowered(MMA, workload, values, gpu)
    assert source.shared_bytes == MmaTiles.of(workload, values).shared_bytes
    cubin = compile_cubin(source.text, arch, source.threads, compiler)
    assert cubin.resources.stack_bytes == 0
    assert cubin.resources.registers <= MmaTiles.of(workload, values).registers + 16
    code = disassembled(cubin.image, tmp_path)
    if code is None:  # then at least the source asks for them
        for instruction in ("mma.sync.aligned", "ldmatrix.sync", "cp.async.cg", "commit_group"):
            assert instruction in source.text
        return
    for instruction in ("IMMA" if dtype == "int8" else "HMMA", "LDSM", "LDGSTS"):
        assert re.search(rf"\b{instruction}\b", code), instruction
    assert not re.search(r"\b(LDL|STL)\b", code), "local memory"
    assert ("LDSM.16.MT88" in code) == (layout != "nt" and dtype != "int8")
    assert bool(re.search(r"\bATOM", code)) == (slices > 1)
    # A transpose exchanges bytes in registers, and moves words.
    assert (".text.turn_b_kernel" in code) == (layout == "tn")
    assert ("PRMT" in code.split(".text.main_kernel")[0]) == (layout == "tn")


@pytest.mark.parametrize(
    ("arch", "dtype", "layout", "extent"),
    [
        ("sm_80", "bfloat16", "nt", 1024),
        ("sm_90a", "float16", "tn", 1023),
        ("sm_80", "int8", "nt", 512),
    ],
)
def test_seeds_have_no_local_memory_traffic(
    arch: str, dtype: str, layout: str, extent: int, compiler: Any, lowered: Any, tmp_path: Path
) -> None:
    gpu = {"sm_80": "a100-sxm", "sm_90a": "h200"}[arch]
    workload = Gemm(extent, extent, extent, dtype=dtype, layout=layout, epilogue="bias_relu")
    values = MMA.space(workload, GPUS[gpu], 1).defaults[0]
    source = lowered(MMA, workload, values, gpu)
    cubin = compile_cubin(source.text, arch, source.threads, compiler)
    assert cubin.resources.stack_bytes == 0
    code = disassembled(cubin.image, tmp_path)
    assert code is None or not re.search(r"\b(LDL|STL)\b", code), "local memory"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_drawn_config_compiles_without_spills(dtype: str, compiler: Any, lowered: Any) -> None:
    workload = Gemm(300, 200, 144, dtype=dtype, layout="nt", epilogue="bias")
    drawn = MMA.space(workload, A100, 1).sample(random.Random(7))
    source = lowered(MMA, workload, drawn, "a100-sxm")
    assert compile_cubin(source.text, "sm_80", source.threads, compiler).image[:4] == b"\x7fELF"


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_batches_and_residuals_compile_without_spills(
    arch: str, compiler: Any, lowered: Any, tmp_path: Path
) -> None:
    gpu = {"sm_80": "a100-sxm", "sm_90a": "h200"}[arch]
    workload = Gemm(197, 200, 64, "nt", "bfloat16", batch=12, epilogue="bias_residual")
    default = MMA.space(workload, GPUS[gpu], 1).defaults[0]
    source = lowered(MMA, workload, default, gpu)
    assert source.grid[0] == MMA.work(workload, default).blocks
    cubin = compile_cubin(source.text, arch, source.threads, compiler)
    assert cubin.resources.stack_bytes == 0
    assert cubin.resources.registers <= MmaTiles.of(workload, default).registers + 16
    code = disassembled(cubin.image, tmp_path)
    if code is not None:
        assert "HMMA" in code and not re.search(r"\b(LDL|STL)\b", code)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_apply_to_16_bits(layout: str) -> None:
    assert MMA.space(Gemm(64, 64, 64, dtype="bfloat16", layout=layout), H200, 1).defaults
