"""What a kernel does to an accumulator before it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.kernels.gemm import gelu

if TYPE_CHECKING:
    from autotune.workload import Gemm


def finish(workload: Gemm, value: Any, bias: Any) -> Any:
    """Return the expression of one element of C: bias, activation, conversion.

    Parameters
    ----------
    workload
        Says which epilogue, and the types.
    value
        The accumulator, an expression of the workload's ``acc_dtype``.
    bias
        The element of the bias vector, or None where the workload has none.
    """
    from tvm import tirx

    acc = workload.acc_dtype
    if workload.has_bias:
        value = value + bias.astype(acc)
    if workload.epilogue.endswith("relu"):
        value = tirx.max(value, tirx.const(0, acc))
    elif workload.epilogue.endswith("gelu"):
        value = gelu(value, acc)
    return value if workload.out_dtype == acc else value.astype(workload.out_dtype)
