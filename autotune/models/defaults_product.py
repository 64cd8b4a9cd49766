"""Matrix products that no template takes: those of extents that are only known at run time.

A panel of B, as wide as the register tile, is copied so that its rows lie one after the other; rows
of A then pass over it in tiles whose sums stay in registers. Columns beyond the last are zeros in
the copy; rows beyond the last whole tile are taken one by one. All extents may be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_combiner import Combiner, combiner_of
from autotune.models.defaults_elementwise import Context, Values, parallel_over
from autotune.models.defaults_ir import (
    Axis,
    Nest,
    axis_of,
    collect,
    grid,
    loop,
    pieces,
    product,
    sequence,
    substitute,
    tensor_load,
)
from autotune.models.defaults_reduce import vectorises

#: Vectors of a row of the register tile.
_VECTORS = 2


@dataclass(frozen=True)
class MatrixProduct:
    """A product found in a nest.

    Parameters
    ----------
    outer, rows, columns
        Spatial axes: the last that only A has, the last that only B has and along which the result
        is contiguous, and all others.
    b_is_first
        Whether B is the first operand of the multiplication.
    """

    outer: tuple[Axis, ...]
    rows: Axis
    columns: Axis
    b_is_first: bool


def find_product(nest: Nest) -> MatrixProduct | None:
    """Return the product that a nest computes if one of its extents is symbolic, else None."""
    from tvm import tirx

    axes = (*nest.spatial, *nest.reduce)
    combiner = combiner_of(nest)
    if combiner is None or combiner.node is not tirx.Add or not isinstance(combiner.term, tirx.Mul):
        return None
    if all(axis.static for axis in axes) or not nest.spatial:
        return None
    sides = [collect(side, tensor_load()) for side in (combiner.term.a, combiner.term.b)]
    if [len(loads) for loads in sides] != [1, 1]:
        return None
    used = [_axes(loads[0].indices, axes) for loads in sides]
    columns = axis_of(nest.body.indices[-1], nest.spatial)
    if columns is None or None in used:
        return None
    first, second = (set(map(id, found or ())) for found in used)
    b_is_first = id(columns) in first
    mine, other = (first, second) if b_is_first else (second, first)
    if id(columns) in other or not all({id(axis)} <= mine & other for axis in nest.reduce):
        return None
    rows = [axis for axis in nest.spatial if id(axis) in other - mine]
    if not rows:
        return None
    outer = tuple(axis for axis in nest.spatial if axis is not rows[-1] and axis is not columns)
    return MatrixProduct(outer, rows[-1], columns, b_is_first)


def _axes(indices: Any, axes: tuple[Axis, ...]) -> list[Axis] | None:
    """Return the axes that indices are, None if one is neither an axis nor 0."""
    from tvm import tirx

    found = []
    for index in indices:
        axis = axis_of(index, axes)
        if axis is not None:
            found.append(axis)
        elif not isinstance(index, tirx.IntImm):
            return None
    return found


def product_body(found: MatrixProduct, nest: Nest, context: Context) -> Any:
    """Return loops for a nest in which a product was found; its buffers may have become flat."""
    combiner = combiner_of(nest)
    assert combiner is not None
    lanes = context.lanes(str(nest.body.buffer.dtype))
    rows = 8 if context.registers >= 32 else max(1, (context.registers - 1) // _VECTORS - 1)
    work = _Panel(found, nest, combiner, lanes * _VECTORS, rows)
    panels = Axis(_var("panel"), -(-found.columns.extent // work.width))

    def body(values: Values) -> Any:
        return work.statements(values, values[panels.var] * work.width)

    return parallel_over([*found.outer, panels], context.parallel(nest.iterations), body)


@dataclass(frozen=True)
class _Panel:
    """The work on one panel of columns."""

    found: MatrixProduct
    nest: Nest
    combiner: Combiner
    width: int
    height: int

    def statements(self, values: Values, first: Any) -> Any:
        """Return the copy of B's panel and the tiles of all rows, whole panels apart."""
        from tvm import tirx

        depth = product(self.nest.reduce)
        shape = (depth * self.width,)
        packed = tirx.decl_buffer(shape, self._side(True).ty.dtype, "panel")
        whole = first + self.width <= self.found.columns.extent

        def tiles(all_columns: bool) -> Any:
            rows = self.found.rows
            return sequence(
                loop(
                    "tile",
                    number,
                    lambda t, start=start, size=size: self._tile(  # type: ignore[misc]
                        values, packed, first, (t * size + start, size), all_columns
                    ),
                )
                for start, number, size in pieces(rows.extent, self.height)
            )

        either = tirx.IfThenElse(
            whole,
            sequence([self._copy(values, packed, first, True), tiles(True)]),
            sequence([self._copy(values, packed, first, False), tiles(False)]),
        )
        return sequence([tirx.AllocBuffer(packed), either])

    def _side(self, of_b: bool) -> Any:
        term = self.combiner.term
        return term.a if of_b == self.found.b_is_first else term.b

    def _depth(self, values: Values) -> Any:
        """Return the position in a column of the product."""
        position: Any = 0
        for axis in self.nest.reduce:
            position = position * axis.extent + values[axis.var]
        return position

    def _copy(self, values: Values, packed: Any, first: Any, whole: bool) -> Any:
        """Copy B's panel, in the order in which it is stored; zeros where there are no columns."""
        from tvm import tirx

        columns = self.found.columns

        def element(more: Values, lane: Any) -> Any:
            here = {**values, **more, columns.var: first + lane}
            value = substitute(self._side(True), here)
            if not whole:
                zero = tirx.const(0, value.ty.dtype)
                value = tirx.if_then_else(first + lane < columns.extent, value, zero)
            return tirx.BufferStore(packed, value, [self._depth(more) * self.width + lane])

        if self._along_depth():
            return loop(
                "lane", self.width, lambda lane: grid(self.nest.reduce, lambda v: element(v, lane))
            )
        kind = "vectorized" if whole else "serial"
        return grid(
            self.nest.reduce, lambda v: loop("lane", self.width, lambda x: element(v, x), kind)
        )

    def _along_depth(self) -> bool:
        """Whether B is stored with the axis that is summed over last."""
        (load,) = collect(self._side(True), tensor_load())
        last = load.indices[-1]
        step = substitute(last, {self.nest.reduce[-1].var: self.nest.reduce[-1].var + 1}) - last
        return _is_one(step)

    def _tile(
        self, values: Values, packed: Any, first: Any, rows: tuple[Any, int], all_columns: bool
    ) -> Any:
        """Return statements for one tile: sums, the way through the depth, and to memory."""
        from tvm import tirx

        start, size = rows
        nest, combiner, width = self.nest, self.combiner, self.width
        total = tirx.decl_buffer((size, width), nest.body.buffer.dtype, "total", scope="local")

        def at(row: Any, lane: Any) -> Values:
            return {
                **values,
                self.found.rows.var: start + row,
                self.found.columns.var: first + lane,
            }

        def over(body: Callable[[Any, Any], Any], vector: bool = True) -> Any:
            kind = "vectorized" if vector else "serial"
            return loop(
                "row",
                size,
                lambda row: loop("lane", width, lambda lane: body(row, lane), kind),
                "unrolled",
            )

        def add(more: Values) -> Any:
            def one(row: Any, lane: Any) -> Any:
                a = substitute(self._side(False), {**at(row, lane), **more})
                b = packed[self._depth(more) * width + lane]
                joined = combiner.join(total[row, lane], a * b)
                return tirx.BufferStore(total, joined, [row, lane])

            return over(one)

        def store(row: Any, lane: Any) -> Any:
            done = nest.result(total[row, lane], at(row, lane))
            if all_columns:
                return done
            return tirx.IfThenElse(first + lane < self.found.columns.extent, done, None)

        vector = nest.finish is None or vectorises(nest.finish, self.found.columns)
        return sequence(
            [
                tirx.AllocBuffer(total),
                over(lambda row, lane: tirx.BufferStore(total, combiner.initial, [row, lane])),
                grid(nest.reduce, add),
                over(store, vector and all_columns),
            ]
        )


def _is_one(value: Any) -> bool:
    from tvm import sym

    return bool(sym.Analyzer().can_prove_equal(value, 1))


def _var(name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, "int64")
