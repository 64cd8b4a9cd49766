"""What results of another device or workload make expect here.

The source of a transfer is a full table or a short log. Its costs become speeds relative to its own
best, which mean the same everywhere; a Gaussian process fills in the configs that it lacks.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autotune.search.codec import Codec
from autotune.search.space import Config
from autotune.trial import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autotune.search.gaussian_process import GaussianProcess

#: Results from which the process for the missing ones learns its hyper-parameters, and predicts.
_FIT_ON, _PREDICT_FROM = 200, 1000
#: Steps of the optimiser in that fit.
_FIT_STEPS = 40
#: A source of so many results is put to the test: half of at most so many must rank the other half
#: with so high a correlation. Of shuffled tables one in a hundred passes; all recorded spaces that
#: the defaults were chosen on do, with .43 or more, and with .25 where 100 results are known.
_TESTED, _TEST_ON, _LEAST = 100, 300, 0.2
#: Configs that are predicted at a time.
_BLOCK = 2000


class Source:
    """Expected scores of all configs, by the results of one other search.

    Parameters
    ----------
    codec
        Of the space that is searched here.
    results
        Results by config of that space; one success at least.
    """

    def __init__(self, codec: Codec, results: Mapping[Config, Result], power: float = 1.0) -> None:
        from autotune.search.surrogate import relative_speeds

        configs = list(results)
        costs = [results[config].cost for config in configs]
        speeds = relative_speeds(costs, power)
        self._codes = codec(configs)
        center, spread = float(speeds.mean()), float(speeds.std())
        #: One deviation of the scores, as a relative speed: what scores are in units of.
        self.unit = spread or 1.0
        self._scores = (center - speeds) / self.unit
        keys = [row.tobytes() for row in self._codes]
        self._known = dict(zip(keys, self._scores, strict=True))
        self._codec = codec

    def scores(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return standardised scores, lower is better, shape ``(n,)``."""
        import numpy as np

        keys = [row.tobytes() for row in np.ascontiguousarray(codes)]
        missing = [place for place, key in enumerate(keys) if key not in self._known]
        if missing:
            guesses = self._guess(codes[missing])
            self._known.update(zip((keys[place] for place in missing), guesses, strict=True))
        return np.array([self._known[key] for key in keys])

    def _guess(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        import numpy as np

        blocks = [self.process.mean(codes[at : at + _BLOCK]) for at in range(0, len(codes), _BLOCK)]
        return np.clip(np.concatenate(blocks), self._scores.min(), self._scores.max())

    @functools.cached_property
    def process(self) -> GaussianProcess:
        """What the results say of all configs."""
        import numpy as np

        from autotune.search.gaussian_process import GaussianProcess

        process = GaussianProcess(self._codec.kernels)
        order = np.argsort(self._scores, kind="stable")
        fit_on = _spaced(order, _FIT_ON)
        process.fit(self._codes[fit_on], self._scores[fit_on], _FIT_STEPS)
        known = _spaced(order, _PREDICT_FROM)
        process.condition(self._codes[known], self._scores[known])
        return process


def is_predictable(codec: Codec, results: Mapping[Config, Result]) -> bool:
    """Whether results follow from one another; those that do not can tell nothing of other places.

    Few results are given the benefit of the doubt.
    """
    from scipy.stats import spearmanr

    from autotune.search.gaussian_process import GaussianProcess
    from autotune.search.surrogate import relative_speeds

    if len(results) < _TESTED:
        return True
    configs = random.Random(0).sample(list(results), min(len(results), _TEST_ON))
    speeds = relative_speeds([results[config].cost for config in configs])
    scores, codes = (speeds.mean() - speeds) / (float(speeds.std()) or 1.0), codec(configs)
    half = len(configs) // 2
    process = GaussianProcess(codec.kernels)
    process.fit(codes[:half], scores[:half], _FIT_STEPS)
    process.condition(codes[:half], scores[:half])
    # A constant has no correlation, which is no number.
    return bool(spearmanr(process.mean(codes[half:]), scores[half:]).statistic >= _LEAST)


def _spaced(order: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Return at most ``most`` of ``order``: the first half of them, and the rest evenly spaced."""
    import numpy as np

    if len(order) <= most:
        return order
    first = most // 2
    rest = np.linspace(first, len(order) - 1, most - first).astype(int)
    return np.concatenate([order[:first], order[rest]])
