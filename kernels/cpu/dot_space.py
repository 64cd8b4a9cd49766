"""The space of ``cpu_dot``: instructions, tilings, loop orders and packings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from autotune.hw_profiles.instructions import DotInstruction, instruction, ladder
from autotune.kernels.cpu.batched import BATCH, default_configs, parallel_knob
from autotune.kernels.cpu.blocks import block_values
from autotune.kernels.cpu.dot_defaults import DotDefaults, registers_of
from autotune.kernels.cpu.lanes import widest
from autotune.search.parameters import Categorical, Ordinal, Permutation
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_MICRO_M = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 20, 24, 28)
_MICRO_N_VECTORS = (1, 2, 3, 4, 6)
#: Fewer rows of A than this are left to vectors.
_ROWS_OF_TILES = 8
_TILE_M, _TILE_N = (4, 8, 16, 32), (16, 32)
_MOST_IN_A_BLOCK = 256
#: k in a block; for AMX only whole tiles, of which one of int8 holds 64 elements.
_BLOCK_K = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
#: Multiply-accumulates in the unrolled loop body; beyond it the instruction cache suffers.
_MAX_UNROLLED = 128


def offered(dtype: str, profile: HardwareProfile) -> tuple[DotInstruction, ...]:
    """Return the instructions that are values of the knob ``inner``, best first.

    The best one; and beside AMX, whose tiles are wasted on a few rows, the best one on vectors.
    Weaker ones of the same registers are never faster and would only cost trials.
    """
    rungs = ladder(dtype, profile)
    return rungs[:2] if rungs[0].tiles else rungs[:1]


class DotSpace:
    """The space of one workload on one CPU.

    Parameters
    ----------
    workload, profile, threads
        What to compute, on what, with how many threads.
    operands
        What to call the two operands in messages.
    """

    #: What makes the first configs.
    maker: ClassVar[type[DotDefaults]] = DotDefaults

    def __init__(
        self,
        workload: Gemm,
        profile: HardwareProfile,
        threads: int,
        operands: tuple[str, str] = ("A", "B"),
    ) -> None:
        self.operands = operands
        self.w, self.profile, self.threads = workload, profile, threads
        self.rungs = offered(workload.dtype, profile)
        self.tiled = any(rung.tiles for rung in self.rungs)
        #: Lanes of sums in a vector of this CPU.
        self.lanes = {i.name: i.lanes or widest(profile) for i in self.rungs}

    def space(self, name: str) -> ConfigSpace:
        """Return it; the name is for messages."""
        parameters, constraints = self._parameters(), self._constraints()
        defaults = default_configs(
            self.w,
            self.threads,
            lambda threads: [c for rung in self._likely() for c in self._defaults(rung, threads)],
        )
        return ConfigSpace(name, parameters, constraints, defaults)

    def _likely(self) -> tuple[DotInstruction, ...]:
        """Return the instructions, the one that is probably fastest first.

        With 4 rows bf16 vectors took .43 of the time of tiles on a Granite Rapids, with 16 rows 3.7
        times as long.
        """
        return self.rungs[::-1] if self.w.m < _ROWS_OF_TILES else self.rungs

    def _defaults(self, rung: DotInstruction, threads: int) -> list[Config]:
        values = {p.name: tuple(p.values()) for p in self._parameters()}
        lanes = self.lanes[rung.name]
        if rung.tiles:
            values["micro_m"] = tuple(x for x in values["micro_m"] if x in _TILE_M)
            values["micro_n"] = tuple(x for x in values["micro_n"] if x in _TILE_N)
            values["block_k"] = tuple(x for x in values["block_k"] if _whole_tiles(rung, x))
        maker = self.maker(self.w, self.profile, threads, rung, lanes, values)
        configs = maker.configs(self._reads_a, self._reads_b)
        return list(dict.fromkeys(Config(values) for values in configs))

    def _parameters(self) -> list[Any]:
        w, least = self.w, min(self.lanes.values())
        return [
            Categorical("inner", tuple(i.name for i in self.rungs)),
            Ordinal("micro_m", self._micro_m()),
            Ordinal("micro_n", self._micro_n()),
            Ordinal("block_m", block_values(w.m, _MOST_IN_A_BLOCK)),
            Ordinal("block_n", block_values(-(-w.n // least), _MOST_IN_A_BLOCK)),
            Ordinal("block_k", (*(k for k in _BLOCK_K if k < w.k), w.k)),
            Ordinal("unroll_k", (1, 2, 4)),
            Permutation("outer_order", ("n", "m", "k")),
            Categorical("inner_order", ("nm", "mn")),
            Categorical("pack_a", ("none", *["panel"] * self.tiled, "block", "whole")),
            Categorical("pack_b", ("whole",) if w.prepacked else ("none", "block", "whole")),
            *([Categorical("tile_loads", ("keep", "stream"))] if self.tiled else []),
            parallel_knob(w, self.threads),
        ]

    def _micro_m(self) -> tuple[int, ...]:
        values: set[int] = set()
        if any(not i.tiles for i in self.rungs):
            values |= {x for x in _MICRO_M if x <= self.w.m}
        if self.tiled:
            values |= {x for x in _TILE_M if x == _TILE_M[0] or x < 2 * self.w.m}
        return tuple(sorted(values))

    def _micro_n(self) -> tuple[int, ...]:
        """Whole vectors: no more than one of them sticks out."""
        values: set[int] = set()
        for rung in self.rungs:
            lanes = self.lanes[rung.name]
            if rung.tiles:
                values |= {x for x in _TILE_N if x == _TILE_N[0] or x < 2 * self.w.n}
            else:
                values |= {
                    v * lanes for v in _MICRO_N_VECTORS if v == 1 or (v - 1) * lanes < self.w.n
                }
        return tuple(sorted(values))

    # -- rules ------------------------------------------------------------------------------------

    def _constraints(self) -> list[Constraint]:
        a, b = self.operands
        w, registers = self.w, self.profile.vector_registers

        def vectors(c: Any) -> int:
            return int(c["micro_n"]) // self.lanes[c["inner"]]

        def fits_registers(c: Any) -> bool:
            rung = instruction(c["inner"])
            if rung.tiles:
                return c["micro_m"] in _TILE_M and c["micro_n"] in _TILE_N
            if c["micro_n"] % self.lanes[c["inner"]]:
                return False
            packs_b = c["pack_b"] != "none"
            return bool(registers_of(rung, c["micro_m"], vectors(c), packs_b) <= registers)

        def stays_small(c: Any) -> bool:
            if instruction(c["inner"]).tiles:
                return bool(c["unroll_k"] == 1)
            return bool(c["micro_m"] * vectors(c) * c["unroll_k"] <= _MAX_UNROLLED)

        def hints_tiles(c: Any) -> bool:
            return c["tile_loads"] == "keep" or instruction(c["inner"]).tiles

        def packs_panels(c: Any) -> bool:
            outside = c["inner_order"] == "mn" and instruction(c["inner"]).tiles
            return c["pack_a"] != "panel" or bool(outside)

        def takes_whole_tiles(c: Any) -> bool:
            rung = instruction(c["inner"])
            return not rung.tiles or c["block_k"] == w.k or _whole_tiles(rung, c["block_k"])

        def blocks_fit(c: Any) -> bool:
            tiles_m, tiles_n = -(-w.m // c["micro_m"]), -(-w.n // c["micro_n"])
            return bool(c["block_m"] < 2 * tiles_m and c["block_n"] < 2 * tiles_n)

        def k_in_place(c: Any) -> bool:
            return bool(c["block_k"] != w.k or c["outer_order"][-1] == "k")

        def threads_first(c: Any) -> bool:
            return bool(c["parallel"] in ("none", BATCH) or c["outer_order"][0] != "k")

        for_tiles = [
            Constraint("only loads of AMX tiles have a hint", hints_tiles),
            Constraint(
                f"a panel of {a} packed by itself is of tiles in an outer loop", packs_panels
            ),
        ]
        return [
            *(for_tiles if self.tiled else []),
            Constraint("sums and operands fit the registers of the instruction", fits_registers),
            Constraint("the unrolled body stays small", stays_small),
            Constraint("blocks of k are whole AMX tiles", takes_whole_tiles),
            Constraint("blocks are not larger than the matrix", blocks_fit),
            # Unblocked, the place of k changes nothing: one of the equal configs is enough.
            Constraint("an unblocked k comes last", k_in_place),
            Constraint("threads share blocks of C, not of k", threads_first),
            Constraint(f"{a} is packed unless its words can be read in place", self._reads_a),
            Constraint(f"{b} is packed unless its rows can be read in place", self._reads_b),
        ]

    def _reads_a(self, c: Any) -> bool:
        """Words must be contiguous and none of them padded, and tiles must not stick out."""
        if c["pack_a"] != "none":
            return True
        rung = instruction(c["inner"])
        if self.w.layout[0] != "n" or rung.operand != self.w.dtype:
            return False
        step = 16 if rung.tiles else c["unroll_k"]
        rows_fit = not rung.tiles or self._rows_fit(c["micro_m"])
        return bool(self.w.k % (rung.group * step) == 0 and rows_fit)

    def _rows_fit(self, micro_m: int) -> bool:
        """Whether tiles read from A in place stay inside it."""
        return self.w.m % micro_m == 0

    def _reads_b(self, c: Any) -> bool:
        if c["pack_b"] != "none":
            return True
        rung = instruction(c["inner"])
        return bool(
            not rung.tiles
            and self.w.layout[1] == "n"
            and self.w.n % c["micro_n"] == 0
            and self.w.k % (rung.group * c["unroll_k"]) == 0
        )


def _whole_tiles(rung: DotInstruction, k: int) -> bool:
    """Whether so many elements along k fill AMX tiles of 16 words."""
    return k % (16 * rung.group) == 0
