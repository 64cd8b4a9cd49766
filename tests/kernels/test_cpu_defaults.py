"""Default configs of the CPU templates: legal everywhere, and of the form that suits the shape."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from autotune.errors import NotApplicable
from autotune.hw_profiles import HardwareProfile, load_profiles
from autotune.hw_profiles.isa import model_named
from autotune.kernels.base import choose_template
from autotune.kernels.cpu.blocks import at_most, even_block
from autotune.search.space import Config
from autotune.workload import Gemm

WIDE = HardwareProfile("cpu", "wide", "x", "x86_64", l1d_bytes=1 << 15, l2_bytes=1 << 20,
                       l3_bytes=1 << 25, simd_bits=512, vector_registers=32,
                       features=("f16c", "avx512f", "avx512_bf16", "avx512_vnni"))  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16", "int8")


def with_flags(profile: HardwareProfile) -> HardwareProfile:
    """Return a profile with the flags that its model implies."""
    model = model_named(profile.arch)
    return profile if model is None else dataclasses.replace(profile, features=tuple(model.implied))


def default(workload: Gemm, threads: int = 1) -> Config:
    """Return the default of the template that is chosen."""
    template = choose_template("auto", workload, WIDE)
    return template.space(workload, WIDE, threads).defaults[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_have_legal_defaults_on_every_known_cpu(dtype: str) -> None:
    cpus = [with_flags(p) for p in load_profiles().values() if p.kind == "cpu"]
    shapes = itertools.product((1, 2, 4, 5, 13, 16, 128), (1, 16, 100, 768, 50257), (7, 768, 4096))
    for profile, (m, n, k) in itertools.product([WIDE, *cpus], shapes):
        for layout in ("nn", "nt"):
            workload = Gemm(m, n, k, layout=layout, dtype=dtype)
            try:
                template = choose_template("auto", workload, profile)
                space = template.space(workload, profile, 2)  # which checks its defaults
            except NotApplicable:
                continue  # fp16 on a CPU without conversions
            assert space.defaults


@pytest.mark.parametrize("n", [4096, 50257])
@pytest.mark.parametrize("m", [1, 2, 4, 16, 35, 128])
def test_few_rows_read_b_in_place_and_share_its_columns(m: int, n: int) -> None:
    config = default(Gemm(m, n, 1024), threads=2)
    assert config["pack_b"] == "none" and config["outer_order"] == ("n", "k", "m")
    assert config["block_m"] * config["micro_m"] >= m  # type: ignore[operator]
    blocks = -(-n // (config["micro_n"] * config["block_n"]))  # type: ignore[operator]
    assert blocks >= 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_b_from_memory_is_read_in_few_streams(dtype: str) -> None:
    streamed, near = Gemm(4, 4096, 4096, dtype=dtype), Gemm(4, 256, 256, dtype=dtype)
    assert default(streamed)["block_k"] == (64 if dtype == "int8" else 16)
    assert default(near)["block_k"] == near.k
    assert default(streamed)["pack_b"] == "none"


def test_bytes_in_place_leave_room_for_the_sums_of_their_columns() -> None:
    config = default(Gemm(4, 768, 3072, dtype="int8"))
    assert config["pack_b"] == "none" and config["micro_n"] == 64


def test_all_of_few_rows_pass_over_a_tile_of_a_transposed_b() -> None:
    config = default(Gemm(16, 4096, 4096, layout="nt"), threads=2)
    assert config["micro_m"] * config["block_m"] == 16  # type: ignore[operator]


def test_amx_takes_k_in_whole_tiles() -> None:
    profile = with_flags(load_profiles()["sapphirerapids"])
    for dtype, least in (("bfloat16", 32), ("int8", 64)):
        workload = Gemm(64, 64, 1000, dtype=dtype)
        space = choose_template("auto", workload, profile).space(workload, profile, 1)
        tiled = next(c for c in space.defaults if str(c["inner"]).startswith("amx"))
        order = {"outer_order": ("n", "k", "m")}
        assert space.is_legal(tiled.replace(block_k=least, **order))  # type: ignore[arg-type]
        assert not space.is_legal(tiled.replace(block_k=least // 2, **order))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tiles", "limit", "threads", "block"),
    [(64, 64, 1, 64), (64, 64, 2, 32), (47, 32, 2, 8), (3, 64, 1, 4), (1, 4, 2, 1), (9, 4, 4, 1)],
)
def test_blocks_are_large_but_shared_evenly(
    tiles: int, limit: int, threads: int, block: int
) -> None:
    assert even_block((1, 2, 4, 8, 16, 32, 64), tiles, limit, threads) == block


def test_the_largest_value_up_to_a_limit() -> None:
    assert (at_most((4, 8, 16), 9), at_most((4, 8), 3)) == (8, 4)
