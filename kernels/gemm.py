"""The GEMM as an unscheduled PrimFunc: what every template starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Name of the block that holds the multiply-accumulate; templates look it up by this name.
MATMUL_BLOCK = "matmul"


def gemm_prim_func(workload: Gemm) -> Any:
    """Return ``main(A, B[, bias], C)`` as a ``tvm.tirx.PrimFunc`` with plain loops.

    A and B have the stored shapes of the workload; the epilogue follows as further blocks, so that
    a template schedules the same structure whether or not there is one.
    """
    from tvm import te

    a = te.placeholder(workload.a_shape, workload.dtype, name="A")
    b = te.placeholder(workload.b_shape, workload.dtype, name="B")
    k = te.reduce_axis((0, workload.k), "k")
    acc = workload.acc_dtype

    def product(i: Any, j: Any) -> Any:
        x = a[i, k] if workload.layout[0] == "n" else a[k, i]
        y = b[k, j] if workload.layout[1] == "n" else b[j, k]
        return te.sum(x.astype(acc) * y.astype(acc), axis=k)

    return with_epilogue(
        workload, [a, b], te.compute((workload.m, workload.n), product, name=MATMUL_BLOCK)
    )


def with_epilogue(workload: Gemm, inputs: list[Any], stage: Any) -> Any:
    """Return the PrimFunc of a product that ``stage`` holds, with the epilogue's blocks after it.

    Parameters
    ----------
    inputs
        Placeholders of the operands; the function's parameters are these, the bias if there is
        one, and C.
    stage
        The product, a tensor of shape ``(m, n)`` in the accumulator's type.
    """
    from tvm import te

    shape, acc, args = (workload.m, workload.n), workload.acc_dtype, list(inputs)
    if workload.has_bias:
        bias = te.placeholder((workload.n,), workload.out_dtype, name="bias")
        args.append(bias)
        stage = _stage(shape, stage, lambda x, i, j: x + bias[j].astype(acc), "add_bias")
    if workload.epilogue.endswith("relu"):
        stage = _stage(shape, stage, lambda x, i, j: relu(x, acc), "relu")
    elif workload.epilogue.endswith("gelu"):
        stage = _stage(shape, stage, lambda x, i, j: gelu(x, acc), "gelu")
    if workload.out_dtype != acc:
        out = workload.out_dtype
        stage = _stage(shape, stage, lambda x, i, j: x.astype(out), "cast")
    return te.create_prim_func([*args, stage])


def _stage(shape: tuple[int, int], source: Any, value: Any, name: str) -> Any:
    from tvm import te

    return te.compute(shape, lambda i, j: value(source[i, j], i, j), name=name)


def relu(x: Any, dtype: str) -> Any:
    """Return ``max(x, 0)``, and NaN for NaN: TVM's max is its second unless the first exceeds."""
    from tvm import te

    return te.max(te.const(0, dtype), x)


def gelu(x: Any, dtype: str) -> Any:
    """Exact GELU, ``x * Phi(x)``."""
    from tvm import te

    half, inv_sqrt2 = te.const(0.5, dtype), te.const(0.7071067811865476, dtype)
    return half * x * (te.const(1.0, dtype) + _erf(x * inv_sqrt2, dtype))


#: erf(x) = x P(x^2) / Q(x^2) on [-4, 4], highest power first; within 5e-7 everywhere. The rational
#: approximation of Eigen and XLA: LLVM has no vector erf, and libm's costs more than the product.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _erf(x: Any, dtype: str) -> Any:
    from tvm import te

    x = te.max(te.min(x, te.const(4.0, dtype)), te.const(-4.0, dtype))
    square = x * x

    def horner(coefficients: tuple[float, ...]) -> Any:
        value = te.const(coefficients[0], dtype)
        for coefficient in coefficients[1:]:
            value = value * square + te.const(coefficient, dtype)
        return value

    return x * horner(_ERF_P) / horner(_ERF_Q)
