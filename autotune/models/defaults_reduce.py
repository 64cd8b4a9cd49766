"""Reductions: partial sums in vector lanes, or sums side by side along a contiguous axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_addresses import (
    Addresses,
    access_steps,
    bare_variables,
    fusible_suffix,
    straightened,
)
from autotune.models.defaults_combiner import Combiner, combiner_of
from autotune.models.defaults_elementwise import (
    Context,
    Values,
    lane_conditions,
    lanes_for,
    parallel_over,
    unfuse_simply,
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
    tensor_load,
)

#: Independent vectors of partial sums: an addition takes four cycles and two start in each.
CHAINS = 4
#: Rows of a product whose sums are held at once.
ROWS = 6


def reduction_nest(nest: Nest, context: Context, parallel: bool) -> Any:
    """Return loops for a nest with reduction."""
    nest = straightened(nest)
    combiner = combiner_of(nest)
    if combiner is None or not all(axis.static for axis in nest.reduce):
        return plain_reduction(nest, parallel)
    accesses = access_steps(nest)
    count = fusible_suffix(nest.reduce, accesses[1:], bare_variables(combiner.term))
    inner = nest.reduce[-1]
    lanes_in_terms = all(a is not None and a[inner.var] in (0, 1) for a in accesses[1:])
    long = product(nest.reduce[-count:]) >= lanes_for(nest, context)
    if nest.spatial and nest.spatial[-1].static:
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
    combiner = combiner_of(nest)

    def body(values: Values) -> Any:
        if combiner is not None:
            return _one_by_one(nest, combiner, values)
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


def _one_by_one(nest: Nest, combiner: Combiner, values: Values) -> Any:
    """Return statements for one element of the result, summed in a variable."""
    from tvm import tirx

    total = tirx.decl_buffer((1,), nest.body.buffer.dtype, "total", scope="local")

    def add(more: Values) -> Any:
        term = substitute(combiner.term, {**values, **more})
        return tirx.BufferStore(total, combiner.join(total[0], term), [0])

    return sequence(
        [
            tirx.AllocBuffer(total),
            tirx.BufferStore(total, combiner.initial, [0]),
            grid(nest.reduce, add),
            nest.result(total[0], values),
        ]
    )


# -- sums in the lanes of vectors -----------------------------------------------------------------


def _lane_tiles(
    nest: Nest, combiner: Combiner, context: Context, parallel: bool, count: int
) -> Any:
    """Return loops over results, each summed in lanes; several at once if they share operands."""

    def one(values: Values) -> Any:
        return _in_lanes(nest, combiner, context, count, [values])

    if len(nest.spatial) < 2 or not nest.spatial[-1].static:
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

    return _tiles(nest, (rows_axis, side), (last, pieces(last.extent, side)), parallel, tile)


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
    lines = ladder(extent, width)
    # Buffers are written whole and only once in a row: LLVM keeps them in registers then.
    sums = {wide: _lanes(nest, points, wide, "sum") for _, _, wide in [(0, 1, width), *lines]}

    def each(buffer: Any, value: Callable[[Any, int], Any]) -> Any:
        """Store ``value(lane, point)`` in all lanes of each point."""
        return sequence(
            loop(
                "lane",
                int(buffer.shape[1]),
                lambda lane, point=point: tirx.BufferStore(  # type: ignore[misc]
                    buffer, value(lane, point), [point, lane]
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
                return combiner.join(sums[wide][point, lane], term)

            return each(sums[wide], value)

        return sequence(
            loop("vector", number, lambda i, start=start, wide=wide: add(i, start, wide))  # type: ignore[misc]
            for start, number, wide in lines
        )

    statements = [tirx.AllocBuffer(buffer) for buffer in sums.values()]
    statements += [each(buffer, lambda lane, point: combiner.initial) for buffer in sums.values()]
    statements.append(grid(outer, terms))
    whole = sums[width]
    while width > 1:
        width //= 2
        half = _lanes(nest, points, width, "half")

        def value(lane: Any, point: int, whole: Any = whole, width: int = width) -> Any:
            both = combiner.join(whole[point, lane], whole[point, lane + width])
            return combiner.join(both, sums[width][point, lane]) if width in sums else both

        statements += [tirx.AllocBuffer(half), each(half, value)]
        whole = half
    statements += [nest.result(whole[point, 0], at) for point, at in enumerate(points)]
    return sequence(statements)


def _lanes(nest: Nest, points: list[Values], width: int, name: str) -> Any:
    """Return a buffer of so many lanes for each point."""
    from tvm import tirx

    shape = (len(points), width)
    return tirx.decl_buffer(shape, nest.body.buffer.dtype, f"{name}{width}", scope="local")


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
    rows = 1 if rows_axis is None else ROWS
    if rows_axis is not None and rows_axis.static:
        rows = min(rows_axis.extent, rows)
    budget = max(1, (context.registers - 4) // rows)
    wide = next(w for w in (4, 2, 1) if w <= budget)
    strips = ladder(last.extent, lanes * wide) if vector else pieces(last.extent, 64)

    def tile(values: Values, rows: _Span, columns: _Span) -> Any:
        return _tile(nest, combiner, values, rows, columns, vector)

    return _tiles(nest, (rows_axis, rows), (last, strips), parallel, tile)


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
    columns_axis, strips = columns
    others = [axis for axis in nest.spatial if axis not in (rows_axis, columns_axis)]
    statements = []
    for first, number, height in pieces(rows_axis.extent if rows_axis is not None else 1, size):
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
                for start, number, width in strips
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

    finish = vector and (nest.finish is None or vectorises(nest.finish, nest.spatial[-1]))

    def over(body: Callable[[Any, Any], Any], vector: bool = vector) -> Any:
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
            over(lambda row, column: nest.result(total[row, column], at(row, column)), finish),
        ]
    )


def vectorises(store: Any, axis: Axis) -> bool:
    """Whether all accesses of a store are contiguous or constant along an axis."""
    steps = Addresses([axis])
    accesses = [(store.buffer, store.indices)]
    accesses += [(load.source, load.indices) for load in collect(store.value, tensor_load())]
    found = [steps.steps(buffer, indices) for buffer, indices in accesses]
    contiguous = all(step is not None and step[axis.var] in (0, 1) for step in found)
    return contiguous and not lane_conditions(store.value, axis)


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


def shared_axis(nest: Nest) -> Axis | None:
    """Return the axis of whose results several are held at once, because they share operands."""
    if not (nest.reduce and nest.is_store and nest.spatial):
        return None
    last = nest.spatial[-1]
    along = last if sums_side_by_side(nest) else nest.reduce[-1]
    return _reused_axis(nest, along, last)


def _var(name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, "int64")
