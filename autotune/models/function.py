"""Calling a compiled model, without the compiler: inputs made ready, errors in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autotune.call import aligned_empty, refuse_gradients
from autotune.errors import AutotuneError

#: Shape and element type of an input; extents that are only known at run time are names.
Input = tuple[tuple[Any, ...], str]
#: Compiled code loads and stores whole cache lines of its arguments.
_ALIGNMENT = 64


class ModelFunction:
    """A function of tensors.

    Inputs are torch tensors or NumPy arrays of the shapes and types that it was compiled for; they
    are not copied unless they are non-contiguous or not aligned to 64 bytes. Outputs are of the
    kind of the inputs. A model for a GPU takes torch tensors that are on it, and its outputs are.

    Attributes
    ----------
    inputs
        Shape and type of each input.
    device
        Where inputs and outputs are: ``cpu``, ``cuda:0``, ...
    """

    def __init__(
        self, start: Callable[[], Any], inputs: Sequence[Input], device: str = "cpu"
    ) -> None:
        self._start = start
        self._main: Any = None
        self.inputs, self.device = list(inputs), device

    def __call__(self, *inputs: Any) -> Any:
        """Run the model.

        Raises
        ------
        AutotuneError
            If the inputs are not those that the model was compiled for, not where it runs, or want
            gradients.
        """
        if self._main is None:
            self._main = self._start()
        if self.device != "cpu" and (misplaced := self._misplaced(inputs)) is not None:
            raise misplaced
        ready = [_ready(value) for value in inputs]
        try:
            return _finished(self._main(*ready))
        except Exception as error:  # TVM's checks raise several kinds
            raise self._explained(inputs, error) from error

    def _misplaced(self, inputs: Sequence[Any]) -> AutotuneError | None:
        """Return an error if an input is elsewhere than the model."""
        for index, value in enumerate(inputs):
            where = _place(value)
            if where != self.device:
                return AutotuneError(
                    f"input {index} is on {where}, and this model runs on {self.device}; give it"
                    f" torch tensors that are there, such as x.to({self.device!r})"
                )
        return None

    def _explained(self, inputs: Sequence[Any], error: Exception) -> Exception:
        """Return a clear error if the inputs are to blame, else the error itself."""
        if len(inputs) != len(self.inputs):
            return AutotuneError(f"this model takes {len(self.inputs)} inputs, not {len(inputs)}")
        misplaced = self._misplaced(inputs)
        if misplaced is not None:
            return misplaced
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
                have = f"{_text(given) if given is not None else 'no array:'} {kind}"
                return AutotuneError(f"input {index} must be {_text(shape)} {dtype}, not {have}")
        return error


def _place(value: Any) -> str:
    """Return the device of a torch tensor; anything else is taken to be in the CPU's memory."""
    device = getattr(value, "device", None)
    kind = getattr(device, "type", "cpu")
    return f"{kind}:{device.index}" if kind == "cuda" and device is not None else str(kind)


def _text(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(str(extent) for extent in shape) + ")"


def _ready(value: Any) -> Any:
    """Return an input as compiled code can read it: detached, contiguous, aligned."""
    if hasattr(value, "data_ptr"):  # torch
        if value.requires_grad:
            refuse_gradients(value, "an input")
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
    import tvm_ffi

    if isinstance(result, tvm_ffi.Tensor):
        import numpy as np

        return np.from_dlpack(result)
    if isinstance(result, tvm_ffi.Array):
        return tuple(_finished(item) for item in result)
    return result
