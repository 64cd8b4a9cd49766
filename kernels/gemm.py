"""The GEMM as an unscheduled PrimFunc: what every template starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Name of the block that holds the multiply-accumulate; templates look it up by this name.
MATMUL_BLOCK = "matmul"


def gemm_prim_func(workload: Gemm) -> Any:
    """Return ``main(A, B[, bias][, residual], C)`` as a ``tvm.tirx.PrimFunc`` with plain loops.

    A and B have the stored shapes of the workload; the epilogue follows as further blocks, so that
    a template schedules the same structure whether or not there is one.
    """
    from tvm import te

    a = te.placeholder(workload.a_shape, workload.dtype, name="A")
    b = te.placeholder(workload.b_shape, workload.dtype, name="B")
    k = te.reduce_axis((0, workload.k), "k")
    acc = workload.acc_dtype

    def product(*indices: Any) -> Any:
        *batch, i, j = indices
        of_a = () if workload.shared == "a" else batch
        of_b = () if workload.shared == "b" else batch
        x = a[(*of_a, i, k)] if workload.layout[0] == "n" else a[(*of_a, k, i)]
        y = b[(*of_b, k, j)] if workload.layout[1] == "n" else b[(*of_b, j, k)]
        return te.sum(x.astype(acc) * y.astype(acc), axis=k)

    return with_epilogue(workload, [a, b], te.compute(workload.c_shape, product, name=MATMUL_BLOCK))


def with_epilogue(
    workload: Gemm,
    inputs: list[Any],
    stage: Any,
    shape: tuple[int, ...] | None = None,
    place: Callable[..., Any] = lambda *at: at,
) -> Any:
    """Return the PrimFunc of a product that ``stage`` holds, with the epilogue's blocks after it.

    Parameters
    ----------
    inputs
        Placeholders of the operands; the function's parameters are these, the bias and the residual
        if there are such, and C.
    stage
        The product, a tensor of C's shape in the accumulator's type.
    shape, place
        Where the stage is of another shape, its shape, that of C then too; and the place of one of
        its elements in the matrices.
    """
    from tvm import te

    acc, out, args = workload.acc_dtype, workload.out_dtype, list(inputs)
    shape = shape or workload.c_shape

    def after(source: Any, value: Any, name: str) -> Any:
        return te.compute(shape, lambda *at: value(source[at], place(*at)), name=name)

    if workload.scale != 1:
        stage = after(stage, lambda x, at: x * te.const(workload.scale, acc), "scale")
    if workload.has_bias:
        bias = te.placeholder(workload.bias_shape, out, name="bias")
        args.append(bias)

        def addend(at: Any) -> Any:
            return bias[at[-2], 0] if workload.has_row_bias else bias[at[-1]]

        stage = after(stage, lambda x, at: x + addend(at).astype(acc), "add_bias")
    if workload.has_residual:
        residual = te.placeholder(workload.c_shape, out, name="residual")
        args.append(residual)
        stage = after(stage, lambda x, at: x + residual[at].astype(acc), "add_residual")
    if workload.activation:
        stage = after(
            stage, lambda x, at: activated(workload.activation, x, acc), workload.activation
        )
    if out != acc:
        stage = after(stage, lambda x, at: x.astype(out), "cast")
    return te.create_prim_func([*args, stage])


def _as_it_is(x: Any) -> Any:
    return x


def activated(activation: str, x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    """Return the expression of an activation.

    Parameters
    ----------
    activation
        One of :data:`autotune.workload.ACTIVATIONS`, or empty for none.
    x, dtype
        A sum, or a vector of them, and the type of one.
    bind
        Gives an expression a name. Those that are used several times are given to it: where
        statements can stand in between, the whole does not grow with each use.
    """
    if not activation:
        return x
    if activation == "relu":
        return relu(x, dtype)
    function = {"gelu": gelu, "silu": silu, "gelu_tanh": gelu_tanh}[activation]
    return function(bind(x), dtype, bind)


def relu(x: Any, dtype: str) -> Any:
    """Return ``max(x, 0)``, and NaN for NaN: TVM's max is its second unless the first exceeds."""
    from tvm import te

    return te.max(te.const(0, dtype), x)


