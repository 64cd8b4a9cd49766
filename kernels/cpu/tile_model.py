"""What is known of a workload and a machine, from which likely configs of ``cpu_tile`` are made.

Register blocking after Low et al., "Analytical modeling is enough for high-performance BLIS" (TOMS
2016).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.blocks import at_most, even_block
from autotune.kernels.cpu.lanes import widest
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: With 32 vector registers or more. What was measured with 16 differs.
MANY_REGISTERS = 32
#: So few rows that the default reads B in place: copying it costs as much as a few dozen rows. With
#: 16 registers as much as fewer rows: with a copy 35 x 700 x 2048 was 1.6 times as fast, and
#: 64 x 1024 x 1024 1.4 times, 16 x 4096 x 4096 only 0.6 times.
_IN_PLACE_ROWS, _IN_PLACE_ROWS_16 = 128, 32
#: Sums that hide the latency of a fused multiply-add: four cycles, two units.
_SUMS_IN_FLIGHT = 8
#: What a load costs, in multiply-adds: most of it is hidden.
_LOAD_COST = 0.3
#: Rows of tiles in a block of those, at most.
_ROWS_AT_ONCE = 16
#: Fused multiply-adds in the unrolled loop body; beyond it the instruction cache suffers.
MAX_UNROLLED = 256


class TileModel:
    """The parts that configs are made of.

    Parameters
    ----------
    space
        Of ``cpu_tile``, for this workload on this machine with so many threads.
    """

    def __init__(
        self, space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
    ) -> None:
        self.workload, self.profile, self.threads = workload, profile, threads
        self.lanes = widest(profile)
        self.values: dict[str, tuple[Any, ...]] = {
            p.name: tuple(p.values()) for p in space.parameters
        }
        self.many = profile.vector_registers >= MANY_REGISTERS
        # Narrower tiles exist only where n itself is narrower than two vectors.
        self.two_vectors = self._at_most("micro_n", 2 * self.lanes)

    def _at_most(self, name: str, limit: int) -> int:
        return at_most(self.values[name], limit)

    def _config(self, micro_m: int, micro_n: int, **changes: Any) -> Config:
        """Return the usual config of a register tile, with changes."""
        w = self.workload
        tiles_n = -(-w.n // micro_n)
        return Config(
            {
                "micro_m": micro_m,
                "micro_n": micro_n,
                "block_m": self._at_most("block_m", self._rows_of_tiles(micro_m)),
                "block_n": self._at_most("block_n", min(self._panels(micro_n), tiles_n, 4)),
                "block_k": w.k,
                "unroll_k": 1,
                "prefetch_b": 0,
                "outer_order": ("n", "m", "k"),
                "inner_order": "nm",
                "pack_a": "none" if w.layout[0] == "n" else "whole",
                "pack_b": "whole",
                "tail": "predicate",
                "parallel": "none" if self.threads == 1 else "fused",
                **changes,
            }
        )

    def _rows_of_tiles(self, micro_m: int) -> int:
        """Return how many rows of tiles each thread has."""
        return max(1, -(-self.workload.m // micro_m) // self.threads)

    def _high_tile(self, width: int) -> tuple[int, int]:
        """Return the highest register tile of a width that wastes little of m."""
        vectors = max(1, width // self.lanes)
        rows = min(8, (self.profile.vector_registers - 1) // vectors - 1)
        micro_m = self._at_most("micro_m", balanced(self.workload.m, max(1, rows)))
        return micro_m, self._at_most("micro_n", width)

    def _panels(self, micro_n: int) -> int:
        """Return how many panels of B stay in half of the second-level cache."""
        return max(1, self.profile.l2_bytes // 2 // (4 * self.workload.k * micro_n))

    def _few_rows_pay(self) -> bool:
        """Whether copying B would cost more than it gains."""
        w = self.workload
        few = w.m <= (_IN_PLACE_ROWS if self.many else _IN_PLACE_ROWS_16)
        return few and self._has_rows_of(self.lanes)

    def _has_rows_of(self, columns: int) -> bool:
        """Whether a tile of so many columns can read rows of B where it is."""
        w = self.workload
        return not w.prepacked and w.layout[1] == "n" and w.n >= columns

    def _strip(self, micro_m: int, micro_n: int) -> dict[str, int]:
        """Return the blocks with which all rows pass over a few panels of B."""
        w = self.workload
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        limit = min(4, self._panels(micro_n))
        return {
            "block_m": self._covering(tiles_m),
            "block_n": even_block(self.values["block_n"], tiles_n, limit, self.threads),
        }

    def _in_rows(self, micro_m: int, micro_n: int, panels: int) -> Config:
        """Return rows of tiles one after the other, each over so many panels of B at most."""
        w = self.workload
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        return self._config(
            micro_m,
            micro_n,
            # Rows of tiles have nothing in common but B: blocks only share them out.
            block_m=even_block(self.values["block_m"], tiles_m, _ROWS_AT_ONCE, self.threads),
            block_n=self._at_most("block_n", min(panels, 2 * tiles_n - 1)),
            inner_order="mn",
        )

    def _covering(self, tiles_m: int) -> int:
        """Return the least block that has all these rows of tiles, or the largest there is."""
        return self._at_most("block_m", 2 * tiles_m - 1)

    def _least_work(self, widths: tuple[int, ...], widest: float = math.inf) -> tuple[int, int]:
        """Return the register tile that costs least: of these widths, in vectors.

        ``widest`` is the most columns that it may have. Where n is so narrow that there is none of
        these widths, it is one of the widest there is.
        """
        registers = self.profile.vector_registers
        tiles = [
            (height, vectors * self.lanes)
            for vectors in widths
            for height in self.values["micro_m"]
            if vectors * self.lanes <= min(widest, max(self.values["micro_n"]))
            and fits_registers(height, vectors, registers)
        ]
        return min(tiles or [self._high_tile(max(self.values["micro_n"]))], key=self._work)

    def _work(self, tile: tuple[int, int]) -> float:
        """Return what a register tile costs: work, also beyond the edges, stalls and loads."""
        w, (height, width) = self.workload, tile
        vectors = max(1, width // self.lanes)
        work = -(-w.m // height) * height * -(-w.n // width) * vectors
        return work * overhead(height, vectors, _SUMS_IN_FLIGHT)


def fits_registers(rows: int, vectors: int, registers: int) -> bool:
    """Whether the sums of a register tile, one row of B and an element of A have registers."""
    return (rows + 1) * vectors + 1 <= registers


def overhead(rows: int, vectors: int, in_flight: int) -> float:
    """Return the time of a register tile's step over that of its multiply-adds: stalls and loads.

    Parameters
    ----------
    rows, vectors
        Of the tile; it has as many sums as their product.
    in_flight
        Sums that keep the units busy.
    """
    sums = rows * vectors
    return max(1.0, in_flight / sums) * (1 + _LOAD_COST * (rows + vectors) / sums)


def balanced(extent: int, rows: int) -> int:
    """Return the row count near ``rows`` that cuts ``extent`` with the least waste."""
    if extent <= rows:
        return extent
    counts = range(max(1, rows - 2), rows + 1)
    return min(counts, key=lambda r: (-(-extent // r) * r, -r))
