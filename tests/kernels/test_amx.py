"""AMX kernels: the instructions that are emitted, and what the kernels around them compute.

Few machines have AMX. So the tile operations are also run in an emulation in C: loop nest, packing,
addresses of tiles and tails are the same code as with the instructions.
"""

from __future__ import annotations

import ctypes
import dataclasses
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles import HardwareProfile, find_profile, tvm_target
from autotune.hw_profiles.amx import request_amx
from autotune.hw_profiles.isa import model_named
from autotune.kernels.base import Template, get_template
from autotune.kernels.compiling import compile_module
from autotune.kernels.cpu.dot_nest import DotNest
from autotune.kernels.cpu.dot_swapped import SwappedNest
from autotune.kernels.verify import make_problem, mismatch, numpy_dtype, poison
from autotune.search.space import Config, ConfigSpace
from autotune.workload import Gemm

TEMPLATE = get_template("cpu_dot")
DTYPES = {"bfloat16": "amx_bf16", "int8": "amx_int8", "float16": "amx_fp16"}
TILES = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "avx512_bf16")


def with_amx(profile: HardwareProfile) -> HardwareProfile:
    """The same CPU, but with AMX; what is compiled for it without the tile operations runs here."""
    return dataclasses.replace(profile, features=tuple({*profile.features, *TILES}))


def granite_rapids() -> HardwareProfile:
    model, known = model_named("graniterapids"), find_profile("sapphirerapids")
    assert model is not None and known is not None
    return dataclasses.replace(known, arch="graniterapids", features=tuple(model.implied))


def tile_configs(space: ConfigSpace, inner: str, count: int, seed: int) -> list[Config]:
    """The default and random configs that use tiles, every height and width of them among these."""
    rng, found = random.Random(seed), {}
    for _ in range(400):  # a draw is forty configs, for most are illegal
        config = space.sample(rng)
        if config["inner"] == inner:
            shape = (config["micro_m"], config["micro_n"], config["pack_a"], config["block_k"])
            found.setdefault(shape, config)
    chosen = list(found.values())
    rng.shuffle(chosen)
    return [*(c for c in space.defaults if c["inner"] == inner), *chosen[:count]]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for the emulation of AMX")
    library = tmp_path_factory.mktemp("amx") / "amx.so"
    source = Path(__file__).with_name("amx_emulation.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    # Compiled kernels look their external functions up among the global symbols.
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def run(module: Any, workload: Gemm, target: Any, seed: int = 0) -> str | None:
    import numpy as np
    import tvm

    problem = make_problem(workload, seed)
    output = np.empty((workload.m, workload.n), numpy_dtype(workload.out_dtype))
    poison(output)
    arguments = [tvm.runtime.tensor(x) for x in [*problem.inputs, output]]
    compile_module(module, target)["main"](*arguments)
    return mismatch(workload, arguments[-1].numpy(), problem.reference)


def check_emulated(
    template: Template,
    nest: type[DotNest],
    workload: Gemm,
    count: int,
    host: HardwareProfile,
    emulator: ctypes.CDLL,
) -> None:
    """The default and so many random configs of a template, by the nest that it builds."""
    import tvm

    space = template.space(workload, with_amx(host), 2)
    target = tvm.target.Target(tvm_target(host, 2))
    seed = workload.m + workload.n + workload.k
    for config in tile_configs(space, DTYPES[workload.dtype], count, seed):
        module = nest(workload, config, emulate_tiles=True).module()
        assert run(module, workload, target) is None, config
        assert emulator.at_tile_faults() == 0, config


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "layout", "epilogue"),
    [
        ((64, 96, 128), "nn", "none"),  # A is read in place
        ((37, 53, 131), "nn", "bias_relu"),
        ((33, 17, 300), "tn", "none"),
        ((31, 70, 97), "tt", "bias"),
        ((3, 40, 640), "nt", "relu"),
        ((1, 1, 1), "nn", "none"),
        ((49, 100, 260), "nt", "none"),
    ],
    ids=lambda x: "x".join(map(str, x)) if isinstance(x, tuple) else x,
)
def test_emulated_tiles_compute_the_product(
    dtype: str,
    shape: tuple[int, int, int],
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    emulator: ctypes.CDLL,
) -> None:
    workload = Gemm(*shape, layout=layout, dtype=dtype, epilogue=epilogue)
    check_emulated(TEMPLATE, DotNest, workload, 3, host, emulator)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    ("shape", "layout", "epilogue"),
    [
        ((40, 96, 128), "nt", "bias_residual"),  # B is read in place, C has rows beside the tiles
        ((33, 75, 256), "tt", "rowbias_relu"),  # the last tile of it begins earlier
        ((70, 53, 131), "nt", "relu"),
        ((1, 40, 640), "nt", "bias"),
    ],
    ids=lambda x: "x".join(map(str, x)) if isinstance(x, tuple) else x,
)
def test_emulated_tiles_compute_the_transpose(
    dtype: str,
    shape: tuple[int, int, int],
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    emulator: ctypes.CDLL,
) -> None:
    workload = Gemm(*shape, layout=layout, dtype=dtype, epilogue=epilogue)
    check_emulated(get_template("cpu_dot_swapped"), SwappedNest, workload, 1, host, emulator)