def gelu(x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    """Exact GELU, ``x * Phi(x)``."""
    from tvm import te

    half, inv_sqrt2 = te.const(0.5, dtype), te.const(0.7071067811865476, dtype)
    return half * x * (te.const(1.0, dtype) + _erf(x * inv_sqrt2, dtype, bind))


def silu(x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    """SiLU or swish, ``x / (1 + exp(-x))``; NaN for minus infinity, as torch's."""
    from tvm import te

    return x / (te.const(1.0, dtype) + _exp(te.const(0.0, dtype) - x, dtype, bind))


def gelu_tanh(x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    """GELU by tanh, ``x / 2 (1 + tanh(y))`` with ``y = sqrt(2 / pi) (x + 0.044715 x^3)``.

    Computed as ``x / (1 + exp(-2 y))``, which is the same and loses no digits where x is negative.
    """
    from tvm import te

    def number(value: float) -> Any:
        return te.const(value, dtype)

    twice = x * (number(1.5957691216057308) + number(0.07135481282636602) * (x * x))
    return x / (number(1.0) + _exp(number(0.0) - twice, dtype, bind))


#: exp(x) = 1 + x + x^2 P(x) on [-ln 2 / 2, ln 2 / 2], highest power first: Cephes' expf.
_EXP_P = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
#: ln 2 in two parts, of which the first has so few bits that its small multiples are exact.
_LN2 = (0.693359375, -2.12194440e-4)
#: Below the first exp is taken for it, which 1 + exp does not see; above the second it is infinite.
_EXP_RANGE = (-80.0, 88.8)


def _exp(x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    """Exponential within 2e-7, relative, of what is at least exp(-80); x NaN gives a number.

    After Cephes (Moshier, 1984-2000): LLVM has no vector exp, and libm's costs more than the
    product. Infinite where exp(x) exceeds float32.
    """
    from tvm import te, tirx

    def number(value: float) -> Any:
        return te.const(value, "float32")

    def integer(value: int) -> Any:
        return te.const(value, "int32")

    # TVM's max is its second unless the first exceeds: NaN becomes a number, which int32 needs.
    x = x.astype(_like(x, "float32"))
    x = bind(te.min(te.max(x, number(_EXP_RANGE[0])), number(_EXP_RANGE[1])))
    whole = bind(te.floor(x * number(1.4426950408889634) + number(0.5)))
    part = bind(x - whole * number(_LN2[0]) - whole * number(_LN2[1]))
    value = number(_EXP_P[0])
    for coefficient in _EXP_P[1:]:
        value = value * part + number(coefficient)
    value = value * (part * part) + part + number(1.0)
    # 2^whole by its bits, half of it because whole can be 128, which has none.
    exponent = whole.astype(_like(x, "int32")) + integer(126)
    half = tirx.reinterpret(_like(x, "float32"), exponent << integer(23))
    return (value * half * number(2.0)).astype(_like(x, dtype))


def _like(x: Any, dtype: str) -> str:
    """Return an element type with as many lanes as an expression has."""
    lanes = x.expr_ty().dtype.lanes
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


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


def _erf(x: Any, dtype: str, bind: Callable[[Any], Any] = _as_it_is) -> Any:
    from tvm import te

    x = bind(te.max(te.min(x, te.const(4.0, dtype)), te.const(-4.0, dtype)))
    square = bind(x * x)

    def horner(coefficients: tuple[float, ...]) -> Any:
        value = te.const(coefficients[0], dtype)
        for coefficient in coefficients[1:]:
            value = value * square + te.const(coefficient, dtype)
        return value

    return x * horner(_ERF_P) / horner(_ERF_Q)
