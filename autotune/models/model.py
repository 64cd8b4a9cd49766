"""A compiled model: a callable on tensors, its coverage by the log, and its export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.call import aligned_empty
from autotune.errors import AutotuneError, LogError
from autotune.hw_profiles import resolve_target
from autotune.log import TuningLog
from autotune.models.choose import Chooser
from autotune.models.coverage import Coverage
from autotune.models.importing import import_torch
from autotune.models.pipeline import Built, build, simplify

if TYPE_CHECKING:
    from autotune.log import Record

#: Compiled code loads and stores whole cache lines of its arguments.
_ALIGNMENT = 64


class CompiledModel:
    """A model compiled for this machine: called with tensors, it returns tensors.

    Inputs are torch tensors or NumPy arrays of the shapes and types that it was compiled for; they
    are not copied unless they are non-contiguous or not aligned to 64 bytes. Outputs are of the
    kind of the inputs.

    Attributes
    ----------
    coverage
        Which products of the model run on which kernel, and why.
    """

    def __init__(self, built: Built, inputs: Sequence[tuple[tuple[Any, ...], str]]) -> None:
        import tvm
        from tvm import relax

        self.coverage = Coverage.of(built)
        self.inputs = list(inputs)
        self._executable = built.executable
        self._machine = relax.VirtualMachine(built.executable, tvm.cpu())
        self._main = self._machine["main"]

    def __call__(self, *inputs: Any) -> Any:
        """Run the model.

        Raises
        ------
        AutotuneError
            If the inputs are not those that the model was compiled for.
        """
        try:
            return _finished(self._main(*[_ready(value) for value in inputs]))
        except Exception as error:  # TVM's checks raise several kinds
            raise self._explained(inputs, error) from error

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
        """Write a shared library that ``tvm.runtime.load_module`` and a Relax VM run."""
        self._executable.export_library(str(path))

    def _explained(self, inputs: Sequence[Any], error: Exception) -> Exception:
        """Return a clear error if the inputs are to blame, else the error itself."""
        if len(inputs) != len(self.inputs):
            return AutotuneError(f"this model takes {len(self.inputs)} inputs, not {len(inputs)}")
        for index, (value, (shape, dtype)) in enumerate(zip(inputs, self.inputs, strict=True)):
            given = getattr(value, "shape", None)
            kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
            fits = (
                given is not None
                and len(given) == len(shape)
                and all(
                    not isinstance(want, int) or want == have
                    for want, have in zip(shape, given, strict=True)
                )
            )
            if not fits or kind != dtype:
                have = f"{tuple(given) if given is not None else '?'} {kind}"
                return AutotuneError(f"input {index} must be {_text(shape)} {dtype}, not {have}")
        return error


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
    return CompiledModel(build(module, chooser, profile, threads), model_inputs(module))


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


def model_inputs(module: Any) -> list[tuple[tuple[Any, ...], str]]:
    """Return shape and type of every input of ``main``; symbolic extents as their names."""
    return [
        (
            tuple(int(x) if hasattr(x, "value") else str(x) for x in parameter.ty.shape),
            str(parameter.ty.dtype),
        )
        for parameter in module["main"].params
    ]


def _text(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(extent) for extent in shape) + ")"


def _ready(value: Any) -> Any:
    """Return an input as compiled code can read it: detached, contiguous, aligned."""
    if hasattr(value, "data_ptr"):  # torch
        if value.requires_grad:
            value = value.detach()
        if not value.is_contiguous():
            value = value.contiguous()
        return value.clone() if value.data_ptr() % _ALIGNMENT else value
    numpy = hasattr(value, "ctypes")
    if numpy and (value.ctypes.data % _ALIGNMENT or not value.flags.c_contiguous):
        copy = aligned_empty(value.shape, value.dtype.name)
        copy[...] = value
        return copy
    return value


def _finished(result: Any) -> Any:
    """Return TVM's tensors as NumPy arrays; torch's come as they are where inputs are torch's."""
    import numpy as np
    import tvm_ffi

    if isinstance(result, tvm_ffi.Tensor):
        return np.from_dlpack(result)
    if isinstance(result, tvm_ffi.Array):
        return tuple(_finished(item) for item in result)
    return result
