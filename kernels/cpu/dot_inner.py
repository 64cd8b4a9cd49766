"""The micro-kernels of ``cpu_dot``: one on vectors, one on AMX tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles import instruction_text
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot_words import FLIP_SIGNS

if TYPE_CHECKING:
    from autotune.kernels.cpu.dot_nest import DotNest


#: Elements from which on TVM does not put an array on the stack, which is aligned to 16 bytes.
_ALIGNED_FROM = 1025


@dataclass(frozen=True)
class KeptSums:
    """The sums of a micro-tile in memory, in pieces that are contiguous along their rows.

    Parameters
    ----------
    buffer, start
        Where they are: ``(row, column) -> offset``, of a column with which a piece begins.
    stride
        From one row of a piece to the next.
    lanes
        Sums in a vector.
    """

    buffer: Any
    start: Callable[[int, int], int]
    stride: int
    lanes: int

    def __call__(self, row: int, vector: int) -> Any:
        """Return a vector of a row."""
        from tvm.script import tirx as T

        return self.buffer[T.ramp(self.start(row, vector * self.lanes), 1, self.lanes)]


class VectorInner:
    """``micro_m x micro_n`` sums in vector registers; words of A are broadcast."""

    def __init__(self, nest: DotNest) -> None:
        self.nest = nest
        self.ins = nest.instruction
        self.lanes = nest.lanes
        self.vectors = nest.nr // nest.lanes
        if self.ins.intrinsic:
            nest.need(instruction_text.dot(self.ins))

    def begin(self) -> None:
        """Nothing to set up."""

    def end(self) -> None:
        """Nothing to put away."""

    def dot(self, acc: Any, a: Any, b: Any) -> Any:
        """Return the sums plus the products of a vector of words of A with one of B."""
        from tvm import tirx

        if not self.ins.intrinsic:
            return acc + a * b
        dtype = f"{self.ins.acc_dtype}x{self.lanes}"
        return tirx.call_extern(dtype, instruction_text.dot_name(self.ins), acc, a, b)

    def _vector(self, buffer: Any, index: Any) -> Any:
        from tvm.script import tirx as T

        return buffer[T.ramp(index, 1, self.lanes)] if self.lanes > 1 else buffer[index]

    def _set(self, buffer: Any, index: Any, value: Any) -> None:
        from tvm.script import tirx as T

        T.buffer_store(buffer, value, [T.ramp(index, 1, self.lanes) if self.lanes > 1 else index])

    def _spread(self, value: Any) -> Any:
        from tvm import tirx

        return tirx.Broadcast(value, self.lanes) if self.lanes > 1 else value

    def _zero(self) -> Any:
        from tvm import tirx

        return self._spread(tirx.const(0, self.ins.acc_dtype))

    def sum_columns(self, base: Any, count: Any, column: Any) -> None:
        """Emit 128 times the column sums of a packed panel of B, which offset A is corrected by."""
        from tvm import tirx
        from tvm.script import tirx as T

        nest = self.nest
        sums = T.alloc_buffer((nest.nr,), "int32", scope="local")
        offset = self._spread(tirx.const(FLIP_SIGNS, "int32"))  # 128 in every byte
        for v in range(self.vectors):
            self._set(sums, v * self.lanes, self._zero())
        with T.serial(0, count) as word:
            for v in range(self.vectors):
                lane = v * self.lanes
                b = self._vector(nest.packed["b"], base + word * nest.nr + lane)
                self._set(sums, lane, self.dot(self._vector(sums, lane), offset, b))
        for v in range(self.vectors):
            self._set(nest.sums_of_b, column + v * self.lanes, self._vector(sums, v * self.lanes))

    def run(
        self,
        tile: dict[str, Any],
        base: dict[str, Any],
        first: Any,
        count: Any,
        place: Any,
        column: Any,
    ) -> None:
        """Emit one micro-tile.

        Parameters
        ----------
        tile
            Place of the micro-tile along m and n.
        base
            Offsets of the packed panels of ``a`` and ``b``.
        first, count
            Words along k: where the present block begins, and how many it has.
        place
            Offset of the sums that wait in scratch between blocks of k; None if k is whole.
        column
            Offset of the column sums of B.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        nest, lanes = self.nest, self.lanes
        self.live = self.ins.unsigned_a and not nest.corrected  # column sums are made here
        rows = nest.mr + self.live
        acc = T.alloc_buffer((rows * nest.nr,), self.ins.acc_dtype, scope="local")
        self._start(acc, rows, place, column)
        step = nest.step
        address = self._address_of_a(tile)
        with T.serial(0, count // step if step > 1 else count) as turn:
            for unrolled in range(step):
                word = turn * step + unrolled
                b = [T.bind(self._load_b(tile, base, first, word, v)) for v in range(self.vectors)]
                for row in range(rows):
                    if row == nest.mr:
                        a = self._spread(tirx.const(FLIP_SIGNS, "int32"))
                    else:
                        a = T.bind(self._load_a(address, base, first, word, row))
                    for v in range(self.vectors):
                        i = row * nest.nr + v * lanes
                        self._set(acc, i, self.dot(self._vector(acc, i), a, b[v]))
        self._finish(tile, acc, place)

    def _start(self, acc: Any, rows: int, place: Any, column: Any) -> None:
        """Emit the first value of the sums: zero, what waits in scratch, minus a correction."""
        from tvm.script import tirx as T

        nest = self.nest

        def zero(correct: bool) -> None:
            for row in range(rows):
                for v in range(self.vectors):
                    value = self._zero()
                    if correct:
                        value = value - self._vector(nest.sums_of_b, column + v * self.lanes)
                    self._set(acc, row * nest.nr + v * self.lanes, value)

        if not nest.k_blocked:
            zero(nest.corrected)
            return
        with T.If(nest.at["k"] == 0):
            with T.Then():
                zero(nest.corrected)
            with T.Else():
                for row in range(rows):
                    for v in range(self.vectors):
                        i = row * nest.nr + v * self.lanes
                        if row == nest.mr:  # each block of k corrects for its own columns
                            self._set(acc, i, self._zero())
                            continue
                        value = self._vector(nest.scratch, place + i)
                        if nest.corrected and nest.c["pack_b"] == "block":
                            value = value - self._vector(nest.sums_of_b, column + v * self.lanes)
                        self._set(acc, i, value)

    def _address_of_a(self, tile: dict[str, Any]) -> list[Any]:
        """Return the rows of A where it is read in place; a row that sticks out is the last one."""
        from tvm.script import tirx as T

        nest = self.nest
        if nest.c["pack_a"] != "none":
            return []
        rows = [tile["m"] * nest.mr + row for row in range(nest.mr)]
        if nest.workload.m % nest.mr:
            rows = [T.bind(T.min(row, nest.workload.m - 1)) for row in rows]
        return rows

    def _load_a(
        self, rows: list[Any], base: dict[str, Any], first: Any, word: Any, row: int
    ) -> Any:
        nest = self.nest
        if rows:
            return self._spread(
                nest.packers["a"].reader.one(rows[row], first + word, self.ins.group)
            )
        return self._spread(nest.packed["a"][base["a"] + word * nest.mr + row])

    def _load_b(
        self, tile: dict[str, Any], base: dict[str, Any], first: Any, word: Any, v: int
    ) -> Any:
        nest, lane = self.nest, v * self.lanes
        if nest.c["pack_b"] == "none":
            index = tile["n"] * nest.nr + lane
            reader = nest.packers["b"].reader
            return reader.many(index, first + word, self.lanes, self.ins.group)
        return self._vector(nest.packed["b"], base["b"] + word * nest.nr + lane)

    def _finish(self, tile: dict[str, Any], acc: Any, place: Any) -> None:
        from tvm.script import tirx as T

        nest = self.nest

        def sums(row: int, v: int) -> Any:
            value = self._vector(acc, row * nest.nr + v * self.lanes)
            if self.live:
                value = value - self._vector(acc, nest.mr * nest.nr + v * self.lanes)
            return value

        if not nest.k_blocked:
            nest.results.store(tile, sums)
            return
        with T.If(nest.at["k"] == nest.outer["k"] - 1):
            with T.Then():
                nest.results.store(tile, sums)
            with T.Else():
                for row in range(nest.mr):
                    for v in range(self.vectors):
                        self._set(
                            nest.scratch, place + row * nest.nr + v * self.lanes, sums(row, v)
                        )


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
        # Not on the stack, whose arrays LLVM is told to align to 16 bytes: rows of tiles would
        # cross cache lines.
        # Whole cache lines: 1.03 to 1.06 times as fast with 128 rows and n and k of 768, in bf16.
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

        def start(row: int, column: int) -> int:
            inside = row % self.height * 16 + column % 16
            return self._offset(row // self.height, column // 16) + inside

        kept = KeptSums(self.sums, start, 16, 16)

        self._start(place)
        with T.serial(0, count // instruction_text.TILE_WORDS) as block:
            self._fetch_ahead(tile, first, block)
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
        with T.If(nest.at["k"] == nest.outer["k"] - 1):
            with T.Then():
                self._put(self.sums, 0)
                nest.results.store(tile, kept)
            with T.Else():
                self._put(nest.scratch, place)

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

    def _fetch_ahead(self, tile: dict[str, Any], first: Any, block: Any) -> None:
        """Ask for the rows of A that are packed next, some in each micro-tile of the present ones.

        Rows below the matrix are asked for too: a prefetch never faults.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        nest, reader = self.nest, self.nest.packers["a"].reader
        if nest.c["pack_a"] != "panel" or not reader.operand.along_k:
            return
        rows = -(-nest.mr // min(nest.mr, nest.block["n"]))
        nest.need(llvm_text.prefetch())
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
