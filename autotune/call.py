"""Calls of compiled functions on the user's arrays, checked in about a microsecond.

TVM's functions take torch tensors and numpy arrays without a copy, and refuse what has another
shape, dtype, device or layout before they compute anything. What they do not look at is checked
here first; what they refuse is examined afterwards, to say what is wrong in the user's words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from autotune.errors import AutotuneError

#: Fresh numpy results start on a cache line: a few percent faster, and never needed.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Argument:
    """What one argument must be: a C-contiguous array of this shape and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        from autotune.kernels.verify import numpy_dtype

        return prod(self.shape) * int(numpy_dtype(self.dtype).itemsize)


class CheckedFunction:
    """A compiled function, called as ``(*inputs, out=None)``.

    Parameters
    ----------
    function
        TVM's function; its code may load and store at any address that suits the element type.
    inputs, output
        What it takes.
    """

    def __init__(self, function: Any, inputs: Sequence[Argument], output: Argument) -> None:
        self.function, self.inputs, self.output = function, tuple(inputs), output
        self._count = len(self.inputs)
        self._sizes = tuple(argument.size for argument in inputs)
        self._out_size = output.size

    def __call__(self, *inputs: Any, out: Any = None) -> Any:
        """Compute; returns ``out``, or a new array.

        A new array is a torch tensor if the first input is one, else a numpy array. torch's
        gradients are not recorded: call it under ``torch.no_grad()`` if an input requires one.

        Raises
        ------
        AutotuneError
            If there are too few or too many inputs, one has another shape, dtype, layout or device
            than the function was compiled for, requires a gradient, or ``out`` shares memory with
            an input.
        """
        if len(inputs) != self._count:
            names = ", ".join(argument.name for argument in self.inputs)
            raise AutotuneError(f"this kernel takes {names}; got {len(inputs)} arguments")
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(inputs[0], torch.Tensor):
            if out is None:
                dtype = getattr(torch, self.output.dtype)
                out = torch.empty(self.output.shape, dtype=dtype, device="cpu")
            # Written out rather than called: every call costs as much as a check.
            try:
                start = out.data_ptr()
                end = start + self._out_size
                grad = torch.is_grad_enabled()
                fine = not (grad and out.requires_grad)
                for value, size in zip(inputs, self._sizes):  # noqa: B905 (as many, see above)
                    address = value.data_ptr()
                    if address < end and start < address + size or grad and value.requires_grad:
                        fine = False
                if fine:
                    self.function(*inputs, out)
                    return out
            except Exception:  # whatever it is, the careful call finds it again and says what
                pass
        else:
            if out is None:
                out = aligned_empty(self.output.shape, self.output.dtype)
            if self._numpy_call(inputs, out):
                return out
        self._careful_call(inputs, out)
        return out

    def _numpy_call(self, inputs: tuple[Any, ...], out: Any) -> bool:
        """Call it with numpy arrays that are as they should be; False if they are not."""
        import numpy as np

        if type(out) is not np.ndarray:
            return False
        for value in inputs:
            if type(value) is not np.ndarray or np.may_share_memory(value, out):
                return False
        try:
            self.function(*inputs, out)
        except Exception:
            return False
        return True

    def _careful_call(self, inputs: tuple[Any, ...], out: Any) -> None:
        views = [
            _view(value, argument) for value, argument in zip(inputs, self.inputs, strict=True)
        ]
        result = _view(out, self.output, written=True)
        start, end = result.data_ptr(), result.data_ptr() + self._out_size
        for view, size, argument in zip(views, self._sizes, self.inputs, strict=True):
            if view.data_ptr() < end and start < view.data_ptr() + size:
                raise AutotuneError(
                    f"{self.output.name} shares memory with {argument.name}, which is read while it"
                    " is written; give it memory of its own"
                )
        try:
            self.function(*views, result)
        except Exception as error:
            raise AutotuneError(f"the compiled kernel failed: {error}") from error


def _view(value: Any, argument: Argument, written: bool = False) -> Any:
    """Return TVM's view of an array, which must be what ``argument`` says."""
    refuse_gradients(value, argument.name)
    try:
        tensor = _from_dlpack(value, written)
    except Exception as error:  # each kind of array has errors of its own
        reason = str(error).partition("\n")[0]
        raise AutotuneError(
            f"{argument.name} must be a C-contiguous array on the CPU"
            f"{', that can be written to' if written else ''}: {reason or type(error).__name__}"
        ) from None
    shape, dtype, device = tuple(tensor.shape), str(tensor.dtype), str(tensor.device)
    if (shape, dtype) != (argument.shape, argument.dtype):
        raise AutotuneError(
            f"{argument.name} must have shape {argument.shape} and dtype {argument.dtype}, not"
            f" {shape} and {dtype}"
        )
    if device.partition(":")[0] != "cpu":
        raise AutotuneError(f"{argument.name} must be on the CPU, not on {device}")
    return tensor


def refuse_gradients(value: Any, name: str) -> None:
    """Raise for a torch tensor of which a result would have a gradient, which is never recorded."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return
    if value.requires_grad and torch.is_grad_enabled():
        raise AutotuneError(
            f"{name} requires a gradient, and compiled code records none: call it under"
            " torch.no_grad(), or pass the detached tensor"
        )


def _from_dlpack(value: Any, written: bool) -> Any:
    """Return TVM's view of an array, also where NumPy refuses to lend it.

    NumPy lends no arrays that are read-only, and none of bf16. Inputs are only read, and bf16 goes
    by its bits.
    """
    import numpy as np
    from tvm_ffi import from_dlpack

    if not isinstance(value, np.ndarray):
        return from_dlpack(value, require_contiguous=True)
    if not value.flags.c_contiguous:
        raise ValueError(f"its strides are {value.strides}")
    narrow = value.dtype.name == "bfloat16"
    plain = value.view(np.uint16) if narrow else value
    if not written and not plain.flags.writeable:
        plain = _readable(plain)
    return from_dlpack(_Bfloat16(plain) if narrow else plain, require_contiguous=True)


class _Bfloat16:
    """Lends a uint16 array as one of bf16, by writing that into the description that NumPy made."""

    #: Offset in bytes of a DLManagedTensor's type code, and what it is for bf16; see dlpack.h.
    _CODE_AT, _CODE = 20, 4

    def __init__(self, bits: Any) -> None:
        self._bits = bits

    def __dlpack__(self, **_: Any) -> Any:
        import ctypes

        capsule = self._bits.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        managed = pointer(capsule, b"dltensor")
        ctypes.c_uint8.from_address(managed + self._CODE_AT).value = self._CODE
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._bits.__dlpack_device__()


def _readable(array: Any) -> Any:
    """Return an array of the same memory that does not say that it is read-only."""
    import ctypes

    import numpy as np

    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    twin = np.frombuffer(memory, dtype=array.dtype).reshape(array.shape)
    memory._owner = array  # keeps the memory as long as the twin is there
    return twin


def aligned_empty(shape: tuple[int, ...], dtype: str) -> Any:
    """Return an uninitialised C-contiguous numpy array that starts on a cache line."""
    import numpy as np

    from autotune.kernels.verify import numpy_dtype

    element = numpy_dtype(dtype)
    size = prod(shape) * element.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size].view(element).reshape(shape)
