"""Where a nest's loads and stores go: steps along its axes, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotune.models.defaults_ir import Axis, Nest, collect, number_of, tensor_load


class Addresses:
    """Flat positions in buffers, as linear forms of a nest's iterators."""

    def __init__(self, axes: Iterable[Axis]) -> None:
        from tvm import ir, sym

        self.axes = tuple(axes)
        self._analyzer = sym.Analyzer()
        for axis in self.axes:
            self._analyzer.bind(axis.var, ir.Range(0, axis.extent))

    def flat(self, buffer: Any, indices: Sequence[Any]) -> Any:
        """Return the position in elements."""
        position: Any = 0
        for extent, index in zip(buffer.shape, indices, strict=True):
            position = position * extent + index
        return self._analyzer.simplify(position) if not isinstance(position, int) else position

    def steps(self, buffer: Any, indices: Sequence[Any]) -> dict[Any, Any] | None:
        """Return by how many elements the position moves with each iterator, by variable.

        Values are ints or, for symbolic shapes, expressions; None if the position is not linear.
        """
        form = self._linear(buffer, indices)
        return None if form is None else form[0]

    def straight(self, buffer: Any, indices: Sequence[Any]) -> list[Any]:
        """Return indices that are 0 but for the last, which is the position in linear form.

        Unlike the indices of a reshape, these stay right for values beyond an axis' extent that
        carry over into the axis before it. Positions that are not linear keep their indices.
        """
        from tvm import tirx

        form = self._linear(buffer, indices)
        if form is None or not all(isinstance(step, int) for step in form[0].values()):
            return list(indices)
        position = form[1]
        for var, step in form[0].items():
            if step:
                position = position + var * step
        return [tirx.const(0, "int64")] * (len(indices) - 1) + [position]

    def _linear(self, buffer: Any, indices: Sequence[Any]) -> tuple[dict[Any, Any], Any] | None:
        """Return the steps and the position of the first element."""
        from tvm import sym

        position = self.flat(buffer, indices)
        if isinstance(position, int):
            return {axis.var: 0 for axis in self.axes}, position
        found = sym.detect_linear_equation(position, [axis.var for axis in self.axes])
        if len(found) != len(self.axes) + 1:
            return None
        steps = {axis.var: number_of(step) for axis, step in zip(self.axes, found, strict=False)}
        return steps, found[-1]


def access_steps(nest: Nest) -> list[dict[Any, Any] | None]:
    """Return the steps of the store, then of each load."""
    addresses = Addresses((*nest.spatial, *nest.reduce))
    store = [(nest.body.buffer, nest.body.indices)]
    loads = [(load.source, load.indices) for load in nest.loads]
    return [addresses.steps(buffer, indices) for buffer, indices in store + loads]


def straightened(nest: Nest) -> Nest:
    """Return the nest with linear indices; see :meth:`Addresses.straight`."""
    import tvm_ffi
    from tvm import tirx

    addresses = Addresses((*nest.spatial, *nest.reduce))
    store = nest.body

    def load(node: Any) -> Any:
        if len(node.indices) == 0:
            return node
        return tirx.BufferLoad(node.source, addresses.straight(node.source, node.indices))

    value = tvm_ffi.structural_map(store.value, (tensor_load(), load))
    indices = addresses.straight(store.buffer, store.indices) if nest.spatial else store.indices
    return dataclasses.replace(nest, body=tirx.BufferStore(store.buffer, value, indices))


def bare_variables(value: Any) -> set[Any]:
    """Return the variables that an expression uses otherwise than as an index."""
    import tvm_ffi
    from tvm import tirx

    def forget(load: Any) -> Any:
        return tirx.const(0, load.ty.dtype)

    return set(collect(tvm_ffi.structural_map(value, (tensor_load(), forget)), tirx.Var))


def fusible_suffix(
    axes: Sequence[Axis], accesses: Sequence[Mapping[Any, Any] | None], bare: set[Any]
) -> int:
    """Return how many of the last axes every access walks as if they were one.

    Either an access does not move with any of them, or it moves as in row-major order. Axes of
    ``bare`` variables stay alone.
    """
    count = min(1, len(axes))
    for outer, inner in zip(reversed(axes[:-1]), reversed(axes), strict=False):
        if not (outer.static and inner.static) or {outer.var, inner.var} & bare:
            break
        if any(
            access is None or not _same(access[outer.var], access[inner.var] * inner.extent)
            for access in accesses
        ):
            break
        count += 1
    return count


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a == b


def flat_buffers(nests: Sequence[Nest], buffers: Sequence[Any]) -> tuple[list[Nest], list[Any]]:
    """Give buffers one dimension: TVM shrinks others to the part that indices seem to cover.

    Returns
    -------
    nests, buffers
        With every load and store of the old buffers replaced, and the new buffers in their order.
    """
    flat = {buffer: _one_dimension(buffer) for buffer in buffers}
    return [_on_flat(nest, flat) for nest in nests], list(flat.values())


def _one_dimension(buffer: Any) -> Any:
    from tvm import tirx

    size = tirx.const(1, "int64")
    for extent in buffer.shape:
        size = size * extent
    return tirx.decl_buffer([size], buffer.dtype, buffer.name, scope=buffer.scope())


def _on_flat(nest: Nest, flat: Mapping[Any, Any]) -> Nest:
    import tvm_ffi
    from tvm import tirx

    addresses = Addresses((*nest.spatial, *nest.reduce))

    def place(buffer: Any, indices: Sequence[Any]) -> list[Any]:
        position = addresses.flat(buffer, indices)
        return [tirx.const(position, "int64") if isinstance(position, int) else position]

    def load(node: Any) -> Any:
        target = flat.get(node.source)
        return node if target is None else tirx.BufferLoad(target, place(node.source, node.indices))

    def store(node: Any) -> Any:
        target = flat.get(node.buffer)
        if target is None:
            return node
        return tirx.BufferStore(target, node.value, place(node.buffer, node.indices))

    def moved(statement: Any) -> Any:
        if statement is None:
            return None
        callbacks = [(tensor_load(), load), (tirx.BufferStore, store)]
        return tvm_ffi.structural_map(statement, callbacks)

    return dataclasses.replace(
        nest, init=moved(nest.init), body=moved(nest.body), finish=moved(nest.finish)
    )
