"""Kernels of chosen configs as functions of a module, and constant operands packed for them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.hw_profiles import tvm_target
from autotune.kernels.compiling import compile_module
from autotune.models.built_kernel import BuiltKernel

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.models.choose import Choice
    from autotune.workload import Gemm


class Packer:
    """Builds each chosen kernel once, and packs each constant once per kernel.

    Packing is done here, while compiling, by the kernel's own packing function.
    """

    def __init__(self, profile: HardwareProfile, threads: int) -> None:
        self.profile, self.threads = profile, threads
        self._kernels: dict[tuple[str, str, str, str], BuiltKernel] = {}
        self._pack: dict[str, Any] = {}
        self._packed: dict[tuple[str, tuple[int, ...], Any], Any] = {}

    def kernel(
        self, choice: Choice, any_rows: bool = False, any_batch: bool = False
    ) -> BuiltKernel:
        """Return the function of a choice, named after what it computes.

        With ``any_rows`` its A and C may have any number of rows, with ``any_batch`` there may be
        any number of products.
        """
        free = "m" if any_rows else "batch" if any_batch else ""
        key = (choice.workload.key, choice.template.name, choice.config.key, free)
        if key not in self._kernels:
            workload = with_any(free, choice.workload) if free else choice.workload
            module = choice.template.build(workload, choice.config)
            name = self._name(choice, free)
            self._kernels[key] = BuiltKernel.of(name, module, choice.workload.prepacked)
        return self._kernels[key]

    def packed(self, choice: Choice, constant: Any, any_rows: bool = False) -> Any:
        """Return a Relax constant that holds ``constant``, of B's stored shape, as packed."""
        import tvm
        from tvm import relax

        kernel = self.kernel(choice, any_rows)
        shape = choice.template.packed_shape(choice.workload, choice.config)
        # One template packs alike for all its kernels that want this shape.
        key = (choice.template.name, shape, constant)
        if key not in self._packed:
            if kernel.name not in self._pack:
                target = tvm.target.Target(tvm_target(self.profile, self.threads))
                module = tvm.IRModule({"pack": kernel.pack})
                self._pack[kernel.name] = compile_module(module, target)["pack"]
            source = constant.value
            stored = source._create_view(choice.workload.b_shape)
            packed = tvm.runtime.empty(shape, choice.workload.dtype)
            self._pack[kernel.name](stored, packed)
            self._packed[key] = relax.const(packed)
        return self._packed[key]

    def transposed(self, constant: Any) -> Any:
        """Return a Relax constant that holds a constant with its last two axes swapped."""
        from tvm import relax

        values = constant.value.numpy()
        return relax.const(np.ascontiguousarray(values.swapaxes(-1, -2)))

    def _name(self, choice: Choice, free: str) -> str:
        w = choice.workload
        rows = f"about{w.m}" if free == "m" else str(w.m)
        batch = "bany" if free == "batch" else f"b{w.batch}"
        parts = ["gemm", *([batch] if w.batch > 1 else []), f"{rows}x{w.n}x{w.k}", w.layout]
        if w.dtype != "float32":
            parts.append(w.dtype)
        if w.shared:
            parts.append(f"one_{w.shared}")
        if w.epilogue != "none":
            parts.append(w.epilogue)
        if w.prepacked:
            parts.append("packed")
        name, taken = "_".join(parts), {kernel.name for kernel in self._kernels.values()}
        number = 1
        while name in taken:
            number += 1
            name = "_".join([*parts, str(number)])
        return name


def with_any(extent: str, workload: Gemm) -> Gemm:
    """Return a workload that stands for any ``"m"`` or ``"batch"``, for a template's ``build``.

    That is a variable of TVM rather than a number, so that it has no key and no operations.
    """
    from tvm import tirx

    changed = copy.copy(workload)
    object.__setattr__(changed, extent, tirx.Var(extent, "int64"))
    return changed
