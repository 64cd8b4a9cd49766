"""Which config of ``cpu_dot_swapped`` is likely to be fast, and where it is the one to take.

Speeds in comments are of one thread of an Emerald Rapids with AMX, in bf16, in layout nt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.instructions import ladder
from autotune.kernels.cpu.blocks import at_most, even_block, round_up
from autotune.kernels.cpu.dot_defaults import DotDefaults, registers_of

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: Tiles across a block of B's rows, at most, where threads share them.
_TILES_AT_ONCE = 16
#: Up to so many rows of C a tile has all of them: with 32, and n and k of 3072 and 768, tiles of 16
#: were .84 times as fast, with 64 and more 1.00 to 1.05 times.
_FEW_ROWS = 32
#: What loads of A^T's tiles cost, in columns of C.
_LOADS = 4
#: Words that it pays to turn, sums and those of A, for each of B's that need not be packed; by the
#: elements in a word. Results of int8 are twice as wide: 192 and 256 rows with n = 3072 and k = 768
#: were .93 and .89 times as fast as by ``cpu_dot``.
_MORE_TO_TURN = {2: 2, 4: 1}


def pays(workload: Gemm, profile: HardwareProfile) -> bool:
    """Whether this is the best way to compute a product that it can compute.

    39 products of 1 to 512 rows, n and k of 768 to 4096, by their defaults: where this says yes, it
    is 1.90 times as fast as ``cpu_dot`` in bf16 (1.11 to 3.68) and 2.01 in int8 (1.02 to 4.14),
    where it says no .60 to .84 and .72 to 1.11.
    """
    w, rungs = workload, ladder(workload.dtype, profile)
    if not rungs or not rungs[0].tiles or w.k % rungs[0].group:
        return False
    best = rungs[0]
    words = w.k // best.group
    turned, packed = w.m * (w.n + words), w.n * words
    return turned <= _MORE_TO_TURN[best.group] * packed and 4 * w.m * words <= profile.l2_bytes // 2


class SwappedDefaults(DotDefaults):
    """The same of a swapped product, whose rows are columns of C; knobs go by its names."""

    def configs(
        self, reads_a: Callable[[Any], bool], reads_b: Callable[[Any], bool]
    ) -> list[dict[str, Any]]:
        """Return the values of all knobs."""
        config = self._config()
        if not reads_a(config):
            config["pack_a"] = "panel" if self.rung.tiles else "whole"
        return [config]

    def _config(self) -> dict[str, Any]:
        w, values = self.w, self.values
        micro_m, micro_n = self._tile() if self.rung.tiles else self._register_tile()
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        config = {
            "inner": self.rung.name,
            "micro_m": micro_m,
            "micro_n": micro_n,
            "block_m": even_block(values["block_m"], tiles_m, _TILES_AT_ONCE, self.threads),
            "block_n": at_most(values["block_n"], 2 * tiles_n - 1),
            "block_k": w.k,
            "unroll_k": 1,
            "outer_order": ("m", "n", "k"),
            "inner_order": "mn",
            "pack_a": "none",
            "pack_b": "whole",
            "parallel": "none" if self.threads == 1 else "fused",
        }
        if "tile_loads" in values:
            config["tile_loads"] = "stream" if self.rung.tiles else "keep"
        return config

    def _tile(self) -> tuple[int, int]:
        """Return the columns and rows of C in a micro-tile of AMX.

        Of the rows so few that a panel of them fills half of the first-level cache, if they can be.
        """
        w, rows = self.w, self.values["micro_n"]
        panel = rows[0] * w.k * self.size
        few = w.n <= rows[0] or (w.n > _FEW_ROWS and panel <= self.profile.l1d_bytes // 2)
        return min(self.values["micro_m"], key=self._work), rows[0] if few else rows[-1]

    def _work(self, columns: int) -> float:
        """Return what all tiles of so many columns cost: beyond the edge, and loads of A^T."""
        return round_up(self.w.m, columns) * (1 + _LOADS / columns)

    def _register_tile(self) -> tuple[int, int]:
        """Return the same for vectors: least work beyond the last row, then most sums."""
        columns, registers = self.values["micro_m"][0], self.profile.vector_registers
        fitting = [
            x
            for x in self.values["micro_n"]
            if x % self.lanes == 0
            and registers_of(self.rung, columns, x // self.lanes, packs_b=True) <= registers
        ]
        return columns, min(fitting, key=lambda x: (round_up(self.w.n, x), -x))
