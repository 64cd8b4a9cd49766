"""Reductions: partial sums in vector lanes, or sums side by side along a contiguous axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_elementwise import (
    Context,
    Values,
    lanes_for,
    parallel_over,
    unfuse_simply,
)
from autotune.models.defaults_ir import (
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
    return parallel_over(
        nest.spatial, parallel, lambda values: _in_lanes(nest, combiner, context, count, values)
    )


def sums_side_by_side(nest: Nest) -> bool:
    """Whether neighbouring results have neighbouring operands, so that a vector holds several sums."""
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


# -- one sum in the lanes of vectors ----------------------------------------------------------------


def _in_lanes(nest: Nest, combiner: Combiner, context: Context, count: int, values: Values) -> Any:
    """Return statements for one element of the result: its last ``count`` reduce axes as vectors."""
    from tvm import tirx

    outer, fused = nest.reduce[:-count], nest.reduce[-count:]
    extent = product(fused)
    lanes = lanes_for(nest, context)
    chains = CHAINS
    while chains > 1 and extent < 2 * chains * lanes:
        chains //= 2
    width = lanes * chains
    buffer = nest.body.buffer
    partial = tirx.decl_buffer((width,), buffer.dtype, "partial", scope="local")

    def term(more: Values, position: Any) -> Any:
        return substitute(combiner.term, {**values, **more, **unfuse_simply(fused, position)})

    def add(more: Values, start: int) -> Callable[[Any, int], Any]:
        def vectors(number: Any, wide: int) -> Any:
            return loop(
                "lane",
                wide,
                lambda lane: tirx.BufferStore(
                    partial,
                    combiner.join(partial[lane], term(more, number * wide + start + lane)),
                    [lane],
                ),
                "vectorized",
            )

        return vectors

    def terms(more: Values) -> Any:
        statements = []
        for start, number, wide in ladder(extent, width):
            statements.append(
                loop("vector", number, lambda i, f=add(more, start), w=wide: f(i, w))  # type: ignore[misc]
            )
        return sequence(statements)

    def halve(half: int) -> Any:
        return loop(
            "lane",
            half,
            lambda lane: tirx.BufferStore(
                partial, combiner.join(partial[lane], partial[lane + half]), [lane]
            ),
            "vectorized",
        )

    halves = [width >> step for step in range(1, width.bit_length())]
    zero = tirx.const(0, "int64")
    return sequence(
        [
            tirx.AllocBuffer(partial),
            loop(
                "lane",
                width,
                lambda lane: tirx.BufferStore(partial, combiner.initial, [lane]),
                "vectorized",
            ),
            grid(outer, terms),
            *(halve(half) for half in halves),
            substitute(tirx.BufferStore(buffer, partial[zero], nest.body.indices), values),
        ]
    )


# -- many sums side by side -------------------------------------------------------------------------


def side_by_side(
    nest: Nest, combiner: Combiner, context: Context, parallel: bool, vector: bool
) -> Any:
    """Return loops that hold a tile of results in registers and walk the reduction once for it.

    The tile spans the last spatial axis, as vectors where ``vector`` says that all accesses allow
    it, and rows of another axis for which operands are used again.
    """
    last = nest.spatial[-1]
    lanes = lanes_for(nest, context) if vector else 1
    rows_axis = _reused_axis(nest, last)
    rows = min(rows_axis.extent, 6) if rows_axis is not None else 1
    budget = max(1, (context.registers - 4) // rows)
    wide = max(1, min(4, budget))
    columns = lanes * wide if vector else 64
    others = [a for a in nest.spatial[:-1] if a is not rows_axis]
    row_pieces = _pieces(rows_axis.extent if rows_axis is not None else 1, rows)
    column_pieces = [
        piece
        for piece in (ladder(last.extent, columns) if vector else _pieces(last.extent, columns))
    ]
    statements = []
    for row_start, row_number, height in row_pieces:
        panel = Axis(_var("panel"), row_number)

        def body(
            values: Values, panel: Axis = panel, start: int = row_start, height: int = height
        ) -> Any:
            first_row = values.pop(panel.var) * height + start
            return sequence(
                loop(
                    "strip",
                    number,
                    lambda c, column=column, width=width: _tile(  # type: ignore[misc]
                        nest,
                        combiner,
                        values,
                        (rows_axis, first_row, height),
                        (last, c * width + column, width),
                        vector,
                    ),
                )
                for column, number, width in column_pieces
            )

        statements.append(parallel_over([*others, panel], parallel, body))
    return sequence(statements)


def _tile(
    nest: Nest,
    combiner: Combiner,
    values: Values,
    rows: tuple[Axis | None, Any, int],
    columns: tuple[Axis, Any, int],
    vector: bool,
) -> Any:
    """Return statements for one tile: accumulators, the reduction, and the way to memory."""
    from tvm import tirx

    buffer = nest.body.buffer
    rows_axis, first_row, height = rows
    last, first_column, width = columns
    total = tirx.decl_buffer((height, width), buffer.dtype, "total", scope="local")

    def at(row: Any, column: Any) -> Values:
        here = {**values, last.var: first_column + column}
        return here if rows_axis is None else {**here, rows_axis.var: first_row + row}

    def over(body: Callable[[Any, Any], Any]) -> Any:
        kind = "vectorized" if vector else "serial"
        return loop(
            "row",
            height,
            lambda row: loop("column", width, lambda column: body(row, column), kind),
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


def _reused_axis(nest: Nest, last: Axis) -> Axis | None:
    """Return a spatial axis that some operand does not depend on but the last axis' operand does.

    Holding several of its rows at once reads that operand once for all of them.
    """
    accesses = access_steps(nest)[1:]
    for axis in reversed(nest.spatial[:-1]):
        if any(a is not None and a[last.var] == 1 and a[axis.var] == 0 for a in accesses):
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
