"""Use a tuned kernel from Python: the logged winner, compiled in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, LogError
from autotune.hw_profiles import resolve_target, tvm_target
from autotune.identity import target_json, target_key
from autotune.kernels.base import AUTO, choose_template
from autotune.log import Tier, TuningLog, lookup

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.base import Template
    from autotune.log import Hit
    from autotune.search.space import Config
    from autotune.workload import Gemm

#: Compiled code loads and stores whole cache lines of its arguments.
_ALIGNMENT = 64


def find_tuned(
    log: TuningLog,
    workload: Gemm,
    profile: HardwareProfile,
    threads: int,
    template: Template,
    cache: str = "hot",
) -> tuple[Hit, Config]:
    """Return the log's winner for exactly this workload on this hardware, tuned with this cache.

    Raises
    ------
    AutotuneError
        If the log has none; the message says what it has, and how to make one.
    """
    if not log.path.exists():
        raise LogError(f"there is no log {log.path}; run autotune gemm first, or give --log")
    hit = lookup(
        log.scan().records,
        workload,
        target_key(profile, threads, cache),
        {"name": template.name, "version": template.version},
        target=target_json(profile, threads, cache),
    )
    if hit.tier is not Tier.EXACT or hit.config is None:
        raise AutotuneError(
            f"{log.path} has no result for {workload.key} with {threads} thread(s) on this machine"
            f" ({hit.note}); run autotune gemm with the same options first"
        )
    return hit, template.space(workload, profile, threads).config_from_json(hit.config)


class Kernel:
    """A compiled product, called as ``kernel(a, b[, bias][, residual], out=None)``.

    Arguments are C-contiguous arrays on the CPU of the workload's stored shapes and dtypes, numpy's
    or any that speaks DLPack (torch). Inputs that are not aligned to 64 bytes are copied first.
    For a prepacked workload, b is what :meth:`pack` returned.
    """

    def __init__(
        self,
        workload: Gemm,
        function: Any,
        pack: Any = None,
        packed_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.workload = workload
        self._function = function
        self._pack, self._packed_shape = pack, packed_shape
        self._inputs = list(workload.inputs)
        if packed_shape is not None:
            self._inputs[1] = ("b", packed_shape, workload.dtype)

    def __call__(self, *inputs: Any, out: Any = None) -> Any:
        """Compute the product; returns ``out``, or a new numpy array of C's shape.

        Raises
        ------
        AutotuneError
            If an argument has another shape, dtype or layout than the kernel was compiled for, or
            ``out`` is not aligned to 64 bytes.
        """
        if len(inputs) != len(self._inputs):
            names = ", ".join(name for name, _, _ in self._inputs)
            raise AutotuneError(f"this kernel takes {names}; got {len(inputs)} arguments")
        tensors = [
            self._tensor(name, value, shape, dtype)
            for (name, shape, dtype), value in zip(self._inputs, inputs, strict=True)
        ]
        shape = self.workload.c_shape
        result = _aligned_empty(shape, self.workload.out_dtype) if out is None else out
        tensors.append(
            self._tensor("out", result, shape, self.workload.out_dtype, copy_allowed=False)
        )
        self._function(*tensors)
        return result

    def pack(self, b: Any) -> Any:
        """Return B, of its stored shape, in the order in which this kernel reads it.

        The result is a numpy array for this kernel only: another config packs otherwise.

        Raises
        ------
        AutotuneError
            If the workload is not prepacked, or ``b`` has another shape, dtype or layout.
        """
        if self._packed_shape is None:
            raise AutotuneError("this kernel takes b as it is; only prepacked workloads pack it")
        packed = _aligned_empty(self._packed_shape, self.workload.dtype)
        source = self._tensor("b", b, self.workload.b_shape, self.workload.dtype)
        self._pack(source, self._tensor("packed", packed, self._packed_shape, self.workload.dtype))
        return packed

    def _tensor(
        self,
        name: str,
        value: Any,
        shape: tuple[int, ...],
        dtype: str,
        copy_allowed: bool = True,
    ) -> Any:
        try:
            tensor = _from_dlpack(value)
        except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
            raise AutotuneError(f"{name} must be a contiguous array on the CPU: {error}") from None
        if tuple(tensor.shape) != shape or str(tensor.dtype) != dtype:
            raise AutotuneError(
                f"{name} must have shape {shape} and dtype {dtype}, not {tuple(tensor.shape)} and"
                f" {tensor.dtype}"
            )
        if tensor.data_ptr() % _ALIGNMENT == 0:
            return tensor
        if not copy_allowed:
            raise AutotuneError(
                f"{name} must be aligned to {_ALIGNMENT} bytes; leave it out to get a new array"
            )
        copy = _aligned_empty(shape, dtype)
        copied = _from_dlpack(copy)
        tensor.copyto(copied)
        return copied


def load_kernel(
    log: str | os.PathLike[str],
    workload: Gemm,
    *,
    threads: int | None = None,
    template: str = AUTO,
) -> Kernel:
    """Compile the logged winner of a workload for this machine.

    Parameters
    ----------
    log
        Path of a tuning log.
    workload
        What was tuned.
    template
        What it was tuned with; "auto" is what ``autotune gemm`` takes by itself.
    threads
        Thread count that it was tuned for; by default all physical cores. TVM's pool takes its
        size from ``TVM_NUM_THREADS`` at its first use in a process; it is set here if it is not.

    Raises
    ------
    AutotuneError
        If the log has no result for exactly this workload, hardware and thread count.
    """
    profile = resolve_target("cpu")
    threads = threads or profile.usable_threads
    chosen = choose_template(template, workload, profile)
    _, config = find_tuned(TuningLog(Path(log)), workload, profile, threads, chosen)
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    import tvm

    chosen.prepare(config)
    module = chosen.build(workload, config)
    library = tvm.compile(module, target=tvm.target.Target(tvm_target(profile, threads)))
    if workload.prepacked:
        shape = chosen.packed_shape(workload, config)
        return Kernel(workload, library["main"], library["pack"], shape)
    return Kernel(workload, library["main"])


def _from_dlpack(value: Any) -> Any:
    """Return TVM's view of an array; NumPy's bf16 arrays, which DLPack refuses, by their bits."""
    import numpy as np
    from tvm_ffi import from_dlpack

    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        bits = from_dlpack(value.view(np.uint16), require_contiguous=True)
        return bits._create_view(value.shape, "bfloat16")
    return from_dlpack(value, require_contiguous=True)


def _aligned_empty(shape: tuple[int, ...], dtype: str) -> Any:
    """Return an uninitialised C-contiguous numpy array that starts on a cache line."""
    import numpy as np

    from autotune.kernels.verify import numpy_dtype

    element = numpy_dtype(dtype)
    size = int(np.prod(shape)) * element.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size].view(element).reshape(shape)
