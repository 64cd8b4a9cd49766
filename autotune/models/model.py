"""A compiled model: a callable on tensors, its coverage by the log, and its export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import LogError
from autotune.hw_profiles import resolve_target
from autotune.log import TuningLog
from autotune.models.choose import Chooser
from autotune.models.coverage import Coverage
from autotune.models.function import Input, ModelFunction
from autotune.models.importing import import_torch
from autotune.models.pipeline import Built, build, simplify

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.log import Record


class CompiledModel(ModelFunction):
    """A model compiled for this machine: called with tensors, it returns tensors.

    Attributes
    ----------
    coverage
        Which products of the model run on which kernel, and why.
    """

    def __init__(
        self, built: Built, inputs: Sequence[Input], profile: HardwareProfile, threads: int
    ) -> None:
        import tvm
        from tvm import relax

        self.coverage = Coverage.of(built)
        self._executable = built.executable
        self._profile, self._threads = profile, threads
        self._machine = relax.VirtualMachine(built.executable, tvm.cpu())
        super().__init__(self._machine["main"], inputs)

    def profile(self, repeats: int = 10) -> dict[str, float]:
        """Return the seconds of one call by function, medians over some calls on random inputs.

        Raises
        ------
        AutotuneError
            If an input has an extent that is only known at run time.
        """
        from autotune.models.profiling import profile, random_inputs

        return profile(self._executable, random_inputs(self.inputs), repeats)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a shared library, for :func:`autotune.load_model`.

        Raises
        ------
        AutotuneError
            If there is no C compiler, or the file cannot be written.
        """
        from autotune.models.deploy import describe, export_model

        description = describe(self.inputs, self._profile, self._threads, self.coverage)
        export_model(self._executable, Path(path), description)


def compile_model(
    model: Any,
    example_inputs: Sequence[Any] = (),
    *,
    log: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    dynamic_shapes: Any = None,
) -> CompiledModel:
    """Compile a PyTorch model for this CPU with the kernels of a tuning log.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` in evaluation mode, a ``torch.export.ExportedProgram``, or a Relax
        module with a function ``main``.
    example_inputs
        Positional inputs of the shapes and types to compile for.
    log
        Tuning log; without one every product gets its template's default.
    threads
        Threads to compile for and run with; by default all physical cores. TVM's pool takes its
        size from ``TVM_NUM_THREADS`` at its first use in a process; it is set here if it is not.
    dynamic_shapes
        As for ``torch.export.export``.

    Raises
    ------
    AutotuneError
        If the model cannot be imported, or the log not read.
    """
    import tvm

    profile = resolve_target("cpu")
    threads = threads or profile.usable_threads
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    module = (
        model
        if isinstance(model, tvm.IRModule)
        else import_torch(model, example_inputs, dynamic_shapes)
    )
    chooser = Chooser(read_log(log), profile, threads)
    module = simplify(module)
    built = build(module, chooser, profile, threads)
    return CompiledModel(built, model_inputs(module), profile, threads)


def read_log(path: str | os.PathLike[str] | None) -> list[Record]:
    """Return the records of a log, none for None.

    Raises
    ------
    LogError
        If there is no such log.
    """
    if path is None:
        return []
    log = TuningLog(Path(path))
    if not log.path.exists():
        raise LogError(f"there is no log {path}; tune the model first, or leave the log out")
    return list(log.scan().records)


def model_inputs(module: Any) -> list[Input]:
    """Return shape and type of every input of ``main``; symbolic extents as their names."""
    return [
        (
            tuple(int(x) if hasattr(x, "value") else str(x) for x in parameter.ty.shape),
            str(parameter.ty.dtype),
        )
        for parameter in module["main"].params
    ]
