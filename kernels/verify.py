"""Reference results and the tolerance that a candidate must meet.

Inputs are uniform in [-1, 1), so a partial sum of K products has standard deviation sqrt(K)/3 and
the rounding errors of a sequential sum in a type of machine epsilon e add up to about 0.07 e K; the
largest of the M*N errors is some five times that. The tolerance is a small multiple of it: a kernel
that leaves out one single k is off by a product of typical size 1/4, and fails even at K = 500,000
in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from autotune.workload import Gemm

#: Machine epsilon by type name; integers are exact.
EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e4m3fn": 2.0**-3,
    "tfloat32": 2.0**-10,
    "int32": 0.0,
    "int8": 0.0,
}
_DEFAULT_SEED = 20240117


@dataclass(frozen=True)
class Problem:
    """Inputs of one workload and its float64 result.

    ``a`` and ``b`` have the stored shapes of the workload, ``bias`` has shape ``(n,)`` or is None,
    ``residual`` has C's shape or is None; ``reference`` has C's shape and includes the epilogue.
    """

    a: NDArray[Any]
    b: NDArray[Any]
    bias: NDArray[Any] | None
    reference: NDArray[np.float64]
    residual: NDArray[Any] | None = None

    @property
    def inputs(self) -> list[NDArray[Any]]:
        """The kernel's input arguments in order."""
        return [x for x in (self.a, self.b, self.bias, self.residual) if x is not None]


def make_inputs(workload: Gemm, seed: int = _DEFAULT_SEED) -> list[NDArray[Any]]:
    """Return random A, B and, if the workload has them, bias and residual, in their own dtypes."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        if workload.dtype == "int8":
            return rng.integers(-127, 128, shape).astype(dtype)
        drawn = rng.uniform(-1.0, 1.0, shape).astype(numpy_dtype(dtype))
        return _tf32(drawn) if dtype == "tfloat32" else drawn

    return [draw(shape, dtype) for _, shape, dtype in workload.inputs]


def _tf32(x: NDArray[Any]) -> NDArray[Any]:
    """Round to what tf32 holds: whether a kernel rounds or cuts then makes no difference."""
    import numpy as np

    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype that holds an element type; tf32 is held as float32."""
    import numpy as np

    if name in ("bfloat16", "float8_e4m3fn"):
        import ml_dtypes  # noqa: F401 (NumPy knows the names from then on)
    return np.dtype("float32" if name == "tfloat32" else name)


def reference_result(workload: Gemm, inputs: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the result of the workload computed in float64, of C's shape."""
    import numpy as np

    a, b = (x.astype(np.float64) for x in inputs[:2])
    if workload.layout[0] == "t":
        a = a.swapaxes(-1, -2)
    if workload.layout[1] == "t":
        b = b.swapaxes(-1, -2)
    result: NDArray[np.float64] = a @ b
    if workload.scale != 1:
        result *= workload.scale
    for addend in inputs[2:]:  # bias and residual
        result += addend.astype(np.float64)
    _activate(workload.activation, result)
    return result


def _activate(activation: str, x: NDArray[np.float64]) -> None:
    """Apply an activation to x in place."""
    import numpy as np

    if activation == "relu":
        np.maximum(x, 0.0, out=x)
    elif activation == "gelu":
        x *= 0.5 * (1.0 + _erf(x * np.sqrt(0.5)))
    elif activation in ("silu", "gelu_tanh"):
        # (1 + tanh(y)) / 2 is 1 / (1 + exp(-2 y)), which keeps its digits where it is near zero.
        y = x if activation == "silu" else np.sqrt(8.0 / np.pi) * (x + 0.044715 * x**3)
        with np.errstate(over="ignore"):
            x /= 1.0 + np.exp(-y)


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import math

    import numpy as np

    values: NDArray[np.float64] = np.vectorize(math.erf, otypes=[np.float64])(x)
    return values


def make_problem(workload: Gemm, seed: int = _DEFAULT_SEED) -> Problem:
    """Return random inputs together with their float64 result."""
    inputs = make_inputs(workload, seed)
    return _problem(workload, inputs, reference_result(workload, inputs))


def _problem(workload: Gemm, inputs: list[NDArray[Any]], reference: NDArray[np.float64]) -> Problem:
    named = {name: x for (name, _, _), x in zip(workload.inputs, inputs, strict=True)}
    return Problem(named["a"], named["b"], named.get("bias"), reference, named.get("residual"))


def save_problem(path: Path, problem: Problem) -> None:
    """Write a problem to an ``.npz`` file. Of types that NumPy does not know the bits are kept."""
    import numpy as np

    named = {name: getattr(problem, name) for name in ("a", "b", "bias", "residual")}
    arrays = {name: x for name, x in named.items() if x is not None}
    bits = {
        k: x.view(f"u{x.dtype.itemsize}") if x.dtype.itemsize < 4 else x for k, x in arrays.items()
    }
    with open(path, "wb") as file:
        np.savez(file, reference=problem.reference, **bits)


def load_problem(path: str, workload: Gemm) -> Problem:
    """Read what :func:`save_problem` wrote for this workload."""
    import numpy as np

    with np.load(path) as data:
        inputs = [data[name].view(numpy_dtype(dtype)) for name, _, dtype in workload.inputs]
        return _problem(workload, inputs, data["reference"])


def tolerance(workload: Gemm) -> tuple[float, float]:
    """Return ``(absolute, relative)`` tolerance for one element of the result.

    A factor makes the errors of the sum as much larger or smaller. An activation adds one of its
    own, in proportion to what it is applied to, which is at most ``scale * k`` and the bias.
    """
    scale = abs(workload.scale)
    roundings = max(16.0, 2.0 * workload.k) * scale
    if workload.dtype == "float8_e4m3fn":
        # Hopper's tensor cores keep about 13 fraction bits of sums of fp8 products, once for each
        # 32 of them (DeepSeek-V3, arXiv 2412.19437, section 3.3.2).
        roundings = max(16.0, workload.k) * scale * 2.0**10
    if workload.activation not in ("", "relu"):
        roundings = max(roundings, 16.0 * min(1.0, scale * workload.k + workload.has_bias))
    return EPSILON[workload.acc_dtype] * roundings, 2.0 * EPSILON[workload.out_dtype]


def mismatch(workload: Gemm, output: NDArray[Any], reference: NDArray[np.float64]) -> str | None:
    """Compare a whole output with the reference.

    Returns
    -------
    None if every element is within the tolerance; otherwise a message with the number of wrong
    elements and the first of them. NaN is always wrong: outputs are poisoned with it beforehand.
    """
    import numpy as np

    absolute, relative = tolerance(workload)
    # In place where possible: at 4096 cubed each temporary is 128 MiB.
    error = output.astype(np.float64)
    error -= reference
    np.abs(error, out=error)
    # Written so that NaN compares as wrong.
    wrong = ~(error <= absolute + relative * np.abs(reference))
    count = int(np.count_nonzero(wrong))
    if count == 0:
        return None
    first = tuple(int(x) for x in np.argwhere(wrong)[0])
    return (
        f"{count} of {output.size} elements are wrong, first C[{', '.join(map(str, first))}] ="
        f" {output[first]} instead of {reference[first]:.9g}"
        f" (tolerance {absolute:.2g} + {relative:.2g} * |C|)"
    )


def poison(output: NDArray[Any]) -> None:
    """Fill an output so that an element which a kernel does not write is found: NaN or minimum."""
    import numpy as np

    if np.issubdtype(output.dtype, np.integer):
        output.fill(np.iinfo(output.dtype).min)
    else:
        output.fill(np.nan)
