"""Which configs of ``cpu_tile`` are likely to be fast on Intel's CPUs with AVX-512.

Their third-level cache is slow: it gives a core of a Granite Rapids no more than 28 GB/s, and what
the hardware fetches from it ahead of time leaves a register tile waiting. So each byte of B is read
from it once, and asked for in time. All speeds in comments are of an Emerald Rapids, one thread,
where nothing else is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.isa import model_named
from autotune.kernels.cpu.blocks import even_block
from autotune.kernels.cpu.lanes import CACHE_LINE
from autotune.kernels.cpu.tile_model import MANY_REGISTERS, MAX_UNROLLED, TileModel
from autotune.search.space import Config

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile

#: Rows of B that are asked for ahead of the multiplications, where B is packed and where it is not,
#: and steps of k that are written out. Over 17 products by a packed B, of 35 to 5124 rows, eight
#: steps and rows ahead came to .99 of MKL's speed, eight steps alone to .98. Over eight by a B in
#: place, of 8 to 128 rows, rows ahead made it 1.03 of MKL's speed, which was .84.
_AHEAD, _AHEAD_IN_PLACE, _STEPS = 32, 8, 8
#: Rows of a B in place that are read before the next tile of C: four for each row of A, within
#: these bounds. 32 was .97 to 1.2 times as fast as 64 with 4 to 16 rows, 128 .98 to 1.1 times with
#: 64 to 128.
_LEAST_ROWS_OF_B, _MOST_ROWS_OF_B = 32, 128
#: Columns from which so many rows of B, 16 KiB apart, would meet in few sets of the second-level
#: cache: half as many were 1.5 and 1.3 times as fast with n = 4096 and 12288.
_FAR_APART = 4096
#: Rows of A and depth with which all rows of B in place are read before the next tile of C, if C is
#: no larger than the second-level cache: over 15 products .98 to 1.17 times as fast as strips or
#: fewer rows. From k = 1024 on it was .49 to .94 times, with 300 rows .75 times. On two threads,
#: .97 to 1.16 times with up to 128 rows, .63 to 1.05 with more.
_WHOLE_ROWS, _WHOLE_ROWS_SHARED, _WHOLE_K = (16, 224), 128, 1000
#: Lines of a set of the second-level cache.
_WAYS = 16
#: With more rows of A than these, sums that take more than this share of the second-level cache
#: wait too far away between blocks of k, and B is packed: .99 to 1.25 times as fast with 128 rows
#: and n = 2048 to 3000; .93 times with n = 1500, but 1.2 where others used the cache too; .8 times
#: with 64 rows.
_MANY_ROWS, _C_SHARE = 96, 3
#: Up to this k, and from a C of so many times the second-level cache, rows of tiles are better than
#: columns: 1.04 to 1.1 times with 18 MiB and more, as fast with 4 MiB.
_SHORT_K, _LARGE_C = 256, 4


def is_intel(profile: HardwareProfile) -> bool:
    """Whether a machine has such a CPU."""
    model = model_named(profile.arch)
    intel = model is not None and model.vendor == "GenuineIntel"
    return intel and profile.vector_registers >= MANY_REGISTERS


class Intel(TileModel):
    """What is likely on these CPUs.

    The first of these came to 1.01 of MKL's speed over 15 products of 35 to 5124 rows; what was
    first before them, with nothing asked for ahead, to .90.
    """

    def configs(self) -> Iterator[Config]:
        """Yield the default, then what it might lose to."""
        return map(self._ahead, self._likely())

    def _likely(self) -> Iterator[Config]:
        n = self.workload.n
        wide = self._least_work((4, 3), n)
        other = self._least_work((3,) if wide[1] > 3 * self.lanes else (4,), n)
        tiles = list(dict.fromkeys((wide, other, self._least_work((2,)))))
        whole = self._least_work((3, 2))
        if self._whole_pays(whole[1]):
            yield self._rows_of_b(*whole, self.workload.k)
        in_place = [self._in_place(*tile) for tile in tiles[:2]] if self._few_rows_pay() else []
        columns = [self._strips(*tile) for tile in tiles]
        rows = [self._by_rows(*tile) for tile in tiles[::-1]]
        packed = [*rows[:1], *columns, *rows[1:]] if self._rows_pay() else [*columns, *rows]
        yield from [*packed, *in_place] if self._sums_are_many() else [*in_place, *packed]

    def _ahead(self, config: Config) -> Config:
        """Return a config with rows of B asked for ahead, and several steps of k written out."""
        c: dict[str, Any] = dict(config)
        sums = c["micro_m"] * max(1, c["micro_n"] // self.lanes)
        steps = max(
            each
            for each in self.values["unroll_k"]
            if c["block_k"] % each == 0 and each <= _STEPS and each * sums <= MAX_UNROLLED
        )
        ahead = _AHEAD_IN_PLACE if c["pack_b"] == "none" else _AHEAD
        return config.replace(unroll_k=steps, prefetch_b=ahead)

    def _strips(self, micro_m: int, micro_n: int) -> Config:
        """All rows pass over a strip of B that was packed just before, in large register tiles.

        So B is read once from the third-level cache, which gives a core of a Granite Rapids no more
        than 28 GB/s. There, nine squares and products of BERT's: with two threads .95 to .97 of
        MKL's speed on average, by the tile, where the usual first config has .80.
        """
        return self._config(
            micro_m,
            micro_n,
            inner_order="mn",
            pack_b="whole" if self.workload.prepacked else "block",
            **self._strip(micro_m, micro_n),
        )

    def _in_place(self, micro_m: int, micro_n: int) -> Config:
        """B where it is, as many rows of it at a time as pay."""
        w = self.workload
        most = _MOST_ROWS_OF_B // 2 if w.n >= _FAR_APART else _MOST_ROWS_OF_B
        return self._rows_of_b(micro_m, micro_n, min(max(_LEAST_ROWS_OF_B, 4 * w.m), most))

    def _rows_of_b(self, micro_m: int, micro_n: int, rows: int) -> Config:
        """B where it is, so many rows of it at a time, of which each thread has a part."""
        w = self.workload
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        block_k = self._at_most("block_k", rows)
        return self._config(
            micro_m,
            micro_n,
            block_m=self._covering(tiles_m),
            block_n=even_block(self.values["block_n"], tiles_n, tiles_n, self.threads),
            block_k=block_k,
            outer_order=("n", "k", "m") if block_k != w.k else ("n", "m", "k"),
            pack_b="none",
        )

    def _by_rows(self, micro_m: int, micro_n: int) -> Config:
        """Rows of tiles one after the other, over as much of B as three quarters of L2 hold."""
        panels = self.profile.l2_bytes * 3 // 4 // (4 * self.workload.k * micro_n)
        return self._in_rows(micro_m, micro_n, panels)

    def _whole_pays(self, micro_n: int) -> bool:
        """Whether all rows of B in place are best."""
        w, (fewest, most) = self.workload, _WHOLE_ROWS
        if self.threads > 1:
            most = _WHOLE_ROWS_SHARED
        small = 4 * w.m * w.n <= self.profile.l2_bytes and w.k <= _WHOLE_K
        few = small and fewest <= w.m <= most and self._has_rows_of(micro_n)
        return few and w.k <= self._rows_that_stay(micro_n)

    def _rows_that_stay(self, micro_n: int) -> int:
        """Return how many rows of a panel of B in place half of the second-level cache can hold.

        Rows that are a multiple of a large power of two apart meet in few of its sets.
        """
        row, panel, size = 4 * self.workload.n, 4 * micro_n, self.profile.l2_bytes
        most = size // 2 // panel
        if row % CACHE_LINE:
            return most
        sets = 1 << (size // (CACHE_LINE * _WAYS)).bit_length() - 1
        return min(most, _WAYS // 2 * sets // math.gcd(sets, row // CACHE_LINE))

    def _sums_are_many(self) -> bool:
        """Whether all of C is too much to have it wait between blocks of k."""
        w = self.workload
        return w.m > _MANY_ROWS and 4 * w.m * w.n > self.profile.l2_bytes // _C_SHARE

    def _rows_pay(self) -> bool:
        """Whether rows of tiles are better than columns."""
        w = self.workload
        return w.k <= _SHORT_K and 4 * w.m * w.n > _LARGE_C * self.profile.l2_bytes
