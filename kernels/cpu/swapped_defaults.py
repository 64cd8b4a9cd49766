"""Which configs of ``cpu_swapped`` are likely to be fast, and where it is the one to take.

All speeds in comments are of an Emerald Rapids, in layout nt, where nothing else is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.blocks import at_most, even_block
from autotune.kernels.cpu.lanes import widest
from autotune.kernels.cpu.tile_intel import is_intel
from autotune.kernels.cpu.tile_model import MAX_UNROLLED, fits_registers, overhead
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: Columns of C in a tile: so many rows of B are read at the same time. With 16 and 24, 16 rows of A
#: and n and k of 4096 were .85 and .56 times as fast; with n and k of 768 1.1 and .9 times.
_COLUMNS = 8
#: Steps of k of A^T's panel that are asked for ahead: with 128 rows and a k of 3072 1.07 times as
#: fast as none, the same with less.
_AHEAD = 32
#: Tiles of a block, at most, where the threads share the copy of A.
_TILES_AT_ONCE = 16
#: Up to so many rows each thread makes a copy of A of its own rather than wait for a common one:
#: on two threads .98 to 1.18 times as fast.
_ROWS_TO_COPY = 64
#: Sums that keep both units busy, loads included.
_SUMS_IN_FLIGHT = 12
#: Rows of A, and the least k, where it is better than `cpu_inner` and `cpu_tile`.
_ROWS, _LEAST_K = (10, 256), 96
#: Rows of A^T's panels beyond the last row of A, at most.
_ROWS_TOO_MANY = 16
#: Rows up to which panels that are not full pay only by a B of more than this share of the
#: second-level cache: 10 and 24 rows with n and k of 768 were 1.01 and .98 times as fast, .76 and
#: .85 on two threads.
_FEW_ROWS, _B_SHARE = 32, 1.5


def pays(workload: Gemm, profile: HardwareProfile) -> bool:
    """Whether this is the best way to compute a product that it can compute.

    On one thread, 45 products of 12 to 256 rows, n of 128 to 11008 and k of 100 to 4096, where this
    says yes: .98 to 1.68 times as fast as the better of the others by their defaults, 1.20 on
    average; eleven where it says no, with up to 256 rows, .79 to 1.12. On two threads 44 of them
    .87 to 1.69, 1.10 on average, the least with 112 and more rows by a small B.
    """
    w, (fewest, most) = workload, _ROWS
    if not (is_intel(profile) and fewest <= w.m <= most and w.k >= _LEAST_K):
        return False
    lanes = widest(profile)
    rows = _rows_of_tiles(w, _micro_m(w, profile, _fitting(profile, _COLUMNS)))
    little_waste = rows - w.m <= _ROWS_TOO_MANY and (w.m <= lanes or 3 * rows <= 4 * w.m)
    if w.m < _FEW_ROWS and rows != w.m and 4 * w.n * w.k <= profile.l2_bytes * _B_SHARE:
        return False
    return little_waste and 4 * w.m * w.k <= profile.l2_bytes * 3 // 4


def likely_configs(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> list[Config]:
    """Return legal configs, each once, the default first."""
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    columns = at_most(values["micro_n"], _COLUMNS)
    vectors = _fitting(profile, columns)
    best = _micro_m(workload, profile, vectors)
    tiles = [(best, columns), (best, at_most(values["micro_n"], 2 * columns))]
    tiles += [(v * widest(profile), columns) for v in vectors]

    def config(micro_m: int, micro_n: int) -> Config:
        tiles_m, tiles_n = -(-workload.m // micro_m), -(-workload.n // micro_n)
        alone = threads > 1 and workload.m <= _ROWS_TO_COPY
        block_n = (
            at_most(values["block_n"], -(-tiles_n // threads))
            if alone
            else even_block(values["block_n"], tiles_n, _TILES_AT_ONCE, threads)
        )
        sums = micro_n * max(1, micro_m // widest(profile))
        return Config(
            {
                "micro_n": micro_n,
                "micro_m": at_most(values["micro_m"], micro_m),
                "block_n": block_n,
                "block_m": at_most(values["block_m"], 2 * tiles_m - 1),
                "unroll_k": max(
                    u for u in values["unroll_k"] if u == 1 or u * sums <= MAX_UNROLLED
                ),
                "prefetch_a": _AHEAD,
                "inner_order": "nm",
                "pack_a": "block" if alone else "whole",
                "parallel": "none" if threads == 1 else "fused",
            }
        )

    configs = (config(*tile) for tile in tiles)
    return [each for each in dict.fromkeys(configs) if space.is_legal(each)]


def _fitting(profile: HardwareProfile, columns: int) -> tuple[int, ...]:
    """Return how many vectors of rows a tile of so many columns can have."""
    registers = profile.vector_registers
    return tuple(v for v in (1, 2, 3) if v == 1 or fits_registers(columns, v, registers))


def _micro_m(workload: Gemm, profile: HardwareProfile, vectors: tuple[int, ...]) -> int:
    """Return the rows of a tile that cost least: work, also beyond the edge, stalls and loads."""
    lanes = widest(profile)

    def work(count: int) -> float:
        rows = _rows_of_tiles(workload, count * lanes)
        return rows * overhead(_COLUMNS, count, _SUMS_IN_FLIGHT)

    least = [v for v in vectors if v == 1 or (v - 1) * lanes < workload.m]
    return min(least, key=work) * lanes


def _rows_of_tiles(workload: Gemm, micro_m: int) -> int:
    """Return how many rows whole tiles compute."""
    return -(-workload.m // micro_m) * micro_m
