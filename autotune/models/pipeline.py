"""From a Relax module to an executable: kernels from the log, schedules for all the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.models.apply import Applied, apply_kernels
from autotune.models.backend import Code, backend_for
from autotune.models.built_kernel import without_bodies
from autotune.models.choose import Chooser
from autotune.models.convolutions import simplify_convolutions
from autotune.models.expressions import relax_functions
from autotune.models.packing import Packer

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile


@dataclass(frozen=True)
class Built:
    """Compiled code and how it came about.

    Parameters
    ----------
    code
        What the model was compiled to.
    applied
        Which products were replaced by which kernels.
    rules
        Name of every other function -> the rule that scheduled it.
    """

    code: Code
    applied: Applied
    rules: dict[str, str]


def simplify(module: Any) -> Any:
    """Return a module of plain inference: normalisation folded into weights, dead code removed.

    Raises
    ------
    AutotuneError
        If an input has a dynamic rank.
    """
    import tvm
    from tvm import relax

    for function in relax_functions(module).values():
        for parameter in function.params:
            if isinstance(parameter.ty, relax.TensorType) and parameter.ty.shape is None:
                raise AutotuneError(
                    f"input {parameter.name} has no fixed number of dimensions; export the model"
                    " with shapes for its inputs"
                )
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    ]
    module = simplify_convolutions(relax.transform.CanonicalizeBindings()(module))
    return tvm.transform.Sequential(passes)(module)


def build(module: Any, chooser: Chooser, profile: HardwareProfile, threads: int) -> Built:
    """Compile a simplified module.

    Raises
    ------
    AutotuneError
        If a function is left without a schedule: it would run hundreds of times slower, or on a
        GPU not at all; or if a kernel does not compile.
    """
    import tvm
    from tvm import relax
    from tvm.relax.backend.cpu_generic import pipeline as passes

    backend = backend_for(profile, threads)
    target = backend.target
    applied = apply_kernels(module, chooser, Packer(profile, threads))
    schedules = backend.schedules()
    with target:
        lowered = tvm.transform.Sequential(
            [
                relax.transform.DeadCodeElimination(),
                *passes.library_dispatch_passes(target),
                *passes.legalize_passes(target),
            ]
        )(applied.module)
        # Before functions are scheduled: afterwards it would not know them for reshapes.
        lowered = without_bodies(relax.transform.RewriteDataflowReshape(), lowered)
        lowered = schedules(relax.transform.DeadCodeElimination()(lowered))
        _assert_scheduled(lowered)
        code = backend.compile(lowered, applied.kernels)
    return Built(code, applied, dict(schedules.rules))


def _assert_scheduled(module: Any) -> None:
    from tvm import tirx

    left = [
        variable.name_hint
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
        and not function.attrs.get("tirx.is_scheduled", False)
    ]
    if left:
        raise AutotuneError(f"no schedule for {', '.join(sorted(left))}; please report this model")
