"""What to compute: the frozen, hashable description of one operator instance."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import InvalidWorkload

LAYOUTS = ("nn", "nt", "tn", "tt")
#: Input dtype -> (accumulator dtype, output dtype) used when the caller names neither.
DTYPES = {
    "float32": ("float32", "float32"),
    "float16": ("float32", "float16"),
    "bfloat16": ("float32", "bfloat16"),
    "int8": ("int32", "int32"),
    "float8_e4m3fn": ("float32", "bfloat16"),
    "tfloat32": ("float32", "float32"),
}
#: What sums and results can be.
_RESULTS = ("float32", "float16", "bfloat16", "int8", "int32")
#: What may be done to the elements of a product, by name: :attr:`Gemm.epilogue`.
ACTIVATIONS = ("relu", "gelu", "silu", "gelu_tanh")
EPILOGUES = (
    "none",
    "bias",
    "relu",
    "gelu",
    "bias_relu",
    "bias_gelu",
    "silu",
    "bias_silu",
    "gelu_tanh",
    "bias_gelu_tanh",
    "residual",
    "bias_residual",
    "residual_relu",
    "bias_residual_relu",
    "rowbias",
    "rowbias_relu",
    "rowbias_silu",
    "rowbias_residual",
    "rowbias_residual_relu",
)
#: What an epilogue can begin with: what is added to each column, or to each row.
_BIASES = ("bias", "rowbias")
_MAX_EXTENT = 2**31 - 1


@dataclass(frozen=True)
class Gemm:
    """``C[m, n] = epilogue(scale * sum_k A[m, k] * B[k, n])``, once or ``batch`` times.

    Parameters
    ----------
    m, n, k
        Extents, each at least 1.
    layout
        One letter for A and one for B, as in BLAS: ``n`` stores A as ``(m, k)`` and B as
        ``(k, n)``; ``t`` stores them transposed, as ``(k, m)`` and ``(n, k)``. C is ``(m, n)``.
        All row-major and contiguous. With ``batch`` above 1 all three have it as another, first
        dimension, except what is ``shared``.
    dtype
        Element type of A and B, a key of :data:`DTYPES`. ``tfloat32`` is stored as float32, and
        only the first 10 of its 23 fraction bits are multiplied.
    acc_dtype, out_dtype
        Type of the running sum and of C; by default those of :data:`DTYPES`.
    epilogue
        One of :data:`EPILOGUES`. ``bias`` adds a vector of shape ``(n,)`` and type ``out_dtype``,
        and ``rowbias`` one of shape ``(m, 1)``, as a convolution does whose channels are rows;
        ``residual`` adds a matrix of C's shape and type, the argument after the bias; ``gelu`` is
        the exact one, ``x * Phi(x)``, ``gelu_tanh`` its usual approximation by tanh, and ``silu``
        is ``x / (1 + exp(-x))``.
    prepacked
        B stays the same from call to call, as the weight of a layer does: the kernel comes with a
        function that packs it once, which is not part of the timed call.
    batch
        How many products of the same extents there are, each of operands of its own.
    shared
        ``a`` or ``b`` if that operand is one matrix for the whole batch, as the weight of a 1x1
        convolution is for all images; else empty.
    scale
        Factor of the product, finite and not zero; not for integer sums.

    Raises
    ------
    InvalidWorkload
        If an extent, layout, dtype, epilogue or factor is not one of the above.
    """

    m: int
    n: int
    k: int
    layout: str = "nn"
    dtype: str = "float32"
    acc_dtype: str = ""
    out_dtype: str = ""
    epilogue: str = "none"
    prepacked: bool = False
    batch: int = 1
    scale: float = 1.0
    shared: str = ""

    def __post_init__(self) -> None:
        for name in ("m", "n", "k", "batch"):
            extent = _integer(name, getattr(self, name))
            object.__setattr__(self, name, extent)
            if not 1 <= extent <= _MAX_EXTENT:
                raise InvalidWorkload(f"{name} must be between 1 and {_MAX_EXTENT}, got {extent}")
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("epilogue", self.epilogue, EPILOGUES)
        if not isinstance(self.prepacked, bool):
            raise InvalidWorkload(f"prepacked must be true or false, got {self.prepacked!r}")
        acc, out = DTYPES[self.dtype]
        object.__setattr__(self, "acc_dtype", self.acc_dtype or acc)
        object.__setattr__(self, "out_dtype", self.out_dtype or out)
        _one_of("shared", self.shared, ("", "a", "b"))
        if self.shared and self.batch == 1:
            raise InvalidWorkload(f"shared {self.shared!r} is for batches; there is one product")
        _one_of("acc_dtype", self.acc_dtype, _RESULTS)
        _one_of("out_dtype", self.out_dtype, _RESULTS)
        self._check_scale()

    def _check_scale(self) -> None:
        if not isinstance(self.scale, int | float) or isinstance(self.scale, bool):
            raise InvalidWorkload(f"scale must be a number, got {self.scale!r}")
        object.__setattr__(self, "scale", float(self.scale))
        if not math.isfinite(self.scale) or self.scale == 0:
            raise InvalidWorkload(f"scale must be finite and not zero, got {self.scale!r}")
        if self.scale != 1 and self.acc_dtype == "int32":
            raise InvalidWorkload(f"sums in int32 are not scaled; got scale {self.scale!r}")

    @property
    def flops(self) -> int:
        """Operations of one call, two per multiply-add; the epilogue is not counted."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def a_shape(self) -> tuple[int, ...]:
        """Stored shape of A."""
        shape = (self.m, self.k) if self.layout[0] == "n" else (self.k, self.m)
        return shape if self.shared == "a" else self._batched(shape)

    @property
    def b_shape(self) -> tuple[int, ...]:
        """Stored shape of B."""
        shape = (self.k, self.n) if self.layout[1] == "n" else (self.n, self.k)
        return shape if self.shared == "b" else self._batched(shape)

    @property
    def c_shape(self) -> tuple[int, ...]:
        """Shape of C."""
        return self._batched((self.m, self.n))

    def _batched(self, shape: tuple[int, int]) -> tuple[int, ...]:
        return shape if self.batch == 1 else (self.batch, *shape)

    @property
    def has_bias(self) -> bool:
        """Whether the kernel takes a bias, of columns or rows, after B."""
        return self._steps[0] in _BIASES

    @property
    def has_row_bias(self) -> bool:
        """Whether that is a bias of rows."""
        return self._steps[0] == "rowbias"

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of a bias: that of columns, unless the workload has one of rows."""
        return (self.m, 1) if self.has_row_bias else (self.n,)

    @property
    def _steps(self) -> list[str]:
        return self.epilogue.split("_")

    @property
    def has_residual(self) -> bool:
        """Whether the kernel takes a matrix to add, after B and the bias."""
        return "residual" in self._steps

    @property
    def activation(self) -> str:
        """One of :data:`ACTIVATIONS`, or empty: what comes after all that is added."""
        name = "_".join(step for step in self._steps if step not in (*_BIASES, "residual"))
        return name if name in ACTIVATIONS else ""

    @property
    def inputs(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """Name, shape and dtype of each argument of a kernel in order; C comes after them."""
        operands = [("a", self.a_shape, self.dtype), ("b", self.b_shape, self.dtype)]
        if self.has_bias:
            operands.append(("bias", self.bias_shape, self.out_dtype))
        if self.has_residual:
            operands.append(("residual", self.c_shape, self.out_dtype))
        return tuple(operands)

    @property
    def one_of_batch(self) -> Gemm:
        """The same product once."""
        return dataclasses.replace(self, batch=1, shared="")

    @property
    def key(self) -> str:
        """The one canonical string of this workload; equal workloads have equal keys."""
        return (
            f"gemm m={self.m} n={self.n} k={self.k} layout={self.layout} in={self.dtype}"
            f" acc={self.acc_dtype} out={self.out_dtype} epilogue={self.epilogue}"
            f"{' b=prepacked' if self.prepacked else ''}"
            f"{f' batch={self.batch}' if self.batch > 1 else ''}"
            f"{f' scale={self.scale!r}' if self.scale != 1 else ''}"
            f"{f' shared={self.shared}' if self.shared else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that :meth:`from_json` reads back."""
        data = {
            "op": "gemm",
            "m": self.m,
            "n": self.n,
            "k": self.k,
            "layout": self.layout,
            "dtype": self.dtype,
            "acc_dtype": self.acc_dtype,
            "out_dtype": self.out_dtype,
            "epilogue": self.epilogue,
        }
        # The following are written only where they are so: older records read as before.
        if self.prepacked:
            data["prepacked"] = True
        if self.batch > 1:
            data["batch"] = self.batch
        if self.scale != 1:
            data["scale"] = self.scale
        if self.shared:
            data["shared"] = self.shared
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gemm:
        """Rebuild a workload from :meth:`to_json`; raises InvalidWorkload on anything else."""
        if data.get("op") != "gemm":
            raise InvalidWorkload(f"unknown operator {data.get('op')!r}; only 'gemm' is known")
        try:
            return cls(**{key: value for key, value in data.items() if key != "op"})
        except TypeError as error:
            raise InvalidWorkload(f"not a gemm workload: {error}") from None


def _integer(name: str, value: Any) -> int:
    """Return a number as a plain int, NumPy's too: shapes often come from there."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidWorkload(f"{name} must be an integer, got {value!r}")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidWorkload(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
