"""Which configs of ``cpu_tile`` are likely to be fast: the default, and what a search tries first.

Register blocking after Low et al., "Analytical modeling is enough for high-performance BLIS" (TOMS
2016). The speeds in comments are of one Zen 5 core, measured with the L3 cache shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.blocks import at_most, even_block
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: So few rows that the default reads B in place: copying it costs as much as a few dozen rows.
_FEW_ROWS = 128
#: Rows of a B in place that are read side by side, where it comes from beyond the second-level
#: cache: as many streams as the prefetchers follow. Of 4, 8, 16, 32 and 64, 16 was fastest with 4
#: to 32 rows of A, by up to 1.5 times, and 8 with one or two, by 2.
_STREAMS, _VECTOR_STREAMS = 16, 8
#: With more rows of A than these, a strip of B is used so often that streams matter less than how
#: often the sums are loaded and stored.
_STREAMED_ROWS = 32
#: Sums that hide the latency of a fused multiply-add: four cycles, two units.
_SUMS_IN_FLIGHT = 8
#: What a load costs, in multiply-adds: most of it is hidden.
_LOAD_COST = 0.3
#: Rows of B between two visits to a tile of C, where k is blocked.
_BLOCK_K = 256


def likely_configs(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> list[Config]:
    """Return legal configs, each once, the default first."""
    model = _Model(space, workload, profile, threads)
    return [config for config in dict.fromkeys(model.configs()) if space.is_legal(config)]


class _Model:
    """What is known of a workload and a machine."""

    def __init__(
        self, space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
    ) -> None:
        self.workload, self.profile, self.threads = workload, profile, threads
        self.lanes = max(1, profile.simd_bits // 32)
        self.values: dict[str, tuple[Any, ...]] = {
            p.name: tuple(p.values()) for p in space.parameters
        }
        # Narrower tiles exist only where n itself is narrower than two vectors.
        self.two_vectors = self._at_most("micro_n", 2 * self.lanes)

    def configs(self) -> Iterator[Config]:
        """Yield the default, then what it might lose to."""
        if self._few_rows_pay():
            yield self._in_place((4, 3, 2))
            yield self._in_place((4,))
        yield self._packed(self.two_vectors)
        yield self._packed(4 * self.lanes)
        yield self._k_blocked()

    def _at_most(self, name: str, limit: int) -> int:
        return at_most(self.values[name], limit)

    def _config(self, micro_m: int, micro_n: int, **changes: Any) -> Config:
        """Return the usual config of a register tile, with changes."""
        w, threads = self.workload, self.threads
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        return Config(
            {
                "micro_m": micro_m,
                "micro_n": micro_n,
                "block_m": self._at_most("block_m", max(1, tiles_m // threads)),
                "block_n": self._at_most("block_n", min(self._panels(micro_n), tiles_n, 4)),
                "block_k": w.k,
                "unroll_k": 1,
                "outer_order": ("n", "m", "k"),
                "inner_order": "nm",
                "pack_a": "none" if w.layout[0] == "n" else "whole",
                "pack_b": "whole",
                "tail": "predicate",
                "parallel": "none" if threads == 1 else "fused",
                **changes,
            }
        )

    def _packed(self, width: int) -> Config:
        """B in panels.

        Two vectors wide and eight rows high is best while A and B are in the nearer caches; four
        wide and six high needs fewer rows of A per product, and won where A streams from the L3
        cache: 1.12 times with 5124 x 700 x 2048, 1.07 with 512 x 3072 x 768.
        """
        w, vectors = self.workload, max(1, width // self.lanes)
        micro_n = self._at_most("micro_n", width)
        rows = 8 if self.profile.vector_registers >= 32 else 6
        rows = min(rows, (self.profile.vector_registers - 1) // vectors - 1)
        micro_m = self._at_most("micro_m", _balanced(w.m, max(1, rows)))
        usual = self._config(micro_m, micro_n)
        if w.prepacked or w.m > _FEW_ROWS:
            return usual
        # All rows pass over a strip of B while it is near: up to 1.1 times the speed with m = 128,
        # k = 3072 and B transposed. Packed blocks are then packed once, whatever the threads.
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        limit = min(4, self._panels(micro_n))
        return usual.replace(
            block_m=self._covering(tiles_m),
            block_n=even_block(self.values["block_n"], tiles_n, limit, self.threads),
            pack_b="block",
        )

    def _panels(self, micro_n: int) -> int:
        """Return how many panels of B stay in half of the second-level cache."""
        return max(1, self.profile.l2_bytes // 2 // (4 * self.workload.k * micro_n))

    def _k_blocked(self) -> Config:
        """Blocks of k outside the rows, as BLIS does, for operands larger than the caches."""
        usual = self._packed(self.two_vectors)
        block_k = self._at_most("block_k", _BLOCK_K)
        if block_k == self.workload.k:
            return usual
        changed = {**dict(usual), "block_k": block_k, "outer_order": ("n", "k", "m")}
        return Config(changed)

    def _few_rows_pay(self) -> bool:
        """Whether copying B would cost more than it gains."""
        w = self.workload
        return not w.prepacked and w.layout[1] == "n" and w.m <= _FEW_ROWS and w.n >= self.lanes

    def _in_place(self, widths: tuple[int, ...]) -> Config:
        """B where it is, in tiles of so many vectors, or of one.

        All rows pass over a strip of B that is near. Beyond the second-level cache the strip is a
        few rows of B and long, so that memory is read in few and long pieces, as far as the sums
        of the strip stay in half of the first-level cache between two blocks of k.
        """
        w = self.workload
        micro_m, micro_n = self._tile_in_place(widths)
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        l1d = max(self.profile.l1d_bytes, 1 << 15)
        if 4 * w.k * w.n <= self.profile.l2_bytes:
            block_k = w.k
        elif w.m <= _STREAMED_ROWS:
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

    def _covering(self, tiles_m: int) -> int:
        """Return the least block that has all tiles of few rows."""
        return int(min(b for b in self.values["block_m"] if b >= tiles_m))

    def _tile_in_place(self, widths: tuple[int, ...]) -> tuple[int, int]:
        """Return micro_m and micro_n: least work wasted at the edges, then fewest loads."""
        w, registers = self.workload, self.profile.vector_registers

        def cost(tile: tuple[int, int]) -> float:
            height, vectors = tile
            sums = height * vectors
            work = -(-w.m // height) * height * -(-w.n // (vectors * self.lanes)) * vectors
            stall = max(1.0, _SUMS_IN_FLIGHT / sums)
            return work * stall * (1 + _LOAD_COST * (height + vectors) / sums)

        height, vectors = min(
            (
                (height, vectors)
                for vectors in (*widths, 1)
                for height in self.values["micro_m"]
                if vectors * self.lanes <= w.n and (height + 1) * vectors + 1 <= registers
            ),
            key=cost,
        )
        return height, vectors * self.lanes


def _balanced(extent: int, rows: int) -> int:
    """Return the row count near ``rows`` that cuts ``extent`` with the least waste."""
    if extent <= rows:
        return extent
    counts = range(max(1, rows - 2), rows + 1)
    return min(counts, key=lambda r: (-(-extent // r) * r, -r))
