"""Reading PrimFuncs as loop nests, and writing loops: what the default schedules are built with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Substitution = Mapping[Any, Any]


@dataclass(frozen=True)
class Axis:
    """One iterator of a nest, from 0 to ``extent`` (an int, or an expression if symbolic)."""

    var: Any
    extent: Any

    @property
    def static(self) -> bool:
        """Whether the extent is known."""
        return isinstance(self.extent, int)


@dataclass(frozen=True)
class Nest:
    """One block of a PrimFunc: ``for spatial, for reduce: body``.

    Axes of extent 1 are gone, their iterators being 0 in the expressions; a reduction keeps one.

    Parameters
    ----------
    init
        What a reduction stores first; None without reduce axes.
    body
        A ``BufferStore``, or another statement, which no rule but the plainest understands.
    finish
        For a reduction, what to store instead of the result: a store to another buffer, of a value
        that loads the result at the same spatial position. The result's buffer is then not used.
    """

    name: str
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    init: Any
    body: Any
    finish: Any = None

    @property
    def target(self) -> Any:
        """The buffer that is written."""
        return (self.finish or self.body).buffer

    @property
    def all_loads(self) -> list[Any]:
        """:attr:`loads`, and those of :attr:`finish` but the result's."""
        if self.finish is None:
            return self.loads
        loads = collect(self.finish.value, tensor_load())
        return self.loads + [load for load in loads if not load.source.same_as(self.body.buffer)]

    def result(self, value: Any, values: Substitution) -> Any:
        """Return the store of a reduction's finished result ``value``.

        Parameters
        ----------
        values
            What the spatial axes are.
        """
        import tvm_ffi
        from tvm import tirx

        if self.finish is None:
            return substitute(tirx.BufferStore(self.body.buffer, value, self.body.indices), values)

        def load(node: Any) -> Any:
            return value if node.source.same_as(self.body.buffer) else node

        store = substitute(self.finish, values)
        finished = tvm_ffi.structural_map(store.value, (tensor_load(), load))
        return tirx.BufferStore(store.buffer, finished, store.indices)

    @property
    def is_store(self) -> bool:
        """Whether the body is one store, and a reduction's initial value is one too."""
        from tvm import tirx

        stores = [self.body] if self.init is None else [self.body, self.init]
        return all(isinstance(store, tirx.BufferStore) for store in stores)

    @property
    def loads(self) -> list[Any]:
        """Loads of the stored value, a reduction's own accumulator left out."""
        target = self.body.buffer
        return [
            load
            for load in collect(self.body.value, tensor_load())
            if not (self.reduce and load.source.same_as(target))
        ]

    @property
    def iterations(self) -> Any:
        """Iterations of all loops together; an expression if an extent is symbolic."""
        total: Any = 1
        for axis in (*self.spatial, *self.reduce):
            total = total * axis.extent
        return total


def tensor_load() -> Any:
    """Return the class of a load from a buffer."""
    from tvm.ir.expr import TensorLoad

    return TensorLoad


def collect(node: Any, kind: Any) -> list[Any]:
    """Return all nodes of a class in an expression or statement."""
    import tvm_ffi

    found: list[Any] = []

    def note(item: Any) -> Any:
        found.append(item)
        return item

    tvm_ffi.structural_map(node, (kind, note))
    return found


def substitute(node: Any, values: Substitution) -> Any:
    """Return the expression or statement with variables replaced by values, cast to their types."""
    import tvm_ffi
    from tvm import tirx

    if not values:
        return node

    def replace(var: Any) -> Any:
        value = values.get(var)
        if value is None:
            return var
        return value if value.ty.dtype == var.ty.dtype else value.astype(var.ty.dtype)

    return tvm_ffi.structural_map(node, (tirx.Var, replace))


def read_nests(func: Any) -> tuple[list[Nest], list[Any]] | None:
    """Return the nests and the intermediate buffers of a function that no schedule has touched.

    Returns
    -------
    tuple or None
        None if the body is anything but plain loops around blocks whose iterators are these loops.
    """
    from tvm import s_tir, tirx

    realize = func.body
    if not isinstance(realize, s_tir.SBlockRealize):
        return None
    root = realize.block
    if root.iter_vars or root.match_buffers or root.init is not None:
        return None
    body = root.body
    statements = list(body) if isinstance(body, tirx.SeqStmt) else [body]
    nests = [_read_nest(statement) for statement in statements]
    buffers = [*func.params, *root.alloc_buffers]
    if None in nests or any(getattr(buffer, "strides", ()) for buffer in buffers):
        return None
    single = [part for nest in nests if nest is not None for part in _single_results(nest)]
    return single, list(root.alloc_buffers)


def _single_results(nest: Nest) -> list[Nest]:
    """Split a reduction to several results that do not depend on each other, such as two sums."""
    from tvm import tirx

    if nest.is_store or not isinstance(nest.body, tirx.SeqStmt):
        return [nest]
    bound: dict[Any, Any] = {}
    stores = []
    for statement in nest.body:
        if isinstance(statement, tirx.Bind):
            bound[statement.var] = substitute(statement.value, bound)
        elif isinstance(statement, tirx.BufferStore):
            value = substitute(statement.value, bound)
            stores.append(tirx.BufferStore(statement.buffer, value, statement.indices))
        else:
            return [nest]
    first = list(nest.init) if isinstance(nest.init, tirx.SeqStmt) else []
    if len(first) != len(stores):
        return [nest]
    parts = []
    for number, (init, store) in enumerate(zip(first, stores, strict=True)):
        sources = [load.source for load in collect(store.value, tensor_load())]
        others = [other.buffer for other in stores if other is not store]
        if not isinstance(init, tirx.BufferStore) or not init.buffer.same_as(store.buffer):
            return [nest]
        if any(source.same_as(other) for source in sources for other in others):
            return [nest]
        parts.append(Nest(f"{nest.name}_{number}", nest.spatial, nest.reduce, init, store))
    return parts


