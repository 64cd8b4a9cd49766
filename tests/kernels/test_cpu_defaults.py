"""Default configs of the CPU templates: legal everywhere, and of the form that suits the shape."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

import pytest

from autotune.errors import NotApplicable
from autotune.hw_profiles import HardwareProfile, load_profiles
from autotune.hw_profiles.isa import model_named
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.cpu.blocks import at_most, even_block
from autotune.search.space import Config
from autotune.workload import Gemm

WIDE = HardwareProfile("cpu", "wide", "x", "x86_64", l1d_bytes=1 << 15, l2_bytes=1 << 20,
                       l3_bytes=1 << 25, simd_bits=512, vector_registers=32,
                       features=("f16c", "avx512f", "avx512_bf16", "avx512_vnni"))  # fmt: skip
#: AVX2: 16 registers of 8 floats.
NARROW = dataclasses.replace(WIDE, l2_bytes=1 << 19, simd_bits=256, vector_registers=16,
                             features=("f16c", "avx2", "fma"))  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16", "int8")


def with_flags(profile: HardwareProfile) -> HardwareProfile:
    """Return a profile with the flags that its model implies."""
    model = model_named(profile.arch)
    return profile if model is None else dataclasses.replace(profile, features=tuple(model.implied))


def likely(workload: Gemm, threads: int = 1, profile: HardwareProfile = WIDE) -> list[Config]:
    """Return what the template that is chosen would try first, the default before all."""
    template = choose_template("auto", workload, profile)
    return list(template.space(workload, profile, threads).defaults)


def default(workload: Gemm, threads: int = 1, profile: HardwareProfile = WIDE) -> Config:
    """Return the default of the template that is chosen."""
    return likely(workload, threads, profile)[0]


def tile(config: Config) -> tuple[int, int]:
    """Return rows and columns of the register tile."""
    micro_m, micro_n = config["micro_m"], config["micro_n"]
    assert isinstance(micro_m, int) and isinstance(micro_n, int)
    return micro_m, micro_n


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_have_legal_defaults_on_every_known_cpu(dtype: str) -> None:
    cpus = [with_flags(p) for p in load_profiles().values() if p.kind == "cpu"]
    shapes = itertools.product((1, 2, 4, 5, 13, 16, 128), (1, 16, 100, 768, 50257), (7, 768, 4096))
    for profile, (m, n, k) in itertools.product([WIDE, NARROW, *cpus], shapes):
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
    assert default(streamed, 2)["block_k"] == (64 if dtype == "int8" else 16)
    assert default(near, 2)["block_k"] == near.k
    assert default(streamed, 2)["pack_b"] == "none"


def test_b_from_the_l3_cache_is_read_in_strips_that_are_added_to_seldom() -> None:
    for m in (3, 16, 32):
        depth = default(Gemm(m, 768, 3072))["block_k"]
        assert isinstance(depth, int) and 48 <= depth <= 192
        assert default(Gemm(m, 768, 3072), profile=NARROW)["block_k"] == 16
    assert default(Gemm(2, 768, 3072))["block_k"] == 8  # a vector's streams


def test_bytes_in_place_leave_room_for_the_sums_of_their_columns() -> None:
    config = default(Gemm(4, 768, 3072, dtype="int8"))
    assert config["pack_b"] == "none" and config["micro_n"] == 64


def test_all_of_few_rows_pass_over_a_tile_of_a_transposed_b() -> None:
    config = default(Gemm(16, 4096, 4096, layout="nt"), threads=2)
    assert config["micro_m"] * config["block_m"] == 16  # type: ignore[operator]


@pytest.mark.parametrize(
    ("m", "n", "best", "other"),
    [(768, 768, (4, 24), (6, 16)), (512, 512, (6, 16), (4, 24)), (35, 700, (5, 16), (4, 24))],
)
def test_sixteen_registers_hold_tiles_with_at_least_ten_sums(
    m: int, n: int, best: tuple[int, int], other: tuple[int, int]
) -> None:
    """Four rows by two vectors divide most extents, and are slow: a load for each two sums."""
    found = [tile(config) for config in likely(Gemm(m, n, 1024), profile=NARROW)]
    assert (found[0], set(found)) == (best, {best, other})


@pytest.mark.parametrize(("n", "width"), [(512, 32), (333, 48), (144, 48), (200, 32)])
def test_many_registers_hold_the_tile_that_divides_c(n: int, width: int) -> None:
    tiles = [tile(config) for config in likely(Gemm(512, n, 512))]
    assert tiles[0] == (8, width) and len(set(tiles)) > 1


def test_with_sixteen_registers_b_is_packed_from_a_few_dozen_rows_on() -> None:
    for m, packed in ((32, False), (33, True), (128, True)):
        config = default(Gemm(m, 1024, 1024), profile=NARROW)
        assert (config["pack_b"] != "none") == packed, m
        assert config["block_m"] * tile(config)[0] >= m  # type: ignore[operator]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("m", "rows"), [(3, 3), (5, 5), (16, 4), (20, 5), (32, 4)])
def test_with_sixteen_registers_rows_of_b_longer_than_a_page_are_read_whole(
    m: int, rows: int, threads: int
) -> None:
    config = default(Gemm(m, 4096, 4096), threads, NARROW)
    assert (config["pack_b"], config["block_k"], config["block_m"]) == ("none", 8, 1)
    assert tile(config) == (rows, 16)
    assert config["block_n"] * 16 * threads == 4096  # type: ignore[operator]
    # With more registers by one thread; by two it is tried, not taken.
    tried = [c["block_k"] for c in likely(Gemm(m, 4096, 4096), threads, WIDE)]
    assert tried[0] == (8 if threads == 1 else 16) and 8 in tried[:3]
    assert tile(default(Gemm(2, 4096, 4096), threads, NARROW)) == (2, 32)
    for near in (Gemm(16, 1024, 4096), Gemm(16, 2048, 32)):
        assert default(near, threads, NARROW)["block_k"] != 8


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("m", "n", "k"), [(3072, 1500, 128), (1000, 333, 77), (3072, 1500, 1024)])
def test_rows_of_tiles_pass_over_all_of_b_where_k_is_short_or_a_is_far(
    m: int, n: int, k: int, threads: int
) -> None:
    config = default(Gemm(m, n, k), threads, NARROW)
    (height, width), block = tile(config), config["block_m"]
    assert isinstance(block, int)
    assert config["inner_order"] == "mn"
    assert config["block_n"] * width >= n  # type: ignore[operator]
    rows = math.ceil(m / height)
    busiest = math.ceil(math.ceil(rows / block) / threads) * block
    assert busiest <= 1.1 * rows / threads


def test_a_b_beyond_the_l3_is_not_read_for_each_row_of_tiles() -> None:
    for config in likely(Gemm(3072, 30_000, 128), profile=NARROW):
        assert config["inner_order"] == "nm"


@pytest.mark.parametrize("profile", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_block_of_a_stays_in_a_share_of_the_l3(profile: HardwareProfile) -> None:
    large, small = Gemm(2048, 2048, 2048), Gemm(512, 512, 512)
    config = default(large, profile=profile)
    rows = config["block_m"] * tile(config)[0]  # type: ignore[operator]
    assert 4 * rows * large.k <= profile.l3_bytes // 8 < 8 * rows * large.k
    assert config["outer_order"] == ("m", "n", "k")
    assert default(small, profile=profile)["outer_order"] == ("n", "m", "k")


@pytest.mark.parametrize("layout", ["nn", "nt"])
def test_with_many_registers_strips_of_b_are_packed_where_a_is_near(layout: str) -> None:
    near, far = Gemm(512, 768, 768, layout=layout), Gemm(2048, 768, 2048, layout=layout)
    assert default(near)["pack_b"] == "block"
    assert default(near, profile=NARROW)["pack_b"] == "whole"
    assert default(far)["pack_b"] == "whole"
    # Three strips cannot be shared by two threads; rows can.
    narrow = dataclasses.replace(near, n=96)
    assert default(narrow, threads=1)["pack_b"] == "block"
    assert default(narrow, threads=2)["pack_b"] == "whole"
    assert default(Gemm(5000, 768, 64, layout=layout))["pack_b"] != "none"  # more rows than blocks


def test_rows_of_tiles_write_a_large_c_in_order_where_k_is_short() -> None:
    for profile, order in ((WIDE, "nm"), (NARROW, "mn")):
        assert default(Gemm(4096, 4096, 64), profile=profile)["inner_order"] == "mn"
        assert default(Gemm(512, 512, 64), profile=profile)["inner_order"] == order
    assert default(Gemm(4096, 4096, 512))["inner_order"] == "nm"


@pytest.mark.parametrize("threads", [1, 2])
def test_intels_pass_all_rows_over_each_strip_of_b(threads: int) -> None:
    profiles = load_profiles()
    intel = with_flags(profiles["sapphirerapids"])
    workload = Gemm(512, 768, 768)
    first = default(workload, threads, intel)
    assert (first["pack_b"], first["inner_order"]) == ("block", "mn")
    micro_m, block_m = first["micro_m"], first["block_m"]
    assert isinstance(micro_m, int) and isinstance(block_m, int) and micro_m * block_m >= 512
    rows, columns = tile(first)
    # More sums than a Zen needs: words of B come slowly from the second-level cache.
    assert rows * columns // 16 >= 24
    amd = default(workload, threads, with_flags(profiles["znver5"]))
    assert (amd["pack_b"], amd["inner_order"]) == ("whole", "nm")
    assert default(Gemm(128, 768, 1536), threads, intel)["pack_b"] == "none"
    assert default(Gemm(129, 768, 1536), threads, intel)["pack_b"] == "block"
    packed = dataclasses.replace(workload, prepacked=True)
    assert default(packed, threads, intel)["pack_b"] == "whole"


@pytest.mark.parametrize("threads", [1, 2])
def test_intels_ask_for_rows_of_b_ahead(threads: int) -> None:
    profiles = load_profiles()
    intel = with_flags(profiles["sapphirerapids"])
    for m, ahead in ((16, 8), (128, 8), (512, 32)):
        configs = likely(Gemm(m, 768, 3072), threads, intel)
        assert configs[0]["prefetch_b"] == ahead
        assert all(c["prefetch_b"] and c["unroll_k"] == 8 for c in configs)
        others = likely(Gemm(m, 768, 3072), threads, with_flags(profiles["znver4"]))
        assert not any(c["prefetch_b"] for c in others)
    # Steps that are written out divide k, and do not become too many.
    assert default(Gemm(512, 768, 771), threads, intel)["unroll_k"] == 1
    assert default(Gemm(512, 768, 772), threads, intel)["unroll_k"] == 4


def chosen(profile: HardwareProfile, m: int, n: int, k: int, **more: Any) -> str:
    return choose_template("auto", Gemm(m, n, k, layout="nt", **more), profile).name


def test_intels_take_more_rows_as_inner_products() -> None:
    for arch, most in (("sapphirerapids", 64), ("znver4", 32)):
        profile = with_flags(load_profiles()[arch])
        # So deep that A, in panels, would not stay in the second-level cache.
        assert chosen(profile, most, 4096, 16384) == "cpu_inner"
        assert chosen(profile, most + 1, 4096, 16384) == "cpu_tile"


def test_intels_compute_the_transpose_of_c_for_few_rows_by_a_transposed_b() -> None:
    intel = with_flags(load_profiles()["sapphirerapids"])
    for m, name in ((9, "cpu_inner"), (10, "cpu_swapped"), (16, "cpu_swapped"),
                    (17, "cpu_inner"), (23, "cpu_inner"), (24, "cpu_swapped"),  # 32 rows
                    (48, "cpu_swapped"), (100, "cpu_tile"),  # not of 128
                    (112, "cpu_swapped"), (256, "cpu_swapped"), (257, "cpu_tile")):  # fmt: skip
        assert chosen(intel, m, 1536, 768) == name, m
    # By a small B a panel has to be full.
    for m, name in ((10, "cpu_inner"), (16, "cpu_swapped"), (24, "cpu_inner"),
                    (32, "cpu_swapped")):  # fmt: skip
        assert chosen(intel, m, 768, 768) == name, m
    assert chosen(intel, 128, 4096, 4096) == "cpu_tile"  # A is too large for panels
    assert chosen(intel, 64, 768, 64) == "cpu_tile"
    assert chosen(intel, 64, 768, 768, prepacked=True) == "cpu_tile"
    assert chosen(with_flags(load_profiles()["znver4"]), 64, 768, 768) == "cpu_tile"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_transpose_of_c_is_computed_in_tiles_of_eight_columns(threads: int) -> None:
    intel = with_flags(load_profiles()["sapphirerapids"])
    for m, rows in ((16, 16), (32, 32), (48, 48), (64, 32), (128, 32), (144, 48)):
        config = default(Gemm(m, 768, 768, layout="nt"), threads, intel)
        assert (config["micro_n"], config["micro_m"]) == (8, rows), m
        # A thread with few rows copies them for itself, once.
        own = threads > 1 and m <= 64
        assert config["pack_a"] == ("block" if own else "whole")
        assert not own or config["block_n"] == 768 // 8 // threads


def test_intels_read_a_b_in_place_a_few_rows_at_a_time() -> None:
    intel = with_flags(load_profiles()["sapphirerapids"])
    for m, n, rows in ((1, 1024, 32), (8, 4096, 32), (16, 1024, 64), (35, 1024, 128),
                       (35, 4096, 64), (128, 1024, 128)):  # fmt: skip
        config = default(Gemm(m, n, 4096), profile=intel)
        assert (config["block_k"], config["pack_b"]) == (rows, "none")
    # Sums that would wait too far away between blocks of k.
    assert default(Gemm(128, 3072, 4096), profile=intel)["pack_b"] == "block"
    assert default(Gemm(3072, 1500, 128), profile=intel)["block_m"] == 16  # rows of tiles
    assert default(Gemm(512, 512, 128), profile=intel)["block_m"] == 128  # a small C


@pytest.mark.parametrize(("threads", "most"), [(1, 224), (2, 128)])
def test_intels_read_all_rows_of_a_small_b_in_place(threads: int, most: int) -> None:
    intel = with_flags(load_profiles()["sapphirerapids"])

    def whole(m: int, n: int, k: int, **more: Any) -> bool:
        config = default(Gemm(m, n, k, **more), threads, intel)
        return config["pack_b"] == "none" and config["block_k"] == k

    assert whole(16, 768, 768) and not whole(15, 768, 768)
    assert whole(most, 1000, 1000) and not whole(most + 1, 1000, 1000)
    assert not whole(128, 1000, 1004)  # deep
    assert whole(100, 5000, 300) and not whole(128, 5000, 300)  # a C beyond the cache
    # Rows that are 4 KiB or 12 KiB apart meet in few sets of the cache.
    assert whole(64, 1024, 256) and not whole(64, 1024, 512)
    assert whole(64, 3072, 256) and not whole(64, 3072, 768) and whole(64, 3080, 768)
    assert not whole(100, 768, 768, layout="nt") and not whole(64, 768, 768, prepacked=True)


@pytest.mark.parametrize(("where", "loops"), [("block", [48, 4, 2]), ("whole", [8, 48, 2])])
def test_rows_of_b_are_read_in_one_piece_where_few_panels_are_packed(
    where: str, loops: list[int]
) -> None:
    workload = Gemm(64, 256, 48)
    config = default(workload).replace(pack_b=where, block_n=4, micro_n=32, block_k=48)
    text = choose_template("auto", workload, WIDE).build(workload, config).script()
    # Rows, panels and vectors of a panel of the block; or panels first, where they are many.
    grid = re.findall(r"T\.grid\((.*)\)", text[: text.index('"copy_b"')])[-1]
    assert [int(extent) for extent in grid.split(",")] == loops


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


@pytest.mark.parametrize(
    ("rows", "narrow", "wide"),
    [(2, (2, 4), (2, 6)), (5, (3, 3), (3, 6)), (9, (3, 3), (3, 6)), (16, (4, 3), (4, 6))],
)
def test_few_rows_are_cut_into_equal_tiles_that_fill_the_registers(
    rows: int, narrow: tuple[int, int], wide: tuple[int, int]
) -> None:
    def inner(m: int, n: int, profile: HardwareProfile) -> tuple[int, int]:
        space = get_template("cpu_inner").space(Gemm(m, n, 1024, layout="nt"), profile, 1)
        return tile(space.defaults[0])

    assert inner(rows, 1024, NARROW) == narrow
    assert inner(rows, 1024, WIDE) == wide
    assert inner(1024, rows, NARROW) == narrow[::-1]


@pytest.mark.parametrize(
    ("shape", "profile", "name"),
    [
        ((32, 1024, 512), WIDE, "cpu_inner"),
        ((33, 1024, 4096), WIDE, "cpu_tile"),  # too many rows for any k
        ((32, 1024, 511), WIDE, "cpu_tile"),  # adding up the lanes costs more than the copy
        ((2, 1024, 16), WIDE, "cpu_inner"),  # a vector or two use a copy too seldom for any k
        ((1024, 12, 1024), WIDE, "cpu_inner"),
        ((1024, 13, 1024), WIDE, "cpu_tile"),  # fills its vectors well enough
        ((1024, 8, 1024), NARROW, "cpu_inner"),
        ((1024, 9, 1024), NARROW, "cpu_tile"),
        ((1024, 8, 64), WIDE, "cpu_tile"),
    ],
)
def test_few_rows_of_a_transposed_b_are_inner_products(
    shape: tuple[int, int, int], profile: HardwareProfile, name: str
) -> None:
    assert choose_template("auto", Gemm(*shape, layout="nt"), profile).name == name
    # Rows of B in the other layout are vectors as they are; what is packed before is not copied.
    assert choose_template("auto", Gemm(*shape), profile).name == "cpu_tile"
    packed = Gemm(*shape, layout="nt", prepacked=True)
    assert choose_template("auto", packed, profile).name == "cpu_tile"
