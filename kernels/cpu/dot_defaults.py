"""The config of ``cpu_dot`` that is used when nothing was tuned.

Register blocking after Low et al., "Analytical modeling is enough for high-performance BLIS" (TOMS
2016): as many sums as registers allow, in a tile near square in the number of loads. The speeds in
comments are of one Zen 4 core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.blocks import at_most, even_block, round_up

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.hw_profiles.instructions import DotInstruction
    from autotune.workload import Gemm

#: Rows of B that are read side by side, where it comes from beyond the second-level cache: as many
#: streams as the prefetchers follow. Of 16, 32, 64 and 128, 16 was fastest with bf16 (1.4 to 2.2
#: times the next with n = 3072 and 4096), and within 0.8 of the fastest with int8.
_STREAMS = 16
#: With more rows of A than two, quads of int8 are too few between loading and storing the sums.
_STREAMS_OF_QUADS = 64
#: So few rows that B is packed strip by strip, each used by all of them while it is near, whatever
#: the number of threads: 1.2 to 1.5 times as fast as packing all of it first with 16 rows.
_FEW_ROWS = 128
#: AMX tiles in a block, down A and across B.
_TILES_OF_A, _TILES_OF_B = 16, 32
#: Bytes of a row of A in a block of k, for AMX: all of a k that is not half as deep again.
_DEPTH = 1024
#: Rows of a transposed B, panel by panel, are streams too.
_ROWS_OF_PANELS = 4


def registers_of(rung: DotInstruction, rows: int, vectors: int, packs_b: bool) -> int:
    """Return the vector registers of a micro-tile: its sums, a row of B and a word of A.

    Where B is read in place and signed bytes of A are offset, sums of B's columns correct for it.
    """
    return (rows + 1 + (rung.unsigned_a and not packs_b)) * vectors + 1


class DotDefaults:
    """What is known of a workload, a machine and one of its instructions.

    Parameters
    ----------
    workload, profile, threads
        What to compute, on what, with how many threads.
    rung, lanes
        The instruction, and sums in one of its vectors.
    values
        Values of the knobs that are legal with it.
    """

    def __init__(
        self,
        workload: Gemm,
        profile: HardwareProfile,
        threads: int,
        rung: DotInstruction,
        lanes: int,
        values: dict[str, tuple[Any, ...]],
    ) -> None:
        self.w, self.profile, self.threads = workload, profile, threads
        self.rung, self.lanes, self.values = rung, lanes, values
        #: Bytes of an element of a packed operand.
        self.size = 4 // rung.group

    def configs(
        self, reads_a: Callable[[Any], bool], reads_b: Callable[[Any], bool]
    ) -> list[dict[str, Any]]:
        """Return the values of all knobs, the likely best first.

        Parameters
        ----------
        reads_a, reads_b
            Whether a config can read A and B where they are.
        """
        if self.rung.tiles:
            blocks = [self._on_tiles(), self._on_shallow_tiles()]
            # Few rows have so few sums that it costs little to have them wait between blocks of k:
            # 1.06 to 1.08 times with 128 rows in bf16.
            return blocks[::-1] if self.w.m <= _FEW_ROWS else blocks
        config = self._packed()
        if "tile_loads" in self.values:
            config["tile_loads"] = "keep"
        in_place = self._in_place()
        if in_place is not None and reads_b(config | in_place):
            config |= in_place
        # Offset bytes are made at each use of A in place: 1.1 to 1.3 times the time with few rows.
        reused = self.rung.unsigned_a and 2 < self.w.m <= _FEW_ROWS
        if reused or not reads_a(config):
            config["pack_a"] = "whole"
        return [config]

    def _on_tiles(self) -> dict[str, Any]:
        """Panels of A are packed just before their use, and used by a wide block of B.

        The products are so fast that reading the matrices takes as long: so each row of B is read
        over the full width of a block, which stays in half of the second-level cache, and each
        panel of A once for it. On an Emerald Rapids, six products of 512 rows and more, one thread:
        1.11 and 1.17 times as fast as :meth:`_on_shallow_tiles` in bf16, 1.04 and 1.01 times in
        int8, half an hour apart.
        """
        depth = _DEPTH if 2 * self.size * self.w.k > 3 * _DEPTH else self.size * self.w.k
        near = self.profile.l2_bytes // 2 // (depth * max(self.values["micro_n"]))
        return self._tiled(depth // self.size, min(_TILES_OF_B, max(1, near)), "stream")

    def _on_shallow_tiles(self) -> dict[str, Any]:
        """The same with blocks of B so shallow that a panel of it stays in the first-level cache.

        Of both panels, or of A's alone where B only passes by, as much stays there as leaves room
        for the rest. On two cores of a Granite Rapids 4 to 64 tiles in a block of either side were
        tried.
        """
        w, near = self.w, self.profile.l1d_bytes * 2 // 3
        micro_m, micro_n = max(self.values["micro_m"]), max(self.values["micro_n"])
        if self.size * w.k * max(micro_m, micro_n) <= near:
            return self._tiled(w.k, _TILES_OF_B, "stream")
        return self._tiled(near // (self.size * (micro_m + micro_n)), _TILES_OF_B, "keep")

    def _tiled(self, depth: int, tiles_of_b: int, loads: str) -> dict[str, Any]:
        """Return a config for AMX.

        Parameters
        ----------
        depth
            Elements of k in a block.
        tiles_of_b
            Tiles across a block of B, at most.
        loads
            Whether tiles of B, or what is not used again at once, stay in the first-level cache.
        """
        w, values = self.w, self.values
        micro_m, micro_n = max(values["micro_m"]), max(values["micro_n"])
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        whole = depth >= w.k
        return {
            "inner": self.rung.name,
            "micro_m": micro_m,
            "micro_n": micro_n,
            "block_m": at_most(values["block_m"], min(_TILES_OF_A, 2 * tiles_m - 1)),
            "block_n": even_block(values["block_n"], tiles_n, tiles_of_b, self.threads),
            "block_k": w.k if whole else at_most(values["block_k"], depth),
            "unroll_k": 1,
            # Threads share blocks of A too; one alone packs each block of B for all of A.
            "outer_order": ("n", "m", "k") if whole or self.threads > 1 else ("n", "k", "m"),
            "inner_order": "mn",
            "pack_a": "panel",
            "pack_b": "whole" if w.prepacked else "block",
            "tile_loads": loads,
            "parallel": "none" if self.threads == 1 else "fused",
        }

    def _packed(self) -> dict[str, Any]:
        w, threads, values = self.w, self.threads, self.values
        micro_m, micro_n = self._register_tile()
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        # A panel of B stays in half of the second-level cache.
        panels = max(1, self.profile.l2_bytes // 2 // max(1, self.size * w.k * micro_n))
        few = w.m <= _FEW_ROWS
        strips = few or threads == 1
        config: dict[str, Any] = {
            "inner": self.rung.name,
            "micro_m": micro_m,
            "micro_n": micro_n,
            "block_m": at_most(
                values["block_m"],
                2 * tiles_m - 1 if few else min(2 * tiles_m - 1, max(1, tiles_m // threads)),
            ),
            "block_n": (
                even_block(values["block_n"], tiles_n, min(panels, 4), threads)
                if few
                else at_most(values["block_n"], min(panels, 2 * tiles_n - 1, 4))
            ),
            "block_k": w.k,
            "unroll_k": 1,
            "outer_order": ("n", "m", "k"),
            "inner_order": "nm",
            "pack_a": "none",
            "pack_b": "block" if strips and not w.prepacked else "whole",
            "parallel": "none" if threads == 1 else "fused",
        }
        return config | self._blocks_of_k(micro_m, micro_n)

    def _blocks_of_k(self, micro_m: int, micro_n: int) -> dict[str, Any]:
        """Keep a panel of A in half of the first-level cache, one of B in half of the second."""
        w, profile = self.w, self.profile
        deepest = min(
            profile.l1d_bytes // 2 // (self.size * micro_m),
            profile.l2_bytes * 5 // 8 // (self.size * micro_n),
        )
        fitting = [k for k in self.values["block_k"] if k < w.k and k <= deepest]
        if w.k <= deepest or not fitting or not profile.l1d_bytes:
            return {}
        if self.size * w.m * w.k < profile.l3_bytes // 4 or w.m <= _FEW_ROWS:
            return {"block_k": max(fitting), "outer_order": ("n", "k", "m")}
        # Packed A would be read from memory for each panel of B: keep a block of it near.
        near = profile.l2_bytes * 3 // 2 // (self.size * micro_m * w.k)
        near = max(1, min(near, 2 * -(-w.m // micro_m) - 1))
        return {
            "block_m": at_most(self.values["block_m"], near),
            "outer_order": ("m", "n", "k"),
            "pack_b": "whole",
        }

    def _in_place(self) -> dict[str, Any] | None:
        """B where it is, if one tile has all rows: each of its words is then made once.

        A tile one vector wide would take a load for each product.
        """
        w, values, registers = self.w, self.values, self.profile.vector_registers
        if w.prepacked or w.m not in values["micro_m"]:
            return None
        widths = [
            v * self.lanes
            for v in (4, 3, 2)
            if v * self.lanes in values["micro_n"]
            and w.n % (v * self.lanes) == 0
            and registers_of(self.rung, w.m, v, packs_b=False) <= registers
        ]
        if not widths:
            return None
        micro_n = widths[0]
        tiles_n = w.n // micro_n
        block_k = w.k
        if self.size * w.k * w.n > self.profile.l2_bytes:
            streams = _STREAMS_OF_QUADS if self.rung.group == 4 and w.m > 2 else _STREAMS
            block_k = at_most(values["block_k"], streams)
        # As much of the rows of B as sums have room, in a quarter of the second-level cache.
        strip = max(2, self.profile.l2_bytes // (16 * w.m * micro_n))
        return {
            "micro_m": w.m,
            "micro_n": micro_n,
            "block_m": 1,
            "block_n": even_block(values["block_n"], tiles_n, strip, self.threads),
            "block_k": block_k,
            "outer_order": ("n", "k", "m") if block_k != w.k else ("n", "m", "k"),
            "pack_b": "none",
        }

    def _register_tile(self) -> tuple[int, int]:
        """Return micro_m and micro_n: least work wasted at the edges, then fewest loads."""
        w, registers, values = self.w, self.profile.vector_registers, self.values
        best: tuple[float, int, int] | None = None
        for micro_n in values["micro_n"]:
            vectors = micro_n // self.lanes
            if micro_n % self.lanes or (vectors > 1 and micro_n - self.lanes >= w.n):
                continue
            if vectors > 1 and w.layout[1] == "t" and w.m <= _ROWS_OF_PANELS:
                continue
            for height in values["micro_m"]:
                if (height + 1) * vectors + 2 > registers or height > w.m:
                    continue
                waste = round_up(w.m, height) * round_up(w.n, micro_n) / (w.m * w.n)
                sums = height * vectors
                # Loads a product, and the latency of a sum that fewer than 20 of them do not hide.
                loads = (height + vectors) / sums
                cost = waste * max(1.0, 20 / sums) * (1 + loads)
                if best is None or cost < best[0]:
                    best = cost, height, micro_n
        assert best is not None
        return best[1], best[2]
