"""The Hopper template: its space, its kernels on the CPU, and their machine code."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_code import disassembled

from autotune.errors import NotApplicable
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin
from autotune.kernels.cuda.tensor_map import TensorMap
from autotune.kernels.cuda.wgmma_tiles import ATOM, LINE, Staged, WgmmaTiles
from autotune.kernels.verify import make_problem
from autotune.search.space import Config
from autotune.workload import LAYOUTS, Gemm

GPUS = {name: p for name, p in load_profiles().items() if p.kind == "cuda"}
H100 = GPUS["h100-sxm"]
WGMMA = get_template("wgmma")
PLAIN = {
    "block_m": 64, "block_n": 64, "block_k": 64, "consumers": 1, "stages": 2, "cluster_m": 1,
    "cluster_n": 1, "group": 1, "sms": 132, "resident": 1, "split_k": 1, "store": "direct",
}  # fmt: skip


def config(**values: Any) -> Config:
    return Config({**PLAIN, **values})


#: What needs code of its own: (dtype, shape, layout, epilogue, config).
CASES: dict[str, tuple[str, tuple[int, int, int], str, str, Config]] = {
    "primes, two consumers, more steps than stages": (
        "bfloat16", (131, 67, 200), "nt", "bias", config(block_m=128, consumers=2),
    ),
    "B along n, tiles in turns, rows of tiles in groups": (
        "float16", (195, 136, 72), "nn", "none", config(sms=2, group=2, stages=3),
    ),
    "A along m, three consumers, columns that fill no chunk": (
        "float16", (200, 101, 136), "tt", "relu",
        config(block_m=192, block_n=96, consumers=3, sms=1),
    ),
    "a row of blocks shares A; an odd number of boxes of C": (
        "bfloat16", (136, 264, 72), "tn", "bias_relu",
        config(cluster_n=2, sms=2, stages=3, store="tma"),
    ),
    "four blocks share A and B, some outside C": (
        "float16", (200, 136, 200), "nn", "none",
        config(cluster_m=2, cluster_n=2, sms=4, store="tma"),
    ),
    "the usual default": (
        "bfloat16", (200, 264, 72), "nt", "bias_gelu",
        config(block_m=128, block_n=256, consumers=2, stages=4, cluster_m=2, store="tma"),
    ),
    "steps of two chunks, two instructions to a consumer": (
        "float16", (150, 24, 328), "nt", "none",
        config(block_m=128, block_n=32, block_k=128, cluster_m=2, cluster_n=1),
    ),
    "one row, fewer steps than stages": (
        "float16", (1, 40, 8), "nt", "bias", config(block_n=16, stages=8),
    ),
    "fp8": (
        "float8_e4m3fn", (70, 72, 400), "nt", "bias_silu",
        config(block_k=128, store="tma", stages=3),
    ),
    "tf32": (
        "tfloat32", (70, 35, 76), "nt", "bias", config(block_k=32, block_n=32, cluster_m=2),
    ),
    "slices of unequal length, in clusters, tiles in turns": (
        "float16", (136, 136, 328), "nn", "bias_gelu",
        config(cluster_m=2, sms=4, stages=3, store="tma", split_k=4),
    ),
    "one row, as many slices as steps": (
        "bfloat16", (1, 37, 200), "nt", "bias", config(block_n=16, split_k=4),
    ),
    "int8 in slices, two consumers": (
        "int8", (131, 51, 400), "nt", "relu",
        config(block_m=128, block_k=128, block_n=32, consumers=2, split_k=2),
    ),
    "fp8, B transposed": (
        "float8_e4m3fn", (70, 75, 400), "nn", "bias", config(block_k=128, split_k=2),
    ),
    "tf32, both transposed": (
        "tfloat32", (70, 35, 76), "tn", "none", config(block_k=32, block_n=32, cluster_m=2),
    ),
    "tf32 along k at odd places": (
        "tfloat32", (33, 40, 67), "nt", "relu", config(block_k=32, block_n=32),
    ),
    "int8, A transposed, B copied to where TMA reaches it": (
        "int8", (132, 51, 147), "tt", "bias", config(block_k=128, block_n=32),
    ),
    "16 bits along k at odd places": (
        "bfloat16", (131, 67, 131), "nt", "bias", config(block_m=128, consumers=2),
    ),
    "16 bits along m and n at odd places, in slices": (
        "float16", (69, 133, 135), "tn", "bias_relu", config(cluster_m=2, split_k=3),
    ),
    "16 bits, only B at odd places, boxes of C": (
        "float16", (72, 136, 67), "tt", "none", config(cluster_n=2, store="tma", stages=3),
    ),
    "int8": (
        "int8", (67, 51, 272), "nt", "bias_relu", config(block_k=128, cluster_n=2, block_n=32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_the_product_on_the_cpu(case: str, emulate: Any) -> None:
    dtype, shape, layout, epilogue, values = CASES[case]
    workload = Gemm(*shape, dtype=dtype, layout=layout, epilogue=epilogue)
    # Fewer SMs than there are, so that blocks take several tiles.
    assert WGMMA.space(workload, H100, 1).violated(values.replace(sms=132)) is None
    assert emulate(WGMMA, workload, values, gpu="h100-sxm") is None


@pytest.mark.parametrize(
    ("workload", "values"),
    [
        (
            Gemm(70, 72, 136, "nt", "float16", epilogue="residual", batch=3, scale=0.5),
            config(sms=4, cluster_m=2, store="tma"),
        ),
        (
            Gemm(40, 71, 72, "nt", "bfloat16", epilogue="bias_residual", batch=4),
            config(sms=2, block_n=32, cluster_n=2, stages=3),
        ),
        (
            Gemm(40, 72, 136, "nt", "float16", epilogue="bias_residual", batch=3, scale=0.5),
            config(sms=4, store="tma", split_k=3),
        ),
        (
            Gemm(40, 36, 150, "nn", "int8", epilogue="residual", batch=3),
            config(sms=4, block_k=128, block_n=32),
        ),
        (
            Gemm(40, 72, 136, "nn", "float16", epilogue="rowbias_silu", batch=3, shared="a"),
            config(sms=4, cluster_n=2, store="tma"),
        ),
        (
            Gemm(69, 40, 67, "nt", "bfloat16", epilogue="rowbias_residual", batch=3, shared="b"),
            config(sms=4, cluster_m=2),
        ),
        (
            Gemm(40, 35, 150, "nn", "int8", batch=2, shared="b"),
            config(sms=2, block_k=128, block_n=32, split_k=2),
        ),
    ],
    ids=[
        "stored by TMA, in clusters",
        "stored directly, odd lines",
        "in slices",
        "transposed",
        "one A for all",
        "one B for all, lines at odd places",
        "one B for all, transposed",
    ],
)
def test_batches_and_residuals_are_computed_on_the_cpu(
    workload: Gemm, values: Config, emulate: Any
) -> None:
    assert WGMMA.space(workload, H100, 1).violated(values.replace(sms=132)) is None
    assert emulate(WGMMA, workload, values, gpu="h100-sxm") is None


@pytest.mark.parametrize(
    ("wanted", "instead", "says"),
    [
        # Consumers that never tell that a stage has been read, and a producer that waits at first.
        (r"tvm_builtin_ptx_mbarrier_arrive_nocount_\w+\(remote_ptr\w*\[0\]\);", "", "wait for ot"),
        (r"ring_ptr\[1\] = 1;", "ring_ptr[1] = 0;", "wait for others"),
        # A stage that is given back while wgmma still reads it.
        (r"tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_1\(\);", "", "are wrong"),
        # Boxes of C that TMA does not see, and ones that are overwritten while it reads them.
        (r"tvm_builtin_ptx_fence_proxy_proxy_async_shared__cta\(\);", "", "are wrong"),
        (r"tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_read_[01]\(\);", "",
         "are wrong"),
        # Another distance between groups of eight lines, and a block that leaves the cluster early.
        (r", 64, 3\);", ", 32, 3);", "are wrong|beyond the shared memory"),
        (r"(?s)tvm_builtin_cuda_cluster_sync\(\);\s*}\s*$", "}", "that has ended"),
    ],
)  # fmt: skip
def test_the_emulator_finds_what_is_not_waited_for(
    wanted: str, instead: str, says: str, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(64, 264, 264, dtype="float16", layout="nt")
    values = config(cluster_n=2, sms=2, store="tma")
    source = emulator.broken(lowered(WGMMA, workload, values, "h100-sxm"), wanted, instead)
    try:
        message = emulator.check(source, workload, make_problem(workload), tmp_path)
    except AssertionError as error:
        message = str(error)
    assert re.search(says, message or "nothing found")


@given(
    along_k=st.booleans(),
    rows=st.sampled_from([64, 128, 192, 256]),
    chunks=st.sampled_from([1, 2]),
    size=st.sampled_from([1, 2, 4]),
    parts=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_wgmma_reads_what_tma_wrote(
    along_k: bool, rows: int, chunks: int, size: int, parts: int
) -> None:
    """Every element of a tile, by the box that brings it and by the descriptor that finds it."""
    if not along_k:
        size = 2
    bk = chunks * LINE // size
    o = Staged(along_k, rows, bk, rows, bk, size, parts)
    tile = np.arange(rows * bk).reshape(rows, bk)
    stored = tile if along_k else tile.T
    shared = np.full(o.tile_bytes // size, -1)

    def swizzled(byte: Any) -> Any:
        return (byte ^ (byte >> 7 & 7) << 4) // size

    for chunk in range(o.chunks):
        for part in range(parts):
            x, y = o.coordinates(0, 0, chunk, part)
            box = stored[y : y + o.part, x : x + o.per_line]
            at = o.chunk_at(chunk, part)
            shared[swizzled(at + np.arange(box.size) * size)] = box.ravel()
    assert sorted(shared) == list(range(rows * bk)), "boxes overlap or leave gaps"
    depth = 32 // size
    row, k = np.arange(64)[:, None], np.arange(depth)[None, :]
    for first in range(0, rows, 64):
        for step in range(bk // depth):
            start = o.operand_at(first, step)
            if along_k:
                byte = row % 8 * LINE + k * size + row // 8 * o.stride_bytes
            else:
                byte = row * size % LINE + k % 8 * LINE + k // 8 * o.stride_bytes
                byte = byte + row * size // LINE * o.leading_bytes
            read = shared[swizzled(start + byte)]
            wanted = tile[first : first + 64, step * depth : (step + 1) * depth]
            assert (read == wanted).all()
    assert o.operand_at(rows - 64, 0) % ATOM == 0


@given(
    m=st.integers(1, 3000),
    n=st.integers(1, 3000),
    cluster=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]),
    group=st.sampled_from([1, 2, 4, 8, 16]),
    sms=st.sampled_from([4, 114, 132]),
    resident=st.sampled_from([1, 2]),
    batch=st.sampled_from([1, 3]),
    slices=st.sampled_from([1, 2, 5]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_tile_is_computed_once(
    m: int, n: int, cluster: tuple[int, int], group: int, sms: int, resident: int, batch: int,
    slices: int,
) -> None:  # fmt: skip
    values = config(
        cluster_m=cluster[0], cluster_n=cluster[1], group=group, sms=sms, resident=resident,
        split_k=slices,
    )  # fmt: skip
    t = WgmmaTiles.of(Gemm(m, n, 448, dtype="float16", layout="nt", batch=batch), values)
    numbers = [
        turn * t.clusters + c
        for c in range(t.clusters)
        for turn in range(t.rounds)
        if turn * t.clusters + c < t.tiles
    ]
    steps = [
        (t.product(x), *t.place(x), t.split.first(part) + step)
        for x in numbers
        for part in [t.split.part(x)[1]]
        for step in range(t.split.count(part))
    ]
    assert len(numbers) == t.tiles and len(steps) == len(set(steps)) == t.tiles // slices * 7
    places = {place[:3] for place in steps}
    units = {t.unit(x, b, 0) for x in numbers for b in range(t.cluster)}
    assert units == set(range(t.split.units)) and len(places) * t.cluster == t.split.units
    assert all(
        0 <= product < batch and 0 <= row < t.tiles_m and 0 <= column < t.tiles_n
        for product, row, column in places
    )
    assert t.tiles_m * cluster[0] * 64 >= m and t.tiles_n * cluster[1] * 64 >= n
    assert t.blocks <= sms * resident and t.blocks % t.cluster == 0


@given(
    m=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    n=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    k=st.integers(1, 600),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(["float16", "int8", "tfloat32"]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_aligned_shape_has_a_legal_default(
    m: int, n: int, k: int, layout: str, dtype: str
) -> None:
    unit = 8
    if dtype == "float16":
        m, n, k = (m, n, k * unit) if layout == "nt" else (8 * m, 8 * n, k * unit)
    workload = Gemm(m, n, k, dtype=dtype, layout=layout)
    space = WGMMA.space(workload, H100, 1)
    t = WgmmaTiles.of(workload, space.defaults[0])
    assert t.shared_bytes <= 232448
    assert 128 * (40 + t.consumers * t.consumer_registers) * t.resident <= 65536
    assert space.is_legal(space.sample(random.Random(0)))


def test_large_products_default_to_what_is_known_to_be_good() -> None:
    for extent in (4096, 8192):
        workload = Gemm(extent, extent, extent, dtype="bfloat16", layout="nt")
        default = WGMMA.space(workload, H100, 1).defaults[0]
        assert [default[x] for x in ("block_m", "block_n", "block_k", "consumers", "stages")] == [
            128, 256, 64, 2, 4,
        ]  # fmt: skip
        assert default["cluster_m"] * default["cluster_n"] == 2 and default["store"] == "tma"


def test_it_is_taken_where_it_applies_and_mma_sync_elsewhere() -> None:
    def chosen(gpu: str, *shape: int, **how: str) -> str:
        return choose_template("auto", Gemm(*shape, **how), GPUS[gpu]).name  # type: ignore[arg-type]

    assert chosen("h100-sxm", 4096, 4096, 4096, dtype="bfloat16", layout="nt") == "wgmma"
    assert chosen("h200", 64, 64, 64, dtype="float16", layout="tn") == "wgmma"
    assert chosen("h200", 33, 35, 48, dtype="int8", layout="nt") == "wgmma"
    assert chosen("h200", 64, 64, 63, dtype="float16", layout="nt") == "mma_sync"
    assert chosen("a100-sxm", 4096, 4096, 4096, dtype="bfloat16", layout="nt") == "mma_sync"
    assert chosen("h200", 64, 64, 64) == "simt"
    for dtype in ("tfloat32", "float8_e4m3fn"):
        assert chosen("h200", 65, 63, 61, dtype=dtype) == "wgmma"
    # Both transpose B; A is one copy more for wgmma where its lines start at odd places.
    assert chosen("h200", 65, 63, 64, dtype="int8") == "wgmma"
    assert chosen("h200", 65, 63, 61, dtype="int8") == "mma_sync"
    assert chosen("a100-sxm", 65, 63, 61, dtype="int8") == "mma_sync"
    # No other template has the type, and this one says what is missing.
    with pytest.raises(NotApplicable, match="does not write float32"):
        WGMMA.space(Gemm(64, 64, 64, dtype="int8", out_dtype="float32"), GPUS["h200"], 1)
    with pytest.raises(NotApplicable, match="no template computes"):
        chosen("a100-sxm", 64, 64, 64, dtype="tfloat32", layout="nt")


@pytest.mark.parametrize(
    ("workload", "gpu", "says"),
    [
        (Gemm(64, 64, 64), "h200", "fp32 would become tf32; use --template simt"),
        (Gemm(64, 64, 64, dtype="float16"), "a100-sxm", "is sm_80; use --template mma_sync"),
        (Gemm(64, 64, 64, dtype="float16", acc_dtype="float16"), "h200", "in float32, not float16"),
        (Gemm(64, 64, 64, dtype="int8", layout="nt", epilogue="gelu"), "h200", "no gelu"),
    ],
)  # fmt: skip
def test_what_does_not_apply_says_why(workload: Gemm, gpu: str, says: str) -> None:
    with pytest.raises(NotApplicable, match=says):
        WGMMA.space(workload, GPUS[gpu], 1)


def test_illegal_configs_are_named_before_anything_is_compiled() -> None:
    space = WGMMA.space(Gemm(4096, 4096, 4096, dtype="float16", layout="nt"), H100, 1)
    good = {"block_m": 128, "block_n": 256, "consumers": 2, "stages": 4, "cluster_m": 2}

    def rule(**values: Any) -> str | None:
        made = config(**{**good, **values})
        space.check(made)
        return space.violated(made)

    assert rule() is None
    assert "64 rows" in (rule(consumers=3) or "")
    assert "shared memory" in (rule(stages=5) or "")
    assert "registers" in (rule(block_m=256, stages=2) or "")
    assert "registers" in (rule(block_n=128, resident=2, stages=2) or "")
    assert "cluster" in (rule(cluster_m=4, cluster_n=2) or "")
    assert "boxes" in (rule(block_n=96, store="tma") or "")
    assert "SMs" in (rule(sms=128) or "")
    few = WGMMA.space(Gemm(64, 64, 200, dtype="float16", layout="nt"), H100, 1)
    assert few.violated(config(split_k=4)) is None
    assert "every slice" in (few.violated(config(block_k=128, split_k=4)) or "")
    wide = WGMMA.space(Gemm(3000, 1100, 4096, dtype="float16", layout="nt"), H100, 1)
    assert "wait in L2" in (wide.violated(config(split_k=6)) or "")


def test_the_launch_is_read_from_the_lowered_module(lowered: Any) -> None:
    workload = Gemm(300, 520, 200, dtype="bfloat16", layout="nt", epilogue="bias")
    values = config(block_m=128, consumers=2, cluster_m=2, sms=8, store="tma")
    source = lowered(WGMMA, workload, values, "h100-sxm")
    t = WgmmaTiles.of(workload, values)
    assert (source.grid, source.block) == ((8, 1, 1), (384, 1, 1))
    assert (source.cluster, source.shared_bytes) == (2, t.shared_bytes)
    a, b, bias, c = sorted(source.parameters, key=lambda p: p if isinstance(p, int) else p.argument)
    assert bias == 2
    assert a == TensorMap(0, "bfloat16", (200, 300), (400,), (64, 128), 3, 2)
    assert b == TensorMap(1, "bfloat16", (200, 520), (400,), (64, 32), 3, 2)
    assert c == TensorMap(3, "bfloat16", (520, 300), (1040,), (64, 64), 3, 2)
    assert [TensorMap.from_json(x.to_json()) for x in (a, b, c)] == [a, b, c]
    assert "__align__(1024) uchar pool_buf_ptr" in source.text


@pytest.mark.parametrize(
    ("dtype", "layout", "epilogue", "instruction"),
    [
        ("bfloat16", "nt", "bias_gelu", "HGMMA.64x256x16.F32.BF16"),
        ("float16", "nn", "none", "HGMMA.64x256x16.F32"),
        ("int8", "nt", "none", "IGMMA.64x\\d+x32.S8.S8"),
        ("float8_e4m3fn", "nt", "bias", "QGMMA.64x\\d+x32.F32.E4M3.E4M3"),
        ("tfloat32", "nt", "none", "HGMMA.64x\\d+x8.F32.TF32"),
        ("float8_e4m3fn", "tn", "none", "QGMMA.64x\\d+x32.F32.E4M3.E4M3"),
    ],
)
def test_the_machine_code_of_defaults_is_what_was_meant(
    dtype: str, layout: str, epilogue: str, instruction: str, compiler: Any, lowered: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    workload = Gemm(4096, 4096, 4096, dtype=dtype, layout=layout, epilogue=epilogue)
    values = WGMMA.space(workload, H100, 1).defaults[0]
    source = lowered(WGMMA, workload, values, "h100-sxm")
    t = WgmmaTiles.of(workload, values)
    cubin = compile_cubin(source.text, "sm_90a", source.threads, compiler)
    assert cubin.resources.registers == t.launch_registers
    assert cubin.resources.stack_bytes == 0
    assert cubin.resources.warnings == ()
    code = disassembled(cubin.image, tmp_path)
    if code is None:  # then at least the source asks for them
        for word in ("wgmma.mma_async", "cp.async.bulk.tensor.2d", "setmaxnreg", ".multicast"):
            assert word in source.text
        return
    for word in (instruction, r"UTMALDG\.2D\.MULTICAST", "SYNCS", "USETMAXREG"):
        assert re.search(rf"\b{word}", code), word
    assert ("UTMASTG" in code) == (values["store"] == "tma")
    assert not re.search(r"\b(LDL|STL)\b", code), "local memory"
    assert [f".text.turn_{x}_kernel" in code for x in "ab"] == [layout == "tn"] * 2


@pytest.mark.parametrize("seed", [1, 2])
def test_drawn_configs_compile_without_spills(seed: int, compiler: Any, lowered: Any) -> None:
    workload = Gemm(304, 200, 144, dtype="bfloat16", layout=LAYOUTS[seed], epilogue="bias")
    drawn = WGMMA.space(workload, H100, 1).sample(random.Random(seed))
    source = lowered(WGMMA, workload, drawn, "h100-sxm")
    cubin = compile_cubin(source.text, "sm_90a", source.threads, compiler)
    assert cubin.resources.registers == WgmmaTiles.of(workload, drawn).launch_registers


def test_an_over_size_config_is_caught_by_name(compiler: Any, lowered: Any) -> None:
    """Illegal, and built all the same: what static legality misses, the compile step finds."""
    workload = Gemm(1024, 1024, 1024, dtype="float16", layout="nt")
    values = config(block_m=256, block_n=256, consumers=2, stages=3)
    assert WGMMA.space(workload, H100, 1).violated(values) is not None
    source = lowered(WGMMA, workload, values, "h100-sxm")
    with pytest.raises(CudaCompileError, match="^spills: .* bytes of spill stores"):
        compile_cubin(source.text, "sm_90a", source.threads, compiler)


def test_serialised_wgmma_is_caught_by_name(compiler: Any, lowered: Any) -> None:
    """Sums that are touched while wgmma is in flight make ptxas wait after each instruction."""
    workload = Gemm(1024, 1024, 1024, dtype="float16", layout="nt")
    source = lowered(WGMMA, workload, config(), "h100-sxm")
    wait = r"tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_1\(\);"
    touched = emulator.broken(source, wait, "sum__ptr[0] += 1.0f;")
    with pytest.raises(CudaCompileError, match="^serialised_wgmma: "):
        compile_cubin(touched.text, "sm_90a", source.threads, compiler)
