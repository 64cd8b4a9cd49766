"""Reductions: partial sums in vector lanes, or sums side by side along a contiguous axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.compile.defaults_elementwise import (
    Context,
    Values,
    lanes_for,
    parallel_over,
    unfuse_simply,
)
from autotune.compile.defaults_ir import (
    Axis,
    Nest,
    access_steps,
    bare_variables,
    fusible_suffix,
    grid,
    ladder,
    loop,
    product,
    sequence,
    substitute,
    tensor_load,
)

#: Independent vectors of partial sums: an addition takes four cycles and two start in each.
CHAINS = 4


@dataclass(frozen=True)
class Combiner:
    """How a reduction joins its accumulator with a term."""

    node: Any
    term: Any
    initial: Any

    def join(self, accumulator: Any, term: Any) -> Any:
        """Return ``accumulator (+, max, ...) term``."""
        return self.node(accumulator, term)


def combiner_of(nest: Nest) -> Combiner | None:
    """Return the combiner of a sum, product, maximum or minimum; None for anything else."""
    from tvm import tirx

    if not (nest.reduce and nest.init is not None and nest.is_store):
        return None
    value = nest.body.value
    if type(value) not in (tirx.Add, tirx.Mul, tirx.Max, tirx.Min):
        return None
    loads = tensor_load()

    def own(node: Any) -> bool:
        return isinstance(node, loads) and node.source.same_as(nest.body.buffer)

    if own(value.a):
        return Combiner(type(value), value.b, nest.init.value)
    if own(value.b):
        return Combiner(type(value), value.a, nest.init.value)
    return None


def reduction_nest(nest: Nest, context: Context, parallel: bool) -> Any:
    """Return loops for a nest with reduction."""
    combiner = combiner_of(nest)
    axes = (*nest.spatial, *nest.reduce)
    if combiner is None or not all(axis.static for axis in axes):
        return plain_reduction(nest, parallel)
    accesses = access_steps(nest)
    count = fusible_suffix(nest.reduce, accesses[1:], bare_variables(combiner.term))
    inner = nest.reduce[-1]
    lanes_in_terms = all(a is not None and a[inner.var] in (0, 1) for a in accesses[1:])
    long = product(nest.reduce[-count:]) >= lanes_for(nest, context)
    if nest.spatial:
        beside = sums_side_by_side(nest)
        if beside or not (lanes_in_terms and long):
            return side_by_side(nest, combiner, context, parallel, vector=beside)
    if not (lanes_in_terms and long):
        return plain_reduction(nest, parallel)
    return _lane_tiles(nest, combiner, context, parallel, count)


def sums_side_by_side(nest: Nest) -> bool:
    """Whether neighbouring results have neighbouring operands: a vector can hold several sums."""
    accesses = access_steps(nest)
    last = nest.spatial[-1]
    steps = [None if access is None else access[last.var] for access in accesses]
    return steps[0] == 1 and 1 in steps[1:] and all(step in (0, 1) for step in steps)


def plain_reduction(nest: Nest, parallel: bool) -> Any:
    """Return the loops as they were, the outermost spatial one parallel."""

    def body(values: Values) -> Any:
        first = [] if nest.init is None else [substitute(nest.init, values)]
        rest = grid(nest.reduce, lambda more: substitute(nest.body, {**values, **more}))
        return sequence([*first, rest])

    if not (parallel and nest.spatial):
        return grid(nest.spatial, body)
    outer, inner = nest.spatial[0], nest.spatial[1:]
    return loop(
        "task",
        outer.extent,
        lambda v: grid(inner, lambda values: body({outer.var: v, **values})),
        "parallel",
    )


# -- sums in the lanes of vectors -----------------------------------------------------------------


def _lane_tiles(
    nest: Nest, combiner: Combiner, context: Context, parallel: bool, count: int
) -> Any:
    """Return loops over results, each summed in lanes; several at once if they share operands."""

    def one(values: Values) -> Any:
        return _in_lanes(nest, combiner, context, count, [values])

    if len(nest.spatial) < 2:
        return parallel_over(nest.spatial, parallel, one)
    last = nest.spatial[-1]
    rows_axis = _reused_axis(nest, nest.reduce[-1], last)
    if rows_axis is None:
        return parallel_over(nest.spatial, parallel, one)
    side = max(1, int((context.registers // 2) ** 0.5))

    def tile(values: Values, rows: _Span, columns: _Span) -> Any:
        points = [
            {**values, **rows.at(row), **columns.at(column)}
            for row in range(rows.size)
            for column in range(columns.size)
        ]
        return _in_lanes(nest, combiner, context, count, points)

    return _tiles(nest, (rows_axis, side), (last, _pieces(last.extent, side)), parallel, tile)


def _in_lanes(
    nest: Nest, combiner: Combiner, context: Context, count: int, points: list[Values]
) -> Any:
    """Return statements for some elements of the result: the last ``count`` reduce axes as vectors.

    Parameters
    ----------
    points
        For each element, the values of the spatial axes.
    """
    from tvm import tirx

    outer, fused = nest.reduce[:-count], nest.reduce[-count:]
    extent = product(fused)
    lanes = lanes_for(nest, context)
    chains = CHAINS if len(points) == 1 else 1
    while chains > 1 and extent < 2 * chains * lanes:
        chains //= 2
    width = lanes * chains
    buffer = nest.body.buffer
    partial = tirx.decl_buffer((len(points), width), buffer.dtype, "partial", scope="local")

    def vector(wide: int, value: Callable[[Any, int], Any]) -> Any:
        """Store ``value(lane, point)`` in the first lanes of each point."""
        return sequence(
            loop(
                "lane",
                wide,
                lambda lane, point=point: tirx.BufferStore(  # type: ignore[misc]
                    partial, value(lane, point), [point, lane]
                ),
                "vectorized",
            )
            for point in range(len(points))
        )

    def terms(more: Values) -> Any:
        def add(number: Any, start: int, wide: int) -> Any:
            def value(lane: Any, point: int) -> Any:
                position = unfuse_simply(fused, number * wide + start + lane)
                term = substitute(combiner.term, {**points[point], **more, **position})
                return combiner.join(partial[point, lane], term)

            return vector(wide, value)

        return sequence(
            loop("vector", number, lambda i, start=start, wide=wide: add(i, start, wide))  # type: ignore[misc]
            for start, number, wide in ladder(extent, width)
        )

    def halve(half: int) -> Any:
        return vector(
            half, lambda lane, p: combiner.join(partial[p, lane], partial[p, lane + half])
        )

    return sequence(
        [
            tirx.AllocBuffer(partial),
            vector(width, lambda lane, point: combiner.initial),
            grid(outer, terms),
            *(halve(width >> step) for step in range(1, width.bit_length())),
            *(
                substitute(
                    tirx.BufferStore(buffer, partial[point, 0], nest.body.indices), points[point]
                )
                for point in range(len(points))
            ),
        ]
    )


# -- many sums side by side -----------------------------------------------------------------------


def side_by_side(
    nest: Nest, combiner: Combiner, context: Context, parallel: bool, vector: bool
) -> Any:
    """Return loops that hold a tile of results in registers and walk the reduction once for it.

    The tile spans the last spatial axis, as vectors where ``vector`` says that all accesses allow
    it, and rows of another axis for which operands are used again.
    """
    last = nest.spatial[-1]
    lanes = lanes_for(nest, context) if vector else 1
    rows_axis = _reused_axis(nest, last, last)
    rows = min(rows_axis.extent, 6) if rows_axis is not None else 1
    wide = max(1, min(4, (context.registers - 4) // rows))
    pieces = ladder(last.extent, lanes * wide) if vector else _pieces(last.extent, 64)

    def tile(values: Values, rows: _Span, columns: _Span) -> Any:
        return _tile(nest, combiner, values, rows, columns, vector)

    return _tiles(nest, (rows_axis, rows), (last, pieces), parallel, tile)


@dataclass(frozen=True)
class _Span:
    """Some neighbouring values of an axis; of no axis, one value."""

    axis: Axis | None
    first: Any
    size: int

    def at(self, offset: Any) -> Values:
        """Return the value of the axis at an offset."""
        return {} if self.axis is None else {self.axis.var: self.first + offset}


def _tiles(
    nest: Nest,
    rows: tuple[Axis | None, int],
    columns: tuple[Axis, list[tuple[int, int, int]]],
    parallel: bool,
    tile: Callable[[Values, _Span, _Span], Any],
) -> Any:
    """Return loops over tiles of the result.

    Parameters
    ----------
    rows
        An axis that tiles span, or None, and how much of it.
    columns
        The other axis, and its pieces: (start, number, size).
    """
    rows_axis, size = rows
    columns_axis, column_pieces = columns
    others = [axis for axis in nest.spatial if axis not in (rows_axis, columns_axis)]
    statements = []
    for first, number, height in _pieces(rows_axis.extent if rows_axis is not None else 1, size):
        panel = Axis(_var("panel"), number)

        def body(
            values: Values, panel: Axis = panel, first: int = first, height: int = height
        ) -> Any:
            span = _Span(rows_axis, values[panel.var] * height + first, height)
            return sequence(
                loop(
                    "strip",
                    number,
                    lambda c, start=start, width=width: tile(  # type: ignore[misc]
                        values, span, _Span(columns_axis, c * width + start, width)
                    ),
                )
                for start, number, width in column_pieces
            )

        statements.append(parallel_over([*others, panel], parallel, body))
    return sequence(statements)


def _tile(
    nest: Nest,
    combiner: Combiner,
    values: Values,
    rows: _Span,
    columns: _Span,
    vector: bool,
) -> Any:
    """Return statements for one tile: accumulators, the reduction, and the way to memory."""
    from tvm import tirx

    buffer = nest.body.buffer
    total = tirx.decl_buffer((rows.size, columns.size), buffer.dtype, "total", scope="local")

    def at(row: Any, column: Any) -> Values:
        return {**values, **rows.at(row), **columns.at(column)}

    def over(body: Callable[[Any, Any], Any]) -> Any:
        kind = "vectorized" if vector else "serial"
        return loop(
            "row",
            rows.size,
            lambda row: loop("column", columns.size, lambda column: body(row, column), kind),
            "unrolled",
        )

    def accumulate(more: Values) -> Any:
        return over(
            lambda row, column: tirx.BufferStore(
                total,
                combiner.join(
                    total[row, column], substitute(combiner.term, {**at(row, column), **more})
                ),
                [row, column],
            )
        )

    return sequence(
        [
            tirx.AllocBuffer(total),
            over(lambda row, column: tirx.BufferStore(total, combiner.initial, [row, column])),
            grid(nest.reduce, accumulate),
            over(
                lambda row, column: substitute(
                    tirx.BufferStore(buffer, total[row, column], nest.body.indices),
                    at(row, column),
                )
            ),
        ]
    )


def _reused_axis(nest: Nest, along: Axis, last: Axis) -> Axis | None:
    """Return a spatial axis but the last for which an operand read along an axis is used again.

    Holding results of several of its values at once reads that operand once for all of them.
    """
    accesses = access_steps(nest)[1:]
    for axis in reversed(nest.spatial):
        if axis is not last and any(
            a is not None and a[along.var] == 1 and a[axis.var] == 0 for a in accesses
        ):
            return axis
    return None


def _pieces(extent: int, step: int) -> list[tuple[int, int, int]]:
    """Cut a range into pieces of one size, and one smaller: (start, number, size)."""
    whole, rest = divmod(extent, step)
    pieces = [(0, whole, step), (whole * step, 1, rest)]
    return [piece for piece in pieces if piece[1] and piece[2]]


def _var(name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, "int64")
