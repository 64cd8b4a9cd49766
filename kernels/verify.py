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
    "int32": 0.0,
    "int8": 0.0,
}
_DEFAULT_SEED = 20240117


@dataclass(frozen=True)
class Problem:
    """Inputs of one workload and its float64 result.

    ``a`` and ``b`` have the stored shapes of the workload, ``bias`` has shape ``(n,)`` or is None,
    ``reference`` has shape ``(m, n)`` and includes the epilogue.
    """

    a: NDArray[Any]
    b: NDArray[Any]
    bias: NDArray[Any] | None
    reference: NDArray[np.float64]

    @property
    def inputs(self) -> list[NDArray[Any]]:
        """The kernel's input arguments in order."""
        return [x for x in (self.a, self.b, self.bias) if x is not None]


def make_inputs(workload: Gemm, seed: int = _DEFAULT_SEED) -> list[NDArray[Any]]:
    """Return random A, B and, if the workload has one, bias, each in its own dtype."""
    import numpy as np

    rng = np.random.default_rng(seed)
    arguments: list[tuple[tuple[int, ...], str]] = [
        (workload.a_shape, workload.dtype),
        (workload.b_shape, workload.dtype),
    ]
    if workload.has_bias:
        arguments.append(((workload.n,), workload.out_dtype))

    def draw(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        if workload.dtype == "int8":
            return rng.integers(-127, 128, shape).astype(dtype)
        return rng.uniform(-1.0, 1.0, shape).astype(numpy_dtype(dtype))

    return [draw(shape, dtype) for shape, dtype in arguments]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype for an element type by name, ``bfloat16`` included."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 (NumPy knows the name from then on)
    return np.dtype(name)


def reference_result(workload: Gemm, inputs: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the result of the workload computed in float64, shape ``(m, n)``."""
    import numpy as np

    a, b = (x.astype(np.float64) for x in inputs[:2])
    if workload.layout[0] == "t":
        a = a.T
    if workload.layout[1] == "t":
        b = b.T
    result: NDArray[np.float64] = a @ b
    if workload.has_bias:
        result += inputs[2].astype(np.float64)
    if workload.epilogue.endswith("relu"):
        np.maximum(result, 0.0, out=result)
    elif workload.epilogue.endswith("gelu"):
        result *= 0.5 * (1.0 + _erf(result * np.sqrt(0.5)))
    return result


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import math

    import numpy as np

    values: NDArray[np.float64] = np.vectorize(math.erf, otypes=[np.float64])(x)
    return values


def make_problem(workload: Gemm, seed: int = _DEFAULT_SEED) -> Problem:
    """Return random inputs together with their float64 result."""
    inputs = make_inputs(workload, seed)
    bias = inputs[2] if workload.has_bias else None
    return Problem(inputs[0], inputs[1], bias, reference_result(workload, inputs))


def save_problem(path: Path, problem: Problem) -> None:
    """Write a problem to an ``.npz`` file. NumPy's format does not know bf16: its bits are kept."""
    import numpy as np

    arrays = {"a": problem.a, "b": problem.b}
    if problem.bias is not None:
        arrays["bias"] = problem.bias
    bits = {k: x.view(np.uint16) if x.dtype.itemsize == 2 else x for k, x in arrays.items()}
    with open(path, "wb") as file:
        np.savez(file, reference=problem.reference, **bits)  # type: ignore[arg-type]


def load_problem(path: str, workload: Gemm) -> Problem:
    """Read what :func:`save_problem` wrote for this workload."""
    import numpy as np

    with np.load(path) as data:
        arrays = [data["a"], data["b"], data["bias"] if workload.has_bias else None]
        reference = data["reference"]
    dtypes = (workload.dtype, workload.dtype, workload.out_dtype)
    a, b, bias = (
        None if x is None else x.view(numpy_dtype(name))
        for x, name in zip(arrays, dtypes, strict=True)
    )
    assert a is not None and b is not None
    return Problem(a, b, bias, reference)


def tolerance(workload: Gemm) -> tuple[float, float]:
    """Return ``(absolute, relative)`` tolerance for one element of the result."""
    accumulate = EPSILON[workload.acc_dtype] * max(16.0, 2.0 * workload.k)
    return accumulate, 2.0 * EPSILON[workload.out_dtype]


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
    row, column = (int(x) for x in np.argwhere(wrong)[0])
    return (
        f"{count} of {output.size} elements are wrong, first C[{row}, {column}] ="
        f" {output[row, column]} instead of {reference[row, column]:.9g}"
        f" (tolerance {absolute:.2g} + {relative:.2g} * |C|)"
    )


def poison(output: NDArray[Any]) -> None:
    """Fill an output so that an element which a kernel does not write is found: NaN or minimum."""
    import numpy as np

    if np.issubdtype(output.dtype, np.integer):
        output.fill(np.iinfo(output.dtype).min)
    else:
        output.fill(np.nan)
