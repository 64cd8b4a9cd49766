"""The operations after a product that a kernel can take over while it stores its result."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.errors import InvalidWorkload
from autotune.models.expressions import dtype_of, extents, is_constant, operator_name
from autotune.workload import EPILOGUES, Gemm

if TYPE_CHECKING:
    from autotune.models.bindings import Bindings

_ACTIVATIONS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
}
_FOLLOWING = {*_ACTIVATIONS, "relax.multiply", "relax.divide", "relax.add"}


@dataclass(frozen=True)
class Chain:
    """A product and what follows it.

    Parameters
    ----------
    workload
        What is computed, as :attr:`autotune.models.sites.Site.workload`.
    last
        The variable that holds the result.
    absorbed
        Variables of the operations before.
    bias, residual
        What the operations read besides; None where they do not.
    """

    workload: Gemm
    last: Any
    absorbed: tuple[Any, ...] = ()
    bias: Any = None
    residual: Any = None

    def extended(self, bindings: Bindings, taken: set[Any]) -> Chain | None:
        """Return the chain with the only operation that uses its result, None if no kernel has it.

        ``taken`` are results of operations that another chain has.
        """
        result = bindings.only_user(self.last)
        if result is None or result in taken:
            return None
        value = bindings.value[result]
        name = operator_name(value)
        if name not in _FOLLOWING or _shape_and_type(result) != _shape_and_type(self.last):
            return None
        if name in _ACTIVATIONS:
            return self._step(result, _ACTIVATIONS[name])
        if name in ("relax.multiply", "relax.divide"):
            return self._scaled(result, value, name == "relax.divide")
        return self._sum(result, value)

    def _with(self, result: Any, workload: Gemm, **operands: Any) -> Chain:
        absorbed = (*self.absorbed, self.last)
        return replace(self, workload=workload, last=result, absorbed=absorbed, **operands)

    def _step(self, result: Any, step: str, **operands: Any) -> Chain | None:
        """Return the chain with one more step of an epilogue, None if no kernel has that."""
        w = self.workload
        epilogue = step if w.epilogue == "none" else f"{w.epilogue}_{step}"
        if epilogue not in EPILOGUES:
            return None
        return self._with(result, replace(w, epilogue=epilogue), **operands)

    def _scaled(self, result: Any, value: Any, divided: bool) -> Chain | None:
        left, right = value.args
        other = right if left.same_as(self.last) else left
        factor = _scalar(other)
        w = self.workload
        if factor is None or w.epilogue != "none" or not w.dtype.startswith(("float", "bfloat")):
            return None
        if divided and (factor == 0 or other is not right):
            return None
        try:
            scaled = replace(w, scale=w.scale / factor if divided else w.scale * factor)
        except (InvalidWorkload, TypeError):
            return None
        return self._with(result, scaled)

    def _sum(self, result: Any, value: Any) -> Chain | None:
        left, right = value.args
        other = right if left.same_as(self.last) else left
        if other.same_as(self.last) or dtype_of(other) != self.workload.out_dtype:
            return None
        shape, whole = extents(other), extents(self.last)
        if _is_of_columns(shape, whole, self.workload.n):
            return self._step(result, "bias", bias=other)
        if shape == whole:
            return self._step(result, "residual", residual=other)
        if _is_of_rows(shape, whole, self.workload):
            return self._step(result, "rowbias", bias=other)
        return None


def _is_of_columns(shape: list[Any], whole: list[Any], n: int) -> bool:
    """Whether a tensor of a shape holds a number for each column of a product of shape ``whole``.

    Its last axes are the columns, flattened.
    """
    columns = list(itertools.dropwhile(lambda extent: extent == 1, shape))
    return bool(shape) and columns == whole[len(whole) - len(columns) :] and _elements(columns) == n


def _is_of_rows(shape: list[Any], whole: list[Any], workload: Gemm) -> bool:
    """Whether it holds a number for each row: those of a batch of products have the same ones."""
    if workload.m == 1:
        return False
    rows = list(itertools.dropwhile(lambda extent: extent == 1, shape))
    count = len(list(itertools.takewhile(lambda extent: extent == 1, reversed(rows))))
    cut = len(whole) - count
    return (
        _elements(whole[cut:]) == workload.n
        and rows[: len(rows) - count] == whole[len(whole) - len(rows) : cut]
        and _elements(rows) == workload.m
    )


def _elements(extents: list[Any]) -> int:
    """Return how many elements axes have, 0 if one is only known at run time."""
    return math.prod(extents) if all(isinstance(extent, int) for extent in extents) else 0


def _shape_and_type(expr: Any) -> tuple[str, str]:
    return str(expr.ty.shape), dtype_of(expr)


def _scalar(expr: Any) -> float | None:
    """Return the value of a constant with one element."""
    if not is_constant(expr):
        return None
    value = expr.value.numpy()
    return float(value.reshape(())) if value.size == 1 else None
