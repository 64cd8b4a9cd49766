"""Default schedules on a GPU for every function of a model that no template computes.

They are those of TVM's dlight rules: products and convolutions in tiles through shared memory,
reductions shared by the threads of a block, everything else a thread for each element. A function
that none of them takes is run by one thread: slowly, and named by its rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.models.defaults import SCHEDULED, is_scheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OWN_THREADS, ONE_THREAD = "own threads", "one thread"
_THREAD_TAGS = ("blockIdx", "threadIdx")


class CudaSchedules:
    """A pass over a module that binds every unscheduled ``PrimFunc`` to a GPU's threads.

    As :class:`autotune.models.defaults.DefaultSchedules`, of which this is the GPU's counterpart.

    Parameters
    ----------
    target
        The ``tvm.target.Target``, with the device's limits.

    Attributes
    ----------
    rules
        The rule used for each function that this object has scheduled, by function name.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.rules: dict[str, str] = {}

    def __call__(self, module: Any) -> Any:
        """Return the module with all its functions scheduled; the argument is not changed.

        Raises
        ------
        AutotuneError
            If a function cannot be bound to threads.
        """
        from tvm import IRModule, tirx

        functions = dict(module.functions_items())
        for variable, function in module.functions_items():
            if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
                continue
            name = variable.name_hint
            rule, bound = schedule_for_gpu(function, self.target)
            if not is_bound(bound):
                raise AutotuneError(f"{name} is not bound to threads; please report this model")
            self.rules[name] = rule
            functions[variable] = bound.with_attr(SCHEDULED, True)
        return IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def schedule_for_gpu(function: Any, target: Any) -> tuple[str, Any]:
    """Return the name of the first rule that takes a ``PrimFunc``, and what it makes of it."""
    if is_bound(function):  # sorts and scatters are written for a GPU from the start
        return OWN_THREADS, function
    for name, rule in _rules().items():
        try:
            schedule = rule(function, target)
        except Exception:  # a rule that does not fit raises whatever TVM raises
            continue
        if schedule is not None and is_bound(schedule.mod["main"]):
            return name, schedule.mod["main"]
    return ONE_THREAD, by_one_thread(function)


def _rules() -> Mapping[str, Callable[[Any, Any], Any]]:
    from tvm.s_tir.dlight import gpu

    rules = {
        "matmul": gpu.Matmul(),
        "gemv": gpu.GEMV(),
        "reduction": gpu.Reduction(),
        "general reduction": gpu.GeneralReduction(),
        "elementwise": gpu.Fallback(),
    }

    def applied(rule: Any) -> Callable[[Any, Any], Any]:
        return lambda function, target: rule.apply(function, target, False)

    return {name: applied(rule) for name, rule in rules.items()}


def by_one_thread(function: Any) -> Any:
    """Return a function of plain loops as the work of one thread, its loops in their order."""
    import tvm_ffi
    from tvm import ir, s_tir, tirx

    def serial(loop: Any) -> Any:
        if loop.kind == tirx.ForKind.PARALLEL:
            return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)
        return loop

    root = function.body.block
    body = tvm_ffi.structural_map(root.body, (tirx.For, serial))
    for tag in ("threadIdx.x", "blockIdx.x"):
        variable = tirx.Var(tag.replace(".", "_"), "int32")
        axis = tirx.IterVar(ir.Range(0, 1), variable, tirx.IterVar.ThreadIndex, tag)
        body = tirx.For(variable, 0, 1, tirx.ForKind.THREAD_BINDING, body, axis)
    block = s_tir.SBlock([], [], [], root.name_hint, body, alloc_buffers=root.alloc_buffers)
    return function.with_body(s_tir.SBlockRealize([], True, block))


def is_bound(function: Any) -> bool:
    """Whether every store of a scheduled ``PrimFunc`` is made by some thread of a GPU."""
    from tvm import tirx

    def visit(node: Any, inside: bool) -> bool:
        if isinstance(node, tirx.For):
            return visit(node.body, inside or _binds(node.thread_binding))
        if isinstance(node, tirx.AttrStmt):
            mine = str(node.attr_key) == "thread_extent" and _binds(node.node)
            return visit(node.body, inside or mine)
        if isinstance(node, tirx.BufferStore):
            return inside
        return all(visit(child, inside) for child in _children(node))

    return visit(function.body, False)


def _binds(axis: Any) -> bool:
    return axis is not None and str(axis.thread_tag).startswith(_THREAD_TAGS)


def _children(node: Any) -> list[Any]:
    """Return the statements that a statement holds."""
    from tvm import s_tir, tirx

    if isinstance(node, tirx.SeqStmt):
        return list(node.seq)
    if isinstance(node, s_tir.SBlockRealize):
        return [node.block]
    if isinstance(node, s_tir.SBlock):
        return [node.body] + ([node.init] if node.init is not None else [])
    if isinstance(node, tirx.IfThenElse):
        return [node.then_case] + ([node.else_case] if node.else_case is not None else [])
    body = getattr(node, "body", None)
    return [body] if body is not None else []
