"""Replace the products of a Relax function by kernels of our templates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.models.dynamic import choose_ranges, dispatcher
from autotune.models.expressions import extents, is_constant, operator_name, relax_functions
from autotune.models.packing import Packer
from autotune.models.sites import Finder, Missed, Site

if TYPE_CHECKING:
    from autotune.models.choose import Choice, Chooser


@dataclass
class Applied:
    """What was done to a module.

    Parameters
    ----------
    module
        The module, with a function per kernel and calls to them.
    kernels
        Name of the function -> how it was chosen.
    calls
        Name of the function -> how many products of the model call it.
    missed
        Products that no template computes, with the reasons.
    """

    module: Any
    kernels: dict[str, Choice] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    missed: list[Missed] = field(default_factory=list)

    def count(self, name: str, choice: Choice) -> None:
        """Note one more call of a kernel."""
        self.kernels[name] = choice
        self.calls[name] = self.calls.get(name, 0) + 1


def find_sites(module: Any) -> tuple[list[Site], list[Missed]]:
    """Return the products of all Relax functions of a module, and those no workload describes."""
    sites: list[Site] = []
    missed: list[Missed] = []
    for function in relax_functions(module).values():
        finder = Finder(function, module)
        sites += finder.sites()
        missed += finder.missed
    return sites, missed


def apply_kernels(module: Any, chooser: Chooser, packer: Packer) -> Applied:
    """Replace every product that a template computes; constant weights are packed beforehand."""
    applied = Applied(module)
    for name, function in relax_functions(module).items():
        finder = Finder(function, module)
        plan = _Plan(applied, chooser)
        for site in finder.sites():
            plan.add(site)
        applied.missed += finder.missed
        if plan.sites:
            applied.module = _rewrite(applied, packer, name, plan)
    return applied


class _Plan:
    """Which sites of a function are replaced, and by what."""

    def __init__(self, applied: Applied, chooser: Chooser) -> None:
        self.applied, self.chooser = applied, chooser
        #: Variable of the result -> its site, and the kernels for it: several for dynamic rows.
        self.sites: dict[Any, tuple[Site, list[Choice]]] = {}
        self.skipped: set[Any] = set()

    def add(self, site: Site) -> None:
        """Plan the longest part of a site that a template computes."""
        reason = ""
        for part in site.lengths():
            try:
                self.sites[part.result] = (part, self._choices(part))
            except NotApplicable as error:
                reason = reason or str(error)
                continue
            self.skipped.update(part.absorbed)
            return
        missed = Missed(f"{site.result.name}: {site.workload.key}", reason)
        self.applied.missed.append(missed)

    def _choices(self, site: Site) -> list[Choice]:
        constant = is_constant(site.b)
        if site.rows is None:
            free = site.batch is not None
            return [self.chooser.choose(site.workload, constant, any_batch=free)]
        return choose_ranges(self.chooser, site.workload, constant)


def _rewrite(applied: Applied, packer: Packer, name: str, plan: _Plan) -> Any:
    """Return the module with the planned sites of one function replaced."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Rewriter(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var in plan.skipped:
                return
            if binding.var not in plan.sites:
                super().visit_var_binding_(binding)
                return
            site, choices = plan.sites[binding.var]
            call = _call if site.rows is None else _dispatch
            value = call(self, site, choices)
            # The variable keeps its kind: one that leaves the dataflow block must stay visible.
            emit = (
                self.builder_.emit
                if isinstance(binding.var, relax.DataflowVar)
                or not self.builder_.current_block_is_dataflow()
                else self.builder_.emit_output
            )
            self.set_var_remap(binding.var, emit(value))

    def _call(rewriter: Any, site: Site, choices: list[Choice]) -> Any:
        builder, (choice,) = rewriter.builder_, choices
        workload = choice.workload
        kernel = packer.kernel(choice, any_batch=site.batch is not None)
        variable = builder.add_func(kernel.function, kernel.name)
        applied.count(variable.name_hint, choice)
        if workload.layout != site.workload.layout:
            site = replace(site, workload=workload, b=packer.transposed(site.b))
        a, b, *others = _operands(rewriter, site)
        if workload.prepacked:
            b = packer.packed(choice, site.b)
        out = relax.TensorType(site.shapes[-1], workload.out_dtype)
        result = kernel.call(builder, variable, [a, b, *others], out)
        return _back(site, result, site.shapes[-1])

    def _dispatch(rewriter: Any, site: Site, choices: list[Choice]) -> Any:
        builder, workload = rewriter.builder_, choices[0].workload
        for choice in choices:
            applied.count(packer.kernel(choice, any_rows=True).name, choice)
        key = tuple(packer.kernel(choice, any_rows=True).name for choice in choices)
        if key not in dispatchers:
            name = f"gemm_rows_{workload.n}x{workload.k}_{len(dispatchers)}"
            dispatchers[key] = dispatcher(builder, packer, choices, name)
        a, b, *others = _operands(rewriter, site)
        packed = [
            packer.packed(choice, site.b, any_rows=True) if choice.workload.prepacked else b
            for choice in choices
        ]
        result = builder.emit(relax.Call(dispatchers[key], [a, *others, *packed]))
        return _back(site, result, ())

    dispatchers: dict[tuple[str, ...], Any] = {}
    rewriter = Rewriter(applied.module)
    variable = applied.module.get_global_var(name)
    function = rewriter.visit_expr(applied.module[name])
    rewriter.builder_.update_func(variable, function)
    return rewriter.builder_.get()


def _operands(rewriter: Any, site: Site) -> list[Any]:
    """Return A, B, bias and residual in the shapes that kernels take; a packed B comes later."""
    return [
        _shaped(rewriter.builder_, _emitted(rewriter, operand), shape)
        for operand, shape in zip(site.inputs, site.shapes[:-1], strict=True)
    ]


def _emitted(rewriter: Any, operand: Any) -> Any:
    """Return an operand as a variable or constant; one that has to be copied first is a call."""
    from tvm import relax

    operand = rewriter.visit_expr(operand)
    return rewriter.builder_.emit(operand) if isinstance(operand, relax.Call) else operand


def _shaped(builder: Any, operand: Any, shape: tuple[Any, ...]) -> Any:
    from tvm import relax

    # Two reshapes in a row would be fused, and copy what either by itself only renames.
    while operator_name(value := _bound(builder, operand)) == "relax.reshape":
        operand = value.args[0]
    if extents(operand) == list(shape):
        return operand
    if is_constant(operand):
        return relax.const(operand.value._create_view(shape))
    return builder.emit(relax.op.reshape(operand, list(shape)))


def _bound(builder: Any, operand: Any) -> Any:
    from tvm import relax

    return builder.lookup_binding(operand) if isinstance(operand, relax.Var) else None


def _back(site: Site, result: Any, shape: tuple[Any, ...]) -> Any:
    """Return the kernel's result in the shape that the model wants."""
    from tvm import relax

    wanted = extents(site.result)
    return result if wanted == list(shape) else relax.op.reshape(result, wanted)
