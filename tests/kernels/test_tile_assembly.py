"""What the compiler makes of the micro-kernel: sums in registers, no spills, no lost vectors."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from autotune.hw_profiles import HardwareProfile
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module
from autotune.search.space import Config
from autotune.workload import Gemm

tvm = pytest.importorskip("tvm")

AVX512 = HardwareProfile("cpu", "AVX-512", "skylake-avx512", "x86_64", l1d_bytes=1 << 15,
                         l2_bytes=1 << 20, simd_bits=512, vector_registers=32)  # fmt: skip
TARGET = {
    "kind": "llvm",
    "num-cores": 1,
    "mtriple": "x86_64-unknown-linux-gnu",
    "mcpu": "skylake-avx512",
    "mattr": ["-prefer-256-bit"],
}


AVX2 = dataclasses.replace(AVX512, name="AVX2", arch="znver3", simd_bits=256, vector_registers=16)


#: What a config has where k of 64 is not blocked.
UNBLOCKED = {"block_k": 64, "outer_order": ("n", "m", "k")}


def knows_x86() -> bool:
    return any("x86" in name for name in tvm.target.codegen.llvm_get_targets())


pytestmark = pytest.mark.skipif(not knows_x86(), reason="this LLVM does not compile for x86")


def loops(assembly: str) -> list[list[str]]:
    """Return the bodies of the innermost loops: from a label to a jump back to it."""
    stripped = (line.strip() for line in assembly.splitlines())
    lines = [line for line in stripped if line and not re.match(r"\.Ltmp\d+:|#|\.p2align", line)]
    labels: dict[str, int] = {}
    found = []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = number
        elif (jump := re.match(r"j\w+\s+(\.L\w+)", line)) and jump[1] in labels:
            body = lines[labels[jump[1]] + 1 : number]
            if not any(re.match(r"\.L\w+:|j\w+\s", inner) for inner in body):
                found.append(body)
    return found


def hot_loop(template: str, workload: Gemm, config: Config, **target: Any) -> list[str]:
    """Return the loop with the most fused multiply-adds."""
    module = get_template(template).build(workload, config)
    library = compile_module(module, tvm.target.Target({**TARGET, **target}))
    assembly = library.mod.inspect_source("asm")
    return max(loops(assembly), key=lambda body: sum("vfmadd" in line for line in body))


def count(body: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in body)


@pytest.mark.parametrize("prepacked", [False, True])
@pytest.mark.parametrize(("micro_m", "vectors"), [(8, 2), (6, 4), (14, 2), (9, 3), (28, 1)])
def test_a_register_tile_stays_in_registers(micro_m: int, vectors: int, prepacked: bool) -> None:
    workload = Gemm(micro_m * 16, 768, 96, prepacked=prepacked)
    space = get_template("cpu_tile").space(workload, AVX512, 1)
    values = dict(space.defaults[0])
    values |= {"micro_m": micro_m, "micro_n": 16 * vectors, "block_m": 1, "block_n": 1,
               "block_k": 96, "outer_order": ("n", "m", "k"),
               "unroll_k": 1, "prefetch_b": 0}  # fmt: skip
    body = hot_loop("cpu_tile", workload, Config(values))
    sums = micro_m * vectors
    assert count(body, r"vfmadd\w+ps\s.*%zmm") >= sums and count(body, r"vfmadd") % sums == 0
    steps = count(body, r"vfmadd") // sums
    assert count(body, r"\(%rsp") == 0, "spilled"
    # One load for each vector of B and one broadcast for each row of A, of its own or embedded.
    assert count(body, r"\(%r") <= steps * (vectors + micro_m)
    assert count(body, r"vmovss|vfmadd\w+ss") == 0, "scalar code"


@pytest.mark.parametrize("packed", ["none", "block", "whole"])
def test_edges_need_no_masks_and_no_scalar_code(packed: str) -> None:
    workload = Gemm(35, 700, 96)
    space = get_template("cpu_tile").space(workload, AVX512, 1)
    values = dict(space.defaults[0]) | {"micro_m": 6, "micro_n": 64, "pack_b": packed}
    module = get_template("cpu_tile").build(workload, Config(values))
    assembly = compile_module(module, tvm.target.Target(TARGET)).mod.inspect_source("asm")
    lines = [line.strip() for line in assembly.splitlines()]
    assert count(lines, r"vfmadd\w+ps\s.*%zmm") >= 24
    assert count(lines, r"%k[1-7]") == 0, "masked"
    assert count(lines, r"vfmadd\w+ss|vmovss\s+%xmm") == 0, "scalar code"


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize(("packed", "depth"), [("none", 96), ("block", 48), ("block", 96)])
def test_rows_that_are_asked_for_cost_nothing_else(packed: str, depth: int, steps: int) -> None:
    """Also where the last block sticks out, and where sums wait in memory between blocks of k."""
    workload = Gemm(9 * 57, 480, 96)
    space = get_template("cpu_tile").space(workload, AVX512, 1)
    values = dict(space.defaults[0])
    values |= {"micro_m": 9, "micro_n": 48, "block_m": 16, "block_n": 4, "block_k": depth,
               "outer_order": ("n", "k", "m") if depth != 96 else ("n", "m", "k"),
               "pack_b": packed, "unroll_k": steps, "prefetch_b": 8}  # fmt: skip
    config = Config(values)
    assert space.violated(config) is None
    body = hot_loop("cpu_tile", workload, config)
    done = count(body, r"vfmadd") // 27
    assert count(body, r"vfmadd\w+ps\s.*%zmm") == 27 * done and done % steps == 0
    assert count(body, r"prefetcht0") == 3 * done
    assert count(body, r"zmm.*\(%[er]sp|vmov[ua]ps\s+%zmm\d+, .*\(") == 0, "sums leave registers"
    script = get_template("cpu_tile").build(workload, config).script()
    assert script.count('"at_fetch"') == 3 and "* T.int64(32)" in script  # eight rows of words


@pytest.mark.parametrize("epilogue", ["none", "bias_relu"])
@pytest.mark.parametrize("order", ["nkm", "knm", "nmk"])
def test_sums_begin_and_end_in_their_tiles_where_k_is_in_blocks(order: str, epilogue: str) -> None:
    """Nothing is zeroed before all tiles, and nothing copied out after them."""
    workload = Gemm(8 * 5, 480, 96, epilogue=epilogue)
    space = get_template("cpu_tile").space(workload, AVX512, 1)
    values = dict(space.defaults[0])
    values |= {"micro_m": 8, "micro_n": 48, "block_m": 4, "block_n": 4, "block_k": 32,
               "outer_order": tuple(order), "unroll_k": 1, "prefetch_b": 0,
               "pack_a": "none", "pack_b": "none"}  # fmt: skip
    config = Config(values)
    assert space.violated(config) is None
    text = get_template("cpu_tile").build(workload, config).script()
    assert re.findall(r'sblock\("(\w+)"\)', text) == ["root", "zeros", "matmul", "results"]
    lines = [line.strip() for line in text.splitlines()]
    (blocks_of_k,) = (i for i, line in enumerate(lines) if re.match(r"for .*k_0.* in ", line))
    first, last, *_ = (i for i, line in enumerate(lines) if re.match(r"if .*k_0.* == \d+:", line))
    zeros, results = (lines.index(f'with T.sblock("{name}"):') for name in ("zeros", "results"))
    assert blocks_of_k < first < zeros < last < results
    assert lines[first].endswith("== 0:") and lines[last].endswith("== 64:")


@pytest.mark.parametrize("packed", ["panel", "block", "whole"])
@pytest.mark.parametrize("depth", [512, 519])  # also where the last square begins earlier
@pytest.mark.parametrize(("columns", "width"), [(96, 24), (100, 24), (100, 16), (9, 8)])
def test_a_transposed_b_turns_in_registers(
    columns: int, width: int, depth: int, packed: str
) -> None:
    workload = Gemm(12, columns, depth, layout="nt")
    space = get_template("cpu_tile").space(workload, AVX2, 1)
    values = dict(space.defaults[0]) | {"micro_m": 4, "micro_n": width, "pack_b": packed,
                                        "block_n": 1}  # fmt: skip
    values |= {"block_k": depth, "outer_order": ("n", "m", "k")}
    module = get_template("cpu_tile").build(workload, Config(values))
    target = {**TARGET, "mcpu": AVX2.arch, "mattr": ["+avx2", "+fma"]}
    assembly = compile_module(module, tvm.target.Target(target)).mod.inspect_source("asm")
    bodies = loops(assembly)
    # Eight vectors of eight, of which the first round makes pairs of words.
    turning = [body for body in bodies if count(body, r"vunpck[lh]p[sd]") >= 8]
    assert turning and all(count(body, r"vmovups|vmovaps") >= 8 for body in turning)
    assert all(count(body, r"\(%rsp") == 0 for body in turning), "spilled"
    lines = [line.strip() for line in assembly.splitlines()]
    assert count(lines, r"vextractps|vinsertps|vmovss\s+%xmm") == 0, "element by element"


@pytest.mark.parametrize(
    ("template", "layout", "tile"),
    [
        ("cpu_tile", "nn", {"micro_m": 8, "micro_n": 32, "pack_b": "none", **UNBLOCKED}),
        ("cpu_inner", "nt", {"micro_m": 4, "micro_n": 6}),
    ],
)
def test_sums_of_a_tile_stay_in_registers_to_their_end(
    template: str, layout: str, tile: dict[str, Any]
) -> None:
    workload = Gemm(8, 512, 64, layout=layout)
    config = get_template(template).space(workload, AVX512, 1).defaults[0].replace(**tile)
    module, target = get_template(template).build(workload, config), tvm.target.Target(TARGET)
    # They take 1 KiB and more: TVM by itself would put them into a pool of memory.
    assert "BackendAllocWorkspace" in tvm.compile(module, target=target).mod.inspect_source("ll")
    compiled = compile_module(module, target).mod
    assert "BackendAllocWorkspace" not in compiled.inspect_source("ll")
    lines = [line.strip() for line in compiled.inspect_source("asm").splitlines()]
    # A few are spilled while lanes are added up.
    assert count(lines, r"vmov\w+\s+%zmm\d+, .*\(%r[sb]p") < 8


def test_what_is_large_stays_in_the_pool_of_memory() -> None:
    """A thread's stack is small."""
    workload = Gemm(256, 1024, 1024)
    config = get_template("cpu_tile").space(workload, AVX512, 1).defaults[0]
    module = get_template("cpu_tile").build(workload, config.replace(pack_b="whole"))
    code = compile_module(module, tvm.target.Target(TARGET)).mod.inspect_source("ll")
    assert "BackendAllocWorkspace" in code