@pytest.mark.parametrize("layout", ["nn", "tn", "nt"])
@pytest.mark.parametrize("pack_b", ["block", "whole"])
@pytest.mark.parametrize("pack_a", ["panel", "block", "whole"])
def test_each_way_of_packing_is_right_where_nothing_divides(
    pack_a: str, pack_b: str, layout: str, host: HardwareProfile, emulator: ctypes.CDLL
) -> None:
    import tvm

    # Three blocks of k, the last shorter and padded; several panels in a block, the last sticks
    # out; more words than are packed at a time.
    workload = Gemm(70, 150, 1101, layout=layout, dtype="bfloat16", epilogue="bias")
    target = tvm.target.Target(tvm_target(host, 2))
    for threads in (1, 2):
        space = TEMPLATE.space(workload, with_amx(host), threads)
        changes = {"pack_a": pack_a, "pack_b": pack_b, "block_k": 512, "block_m": 2, "block_n": 4}
        config = Config({**dict(space.defaults[0]), **changes})
        assert config["inner"] == "amx_bf16" and space.violated(config) is None
        module = DotNest(workload, config, emulate_tiles=True).module()
        assert run(module, workload, target) is None
        assert emulator.at_tile_faults() == 0


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("int8", 1)])
def test_the_first_guess_keeps_a_block_of_b_in_half_of_the_second_level_cache(
    dtype: str, size: int
) -> None:
    profile = granite_rapids()
    for k, depth in ((1536 // size, 1536), (1600 // size, 1024), (8192 // size, 1024)):
        config = TEMPLATE.space(Gemm(256, 4096, k, dtype=dtype), profile, 1).defaults[0]
        assert (config["inner"], config["tile_loads"]) == (DTYPES[dtype], "stream")
        assert (config["pack_a"], config["pack_b"]) == ("panel", "block")
        block_k, block_n = config["block_k"], config["block_n"]
        assert isinstance(block_k, int) and isinstance(block_n, int)
        assert block_k * size == depth
        assert profile.l2_bytes // 4 < depth * 32 * block_n <= profile.l2_bytes // 2


def test_the_second_guess_keeps_panels_in_the_first_level_cache() -> None:
    profile = granite_rapids()
    for dtype, size in (("bfloat16", 2), ("int8", 1)):
        for k, whole in ((1024 // size, True), (1088 // size, False)):
            workload = Gemm(256, 512, k, dtype=dtype)
            first, second = map(dict, TEMPLATE.space(workload, profile, 1).defaults[:2])
            # A panel of A alone stays where those of B pass by; else one of each does.
            config = first if whole else second
            assert config["inner"] == DTYPES[dtype] and config["pack_a"] == "panel"
            assert (config["block_k"] == k) == whole == (config["tile_loads"] == "stream")
            panels = (1 if whole else 2) * 32 * size * int(config["block_k"])
            assert profile.l1d_bytes / 2 < panels < profile.l1d_bytes


def test_few_rows_are_left_to_vectors_first() -> None:
    for rows, first in ((1, "avx512_vnni"), (7, "avx512_vnni"), (8, "amx_int8")):
        defaults = TEMPLATE.space(Gemm(rows, 64, 256, dtype="int8"), granite_rapids(), 1).defaults
        names = [config["inner"] for config in defaults]
        assert names[0] == first and set(names) == {"avx512_vnni", "amx_int8"}


def test_what_is_for_tiles_only_is_illegal_elsewhere() -> None:
    space = TEMPLATE.space(Gemm(64, 64, 256, dtype="int8"), granite_rapids(), 1)
    tiled, vectors = space.defaults
    assert "outer loop" in str(space.violated(tiled.replace(inner_order="nm")))
    assert "outer loop" in str(space.violated(vectors.replace(pack_a="panel")))
    assert "hint" in str(space.violated(vectors.replace(tile_loads="stream")))
    without = tuple({*granite_rapids().features} - set(TILES))
    profile = dataclasses.replace(granite_rapids(), features=without)
    plain = TEMPLATE.space(Gemm(64, 64, 256, dtype="int8"), profile, 1)
    assert "tile_loads" not in {p.name for p in plain.parameters}


@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_are_configured_and_released_by_the_thread_that_uses_them(
    threads: int, host: HardwareProfile
) -> None:
    workload = Gemm(64, 64, 64, dtype="int8")
    space = TEMPLATE.space(workload, with_amx(host), threads)
    text = TEMPLATE.build(workload, space.defaults[0]).script()
    body = text[text.index("at_tile_config") - 400 :]
    assert ("T.parallel" in body) == (threads == 2)
    assert text.count('"at_tile_config_16")') == text.count('"at_tile_release")') == 1


@pytest.mark.parametrize(("dtype", "steps", "lines_of_c"), [("bfloat16", 16, 1), ("int8", 8, 2)])
def test_the_next_sums_and_results_are_asked_for_in_equal_shares(
    dtype: str, steps: int, lines_of_c: int
) -> None:
    workload = Gemm(256, 512, 1024, dtype=dtype)
    default = TEMPLATE.space(workload, granite_rapids(), 1).defaults[0]
    assert (default["micro_m"], default["micro_n"]) == (32, 32)
    for block_k, order in ((512, "nkm"), (1024, "nmk")):
        # Rows of A are asked for too where it is packed panel by panel.
        config = default.replace(block_k=block_k, outer_order=tuple(order), pack_a="whole")
        shares = steps * block_k // 512
        text = TEMPLATE.build(workload, config).script()
        # Sums of 32 x 32 words, which only wait between blocks of k.
        assert text.count('"at_fetch"') == (64 // shares if block_k == 512 else 0)
        assert text.count('"at_prefetch"') == 32 * lines_of_c // shares


@pytest.mark.parametrize("shape", [(256, 256, 512), (37, 50, 100)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instructions_of_amx_are_emitted_and_nothing_spills(
    dtype: str, shape: tuple[int, int, int]
) -> None:
    import tvm

    profile = granite_rapids()
    workload = Gemm(*shape, dtype=dtype)
    space = TEMPLATE.space(workload, profile, 1)
    # Blocks of k would put tiles of C aside in between, which is no spilling.
    whole = {"block_k": shape[2], "outer_order": ("n", "m", "k")}
    config = Config({**dict(space.defaults[0]), **whole})
    assert space.is_legal(config) and config["inner"] == DTYPES[dtype]
    target = tvm.target.Target(tvm_target(profile, 1))
    library = compile_module(TEMPLATE.build(workload, config), target)
    assembly = library.mod.inspect_source("asm")
    found = Counter(re.findall(r"^\s+(tdp\w+|tile\w+|ldtilecfg)\b", assembly, re.M))
    dot = {"bfloat16": "tdpbf16ps", "int8": "tdpbssd", "float16": "tdpfp16ps"}[dtype]
    assert found[dot] >= 4 and found[dot] % 4 == 0
    # Four loads feed four products: 2 x 2 tiles, each loaded once.
    assert found["tileloadd"] + found["tileloaddt1"] == found[dot]
    # Tiles of B pass by: its panels are not to push that of A out of the first-level cache.
    hinted = found[dot] // 2 if config["tile_loads"] == "stream" else 0
    assert found["tileloaddt1"] == hinted
    assert found["ldtilecfg"] == found["tilerelease"] == 1
    # Tiles leave the registers once, when they are complete: LLVM spills none.
    assert found["tilestored"] == found["tilezero"] and found["tilestored"] % 4 == 0
    assert "at_tile" not in re.sub(r"at_tile_palette", "", assembly)


def test_without_amx_the_request_is_refused_in_one_sentence() -> None:
    if "amx_tile" in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has AMX")
    with pytest.raises(UnsupportedTarget, match="AMX"):
        request_amx()
    workload = Gemm(32, 32, 64, dtype="int8")
    config = TEMPLATE.space(workload, granite_rapids(), 1).defaults[0]
    with pytest.raises(UnsupportedTarget, match="tune again"):
        TEMPLATE.prepare(config)


@pytest.mark.parametrize("dtype", DTYPES)
def test_real_tiles_compute_the_product(dtype: str, host: HardwareProfile) -> None:
    import tvm

    workload = Gemm(49, 100, 260, layout="nt", dtype=dtype)
    space = TEMPLATE.space(workload, host, 2)
    if space.defaults[0]["inner"] != DTYPES[dtype]:
        pytest.skip(f"this CPU has no {DTYPES[dtype]}")
    target = tvm.target.Target(tvm_target(host, 2))
    for config in tile_configs(space, DTYPES[dtype], 6, 0):
        TEMPLATE.prepare(config)
        assert run(TEMPLATE.build(workload, config), workload, target) is None, config
