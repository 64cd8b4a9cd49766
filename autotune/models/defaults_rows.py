"""Functions of several nests: which are inlined, and which share the loop over rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from autotune.models.defaults_addresses import flat_buffers
from autotune.models.defaults_combiner import combiner_of
from autotune.models.defaults_elementwise import Context, parallel_over, spatial_nest
from autotune.models.defaults_ir import (
    Axis,
    Nest,
    axis_of,
    collect,
    product,
    read_nests,
    sequence,
    substitute,
    tensor_load,
)
from autotune.models.defaults_reduce import (
    plain_reduction,
    reduction_nest,
    shared_axis,
    sums_side_by_side,
)

#: Intermediate rows up to this many bytes live on the stack.
STACK_BYTES = 16384

#: Operations worth storing a result for, rather than computing it again for each use.
_EXPENSIVE = frozenset(
    f"tirx.{name}"
    for name in (
        *("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "pow", "sqrt", "rsqrt"),
        *("tanh", "sinh", "cosh", "atanh", "asinh", "acosh", "erf", "sigmoid", "fmod"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "if_then_else"),
    )
)


def inline_producers(func: Any) -> Any:
    """Return the function with intermediate elementwise blocks folded into their consumers.

    A block stays where folding it would repeat costly work, put a condition into a reduction, or
    read the operands of a product through an expression.
    """
    from tvm import s_tir

    read = read_nests(func)
    if read is None:
        return func
    nests, intermediates = read
    schedule = s_tir.Schedule(func)
    for nest in _in_order_of_inlining(nests, intermediates):
        try:
            schedule.compute_inline(schedule.get_sblock(nest.name))
        except s_tir.ScheduleError:
            continue
    return schedule.mod["main"]


def _in_order_of_inlining(nests: Sequence[Nest], intermediates: Sequence[Any]) -> list[Nest]:
    """Return the nests to inline."""
    chosen = []
    costly: set[Any] = set()
    for nest in nests:
        if nest.reduce or not nest.is_store:
            continue
        buffer = nest.body.buffer
        if not any(buffer.same_as(other) for other in intermediates):
            continue
        uses = [
            (consumer, sum(load.source.same_as(buffer) for load in consumer.loads))
            for consumer in nests
            if consumer.is_store
        ]
        consumers = [(consumer, count) for consumer, count in uses if count]
        if any(not consumer.is_store for consumer in nests) or not consumers:
            continue
        value = nest.body.value
        inlined_costly = any(load.source in costly for load in nest.loads)
        expensive = _expensive(value) or inlined_costly
        single = len(consumers) == 1 and consumers[0][1] == 1
        if all(_may_inline(nest, consumer, expensive, single) for consumer, _ in consumers):
            chosen.append(nest)
            if expensive:
                costly.add(buffer)
    return chosen


def _expensive(value: Any) -> bool:
    from tvm import ir

    return any(getattr(call.op, "name", "") in _EXPENSIVE for call in collect(value, ir.Call))


def _may_inline(nest: Nest, consumer: Nest, expensive: bool, single: bool) -> bool:
    from tvm import tirx

    grows = not _same_size(nest.spatial, consumer.spatial)
    copy = isinstance(nest.body.value, tensor_load())
    if consumer.reduce:
        if len({load.source for load in consumer.loads}) > 1 or grows_in_reduction(nest, consumer):
            return False
        return not expensive
    if grows and not copy and (expensive or bool(collect(nest.body.value, tirx.Div))):
        return False
    return single or not expensive


def grows_in_reduction(nest: Nest, consumer: Nest) -> bool:
    """Whether a reduction reads elements of a nest more than once."""
    return not _same_size(nest.spatial, (*consumer.spatial, *consumer.reduce))


def _same_size(a: Sequence[Axis], b: Sequence[Axis]) -> bool:
    """Whether two sets of axes have as many iterations; symbolic ones as written."""
    known = [product(axis for axis in axes if axis.static) for axes in (a, b)]
    symbols = [sorted(str(axis.extent) for axis in axes if not axis.static) for axes in (a, b)]
    return bool(known[0] == known[1] and symbols[0] == symbols[1])


def fold_epilogues(
    nests: Sequence[Nest], intermediates: Sequence[Any]
) -> tuple[list[Nest], list[Any]]:
    """Let reductions finish with the nest that takes their results element by element.

    Returns
    -------
    nests, intermediates
        What remains: a folded reduction stands where its consumer stood.
    """
    remaining = list(nests)
    kept = list(intermediates)
    for nest in nests:
        consumer = _finisher(nest, remaining, kept)
        if consumer is None:
            continue
        places = zip(consumer.body.indices, nest.body.indices, strict=True)
        names = {own: theirs for own, theirs in places if not own.same_as(theirs)}
        renamed = {axis.var: names.get(axis.var, axis.var) for axis in consumer.spatial}
        folded = dataclasses.replace(nest, finish=substitute(consumer.body, renamed))
        remaining = [folded if other is consumer else other for other in remaining]
        remaining = [other for other in remaining if other is not nest]
        kept = [buffer for buffer in kept if not buffer.same_as(nest.body.buffer)]
    return remaining, kept


def _finisher(nest: Nest, nests: Sequence[Nest], intermediates: Sequence[Any]) -> Nest | None:
    """Return the only consumer of a reduction, if it goes element by element."""
    if combiner_of(nest) is None or not all(n.is_store for n in nests):
        return None
    buffer = nest.body.buffer
    if not any(buffer.same_as(other) for other in intermediates):
        return None
    others = [other for other in nests if other is not nest]
    loads = {
        other.name: [load for load in other.all_loads if load.source.same_as(buffer)]
        for other in others
    }
    consumers = [other for other in others if loads[other.name]]
    if len(consumers) != 1:
        return None
    consumer = consumers[0]
    own, theirs = consumer.body.indices, nest.body.indices
    if consumer.reduce or len(own) != len(theirs):
        return None
    axes = [axis_of(index, consumer.spatial) for index in own]
    matching = len([axis for axis in axes if axis]) == len(consumer.spatial) == len(nest.spatial)
    same = all(
        (axis is not None and axis_of(index, nest.spatial) is not None) or _both_zero(mine, index)
        for axis, mine, index in zip(axes, own, theirs, strict=True)
    )
    at_own = all(
        all(a.same_as(b) or _both_zero(a, b) for a, b in zip(load.indices, own, strict=True))
        for load in loads[consumer.name]
    )
    return consumer if matching and same and at_own else None


def _both_zero(a: Any, b: Any) -> bool:
    from tvm import tirx

    return all(isinstance(x, tirx.IntImm) and int(x.value) == 0 for x in (a, b))


def common_rows(nests: Sequence[Nest]) -> int:
    """Return how many leading axes all nests share, so that each row depends on itself only."""
    import tvm_ffi

    if not all(nest.is_store for nest in nests):
        return 0
    written = [nest.target for nest in nests]
    best = 0
    for count in range(1, 1 + min(_row_axes(nest) for nest in nests)):
        extents = [nest.spatial[count - 1].extent for nest in nests]
        if not all(tvm_ffi.structural_equal(extent, extents[0]) for extent in extents):
            break
        if not all(_row_local(nest, count, written) for nest in nests):
            break
        best = count
    return best


def _row_axes(nest: Nest) -> int:
    """Return how many leading axes may be taken apart; sums side by side keep their last one."""
    shared = shared_axis(nest)
    if shared is not None:
        return nest.spatial.index(shared)
    if nest.reduce and nest.is_store and nest.spatial and sums_side_by_side(nest):
        return len(nest.spatial) - 1
    return len(nest.spatial)


def _row_local(nest: Nest, count: int, written: Sequence[Any]) -> bool:
    """Whether a nest touches what the function writes only at its own row."""
    store = nest.finish or nest.body
    accesses = [(load.source, load.indices) for load in nest.all_loads]
    for buffer, indices in [*accesses, (store.buffer, store.indices)]:
        if not any(buffer.same_as(other) for other in written):
            continue
        leading = _leading(buffer, indices, count)
        own = [axis.var for axis in nest.spatial[:count]]
        if len(leading) != count or not all(
            index.same_as(var) for index, var in zip(leading, own, strict=True)
        ):
            return False
    return True


def _leading(buffer: Any, indices: Sequence[Any], count: int) -> list[Any]:
    """Return the indices of the first ``count`` dimensions that are not of extent 1."""
    real = [i for e, i in zip(buffer.shape, indices, strict=True) if not _is_one(e)]
    return real[:count]


def _is_one(extent: Any) -> bool:
    from tvm import tirx

    return isinstance(extent, tirx.IntImm) and int(extent.value) == 1


def rows_body(
    nests: Sequence[Nest], intermediates: Sequence[Any], count: int, context: Context
) -> Any:
    """Return one loop over rows that runs all nests on a row before it goes on to the next."""
    from tvm import tirx

    axes = nests[0].spatial[:count]
    parallel = context.parallel(sum(nest.iterations for nest in nests))
    written = {nest.target for nest in nests}
    rows = {buffer: _row_buffer(buffer, count) for buffer in intermediates if buffer in written}

    def inside(nest: Nest, values: dict[Any, Any]) -> Nest:
        own = dict(zip((a.var for a in nest.spatial[:count]), values.values(), strict=True))
        return Nest(
            nest.name,
            nest.spatial[count:],
            nest.reduce,
            _moved(nest.init, rows, count, own),
            _moved(nest.body, rows, count, own),
            _moved(nest.finish, rows, count, own),
        )

    def body(values: dict[Any, Any]) -> Any:
        on_row = [inside(nest, values) for nest in nests]
        flat, buffers = flat_buffers(on_row, list(rows.values()))
        parts = [tirx.AllocBuffer(buffer) for buffer in buffers]
        return sequence([*parts, *(one_nest(nest, context, parallel=False) for nest in flat)])

    return parallel_over(axes, parallel, lambda values: body({a.var: values[a.var] for a in axes}))


def _row_buffer(buffer: Any, count: int) -> Any:
    from tvm import DataType, tirx

    shape = [extent for extent in buffer.shape if not _is_one(extent)][count:] or [1]
    numbers = [int(extent.value) for extent in shape if isinstance(extent, tirx.IntImm)]
    small = len(numbers) == len(shape)
    if small:
        total = DataType(str(buffer.dtype)).bits // 8
        for number in numbers:
            total *= number
        small = total <= STACK_BYTES
    scope = "local" if small else "global"
    return tirx.decl_buffer(shape, buffer.dtype, f"{buffer.name}_row", scope=scope)


def _moved(store: Any, rows: dict[Any, Any], count: int, values: dict[Any, Any]) -> Any:
    """Return a store with intermediates replaced by their rows and leading axes by their values."""
    import tvm_ffi
    from tvm import tirx

    if store is None:
        return None

    def indices_of(buffer: Any, indices: Sequence[Any]) -> list[Any]:
        real = [i for e, i in zip(buffer.shape, indices, strict=True) if not _is_one(e)]
        return real[count:] or [tirx.const(0, "int64")]

    def load(node: Any) -> Any:
        row = rows.get(node.source)
        return node if row is None else tirx.BufferLoad(row, indices_of(node.source, node.indices))

    value = tvm_ffi.structural_map(store.value, (tensor_load(), load))
    target = rows.get(store.buffer)
    if target is None:
        moved = tirx.BufferStore(store.buffer, value, store.indices)
    else:
        moved = tirx.BufferStore(target, value, indices_of(store.buffer, store.indices))
    return substitute(moved, values)


def one_nest(nest: Nest, context: Context, parallel: bool) -> Any:
    """Return loops for one nest by its kind."""
    if not nest.is_store:
        return plain_reduction(nest, parallel)
    if nest.reduce:
        return reduction_nest(nest, context, parallel)
    return spatial_nest(nest, context, parallel)
