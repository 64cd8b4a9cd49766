"""What a kernel does to an accumulator before it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.kernels.gemm import activated

if TYPE_CHECKING:
    from autotune.workload import Gemm


def finish(workload: Gemm, value: Any, bias: Any, residual: Any = None) -> Any:
    """Return the expression of one element of C: factor, bias, residual, activation, conversion.

    Parameters
    ----------
    workload
        Says which epilogue, and the types.
    value
        The accumulator, an expression of the workload's ``acc_dtype``.
    bias
        The element of the bias vector, or None where the workload has none.
    residual
        The element of the matrix that is added, likewise.
    """
    from tvm import tirx

    acc = workload.acc_dtype
    if workload.scale != 1:
        value = value * tirx.const(workload.scale, acc)
    if workload.has_bias:
        value = value + bias.astype(acc)
    if workload.has_residual:
        value = value + residual.astype(acc)
    value = activated(workload.activation, value, acc)
    return value if workload.out_dtype == acc else value.astype(workload.out_dtype)


def bias_at(workload: Gemm, bias: Any, row: Any, column: Any) -> Any:
    """Return the element of the bias, of columns or of rows, for one of C; None without a bias."""
    if not workload.has_bias:
        return None
    return bias[row, 0] if workload.has_row_bias else bias[column]
