"""Which configs of ``cpu_tile`` are likely to be fast: the default, and what a search tries first.

The speeds in comments are of one core, measured with the L3 cache shared: of a Zen 5 where there
are 32 vector registers, of a Zen 3 where there are 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from autotune.kernels.cpu.blocks import even_block
from autotune.kernels.cpu.tile_intel import Intel, is_intel
from autotune.kernels.cpu.tile_model import TileModel, balanced
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: So few rows that all of them pass over a strip of B while it is near.
_FEW_ROWS = 128
#: Rows of a B in place that are read side by side, where it comes from beyond the second-level
#: cache: as many streams as the prefetchers follow. Of 4, 8, 16, 32 and 64, 16 was fastest with 4
#: to 32 rows of A, by up to 1.5 times, and 8 with one or two, by 2.
_STREAMS, _VECTOR_STREAMS = 16, 8
#: With more rows of A than these, a strip of B is used so often that streams matter less than how
#: often the sums are loaded and stored. So they do with 32 registers where B takes no more than
#: this share of the L3 cache: on a Zen 4, with 3 to 32 rows, 1.0 to 1.17 times; with half of it .64
#: to 1.05 times.
_STREAMED_ROWS, _NEAR_SHARE = 32, 3
#: Columns from which rows of B are a page or more apart: prefetchers follow a row, but not a strip
#: from one page to the next. Whole rows, a few at a time, were then 1.05 to 1.7 times as fast as
#: strips on one thread and .96 to 1.6 times on two, with 4 to 32 rows of A; with 1 or 2 no faster.
_PAGE_COLUMNS, _WHOLE_ROWS, _PAIR_OF_ROWS = 1024, 8, 2
#: Rows of C that are added to at a time, at most: with n a power of two all meet in one set of the
#: first-level cache; with 16 x 4096 x 4096, eight were .7 and sixteen .5 times as fast as four.
_ROWS_IN_A_SET = 5
#: Share of the work of the usual register tile from which another that divides C better is taken.
_MUCH_LESS = 0.93
#: Rows of B between two visits to a tile of C, where k is blocked.
_BLOCK_K = 256
#: Share of the L3 cache that a block of A may take: there are other cores, and B. All 16 MiB of A
#: per strip of B cost a quarter of the speed with 2048 x 2048 x 2048; 3 and 6 MiB were the best.
_L3_SHARE = 8
#: Up to this k a tile of C is written so soon that rows of tiles are better than columns, with all
#: of B read for each: 1.3 times with 3072 x 1500 x 128. So they are where A is in no near cache:
#: 1.3 times with 3072 x 1500 x 1024. But B must come from the L3 cache, a share of it: with one of
#: 16 MiB they have 0.4 times the speed.
_SHORT_K, _B_SHARE = 256, 5
#: With 32 registers rows are better where k is short and C larger than this share of the L3 cache:
#: 1.03 to 1.2 times on a Zen 4; with a C of 4 MiB and less .87 to 1.01 times.
_C_SHARE = 4
#: Most that the work of the busiest thread may be, over what it would be if all had the same.
_UNEVEN = 1.1


def likely_configs(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> list[Config]:
    """Return legal configs, each once, the default first."""
    model = (Intel if is_intel(profile) else _Usual)(space, workload, profile, threads)
    return [config for config in dict.fromkeys(model.configs()) if space.is_legal(config)]


class _Usual(TileModel):
    """What is likely where nothing more is known of a CPU than its registers and caches."""

    def configs(self) -> Iterator[Config]:
        """Yield the default, then what it might lose to."""
        widths = [(4, 3, 2), (4,)] if self._few_rows_pay() else []
        in_place = [self._in_place(each) for each in widths]
        if self._whole_rows_pay():
            # With more registers, on a Zen 4 with B in memory, 1.1 to 1.36 times on one thread, .64
            # to 1.21 times on two: there it is one of the first trials.
            in_place.insert(0 if not self.many or self.threads == 1 else 1, self._whole_rows())
        yield from in_place
        tiles = self._packed_tiles()
        likely = [self._packed(*tile) for tile in tiles]
        by_rows = self._by_rows(*max(tiles))
        if by_rows is not None:
            likely.insert(0 if self._rows_pay() else 1, by_rows)
        yield from likely
        if self.many:
            yield self._k_blocked()

    def _packed_tiles(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the register tiles to try where B is packed, ``(micro_m, micro_n)``, best first.

        With 32 registers, two vectors wide and eight rows high is best while A and B are in the
        nearer caches; four wide and six high needs fewer rows of A per product, and won where A
        streams from the L3 cache: 1.12 times with 5124 x 700 x 2048, 1.07 with 512 x 3072 x 768.
        With 16, three vectors by four rows and two by six: the better one by how they divide C,
        four rows by two being up to 1.2 times slower than either.
        """
        if not self.many:
            first, second = sorted((self._least_work((3,)), self._least_work((2,))), key=self._work)
            return first, second
        usual, wide = self._high_tile(self.two_vectors), self._high_tile(4 * self.lanes)
        other = min(self._high_tile(3 * self.lanes), wide, key=self._work)
        if self._work(other) < _MUCH_LESS * self._work(usual):
            return other, usual
        return usual, wide

    def _packed(self, micro_m: int, micro_n: int) -> Config:
        """B in panels, over each of which a block of A passes that stays in a share of the L3."""
        w = self.workload
        usual = self._config(micro_m, micro_n)
        far = False
        if self.profile.l3_bytes:
            near = self.profile.l3_bytes // _L3_SHARE // (4 * w.k * micro_m)
            block_m = self._at_most("block_m", near)
            far = block_m < self._at_most("block_m", self._rows_of_tiles(micro_m))
            if far:
                usual = usual.replace(block_m=block_m, outer_order=("m", "n", "k"))
        tiles_n = -(-w.n // micro_n)
        if w.prepacked or not (w.m <= _FEW_ROWS or self._strips_pay(tiles_n, far)):
            return usual
        # All rows pass over a strip of B while it is near: up to 1.1 times the speed with m = 128,
        # k = 3072 and B transposed. Packed blocks are then packed once, whatever the threads.
        return usual.replace(pack_b="block", **self._strip(micro_m, micro_n))

    def _strips_pay(self, tiles_n: int, far: bool) -> bool:
        """Whether many rows are better passed over strips of B too, each packed just before.

        With 32 registers, and A near: 1.00 to 1.06 times on a Zen 4, over 24 products, where the
        threads can share the strips.
        """
        share = -(-tiles_n // self.threads) * self.threads
        return self.many and not far and bool(self.profile.l3_bytes) and share <= _UNEVEN * tiles_n

    def _rows_pay(self) -> bool:
        """Whether rows of tiles are better than columns, if all of B is near enough."""
        w = self.workload
        if self.many:
            return w.k <= _SHORT_K and 4 * w.m * w.n > self.profile.l3_bytes // _C_SHARE
        return w.k <= _SHORT_K or 4 * w.m * w.k > self.profile.l3_bytes // _L3_SHARE

    def _by_rows(self, micro_m: int, micro_n: int) -> Config | None:
        """Rows of tiles one after the other, each over all of B; None for what must not be so."""
        w = self.workload
        if w.m <= _FEW_ROWS or 4 * w.k * w.n > self.profile.l3_bytes // _B_SHARE:
            return None
        return self._in_rows(micro_m, micro_n, w.n)

    def _k_blocked(self) -> Config:
        """Blocks of k outside the rows, as BLIS does, for operands larger than the caches."""
        usual = self._packed(*self._high_tile(self.two_vectors))
        block_k = self._at_most("block_k", _BLOCK_K)
        if block_k == self.workload.k:
            return usual
        changed = {**dict(usual), "block_k": block_k, "outer_order": ("n", "k", "m")}
        return Config(changed)

    def _in_place(self, widths: tuple[int, ...]) -> Config:
        """B where it is, in tiles of so many vectors, or of one.

        All rows pass over a strip of B that is near. Beyond the second-level cache the strip is a
        few rows of B and long, so that memory is read in few and long pieces, as far as the sums
        of the strip stay in half of the first-level cache between two blocks of k.
        """
        w = self.workload
        micro_m, micro_n = self._least_work((*widths, 1), w.n)
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        l1d = max(self.profile.l1d_bytes, 1 << 15)
        if 4 * w.k * w.n <= self.profile.l2_bytes:
            block_k = w.k
        elif w.m <= _PAIR_OF_ROWS or (w.m <= _STREAMED_ROWS and self._streams_pay()):
            block_k = self._at_most("block_k", _STREAMS if w.m > 2 else _VECTOR_STREAMS)
        else:
            block_k = self._at_most("block_k", l1d // 6 // micro_n)
        return self._config(
            micro_m,
            micro_n,
            block_m=self._covering(tiles_m),
            block_n=even_block(
                self.values["block_n"], tiles_n, max(2, l1d // (8 * w.m * micro_n)), self.threads
            ),
            block_k=block_k,
            outer_order=("n", "k", "m") if block_k != w.k else ("n", "m", "k"),
            pack_b="none",
        )

    def _streams_pay(self) -> bool:
        """Whether B comes from so far that it is best read in few and long pieces."""
        far = 4 * self.workload.k * self.workload.n > self.profile.l3_bytes // _NEAR_SHARE
        return not self.many or far

    def _whole_rows_pay(self) -> bool:
        """Whether B in place is better read a few whole rows at a time than in strips."""
        w = self.workload
        rows = _PAIR_OF_ROWS < w.m <= _STREAMED_ROWS
        far = 4 * w.k * w.n > self.profile.l2_bytes and self._streams_pay()
        return self._few_rows_pay() and rows and far and w.n > _PAGE_COLUMNS

    def _whole_rows(self) -> Config:
        """A few whole rows of B at a time, of which each thread has a part, and few rows of A.

        C stays in the second-level cache, where it is added to once for these rows of B.
        """
        micro_m = self._at_most("micro_m", balanced(self.workload.m, _ROWS_IN_A_SET))
        micro_n = self.two_vectors
        tiles_n = -(-self.workload.n // micro_n)
        return self._config(
            micro_m,
            micro_n,
            block_m=1,
            block_n=even_block(self.values["block_n"], tiles_n, tiles_n, self.threads),
            block_k=self._at_most("block_k", _WHOLE_ROWS),
            outer_order=("n", "k", "m"),
            pack_b="none",
        )
