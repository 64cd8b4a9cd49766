"""Elementwise nests: broadcasts, transposes, slices, concatenations, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_addresses import (
    access_steps,
    bare_variables,
    fusible_suffix,
    straightened,
)
from autotune.models.defaults_ir import (
    Axis,
    Nest,
    collect,
    grid,
    ladder,
    loop,
    pieces,
    product,
    sequence,
    substitute,
    unfuse,
)

#: Iterations below which starting threads costs more than it saves.
PARALLEL_FROM = 16384
#: Side of the square in which a transpose reads and writes.
TRANSPOSE_TILE = 16

Values = dict[Any, Any]


@dataclass(frozen=True)
class Context:
    """What the loops are written for.

    Parameters
    ----------
    simd_bits
        Width of a vector register.
    registers
        Number of vector registers.
    threads
        Threads that a parallel loop is split over.
    """

    simd_bits: int
    registers: int
    threads: int

    def lanes(self, *dtypes: str) -> int:
        """Return how many elements of the widest of these types fill a vector register."""
        from tvm import DataType

        bits = max([8, *(DataType(dtype).bits for dtype in dtypes)])
        return max(1, self.simd_bits // int(bits))

    def parallel(self, iterations: Any) -> bool:
        """Whether a loop over so many iterations of the innermost statement is worth threads."""
        if self.threads == 1:
            return False
        return not isinstance(iterations, int) or iterations >= PARALLEL_FROM


def lanes_for(nest: Nest, context: Context) -> int:
    """Return the vector width for a nest: whole registers of the widest type it touches."""
    dtypes = {str(load.source.dtype) for load in nest.loads} | {str(nest.body.buffer.dtype)}
    return context.lanes(*(dtype for dtype in dtypes if dtype != "bool"))


def spatial_nest(nest: Nest, context: Context, parallel: bool) -> Any:
    """Return loops for a nest without reduction."""
    axes = list(nest.spatial)
    if not axes:
        return nest.body
    if not axes[-1].static:
        return _symbolic(nest, axes, parallel)
    nest = straightened(nest)
    accesses = access_steps(nest)
    if (tile := _transposed(axes, accesses)) is not None:
        return _transpose(nest, axes, tile, parallel)
    count = fusible_suffix(axes, accesses, bare_variables(nest.body.value))
    outer, inner = axes[:-count], axes[-count:]
    write = accesses[0]
    contiguous = write is not None and write[inner[-1].var] == 1
    vector = contiguous and all(a is not None and a[inner[-1].var] in (0, 1) for a in accesses)
    lanes = lanes_for(nest, context) if vector else 1
    cuts = condition_cuts(nest.body.value, inner[-1])
    if cuts or lane_conditions(nest.body.value, inner[-1]):
        return parallel_over(outer, parallel, lambda v: _segments(nest, inner[-1], cuts, lanes, v))
    extent = product(inner)

    def store(values: Values) -> Callable[[Any], Any]:
        return lambda flat: substitute(nest.body, {**values, **unfuse_simply(inner, flat)})

    if not outer and parallel:
        return _flat_parallel(extent, lanes, context.threads, store({}))
    return parallel_over(outer, parallel, lambda values: vector_loops(extent, lanes, store(values)))


def unfuse_simply(axes: Sequence[Axis], flat: Any) -> Values:
    """Return values for axes that only ever appear fused: all 0 but the last, which runs on.

    Right only where every access walks these axes as one; see :func:`fusible_suffix`.
    """
    from tvm import tirx

    values = {axis.var: tirx.const(0, axis.var.ty.dtype) for axis in axes[:-1]}
    return {**values, axes[-1].var: flat}


def vector_loops(extent: int, lanes: int, body: Callable[[Any], Any], start: int = 0) -> Any:
    """Return loops over ``start .. start + extent``: vectors first, narrower ones for the rest."""
    statements = []
    for first, number, width in ladder(extent, lanes):
        base = start + first

        def vector(index: Any, base: int = base, width: int = width) -> Any:
            position = index * width + base
            return loop("lane", width, lambda lane: body(position + lane), "vectorized")

        statements.append(loop("vector", number, vector))
    return sequence(statements)


def parallel_over(axes: Sequence[Axis], parallel: bool, body: Callable[[Values], Any]) -> Any:
    """Return loops over axes: serial, or fused into one parallel loop."""
    if not (parallel and axes):
        return grid(axes, body)
    return loop("task", product(axes), lambda task: body(unfuse(axes, task)), "parallel")


def _flat_parallel(extent: int, lanes: int, threads: int, body: Callable[[Any], Any]) -> Any:
    """Share the whole vectors of one long loop among threads; the rest follows on one of them."""
    from tvm import tirx

    vectors = extent // lanes
    share = -(-vectors // threads)

    def task(index: Any) -> Any:
        first = index * share
        count = tirx.min(tirx.const(share, "int64"), vectors - first)

        def vector(number: Any) -> Any:
            position = (first + number) * lanes
            return loop("lane", lanes, lambda lane: body(position + lane), "vectorized")

        return loop("vector", share if vectors % threads == 0 else count, vector)

    statements = [loop("task", -(-vectors // share), task, "parallel")]
    if extent % lanes:
        statements.append(vector_loops(extent % lanes, lanes, body, start=vectors * lanes))
    return sequence(statements)


# -- conditions -----------------------------------------------------------------------------------


def _segments(nest: Nest, axis: Axis, cuts: list[int], lanes: int, values: Values) -> Any:
    """Return loops over the innermost axis, cut where a condition on it changes.

    Padding and concatenation then need no condition per element.
    """
    ends = [0, *cuts, axis.extent]
    statements = []
    for start, end in zip(ends, ends[1:], strict=False):
        body = decided(nest.body, axis, start, end)
        width = 1 if lane_conditions(body.value, axis) else lanes
        statements.append(
            vector_loops(
                end - start,
                width,
                lambda i, body=body: substitute(body, {**values, axis.var: i}),  # type: ignore[misc]
                start,
            )
        )
    return sequence(statements)


def _comparisons() -> tuple[Any, ...]:
    from tvm import tirx

    return (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


def _bound(node: Any, axis: Axis) -> tuple[int, bool, bool] | None:
    """Return (cut, value below it, value from it on) of a comparison of the axis with a number."""
    from tvm import tirx

    below: dict[Any, tuple[int, bool]] = {
        tirx.LT: (0, True),
        tirx.LE: (1, True),
        tirx.GE: (0, False),
        tirx.GT: (1, False),
    }
    offset, true_below = below[type(node)]
    if node.a.same_as(axis.var) and isinstance(node.b, tirx.IntImm):
        return int(node.b.value) + offset, true_below, not true_below
    if node.b.same_as(axis.var) and isinstance(node.a, tirx.IntImm):
        # c < v is v >= c + 1, and c <= v is v >= c.
        cut = int(node.a.value) + (1 - offset)
        return cut, not true_below, true_below
    return None


def condition_cuts(value: Any, axis: Axis) -> list[int]:
    """Return where, inside the axis, comparisons of it with numbers change."""
    cuts = set()
    for kind in _comparisons():
        for node in collect(value, kind):
            bound = _bound(node, axis)
            if bound is not None and 0 < bound[0] < axis.extent:
                cuts.add(bound[0])
    return sorted(cuts)


def decided(store: Any, axis: Axis, start: int, end: int) -> Any:
    """Return the store with comparisons replaced that are settled for ``start <= axis < end``."""
    import tvm_ffi
    from tvm import sym, tirx

    def settle(node: Any) -> Any:
        bound = _bound(node, axis)
        if bound is None:
            return node
        cut, below, above = bound
        if end <= cut:
            return tirx.const(below, "bool")
        return tirx.const(above, "bool") if start >= cut else node

    value = tvm_ffi.structural_map(store.value, [(kind, settle) for kind in _comparisons()])
    return tirx.BufferStore(store.buffer, sym.Analyzer().rewrite_simplify(value), store.indices)


def lane_conditions(value: Any, axis: Axis) -> bool:
    """Whether lanes of a vector along the axis can take different branches."""
    from tvm import ir

    return any(
        getattr(call.op, "name", "") == "tirx.if_then_else"
        and any(var.same_as(axis.var) for var in collect(call.args[0], type(axis.var)))
        for call in collect(value, ir.Call)
    )


# -- transposes -----------------------------------------------------------------------------------


def _transposed(axes: Sequence[Axis], accesses: Sequence[Any]) -> tuple[int, int] | None:
    """Return (contiguous when read, contiguous when written) of a transpose, as axis indices."""
    write = accesses[0]
    if write is None or write[axes[-1].var] != 1:
        return None
    for read in accesses[1:]:
        if read is None or read[axes[-1].var] in (0, 1):
            continue
        for index, axis in enumerate(axes[:-1]):
            if read[axis.var] == 1 and axis.static:
                return index, len(axes) - 1
    return None


def _transpose(nest: Nest, axes: list[Axis], tile: tuple[int, int], parallel: bool) -> Any:
    """Return loops in squares, so that cache lines are used whole on both sides."""
    read, write = (axes[index] for index in tile)
    others = [axis for axis in axes if axis not in (read, write)]
    side = TRANSPOSE_TILE

    def square(values: Values, rows: Any, columns: Any, height: int, width: int) -> Any:
        def store(row: Any, column: Any) -> Any:
            return substitute(
                nest.body, {**values, read.var: rows + row, write.var: columns + column}
            )

        return loop("row", height, lambda row: loop("column", width, lambda c: store(row, c)))

    def columns_of(values: Values, rows: Any, height: int) -> Any:
        return sequence(
            loop(
                "square",
                number,
                lambda c, start=start, width=width: square(  # type: ignore[misc]
                    values, rows, c * side + start, height, width
                ),
            )
            for start, number, width in pieces(write.extent, side)
        )

    statements = []
    for start, number, height in pieces(read.extent, side):
        panel = Axis(_like(read.var, "panel"), number)

        def body(
            values: Values, panel: Axis = panel, start: int = start, height: int = height
        ) -> Any:
            return columns_of(values, values.pop(panel.var) * side + start, height)

        statements.append(parallel_over([*others, panel], parallel, body))
    return sequence(statements)


def _like(var: Any, name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, var.ty.dtype)


def _symbolic(nest: Nest, axes: list[Axis], parallel: bool) -> Any:
    """Return plain loops, the outermost parallel; LLVM vectorises the innermost, with its tail."""
    if len(axes) == 1:
        return loop(
            axes[0].var.name,
            axes[0].extent,
            lambda v: substitute(nest.body, {axes[0].var: v}),
            "parallel" if parallel else "serial",
        )
    outer, inner = axes[0], axes[1:]
    return loop(
        outer.var.name,
        outer.extent,
        lambda v: grid(inner, lambda values: substitute(nest.body, {outer.var: v, **values})),
        "parallel" if parallel else "serial",
    )
