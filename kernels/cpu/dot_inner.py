"""The micro-kernel of ``cpu_dot`` on vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles import instruction_text
from autotune.kernels.cpu.dot_store import KeptSums
from autotune.kernels.cpu.dot_words import FLIP_SIGNS

if TYPE_CHECKING:
    from autotune.kernels.cpu.dot_nest import DotNest


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

    def kept(self, sums: Callable[[int, int], Any]) -> KeptSums:
        """Put the sums of a micro-tile into memory, row by row."""
        nest = self.nest
        buffer = nest.allocate(nest.mr * nest.nr, self.ins.acc_dtype, "local")
        for row in range(nest.mr):
            for v in range(self.vectors):
                self._set(buffer, row * nest.nr + v * self.lanes, sums(row, v))
        return KeptSums(buffer, lambda row, column: row * nest.nr + column, nest.nr, self.lanes)

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
