"""Replace the products of a Relax function by kernels of our templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.compile.expressions import extents, is_constant, relax_functions
from autotune.compile.packing import Packer
from autotune.compile.sites import Finder, Missed, Site
from autotune.errors import NotApplicable

if TYPE_CHECKING:
    from autotune.compile.choose import Choice, Chooser


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


def find_sites(module: Any, rows_hint: int = 128) -> tuple[list[Site], list[Missed]]:
    """Return the products of all Relax functions of a module, and those no workload describes."""
    sites: list[Site] = []
    missed: list[Missed] = []
    for function in relax_functions(module).values():
        finder = Finder(function, rows_hint)
        sites += finder.sites()
        missed += finder.missed
    return sites, missed


def apply_kernels(module: Any, chooser: Chooser, packer: Packer) -> Applied:
    """Replace every product that a template computes; constant weights are packed beforehand."""
    applied = Applied(module)
    for name, function in relax_functions(module).items():
        finder = Finder(function)
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
        self.sites: dict[Any, tuple[Site, Choice]] = {}
        self.skipped: set[Any] = set()

    def add(self, site: Site) -> None:
        if site.rows is not None:
            self._miss(site, "its number of rows is only known at run time")
            return
        try:
            choice = self.chooser.choose(site.workload, constant_b=is_constant(site.b))
        except NotApplicable as error:
            self._miss(site, str(error))
            return
        self.sites[site.result] = (site, choice)
        self.skipped.update(site.absorbed)

    def _miss(self, site: Site, reason: str) -> None:
        name = site.result.name
        self.applied.missed.append(Missed(f"{name}: {site.workload.key}", reason))


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
            site, choice = plan.sites[binding.var]
            value = _call(self, site, choice)
            # The variable keeps its kind: one that leaves the dataflow block must stay visible.
            emit = (
                self.builder_.emit
                if isinstance(binding.var, relax.DataflowVar)
                or not self.builder_.current_block_is_dataflow()
                else self.builder_.emit_output
            )
            self.set_var_remap(binding.var, emit(value))

    def _call(rewriter: Any, site: Site, choice: Choice) -> Any:
        builder, workload = rewriter.builder_, choice.workload
        kernel = packer.kernel(choice)
        variable = builder.add_func(kernel.function, kernel.name)
        used = variable.name_hint
        applied.kernels[used] = choice
        applied.calls[used] = applied.calls.get(used, 0) + 1
        shapes = [workload.a_shape, workload.b_shape]
        if site.bias is not None:
            shapes.append((workload.n,))
        if site.residual is not None:
            shapes.append(workload.c_shape)
        arguments = []
        for operand, shape in zip(site.inputs, shapes, strict=True):
            if operand is site.b and workload.prepacked:
                arguments.append(packer.packed(choice, site.b))
                continue
            arguments.append(_shaped(builder, rewriter.visit_expr(operand), shape))
        out = relax.TensorType(workload.c_shape, workload.out_dtype)
        result = builder.emit(relax.call_tir(variable, arguments, out))
        shape = extents(site.result)
        return relax.op.reshape(result, shape) if tuple(shape) != workload.c_shape else result

    rewriter = Rewriter(applied.module)
    variable = applied.module.get_global_var(name)
    function = rewriter.visit_expr(applied.module[name])
    rewriter.builder_.update_func(variable, function)
    return rewriter.builder_.get()


def _shaped(builder: Any, operand: Any, shape: tuple[int, ...]) -> Any:
    from tvm import relax

    if extents(operand) == list(shape):
        return operand
    return builder.emit(relax.op.reshape(operand, list(shape)))
