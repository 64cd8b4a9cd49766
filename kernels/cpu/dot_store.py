"""From sums to results, for ``cpu_dot``: epilogue, rounding, and stores that respect the edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.lanes import CACHE_LINE
from autotune.kernels.verify import numpy_dtype

if TYPE_CHECKING:
    from autotune.kernels.cpu.dot_nest import DotNest


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


class Results:
    """Writes micro-tiles of sums to C.

    Parameters
    ----------
    nest
        The kernel that is being built.
    out, bias, residual
        Its last argument, and the vector and the matrix that are added, or None.
    """

    def __init__(self, nest: DotNest, out: Any, bias: Any, residual: Any) -> None:
        self.nest, self.out, self.bias, self.residual = nest, out, bias, residual
        self.workload = nest.stated
        #: Rows and columns of C in a micro-tile, and columns in a vector of it.
        self.height, self.width, self.lanes = nest.mr, nest.nr, nest.lanes
        #: Columns of the last tile, if it sticks out.
        self.tail = self.workload.n % self.width

    def store(self, tile: dict[str, Any], sums: Callable[[int, int], Any]) -> None:
        """Emit epilogue and stores of a micro-tile.

        Parameters
        ----------
        tile
            Its place, in micro-tiles.
        sums
            ``(row, vector) -> vector of sums``.
        """
        self.store_at(tile["m"] * self.height, tile["n"] * self.width, sums)

    def fetch(self, tile: dict[str, Any], step: Any, steps: int) -> None:
        """Ask for a share of the lines of C that a micro-tile is written to.

        Those beyond C too: a prefetch never faults. Of lines that rows only end in, none.

        Parameters
        ----------
        tile
            Its place, in micro-tiles.
        step, steps
            Which of the equal shares of its rows.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        self.nest.need(llvm_text.prefetches())
        row, column = tile["m"] * self.height, tile["n"] * self.width
        in_line = CACHE_LINE // numpy_dtype(self.workload.out_dtype).itemsize
        rows = -(-self.height // steps)
        for i in range(rows):
            for j in range(0, self.width, in_line):
                stored = self.nest.stored_row(row + step * rows + i)
                address = T.address_of(self.out[stored, column + j])
                T.evaluate(tirx.call_extern("int32", "at_prefetch", address))

    def store_at(self, first: Any, column: Any, sums: Callable[[int, int], Any]) -> None:
        """Emit the same for one that begins at a row and a column of C.

        The row is a multiple of its rows. So is the column of its columns, if some stick out.
        """
        from tvm.script import tirx as T

        if not self.tail:
            self._store_rows(first, column, sums, None)
            return
        with T.If(column + self.width <= self.workload.n):
            with T.Then():
                self._store_rows(first, column, sums, None)
            with T.Else():
                self._store_rows(first, column, sums, self.tail)

    def _store_rows(
        self, first: Any, column: Any, sums: Callable[[int, int], Any], inside: int | None
    ) -> None:
        from tvm.script import tirx as T

        for row in range(self.height):
            index = first + row
            if self.workload.m % self.height == 0:
                self._store_row(index, column, sums, row, inside)
                continue
            with T.If(index < self.workload.m), T.Then():
                self._store_row(index, column, sums, row, inside)

    def _store_row(
        self,
        index: Any,
        first_column: Any,
        sums: Callable[[int, int], Any],
        row: int,
        inside: int | None,
    ) -> None:
        for vector in range(self.width // self.lanes):
            lane = vector * self.lanes
            if inside is not None and inside <= lane:
                continue
            count = None
            if inside is not None and inside < lane + self.lanes:
                count = inside - lane
            column = first_column + lane
            self._store_vector(index, column, sums(row, vector), count)

    def _store_vector(self, row: Any, column: Any, value: Any, count: int | None) -> None:
        from tvm import tirx
        from tvm.script import tirx as T

        out = self.workload.out_dtype
        value = self._rounded(self._epilogue(value, row, column, count))
        bits = {"bfloat16": "uint16", "float16": "uint16"}.get(out, out)
        view = self.out
        if bits != out:
            view = T.decl_buffer(self.out.shape, bits, data=self.out.data)
        row = self.nest.stored_row(row)
        if count is None:
            where = T.ramp(column, 1, self.lanes) if self.lanes > 1 else column
            T.buffer_store(view, value, [row, where])
            return
        if count == 1:
            # LLVM 22 turns a masked store of one lane of narrowed words into one of a whole word.
            T.buffer_store(view, tirx.Shuffle([value], [tirx.const(0)]), [row, column])
            return
        self.nest.need(llvm_text.masked("store", bits, self.lanes))
        name = llvm_text.masked_name("store", bits, self.lanes)
        address = T.address_of(view[row, column])
        T.evaluate(tirx.call_extern("int32", name, address, value, T.int32(count)))

    def _epilogue(self, value: Any, row: Any, column: Any, count: int | None) -> Any:
        from tvm import tirx
        from tvm.script import tirx as T

        from autotune.kernels.gemm import activated

        acc, w = self.nest.instruction.acc_dtype, self.workload
        if w.scale != 1:
            value = value * tirx.const(w.scale, acc)
        if w.has_row_bias:
            value = value + self._of_row(row)
        elif self.bias is not None:
            value = value + self._addend(self.bias, [], column, count)
        if self.residual is not None:
            value = value + self._addend(self.residual, [self.nest.stored_row(row)], column, count)
        return activated(w.activation, value, acc, T.bind)

    def _of_row(self, row: Any) -> Any:
        """Return a row's bias in all lanes, in the type of sums."""
        from tvm import tirx

        value = self._widened(self._as_bits(self.bias)[row, 0], 1)
        return tirx.Broadcast(value, self.lanes) if self.lanes > 1 else value

    def _addend(self, source: Any, rows: list[Any], column: Any, count: int | None) -> Any:
        """Return what is added to a vector's columns, in the type of sums.

        Parameters
        ----------
        source, rows
            A vector and nothing, or a matrix and the row.
        column, count
            The first column, and how many are inside, None for all.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        lanes, view = self.lanes, self._as_bits(source)
        if count is None or lanes == 1:
            value = view[(*rows, T.ramp(column, 1, lanes) if lanes > 1 else column)]
        elif count == 1:
            value = tirx.Broadcast(view[(*rows, column)], lanes)
        else:
            bits = str(view.dtype)
            self.nest.need(llvm_text.masked("load", bits, lanes))
            name = llvm_text.masked_name("load", bits, lanes)
            address = T.address_of(view[(*rows, column)])
            value = tirx.call_extern(f"{bits}x{lanes}", name, address, T.int32(count))
        return self._widened(value, lanes)

    def _as_bits(self, source: Any) -> Any:
        """Return an addend as a buffer of what is loaded: 16-bit types as integers."""
        from tvm.script import tirx as T

        if self.workload.out_dtype not in ("bfloat16", "float16"):
            return source
        return T.decl_buffer(source.shape, "uint16", data=source.data)

    def _widened(self, value: Any, lanes: int) -> Any:
        """Return what was loaded of an addend in the type of sums."""
        from tvm.script import tirx as T

        out = self.workload.out_dtype
        suffix = f"x{lanes}" if lanes > 1 else ""
        if out == "bfloat16":
            wide = value.astype(f"uint32{suffix}")
            return T.reinterpret(f"float32{suffix}", wide << same(16, "uint32", lanes))
        if out == "float16":
            return T.reinterpret(f"float16{suffix}", value).astype(f"float32{suffix}")
        return value

    def _rounds_by_itself(self) -> bool:
        """Whether the CPU rounds to bf16 by itself; what emulates AMX need not."""
        return "avx512_bf16" in self.nest.instruction.flags and not self.nest.emulate_tiles

    def _rounded(self, value: Any) -> Any:
        """Round sums to the bits of the output type."""
        from tvm import tirx
        from tvm.script import tirx as T

        out, lanes = self.workload.out_dtype, self.lanes
        if out in ("float32", "int32"):
            return value
        suffix = f"x{lanes}" if lanes > 1 else ""
        if out == "float16" or self._rounds_by_itself():
            self.nest.need(llvm_text.round_to_half(out, lanes))
            return tirx.call_extern(f"uint16{suffix}", llvm_text.round_name(out, lanes), value)
        # To nearest, ties to even; a NaN keeps its upper bits and is made quiet.
        bits = T.bind(T.reinterpret(f"uint32{suffix}", value))
        upper = T.bind(bits >> same(16, "uint32", lanes))
        odd = upper & same(1, "uint32", lanes)
        rounded = (bits + odd + same(0x7FFF, "uint32", lanes)) >> same(16, "uint32", lanes)
        magnitude = bits & same(0x7FFFFFFF, "uint32", lanes)
        is_nan = magnitude > same(0x7F800000, "uint32", lanes)
        quiet = upper | same(0x40, "uint32", lanes)
        return tirx.Select(is_nan, quiet, rounded).astype(f"uint16{suffix}")


def same(value: int, dtype: str, lanes: int) -> Any:
    """Return a constant, or a vector of it."""
    from tvm import tirx

    scalar = tirx.const(value, dtype)
    return tirx.Broadcast(scalar, lanes) if lanes > 1 else scalar