def _read_nest(statement: Any) -> Nest | None:
    from tvm import s_tir, tirx

    loops: dict[Any, Any] = {}
    while isinstance(statement, tirx.For):
        if statement.kind != tirx.ForKind.SERIAL or not _is_zero(statement.min):
            return None
        loops[statement.loop_var] = statement.extent
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        return None
    block = statement.block
    if block.match_buffers or block.alloc_buffers or _touches_blocks(block.body):
        return None
    if not (isinstance(statement.predicate, tirx.IntImm) and statement.predicate.value):
        return None
    axes: dict[int, list[Axis]] = {0: [], 2: []}
    units: dict[Any, Any] = {}
    pairs = list(zip(block.iter_vars, statement.iter_values, strict=True))
    for place, (iterator, value) in enumerate(pairs):
        extent = number_of(iterator.dom.extent)
        if iterator.iter_type not in axes or not _is_zero(iterator.dom.min):
            return None
        later = [it for it, _ in pairs[place + 1 :] if it.iter_type == 2]
        needed = iterator.iter_type == 2 and not axes[2] and not later
        if extent == 1 and not needed:
            units[iterator.var] = tirx.const(0, iterator.var.ty.dtype)
            continue
        if extent != 1 and value not in loops:
            return None
        axes[iterator.iter_type].append(Axis(iterator.var, extent))
    return Nest(
        block.name_hint,
        tuple(axes[0]),
        tuple(axes[2]),
        None if block.init is None else simplified(substitute(block.init, units)),
        simplified(substitute(block.body, units)),
    )


def _touches_blocks(body: Any) -> bool:
    from tvm import s_tir, tirx

    return bool(collect(body, s_tir.SBlockRealize) or collect(body, tirx.For))


def _is_zero(value: Any) -> bool:
    return bool(number_of(value) == 0)


def number_of(value: Any) -> Any:
    """Return an int where the expression is one."""
    from tvm import tirx

    return int(value.value) if isinstance(value, tirx.IntImm) else value


def simplified(node: Any) -> Any:
    """Return a store with simplified indices; other statements as they are."""
    from tvm import sym, tirx

    if not isinstance(node, tirx.BufferStore):
        return node
    analyzer = sym.Analyzer()
    indices = [analyzer.simplify(index) for index in node.indices]
    return tirx.BufferStore(node.buffer, node.value, indices)


def axis_of(index: Any, axes: Sequence[Axis]) -> Axis | None:
    """Return the axis that an index is, if it is one as it stands."""
    return next((axis for axis in axes if index.same_as(axis.var)), None)


# -- loops ----------------------------------------------------------------------------------------

Body = Callable[[Any], Any]


def loop(name: str, extent: Any, body: Body, kind: str = "serial") -> Any:
    """Return ``for name in range(extent): body(name)``; no loop at all around one iteration."""
    from tvm import tirx

    if isinstance(extent, int) and extent == 1:
        return body(tirx.const(0, "int64"))
    kinds = {
        "serial": tirx.ForKind.SERIAL,
        "parallel": tirx.ForKind.PARALLEL,
        "vectorized": tirx.ForKind.VECTORIZED,
        "unrolled": tirx.ForKind.UNROLLED,
    }
    var = tirx.Var(name, "int64")
    count = tirx.const(extent, "int64") if isinstance(extent, int) else extent.astype("int64")
    return tirx.For(var, tirx.const(0, "int64"), count, kinds[kind], sequence([body(var)]))


def sequence(statements: Iterable[Any]) -> Any:
    """Return one statement for several."""
    from tvm import tirx

    flat = list(statements)
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def grid(axes: Sequence[Axis], body: Callable[[dict[Any, Any]], Any]) -> Any:
    """Return serial loops over axes; the body gets the values of their variables."""

    def nested(index: int, values: dict[Any, Any]) -> Any:
        if index == len(axes):
            return body(values)
        axis = axes[index]
        return loop(
            axis.var.name, axis.extent, lambda v: nested(index + 1, {**values, axis.var: v})
        )

    return nested(0, {})


def unfuse(axes: Sequence[Axis], flat: Any) -> dict[Any, Any]:
    """Return the values of axes whose row-major fusion is ``flat``."""
    values: dict[Any, Any] = {}
    for position, axis in enumerate(reversed(axes)):
        last = position == len(axes) - 1
        values[axis.var] = flat if last else flat % axis.extent
        flat = flat // axis.extent
    return values


def product(axes: Iterable[Axis]) -> Any:
    """Return the product of extents."""
    total: Any = 1
    for axis in axes:
        total = total * axis.extent
    return total


def pieces(extent: Any, step: int) -> list[tuple[Any, Any, int]]:
    """Cut a range into pieces of one size and a rest: (start, number, size).

    The rest is one smaller piece or, where the extent is symbolic, pieces of size 1.
    """
    if not isinstance(extent, int):
        whole = extent // step
        return [(0, whole, step), (whole * step, extent - whole * step, 1)]
    whole, rest = divmod(extent, step)
    cut = [(0, whole, step), (whole * step, 1, rest)]
    return [piece for piece in cut if piece[1] and piece[2]]


def ladder(extent: int, width: int) -> list[tuple[int, int, int]]:
    """Cut a range into vectors: (start, number, width), widths halving towards the end.

    ``ladder(197, 16)`` is twelve vectors of 16, one of 4 and one of 1.
    """
    pieces = []
    start = 0
    while width >= 1:
        number = (extent - start) // width
        if number:
            pieces.append((start, number, width))
            start += number * width
        width //= 2
    return pieces
