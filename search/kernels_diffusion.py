"""How alike two values of one parameter are: heat kernels on the parameters' graphs.

Heat that starts at a vertex and diffuses along the edges for a time ``beta`` gives the kernel
``exp(-beta * L)`` with the graph's Laplacian ``L`` (Kondor and Lafferty 2002; per parameter, and
multiplied over the parameters, in COMBO, Oh et al., arXiv 1902.00448). It is scaled here to one on
the diagonal. A long time makes all values alike: the parameter does not matter.

The graph of a factorization treats all parts alike, but machines do not: what happens in the
innermost loop matters most. So it gets one kernel per part, each with a time of its own: heat on
the line of that part's logarithms, of which the graph's moves are the steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from autotune.search.features import log_vector
from autotune.search.parameters import Factorization, Parameter, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Graphs with more vertices get a kernel on vectors: an eigendecomposition would take seconds.
MAX_VERTICES = 1000
#: Keeps logarithms finite.
_TINY = 1e-12
#: Values from which the spread of vectors is estimated.
_SPREAD_DRAWS = 200


class ParameterKernel(Protocol):
    """A correlation between values of one parameter, which one number makes longer or shorter."""

    #: Logarithm of the time at which the kernel is neither flat nor a spike.
    log_time: float

    def code(self, value: Value) -> int:
        """Return the number that stands for ``value`` in the other methods."""

    def correlation(
        self, log_time: float, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return correlations in (0, 1] and their derivatives by ``log_time``.

        Parameters
        ----------
        log_time
            Logarithm of the diffusion time.
        rows, columns
            Codes, shapes ``(r,)`` and ``(c,)``.

        Returns
        -------
        two arrays of shape ``(r, c)``
        """


class DiffusionKernel:
    """The heat kernel of a graph with at most :data:`MAX_VERTICES` vertices."""

    def __init__(self, parameter: Parameter) -> None:
        import numpy as np

        values = list(parameter.values())
        self._codes = {value: code for code, value in enumerate(values)}
        laplacian = np.zeros((len(values), len(values)))
        for value, code in self._codes.items():
            for near in parameter.neighbors(value):
                laplacian[code, self._codes[near]] = -1.0
        laplacian -= np.diag(laplacian.sum(axis=1))
        self._eigenvalues, self._vectors = np.linalg.eigh(laplacian)
        # At this time the slowest mode that is not constant has lost 1 - 1/e.
        self.log_time = -float(np.log(self._eigenvalues[1]))

    def code(self, value: Value) -> int:
        """Return the place of ``value`` among the parameter's values."""
        return self._codes[value]

    def correlation(
        self, log_time: float, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`ParameterKernel.correlation`."""
        import numpy as np

        rates = np.exp(log_time) * self._eigenvalues
        decay, left, right = np.exp(-rates), self._vectors[rows], self._vectors[columns]
        slope = -rates * decay
        heat, heat_slope = (left * decay) @ right.T, (left * slope) @ right.T
        at_rows, at_columns = left**2 @ decay, right**2 @ decay
        scale = 1.0 / np.sqrt(np.outer(at_rows, at_columns))
        relative = np.add.outer((left**2 @ slope) / at_rows, (right**2 @ slope) / at_columns)
        kernel = np.maximum(heat * scale, _TINY)
        return kernel, heat_slope * scale - 0.5 * kernel * relative


class VectorKernel:
    """Heat in free space, a Gaussian kernel, between the values' vectors.

    Parameters
    ----------
    parameter
        Its values become vectors by :func:`~autotune.search.features.log_vector`.
    part
        Use this entry of the vectors only.
    """

    def __init__(self, parameter: Parameter, part: int | None = None) -> None:
        import numpy as np

        self._parameter = parameter
        self._entries = slice(None) if part is None else slice(part, part + 1)
        self._vectors: list[tuple[float, ...]] = []
        self._code_of: dict[tuple[float, ...], int] = {}
        self._last: tuple[tuple[bytes, bytes], NDArray[np.float64]] = ((b"", b""), np.zeros((0, 0)))
        rng = random.Random(0)
        drawn = np.array([self._vector(parameter.sample(rng)) for _ in range(_SPREAD_DRAWS)])
        # Twice the variance is what two independent values differ by, squared, on average.
        self.log_time = float(np.log(2.0 * drawn.var(axis=0).sum() + _TINY))

    def _vector(self, value: Value) -> tuple[float, ...]:
        return log_vector(self._parameter, value)[self._entries]

    def code(self, value: Value) -> int:
        """Return a number for the vector of ``value``; new vectors get the next one."""
        vector = self._vector(value)
        code = self._code_of.setdefault(vector, len(self._vectors))
        if code == len(self._vectors):
            self._vectors.append(vector)
        return code

    def correlation(
        self, log_time: float, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`ParameterKernel.correlation`."""
        import numpy as np

        exponent = self._distances(rows, columns) / np.exp(log_time)
        kernel = np.maximum(np.exp(-exponent), _TINY)
        return kernel, kernel * exponent

    def _distances(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return squared distances, shape ``(r, c)``; a fit asks for the same again and again."""
        import numpy as np

        key = rows.tobytes(), columns.tobytes()
        if key != self._last[0]:
            left = np.array([self._vectors[code] for code in rows])
            right = np.array([self._vectors[code] for code in columns])
            square = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2.0 * left @ right.T
            self._last = key, np.maximum(square, 0.0)
        return self._last[1]


@lru_cache(maxsize=64)
def _diffusion_kernel(parameter: Parameter) -> DiffusionKernel:
    """Decompose each graph once: searches of one space share it."""
    return DiffusionKernel(parameter)


def coordinate_kernels(
    parameters: Iterable[Parameter], by_part: bool
) -> list[tuple[str, ParameterKernel]]:
    """Return the kernels of a space, each with the name of the parameter whose values it takes.

    Parameters with one value have none. With ``by_part``, a factorization has one per part.
    """
    kernels: list[tuple[str, ParameterKernel]] = []
    for parameter in parameters:
        if parameter.size == 1:
            continue
        if by_part and isinstance(parameter, Factorization) and parameter.parts > 1:
            for part in range(parameter.parts):
                kernels.append((parameter.name, VectorKernel(parameter, part)))
        elif parameter.size <= MAX_VERTICES:
            kernels.append((parameter.name, _diffusion_kernel(parameter)))
        else:
            kernels.append((parameter.name, VectorKernel(parameter)))
    return kernels
