"""The fp32 template: its space, its kernels on the CPU, and their machine code."""

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
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin
from autotune.kernels.cuda.model import estimate
from autotune.kernels.cuda.simt_tiles import Tiles
from autotune.kernels.verify import make_problem
from autotune.search.space import Config
from autotune.workload import LAYOUTS, Gemm

GPUS = {name: p for name, p in load_profiles().items() if p.kind == "cuda"}
H200 = GPUS["h200"]
SIMT = get_template("simt")
extents = st.one_of(st.integers(1, 300), st.integers(1, 9000), st.just(50257))


def config(m: Any, n: Any, k: Any, **knobs: Any) -> Config:
    values = {"unroll": k[1], "stages": 2, "vector": 4, "pad": 4, "split_k": 1, **knobs}
    return Config({"tile_m": m, "tile_k": k, "tile_n": n, **values})


#: What needs code of its own: (shape, layout, epilogue, config).
CASES = {
    "whole tiles, vectors, two buffers": (
        (64, 64, 32), "nn", "none", config((2, 2, 4, 4), (2, 2, 4, 4), (4, 8)),
    ),
    "whole tiles, one buffer": (
        (64, 64, 32), "tt", "none", config((2, 2, 4, 4), (2, 2, 4, 4), (4, 8), stages=1, pad=0),
    ),
    "A along m, B along k, vectors of two": (
        (36, 40, 24), "tt", "bias_gelu",
        config((2, 1, 8, 8), (2, 2, 8, 2), (2, 16), vector=2, unroll=4),
    ),
    "primes: every tail at once": (
        (131, 67, 37), "nn", "bias", config((4, 2, 8, 4), (2, 2, 16, 2), (3, 16), vector=1),
    ),
    "primes, transposed, one buffer": (
        (67, 131, 37), "tn", "relu", config((2, 1, 16, 4), (4, 1, 16, 4), (6, 8), stages=1,
                                              vector=1),
    ),
    "tails of whole vectors": (
        (100, 60, 20), "nt", "bias_relu", config((2, 2, 8, 4), (1, 2, 8, 4), (2, 16)),
    ),
    "threads without a load": (
        (32, 32, 16), "nn", "gelu", config((2, 1, 16, 1), (2, 1, 16, 1), (4, 4)),
    ),
    "one row in slices": (
        (1, 128, 200), "nn", "bias_relu",
        config((1, 1, 1, 1), (4, 1, 32, 1), (13, 16), unroll=1, split_k=3),
    ),
    "slices with one buffer, sums in threes": (
        (33, 45, 70), "tn", "none",
        config((2, 1, 8, 3), (2, 1, 16, 3), (9, 8), stages=1, vector=1, split_k=4),
    ),
    "one row": ((1, 128, 64), "nn", "none", config((1, 1, 1, 1), (4, 1, 32, 1), (4, 16), unroll=1)),
    "one column": (
        (64, 1, 50), "nn", "none", config((1, 1, 64, 1), (1, 1, 1, 1), (4, 16), vector=2, unroll=2),
    ),
    "one element": ((1, 1, 1), "nn", "none", config((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), vector=1)),
    "three threads": (
        (6, 24, 8), "nn", "none", config((4, 2, 1, 1), (2, 1, 1, 16), (1, 8), unroll=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_the_product_on_the_cpu(case: str, emulate: Any) -> None:
    shape, layout, epilogue, values = CASES[case]
    workload = Gemm(*shape, layout=layout, epilogue=epilogue)
    assert emulate(SIMT, workload, values) is None


@pytest.mark.parametrize("epilogue", ["none", "bias_silu", "gelu_tanh"])
def test_a_factor_comes_before_activations_by_exp(epilogue: str, emulate: Any) -> None:
    workload = Gemm(36, 40, 24, epilogue=epilogue, scale=0.3)
    values = config((2, 1, 8, 8), (2, 2, 8, 2), (2, 16), vector=2, unroll=4)
    assert emulate(SIMT, workload, values) is None


#: Tiles of 32 x 32 with vectors; of 16 x 24 with none, and three steps of K or more.
WIDE = config((2, 1, 8, 4), (2, 1, 8, 4), (4, 8))
NARROW = config((4, 2, 4, 2), (3, 2, 4, 3), (4, 8), vector=1)

#: Batches and matrices that are added: (workload, config).
BATCHES = {
    "every tail, no vectors": (
        Gemm(29, 35, 37, batch=3, epilogue="bias_gelu", scale=0.5), NARROW,
    ),
    "slices of each product": (
        Gemm(29, 35, 61, "tt", batch=3, epilogue="relu"), NARROW.replace(split_k=3),
    ),
    "one buffer, a residual of vectors and tails": (
        Gemm(36, 44, 32, "nt", batch=2, epilogue="bias_residual", scale=0.25),
        WIDE.replace(stages=1),
    ),
    "one A for all, slices, a residual": (
        Gemm(29, 35, 61, batch=3, shared="a", epilogue="rowbias_residual_relu", scale=2.0),
        NARROW.replace(split_k=2),
    ),
    "one B for all": (Gemm(36, 40, 32, "nt", batch=3, shared="b", epilogue="bias"), WIDE),
    "a residual of one product, slices": (
        Gemm(33, 36, 50, epilogue="bias_residual"), WIDE.replace(vector=2, split_k=4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_batches_and_residuals_are_computed_on_the_cpu(case: str, emulate: Any) -> None:
    workload, values = BATCHES[case]
    assert SIMT.space(workload, H200, 1).violated(values) is None
    assert emulate(SIMT, workload, values) is None


@given(m=st.integers(1, 200), n=st.integers(1, 200), batch=st.sampled_from([1, 2, 5]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_tile_of_every_product_is_computed_once(m: int, n: int, batch: int) -> None:
    t = Tiles.of(Gemm(m, n, 37, batch=batch), NARROW.replace(split_k=2))
    places = [
        (t.product(tile), t.within(tile) // t.n.blocks, t.within(tile) % t.n.blocks)
        for tile in range(t.tiles)
    ]
    rows, columns = -(-m // 16), -(-n // 24)
    assert places == [
        (p, row, column) for p in range(batch) for row in range(rows) for column in range(columns)
    ]
    assert t.split.units == len(places)


def test_the_estimate_knows_batches_and_residuals() -> None:
    def seconds(values: Config, *shape: int, **how: Any) -> float:
        return estimate(SIMT.work(Gemm(*shape, **how), values), H200)

    many = Gemm(197, 197, 64, "nt", batch=192)
    default = SIMT.space(many, H200, 1).defaults[0]
    assert choose_template("auto", many, H200) is SIMT
    assert SIMT.work(many, default).blocks == Tiles.of(many, default).tiles
    # Where each product reads a B of its own, the memory bus is what counts.
    row = config((1, 1, 1, 1), (128, 1, 32, 1), (256, 16))
    own, same = (seconds(row, 1, 4096, 4096, batch=32, shared=shared) for shared in ("", "b"))
    assert own > 32 * 4 * 4096**2 / 4.8e12 and same < 0.7 * own
    assert seconds(WIDE, 4096, 4096, 16, epilogue="residual") > seconds(WIDE, 4096, 4096, 16)


def test_k_is_cut_where_a_batch_has_few_tiles() -> None:
    few, many = (SIMT.space(Gemm(64, 64, 4096, batch=b), H200, 1) for b in (2, 200))
    assert few.defaults[0]["split_k"] > 1  # type: ignore[operator]
    (knob,) = (p for p in many.parameters if p.name == "split_k")
    assert list(knob.values()) == [1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_drawn_configs_compute_the_product_on_the_cpu(layout: str, emulate: Any) -> None:
    rng = random.Random(layout)
    workload = Gemm(rng.randint(20, 90), rng.randint(20, 90), rng.randint(9, 60), layout=layout,
                    epilogue="bias")  # fmt: skip
    space = SIMT.space(workload, H200, 1)
    for drawn in (space.sample(rng), space.sample(rng)):
        assert emulate(SIMT, workload, drawn, orders=(0, 2)) is None, drawn


@pytest.mark.parametrize(("order", "stages"), [(0, 2), (1, 1)])
def test_the_emulator_finds_a_missing_barrier(
    order: int, stages: int, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(64, 64, 32)
    source = lowered(SIMT, workload, config((2, 2, 4, 4), (2, 2, 4, 4), (4, 8), stages=stages))
    barrier = "tvm_builtin_cuda_cta_sync();"
    head, body = source.text.rsplit("main_kernel(", 1)
    assert body.count(barrier) == 2
    broken = dataclasses.replace(source, text=f"{head}main_kernel({body.replace(barrier, '', 1)}")
    problem = make_problem(workload)
    assert emulator.check(source, workload, problem, tmp_path, (order,)) is None
    assert "elements are wrong" in (
        emulator.check(broken, workload, problem, tmp_path) or "nothing found"
    )


def test_the_emulator_finds_a_load_beyond_the_end(lowered: Any, tmp_path: Path) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(61, 64, 32)
    source = lowered(SIMT, workload, config((2, 2, 4, 4), (2, 2, 4, 4), (4, 8)))
    text = source.text.replace("< 61)", "< 9999)")
    assert text != source.text
    with pytest.raises(AssertionError, match="exit -11"):
        broken = dataclasses.replace(source, text=text)
        emulator.check(broken, workload, make_problem(workload), tmp_path)


@given(
    gpu=st.sampled_from(sorted(GPUS)),
    m=extents,
    n=extents,
    k=extents,
    layout=st.sampled_from(LAYOUTS),
    name=st.sampled_from(["simt", "simt_paper"]),
    batch=st.sampled_from([1, 1, 3, 64]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_shape_has_a_legal_default_and_neighbours(
    gpu: str, m: int, n: int, k: int, layout: str, name: str, batch: int
) -> None:
    assume(batch * max(m * k, k * n, m * n) < 2**31)
    template = get_template(name)
    workload = Gemm(m, n, k, layout=layout, batch=batch)
    space = template.space(workload, GPUS[gpu], 1)
    assert space.defaults
    tiles = Tiles.of(workload, {"unroll": 8, "stages": 2, "split_k": 1, "vector": 4, "pad": 4,
                                **space.defaults[0]})  # fmt: skip
    for side, extent in ((tiles.m, m), (tiles.n, n)):
        assert (side.blocks - 1) * side.block < extent <= side.blocks * side.block
    for operand in (tiles.a, tiles.b):
        assert operand.slots * tiles.threads * operand.width >= operand.rows * operand.bk
    assert m == n == k == 1 or next(space.neighbors(space.defaults[0]), None) is not None


@pytest.mark.parametrize(("extent", "size"), [(512, 484_000), (1024, 899_756), (2048, 1_589_952)])
def test_the_papers_spaces_have_the_papers_sizes(extent: int, size: int) -> None:
    assert get_template("simt_paper").space(Gemm(extent, extent, extent), H200, 1).size == size


def test_illegal_configs_are_named_before_anything_is_compiled() -> None:
    space = SIMT.space(Gemm(2048, 2048, 2048), H200, 1)
    whole = (512, 1, 1, 4)

    def broken(m: Any, n: Any = whole, k: Any = (256, 8), **knobs: Any) -> str | None:
        made = config(m, n, k, **knobs)
        space.check(made)
        return space.violated(made)

    assert broken((32, 2, 8, 4), (32, 2, 8, 4)) is None
    assert "threads" in (broken((1, 1, 2048, 1)) or "")
    assert "shared memory" in (broken((16, 1, 32, 4), (16, 1, 32, 4), (8, 256), unroll=8) or "")
    assert "registers" in (broken((16, 1, 8, 16), (16, 1, 8, 16)) or "")
    assert "unroll" in (broken((32, 2, 8, 4), (32, 2, 8, 4), unroll=16) or "")


def test_the_vector_width_has_to_be_used() -> None:
    odd = SIMT.space(Gemm(131, 67, 37), H200, 1)
    made = config((4, 2, 8, 4), (2, 2, 16, 2), (3, 16))
    assert "vector width" in (odd.violated(made) or "")
    assert odd.violated(made.replace(vector=1)) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_narrow_types_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(NotApplicable, match="simt computes float32.*mma_sync"):
        SIMT.space(Gemm(64, 64, 64, dtype=dtype), H200, 1)


def test_operands_that_32_bits_cannot_index_are_refused() -> None:
    for workload in (Gemm(50000, 50000, 64), Gemm(1024, 64, 1024, batch=2048)):
        with pytest.raises(NotApplicable, match="2\\^31"):
            SIMT.space(workload, H200, 1)
    # Of an operand that is shared there is one, whatever the batch.
    assert SIMT.space(Gemm(1024, 64, 1024, batch=2048, shared="a"), H200, 1).defaults


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_defaults_and_drawn_configs_compile_without_spills(
    arch: str, compiler: Any, lowered: Any, tmp_path: Path
) -> None:
    gpu = {"sm_80": "a100-sxm", "sm_90a": "h200"}[arch]
    for workload in (
        Gemm(1024, 1024, 1024),
        Gemm(131, 67, 37, layout="tt", epilogue="bias_gelu"),
        Gemm(197, 200, 64, layout="nt", epilogue="bias_residual", batch=12),
    ):
        space = SIMT.space(workload, GPUS[gpu], 1)
        drawn = [] if workload.batch > 1 else [space.sample(random.Random(arch))]
        for values in (space.defaults[0], *drawn):
            source = lowered(SIMT, workload, values, gpu)
            cubin = compile_cubin(source.text, arch, source.threads, compiler)
            tiles = Tiles.of(workload, values)
            assert cubin.image[:4] == b"\x7fELF"
            assert source.threads == tiles.threads
            assert source.shared_bytes == tiles.shared_bytes
            assert source.grid[0] == SIMT.work(workload, values).blocks
            assert cubin.resources.registers <= 255
            assert cubin.resources.stack_bytes == 0
            code = disassembled(cubin.image, tmp_path)
            if code is not None:
                assert re.search(r"\bFFMA\b", code) and re.search(r"\bLDS\b", code)
                assert not re.search(r"\b(LDL|STL|HMMA|HGMMA)\b", code), "no tf32, no local memory"


def test_the_papers_space_compiles(compiler: Any, lowered: Any) -> None:
    template, workload = get_template("simt_paper"), Gemm(512, 512, 512)
    values = template.space(workload, GPUS["a100-sxm"], 1).defaults[0]
    assert set(values) == {"tile_m", "tile_k", "tile_n"}
    source = lowered(template, workload, values, "a100-sxm")
    cubin = compile_cubin(source.text, "sm_80", source.threads, compiler)
    assert (cubin.image[:4], cubin.resources.stack_bytes) == (b"\x7fELF", 0)


def test_an_over_size_config_is_caught_by_name(compiler: Any, lowered: Any) -> None:
    """Illegal, and built all the same: what static legality misses, the compile step finds."""
    workload = Gemm(1024, 1024, 1024)
    values = config((4, 1, 16, 16), (4, 1, 16, 16), (256, 4))
    assert SIMT.space(workload, H200, 1).violated(values) is not None
    source = lowered(SIMT, workload, values)
    with pytest.raises(CudaCompileError, match="^spills: .* bytes of spill stores"):
        compile_cubin(source.text, "sm_90a", source.threads, compiler)
