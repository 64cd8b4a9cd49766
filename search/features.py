"""Configs as vectors, for the models that predict costs.

Everything here is computed from the parameters' values alone; nothing is compiled or measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from autotune.search.parameters import Factorization, Ordinal, Parameter, Value
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Logarithms beyond which sums and differences of pairs are left out: they would be thousands.
_MAX_PAIRED = 32


def log_vector(parameter: Parameter, value: Value) -> tuple[float, ...]:
    """Return ``value`` on the scale on which machines see it.

    Sizes act by ratios, so ordinals that are numbers become log2 (of one more, if there is a zero).
    All others are encoded as the parameter does it.
    """
    scale = _scale(parameter)
    if scale is None:
        return parameter.encode(value)
    assert isinstance(value, (int, float))
    return (math.log2(value + scale),)


def is_logarithmic(parameter: Parameter) -> bool:
    """Whether :func:`log_vector` returns logarithms of sizes, whose sums mean products."""
    return isinstance(parameter, Factorization) or _scale(parameter) is not None


def _scale(parameter: Parameter) -> int | None:
    """Return what to add before taking the logarithm of an ordinal; None if it has none."""
    if not isinstance(parameter, Ordinal):
        return None
    low = math.inf
    for choice in parameter.choices:
        if type(choice) not in (int, float):
            return None
        assert isinstance(choice, (int, float))
        low = min(low, choice)
    if low > 0:
        return 0
    return 1 if low == 0 else None


class Features:
    """Turns configs of one space into rows of numbers.

    Parameters
    ----------
    space
        Whose configs to encode.
    analytic
        Append what a tree cannot get by splitting on one knob: products and ratios of sizes, that
        is sums and differences of the logarithms of each two parts. Work per thread, threads per
        block and footprints of tiles are among them.
    """

    def __init__(self, space: ConfigSpace, analytic: bool) -> None:
        # A parameter with one value tells nothing.
        self._parameters = [p for p in space.parameters if p.size > 1]
        self._analytic = analytic
        self._cache: list[dict[Value, tuple[float, ...]]] = [{} for _ in self._parameters]
        self._pairs = self._paired_columns() if analytic else []

    def _paired_columns(self) -> list[tuple[int, int]]:
        columns: list[int] = []
        width = 0
        for parameter in self._parameters:
            size = len(log_vector(parameter, parameter.origin))
            if is_logarithmic(parameter):
                columns += range(width, width + size)
            width += size
        return list(combinations(columns, 2)) if len(columns) <= _MAX_PAIRED else []

    def __call__(self, configs: Sequence[Config]) -> NDArray[np.float32]:
        """Return shape ``(len(configs), columns)``; parameters first, then the pairs."""
        import numpy as np

        rows = np.array([self._row(config) for config in configs], dtype=np.float32)
        rows = rows.reshape(len(configs), -1)
        if not self._pairs:
            return rows
        left, right = (list(side) for side in zip(*self._pairs, strict=True))
        return np.hstack([rows, rows[:, left] + rows[:, right], rows[:, left] - rows[:, right]])

    def _row(self, config: Config) -> list[float]:
        row: list[float] = []
        for parameter, cache in zip(self._parameters, self._cache, strict=True):
            value = config[parameter.name]
            vector = cache.get(value)
            if vector is None:
                encode = log_vector if self._analytic else type(parameter).encode
                vector = cache[value] = encode(parameter, value)
            row += vector
        return row