def test_inner_products_are_vectors_with_sums_in_registers() -> None:
    workload = Gemm(64, 1, 1024)
    config = get_template("cpu_inner").space(workload, AVX512, 1).defaults[0]
    body = hot_loop("cpu_inner", workload, config)
    assert count(body, r"vfmadd\w+ps\s.*%zmm") >= 8
    assert count(body, r"\(%rsp") == 0 and count(body, r"ss\s") == 0


@pytest.mark.parametrize("rows", [3, 4])
def test_inner_products_of_few_rows_fill_sixteen_registers_and_spill_none(rows: int) -> None:
    workload = Gemm(rows, 1024, 1024, layout="nt")
    config = get_template("cpu_inner").space(workload, AVX2, 1).defaults[0]
    body = hot_loop("cpu_inner", workload, config, mcpu=AVX2.arch, mattr=["+avx2", "+fma"])
    multiplies = count(body, r"vfmadd\w+ps\s.*%ymm")  # of several k: the compiler unrolls
    assert multiplies >= rows * 3 and multiplies % (rows * 3) == 0
    assert count(body, r"\(%rsp") == 0


@pytest.mark.parametrize("epilogue", ["none", "bias_relu"])
def test_tiles_of_the_transpose_of_c_turn_in_registers(epilogue: str) -> None:
    workload = Gemm(64, 512, 96, layout="nt", epilogue=epilogue)
    config = get_template("cpu_swapped").space(workload, AVX512, 1).defaults[0]
    assert (config["micro_n"], config["micro_m"]) == (8, 32)
    body = hot_loop("cpu_swapped", workload, config)
    steps = count(body, r"vfmadd") // 16
    assert count(body, r"vfmadd\w+ps\s.*%zmm") == 16 * steps and steps == config["unroll_k"]
    assert count(body, r"zmm.*\(%[er]sp|vmov[ua]ps\s+%zmm\d+, .*\(") == 0, "sums leave registers"
    module = get_template("cpu_swapped").build(workload, config)
    assembly = compile_module(module, tvm.target.Target(TARGET)).mod.inspect_source("asm")
    lines = [line.strip() for line in assembly.splitlines()]
    # Squares of A in its copy, and squares of C.
    assert count(lines, r"vunpck[lh]p[sd]|vpermt2p[sd]|vpermi2p[sd]") >= 16
    assert count(lines, r"vextractps|vinsertps|vmovss\s+%xmm") == 0, "element by element"
