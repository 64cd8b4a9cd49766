"""Configs as rows of small integers, which kernels can look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.search.kernels_diffusion import coordinate_kernels
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
        self._columns = coordinate_kernels(space.parameters, by_part)
        self.kernels = [kernel for _, kernel in self._columns]

    def __call__(self, configs: Sequence[Config]) -> NDArray[np.intp]:
        """Return shape ``(len(configs), len(kernels))``."""
        import numpy as np

        rows = [[kernel.code(config[name]) for name, kernel in self._columns] for config in configs]
        return np.array(rows, dtype=np.intp).reshape(len(configs), len(self._columns))
