"""Elementary functions that vectorise: LLVM would call libm once for every element.

Each is within 2e-6 of the exact value, relative, and treats infinities and NaN as libm does.
float64 is left to libm; the 16-bit types are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Degree 6 for exp on [-ln2/2, ln2/2], highest power first (Cephes, expf).
_EXP = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
#: ln 2 in two parts, so that n ln 2 is subtracted exactly.
_LN2_HIGH, _LN2_LOW, _LOG2_E = 0.693359375, -2.12194440e-4, 1.44269504088896341
#: exp(_EXP_LOW) is below half the least subnormal; exp(_EXP_HIGH) overflows.
_EXP_LOW, _EXP_HIGH = -104.0, 89.0

#: tanh x = x P(x^2) / Q(x^2) on [-7.9, 7.9], highest power first (Eigen, ptanh_float).
_TANH_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_Q = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_TANH_LIMIT, _TANH_IDENTITY = 7.90531110763549805, 4e-4


def vector_math(expression: Any) -> Any:
    """Return the expression without ``exp``, ``tanh``, ``erf``, ``sigmoid`` and simple powers.

    A constant operand of a maximum or minimum comes first, so that NaN passes through as in torch:
    TVM's maximum is its second operand unless the first exceeds it.
    """
    import tvm_ffi
    from tvm import ir, tirx

    def call(node: Any) -> Any:
        function = _FUNCTIONS.get(getattr(node.op, "name", ""))
        return node if function is None else function(node)

    def maximum(node: Any) -> Any:
        return tirx.Max(node.b, node.a) if isinstance(node.b, tirx.FloatImm) else node

    def minimum(node: Any) -> Any:
        return tirx.Min(node.b, node.a) if isinstance(node.b, tirx.FloatImm) else node

    callbacks = [(ir.Call, call), (tirx.Max, maximum), (tirx.Min, minimum)]
    return tvm_ffi.structural_map(expression, callbacks)


def _in_float32(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a rewriting of one-argument calls in terms of a float32 expression."""

    def rewrite(node: Any) -> Any:
        operand = node.args[0]
        dtype = str(operand.ty.dtype)
        if dtype == "float32":
            return function(operand)
        if dtype in ("float16", "bfloat16"):
            return function(operand.astype("float32")).astype(dtype)
        return node

    return rewrite


def _const(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32")


def _horner(x: Any, coefficients: tuple[float, ...]) -> Any:
    value = _const(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _const(coefficient)
    return value


def _clamp(x: Any, low: float, high: float) -> Any:
    from tvm import tirx

    return tirx.Max(_const(low), tirx.Min(_const(high), x))


def _exp(x: Any) -> Any:
    """``2^n exp(r)``; the power of two in two factors, for subnormal results and overflow."""
    from tvm import tirx

    x = _clamp(x, _EXP_LOW, _EXP_HIGH)
    n = tirx.nearbyint(x * _const(_LOG2_E))
    r = x - n * _const(_LN2_HIGH) - n * _const(_LN2_LOW)
    mantissa = _horner(r, _EXP) * (r * r) + r + _const(1.0)
    exponent = n.astype("int32")
    half = exponent >> tirx.const(1, "int32")

    def power(k: Any) -> Any:
        bits = (k + tirx.const(127, "int32")) << tirx.const(23, "int32")
        return tirx.reinterpret("float32", bits)

    return mantissa * power(half) * power(exponent - half)


def _tanh(x: Any) -> Any:
    from tvm import tirx

    bounded = _clamp(x, -_TANH_LIMIT, _TANH_LIMIT)
    square = bounded * bounded
    value = bounded * _horner(square, _TANH_P) / _horner(square, _TANH_Q)
    return tirx.Select(tirx.abs(x) < _const(_TANH_IDENTITY), x, value)


def _erf(x: Any) -> Any:
    from autotune.kernels.gemm import _ERF_P, _ERF_Q

    x = _clamp(x, -4.0, 4.0)
    square = x * x
    return x * _horner(square, _ERF_P) / _horner(square, _ERF_Q)


def _sigmoid(x: Any) -> Any:
    return _const(1.0) / (_const(1.0) + _exp(_const(0.0) - x))


def _power(node: Any) -> Any:
    """Squares, cubes and roots without ``pow``; other exponents stay."""
    from tvm import tirx

    x, exponent = node.args
    if not isinstance(exponent, tirx.FloatImm):
        return node
    simple: dict[float, Callable[[], Any]] = {
        1.0: lambda: x,
        2.0: lambda: x * x,
        3.0: lambda: x * x * x,
    }
    value = simple.get(float(exponent.value))
    return node if value is None else value()


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _in_float32(_exp),
    "tirx.tanh": _in_float32(_tanh),
    "tirx.erf": _in_float32(_erf),
    "tirx.sigmoid": _in_float32(_sigmoid),
    "tirx.pow": _power,
}
