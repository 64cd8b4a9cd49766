"""A compiled model: a callable on tensors, its coverage by the log, and its export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, LogError
from autotune.hw_profiles import cuda_arch, resolve_target
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
    """A compiled model: called with tensors, it returns tensors.

    One for a GPU can be made and exported on a machine without one; calling it there is an error.

    Attributes
    ----------
    coverage
        Which products of the model run on which kernel, and why.
    """

    def __init__(
        self,
        built: Built,
        inputs: Sequence[Input],
        profile: HardwareProfile,
        threads: int,
        target: str = "cpu",
    ) -> None:
        self.coverage = Coverage.of(built)
        self._code = built.code
        self._profile, self._threads = profile, threads
        if profile.kind == "cuda":
            super().__init__(self._started_on_gpu, inputs, gpu_of(target))
        else:
            main = self._started("cpu")
            super().__init__(lambda: main, inputs)

    def _started(self, device: str) -> Any:
        """Return ``main``, with all constants on the device."""
        import tvm
        from tvm import relax

        self._vm = relax.VirtualMachine(self._code.executable, tvm.runtime.device(device))
        return self._vm["main"]

    def _started_on_gpu(self) -> Any:
        """Return ``main`` as the first call does: only then is a GPU needed."""
        from autotune.deploy.gpu import import_code, require_gpu

        require_gpu(self._profile.name, cuda_arch(self._profile), self.device)
        import_code(self._code.host, [code.to_bytes() for code in self._code.device])
        return self._started(self.device)

    def profile(self, repeats: int = 10) -> dict[str, float]:
        """Return the seconds of one call by function, medians over some calls on random inputs.

        Raises
        ------
        AutotuneError
            If an input has an extent that is only known at run time, or the model is for a GPU,
            where calls return before the work is done.
        """
        from autotune.models.profiling import profile, random_inputs

        if self._profile.kind != "cpu":
            raise AutotuneError("only models for a CPU are timed by function; use NVIDIA's nsys")
        return profile(self._code.executable, random_inputs(self.inputs), repeats)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a shared library, for :func:`autotune.load_model`.

        That of a model for a GPU holds machine code, so that it needs no compiler where it runs.

        Raises
        ------
        AutotuneError
            If there is no C compiler, or the file cannot be written.
        """
        from autotune.models.deploy import describe, export_model

        description = describe(self.inputs, self._profile, self._threads, self.coverage)
        export_model(self._code, Path(path), description)


def gpu_of(target: str) -> str:
    """Return the device that a target means: a GPU by name is run on the first one."""
    number = target.partition(":")[2]
    return f"cuda:{number if number.isdecimal() else 0}"


def compile_model(
    model: Any,
    example_inputs: Sequence[Any] = (),
    *,
    target: str = "cpu",
    log: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    dynamic_shapes: Any = None,
) -> CompiledModel:
    """Compile a PyTorch model with the kernels of a tuning log.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` in evaluation mode, a ``torch.export.ExportedProgram``, or a Relax
        module with a function ``main``.
    example_inputs
        Positional inputs of the shapes and types to compile for.
    target
        ``cpu`` for this machine; ``cuda`` or ``cuda:1`` for a GPU of this machine; ``cuda:h200``
        for one by name, which need not be here. Then torch tensors on that GPU are what the result
        takes and returns.
    log
        Tuning log; without one every product gets its template's default.
    threads
        Threads to compile for and run with; by default all physical cores. TVM's pool takes its
        size from ``TVM_NUM_THREADS`` at its first use in a process; it is set here if it is not.
        For CPUs only.
    dynamic_shapes
        As for ``torch.export.export``.

    Raises
    ------
    AutotuneError
        If the model cannot be imported, the log not read, or a kernel not compiled.
    UnsupportedTarget
        If there is no such device, or for a GPU no CUDA compiler.
    """
    import tvm

    profile = resolve_target(target)
    if profile.kind == "cpu":
        threads = threads or profile.usable_threads
        os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    elif threads not in (None, 1):
        raise AutotuneError("threads is for CPUs; leave it out for a GPU")
    threads = threads or 1
    module = (
        model
        if isinstance(model, tvm.IRModule)
        else import_torch(model, example_inputs, dynamic_shapes)
    )
    chooser = Chooser(read_log(log), profile, threads)
    module = simplify(module)
    built = build(module, chooser, profile, threads)
    return CompiledModel(built, model_inputs(module), profile, threads, target)


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
