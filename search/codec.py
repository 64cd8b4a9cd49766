"""Configs as rows of small integers, which kernels can look up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotune.search.kernels_diffusion import ParameterKernel, coordinate_kernels
from autotune.search.parameters import Value
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Codec:
    """Configs as rows of numbers, one per kernel of the space.

    Parameters
    ----------
    space
        Whose configs to encode.
    by_part
        See :func:`~autotune.search.kernels_diffusion.coordinate_kernels`.
    """

    def __init__(self, space: ConfigSpace, by_part: bool) -> None:
        columns = coordinate_kernels(space.parameters, by_part)
        self.kernels = [kernel for _, kernel in columns]
        grouped = itertools.groupby(columns, key=lambda column: column[0])
        self._coders = [(name, _Coder(kernel for _, kernel in group)) for name, group in grouped]

    def __call__(self, configs: Sequence[Config]) -> NDArray[np.intp]:
        """Return shape ``(len(configs), len(kernels))``."""
        import numpy as np

        codes = [
            code
            for config in configs
            for name, coder in self._coders
            for code in coder[config[name]]
        ]
        return np.array(codes, dtype=np.intp).reshape(len(configs), len(self.kernels))


class _Coder(dict[Value, tuple[int, ...]]):
    """The codes of a parameter's values, in all of its kernels; each is asked for once."""

    def __init__(self, kernels: Iterable[ParameterKernel]) -> None:
        super().__init__()
        self._kernels = tuple(kernels)

    def __missing__(self, value: Value) -> tuple[int, ...]:
        codes = self[value] = tuple(kernel.code(value) for kernel in self._kernels)
        return codes
