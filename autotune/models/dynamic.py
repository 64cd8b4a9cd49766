"""Products whose number of rows is known only at run time: one kernel per range of rows.

Every kernel is right for any number of rows; each was chosen for one of them. The function that
dispatches compares the rows of A with the limits of the ranges, so that no Python is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autotune.log import Tier
from autotune.models.built_kernel import OPAQUE

if TYPE_CHECKING:
    from autotune.models.choose import Choice, Chooser
    from autotune.models.packing import Packer
    from autotune.workload import Gemm

#: (most rows of the range, rows that its kernel is chosen for); the last range has no limit.
RANGES: tuple[tuple[int | None, int], ...] = ((1, 1), (16, 8), (64, 32), (None, 128))


def range_workloads(workload: Gemm) -> list[Gemm]:
    """Return the workloads that the kernels of a dynamic product are chosen, or tuned, for."""
    return [replace(workload, m=rows) for _, rows in RANGES]


def choose_ranges(chooser: Chooser, workload: Gemm, constant_b: bool) -> list[Choice]:
    """Return one choice per range; weights are packed alike where that costs no tuned kernel.

    Raises
    ------
    NotApplicable
        If no template has kernels for any number of rows.
    """
    choices = [
        chooser.choose(option, constant_b, any_rows=True) for option in range_workloads(workload)
    ]
    return [_packed_like(choices[-1], choice) for choice in choices]


def _packed_like(model: Choice, choice: Choice) -> Choice:
    """Return a choice that reads B as packed for ``model``, if it is not a tuned one."""
    if not choice.workload.prepacked or choice.tier is Tier.EXACT:
        return choice
    wanted = model.template.packed_shape(model.workload, model.config)
    if choice.template.packed_shape(choice.workload, choice.config) == wanted:
        return choice
    for config in (choice.config, model.config):
        for name, value in model.config.items():
            if name not in config:
                continue
            changed = config.replace(**{name: value})
            try:
                fits = choice.template.packed_shape(choice.workload, changed) == wanted
            except (AssertionError, KeyError):
                continue
            if fits and choice.space.is_legal(changed):
                return replace(choice, config=changed)
    return choice


def dispatcher(builder: Any, packer: Packer, choices: Sequence[Choice], name: str) -> Any:
    """Add the function that dispatches to a module; returns its global variable.

    It takes A, the bias and the residual if there are any, and then B once for each choice.
    """
    runners = [_runner(builder, packer, choice) for choice in choices]
    conditions = [
        _add(builder, _at_most(limit, choices[0].workload))
        for limit, _ in RANGES
        if limit is not None
    ]
    return _chain(builder, conditions, runners, choices, name)


def _parameters(workload: Gemm, packed: Any) -> tuple[list[Any], list[Any]]:
    """Return fresh variables for A, bias and residual, and for one B per shape in ``packed``."""
    from tvm import relax, tirx

    rows = tirx.Var("m", "int64")
    shapes: dict[str, tuple[Any, ...]] = {"a": (rows, workload.k)}
    if workload.has_bias:
        shapes["bias"] = (workload.n,)
    if workload.has_residual:
        shapes["residual"] = (rows, workload.n)
    types = {"a": workload.dtype}
    first = [
        relax.Var(name, relax.TensorType(shape, types.get(name, workload.out_dtype)))
        for name, shape in shapes.items()
    ]
    operands = [
        relax.Var(f"b{i}", relax.TensorType(shape, workload.dtype))
        for i, shape in enumerate(packed)
    ]
    return first, operands


def b_shape(choice: Choice) -> tuple[int, ...]:
    """Return the shape in which a kernel takes B."""
    if choice.workload.prepacked:
        return choice.template.packed_shape(choice.workload, choice.config)
    return choice.workload.b_shape


def _runner(builder: Any, packer: Packer, choice: Choice) -> Any:
    """Add a function that calls one kernel: TVM crashes on branches that allocate by themselves."""
    from tvm import relax

    kernel = packer.kernel(choice, any_rows=True)
    variable = builder.add_func(kernel.function, kernel.name)
    workload = choice.workload
    first, (b,) = _parameters(workload, [b_shape(choice)])
    inner = relax.BlockBuilder()
    with inner.function("run", [*first, b], private=True):
        with inner.dataflow():
            out = relax.TensorType((first[0].ty.shape[0], workload.n), workload.out_dtype)
            arguments = [first[0], b, *first[1:]]
            result = inner.emit_output(relax.call_tir(variable, arguments, out))
        inner.emit_func_output(result)
    return builder.add_func(inner.get()["run"], f"run_{variable.name_hint}")


def _chain(
    builder: Any,
    conditions: Sequence[Any],
    runners: Sequence[Any],
    choices: Sequence[Choice],
    name: str,
) -> Any:
    """Add ``if rows <= limit: first kernel, else: the chain of the rest``."""
    from tvm import relax

    if len(runners) == 1:
        return runners[0]
    rest = _chain(builder, conditions[1:], runners[1:], choices[1:], f"{name}_else")
    first, operands = _parameters(choices[0].workload, [b_shape(choice) for choice in choices])
    inner = relax.BlockBuilder()
    with inner.function("dispatch", [*first, *operands], private=True):
        condition = relax.call_tir(conditions[0], [first[0]], relax.TensorType((), "bool"))
        chosen = relax.Call(runners[0], [*first, operands[0]])
        other = relax.Call(rest, [*first, *operands[1:]])
        result = inner.emit(relax.If(inner.emit(condition), chosen, other))
        inner.emit_func_output(result)
    return builder.add_func(inner.get()["dispatch"], name)


def _add(builder: Any, function: Any) -> Any:
    return builder.add_func(function, str(function.attrs["global_symbol"]))


def _at_most(limit: int, workload: Gemm) -> Any:
    """Return the function that says whether A has at most so many rows."""
    from tvm import te, tirx

    rows = tirx.Var("m", "int64")
    a = te.placeholder((rows, workload.k), workload.dtype, name="A")
    answer = te.compute((), lambda: rows <= limit, name="answer")
    name = f"rows_of_{workload.k}_{workload.dtype}_at_most_{limit}"
    function = te.create_prim_func([a, answer]).with_attr("global_symbol", name)
    return function.with_attr("tirx.is_scheduled", True).with_attr("op_pattern", OPAQUE)
