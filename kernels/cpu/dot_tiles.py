"""The micro-kernel of ``cpu_dot`` on AMX tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.hw_profiles import instruction_text
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot_store import KeptSums
from autotune.kernels.cpu.lanes import LINE_WORDS

if TYPE_CHECKING:
    from autotune.kernels.cpu.dot_nest import DotNest

#: Elements from which on TVM does not put an array on the stack, which is aligned to 16 bytes.
_ALIGNED_FROM = 1025


class TileInner:
    """Up to 2 x 2 AMX tiles of sums: tiles 0 to 3; A passes through 4 and 5, B through 6 and 7."""

    def __init__(self, nest: DotNest) -> None:
        self.nest = nest
        self.height = min(instruction_text.TILE_ROWS, nest.mr)
        self.down, self.across = nest.mr // self.height, nest.nr // instruction_text.TILE_WORDS
        if not nest.emulate_tiles:
            nest.need(instruction_text.tiles(nest.instruction, self.height))

    def _call(self, name: str, *arguments: Any) -> None:
        from tvm import tirx
        from tvm.script import tirx as T

        T.evaluate(tirx.call_extern("int32", f"at_tile_{name}", *arguments))

    def _move(self, what: str, tile: int, buffer: Any, index: list[Any], stride: int) -> None:
        from tvm.script import tirx as T

        self._call(f"{what}_{tile}", T.address_of(buffer[tuple(index)]), T.int64(stride))

    def begin(self) -> None:
        """Configure the tiles of the thread that runs this task."""
        nest = self.nest
        # In whole cache lines: 1.04 to 1.06 times as fast with 128 rows and n and k of 768 in bf16,
        # best readings of two runs, one after the other.
        size = max(nest.mr * nest.nr, _ALIGNED_FROM)
        self.sums = nest.allocate(size, nest.instruction.acc_dtype)
        self._call(f"config_{self.height}")

    def end(self) -> None:
        """Release them: a thread with live tiles costs more at every switch."""
        self._call("release")

    def sum_columns(self, base: Any, count: Any, column: Any) -> None:
        """Never needed: both operands are signed."""
        raise AssertionError

    def run(
        self,
        tile: dict[str, Any],
        base: dict[str, Any],
        first: Any,
        count: Any,
        place: Any,
        column: Any,
    ) -> None:
        """Emit one micro-tile; parameters as for :meth:`VectorInner.run`."""
        from tvm.script import tirx as T

        nest = self.nest

        kept = KeptSums(self.sums, self._place_of_sum, 16, 16)
        self._start(place)
        with T.serial(0, count // instruction_text.TILE_WORDS) as block:
            self._fetch_rows_of_a(tile, first, block)
            self._fetch_next(tile, place, block)
            # Each operand is asked for just before its first product.
            for i in range(self.down):
                for j in range(self.across):
                    if i == 0:
                        self._load_b(base, block, j)
                    if j == 0:
                        self._load_a(tile, base, first, block, i)
                    self._call(f"{nest.instruction.mnemonic}_{2 * i + j}_{4 + i}_{6 + j}")
        if not nest.k_blocked:
            self._put(self.sums, 0)
            nest.results.store(tile, kept)
            return
        with T.If(self._at_last_k()):
            with T.Then():
                self._put(self.sums, 0)
                nest.results.store(tile, kept)
            with T.Else():
                self._put(nest.scratch, place)

    def kept(self, sums: KeptSums) -> KeptSums:
        """Return the sums of a micro-tile in memory, where they are."""
        return sums

    def _place_of_sum(self, row: int, column: int) -> int:
        inside = row % self.height * 16 + column % 16
        return self._offset(row // self.height, column // 16) + inside

    def _offset(self, i: int, j: int) -> int:
        """Return where a tile of sums is kept: tile by tile, as the operands are."""
        return (i * self.across + j) * self.height * instruction_text.TILE_WORDS

    def _each(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self.down) for j in range(self.across)]

    def _start(self, place: Any) -> None:
        from tvm.script import tirx as T

        nest = self.nest

        def zero() -> None:
            for i, j in self._each():
                self._call(f"zero_{2 * i + j}")

        if not nest.k_blocked:
            zero()
            return
        with T.If(nest.at["k"] == 0):
            with T.Then():
                zero()
            with T.Else():
                for i, j in self._each():
                    where = place + self._offset(i, j)
                    self._move("load", 2 * i + j, nest.scratch, [where], 64)

    def _put(self, buffer: Any, base: Any) -> None:
        for i, j in self._each():
            self._move("store", 2 * i + j, buffer, [base + self._offset(i, j)], 64)

    def _load_a(
        self, tile: dict[str, Any], base: dict[str, Any], first: Any, block: Any, i: int
    ) -> None:
        nest, how = self.nest, self._how("m")
        if nest.c["pack_a"] == "none":
            row, word = nest.first_row(tile["m"]) + i * self.height, first + block * 16
            stride = nest.workload.k // nest.instruction.group * 4
            reader = nest.packers["a"].reader
            self._move(how, 4 + i, reader.view, [reader.stored(row), word], stride)
            return
        where = base["a"] + (block * nest.mr + i * self.height) * 16
        self._move(how, 4 + i, nest.packed["a"], [where], 64)

    def _load_b(self, base: dict[str, Any], block: Any, j: int) -> None:
        nest = self.nest
        where = base["b"] + block * (16 * nest.nr) + j * 256
        self._move(self._how("n"), 6 + j, nest.packed["b"], [where], 64)

    def _fetch_next(self, tile: dict[str, Any], place: Any, block: Any) -> None:
        """Ask for where the next micro-tile's sums wait and its results go, some in each step.

        Both come from beyond the second-level cache, whose other half has a block of B, and are
        wanted all at once. One thread of an Emerald Rapids, bf16: 1024 and 2048 cubed are 1.08 to
        1.11 times as fast with the sums alone; the results as well, .97 to 1.06 times that.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        nest = self.nest
        steps = nest.block_words // instruction_text.TILE_WORDS
        if nest.k_blocked:
            nest.need(llvm_text.prefetches())
            lines = -(-nest.mr * nest.nr // LINE_WORDS // steps)
            for line in range(lines):
                ahead = nest.sums_apart() + (block * lines + line) * LINE_WORDS
                where = T.address_of(nest.scratch[place])
                T.evaluate(tirx.call_extern("int32", "at_fetch", where, ahead.astype("int64") * 4))
        with T.If(self._at_last_k()), T.Then():
            nest.results.fetch(nest.next_tile(tile), block, steps)

    def _at_last_k(self) -> Any:
        """Return whether sums are complete after this block of k."""
        return self.nest.at["k"] == self.nest.outer["k"] - 1

    def _fetch_rows_of_a(self, tile: dict[str, Any], first: Any, block: Any) -> None:
        """Ask for the rows of A that are packed next, some in each micro-tile of the present ones.

        Rows below the matrix are asked for too: a prefetch never faults.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        nest, reader = self.nest, self.nest.packers["a"].reader
        if nest.c["pack_a"] != "panel" or not reader.operand.along_k:
            return
        rows = -(-nest.mr // min(nest.mr, nest.block["n"]))
        nest.need(llvm_text.prefetches())
        k = (first + block * instruction_text.TILE_WORDS) * nest.instruction.group
        with T.If(nest.inside["n"] * rows < nest.mr), T.Then():
            for i in range(rows):
                row = (tile["m"] + 1) * nest.mr + nest.inside["n"] * rows + i
                address = T.address_of(reader.raw[reader.stored(row), k])
                T.evaluate(tirx.call_extern("int32", "at_prefetch", address))

    def _how(self, axis: str) -> str:
        """Return how tiles along an axis are loaded.

        The panel of the outer loop is used by all micro-tiles of the inner one, whose panels pass
        by and would push it out of the first-level cache.
        """
        passes = self.nest.c["tile_loads"] == "stream" and self.nest.c["inner_order"][1] == axis
        return "stream" if passes else "load"
