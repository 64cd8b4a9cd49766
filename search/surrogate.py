"""A Gaussian process that follows the results of one search.

Searchers that use a model share this: which results it learns from, when its hyper-parameters are
fitted again, how pending configs count, and what results from elsewhere contribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.search.codec import Codec
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autotune.search.gaussian_process import GaussianProcess

#: Steps of the optimiser in the first fit of the hyper-parameters, and in later ones.
_FIRST_FIT, _LATER_FIT = 30, 12
#: Results between two fits: a few, and later a tenth of what there is.
_FIT_EVERY, _FIT_SHARE = 3, 0.1


class Surrogate:
    """Posterior over standardised logarithms of costs; lower is better.

    Parameters
    ----------
    space
        Of the configs.
    memory
        Results that the model is conditioned on, at most.
    by_part
        See :func:`~autotune.search.kernels_diffusion.coordinate_kernels`.
    foreign
        Results from elsewhere; see :meth:`autotune.search.base.Searcher.transfer`.
    """

    def __init__(
        self,
        space: ConfigSpace,
        memory: int,
        by_part: bool = True,
        foreign: Sequence[Mapping[Config, Result]] = (),
    ) -> None:
        from autotune.search.gaussian_process import GaussianProcess
        from autotune.search.source import Source

        self.codec = Codec(space, by_part)
        self._memory = memory
        useful = [results for results in foreign if any(r.ok for r in results.values())]
        self.sources = [Source(self.codec, results) for results in useful]
        self._model = GaussianProcess(self.codec.kernels, with_prior=bool(self.sources))
        self._fitted_at = 0
        self._center: NDArray[np.float64] | float = 0.0
        #: The lowest target among the results, where improvement begins.
        self.lowest = math.inf

    def condition(self, results: Mapping[Config, Result], waiting: Sequence[Config]) -> None:
        """Learn ``results``, one at least; believe that ``waiting`` cost what is expected."""
        import numpy as np

        known = remembered(results, self._memory)
        codes = self.codec(known)
        targets = self._targets([results[config].cost for config in known])
        if self.sources:
            self._center = self._guesses(codes).mean(axis=0)
        prior, mean = self.prior(codes)
        count = len(results)
        if count - self._fitted_at >= max(_FIT_EVERY, _FIT_SHARE * self._fitted_at):
            steps = _LATER_FIT if self._fitted_at else _FIRST_FIT
            self._model.fit(codes, targets - mean, steps, prior)
            self._fitted_at = count
        self._model.condition(codes, targets - mean, prior)
        self.lowest = float(targets.min())
        if waiting:
            more = np.vstack([codes, self.codec(waiting)])
            guesses, means = self.prior(more)
            tail = None if guesses is None else guesses[len(codes) :]
            believed = self._model.mean(more[len(codes) :], tail)
            self._model.condition(
                more, np.concatenate([targets - mean, believed]), guesses
            )

    def _targets(self, costs: Sequence[float]) -> NDArray[np.float64]:
        import numpy as np

        speeds = transform(np.array(costs))
        unit = self.sources[0].unit if self.sources else float(speeds.std())
        return (speeds.mean() - speeds) / (unit or 1.0)

    def _guesses(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        import numpy as np

        return np.stack([source.scores(codes) for source in self.sources], axis=1)

    def prior(
        self, codes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | float]:
        """Return what results from elsewhere make expect: columns ``(n, sources)``, mean ``(n,)``."""
        if not self.sources:
            return None, 0.0
        columns = self._guesses(codes) - self._center
        return columns, columns.mean(axis=1)

    def improvement(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the logarithm of the expected improvement, shape ``(n,)``."""
        columns, mean = self.prior(codes)
        means, deviations = self._model.predict(codes, columns)
        return log_expected_improvement(mean + means, deviations, self.lowest)


POWER = 1.0


def transform(costs):
    import numpy as np

    finite = np.isfinite(costs)
    if not finite.any():
        return np.zeros(len(costs))
    ratio = np.where(finite, costs, 1.0) / costs[finite].min()
    if POWER == 0.0:
        scores = -np.log(ratio)
        scores[~finite] = scores[finite].min()
    else:
        scores = ratio**-POWER
        scores[~finite] = 0.0 if POWER >= 1 else scores[finite].min()
    return scores


def remembered(results: Mapping[Config, Result], memory: int) -> list[Config]:
    """Return at most ``memory`` configs to learn from: the best, the latest, some of the rest."""
    configs = list(results)
    if len(configs) <= memory:
        return configs
    best = sorted(configs, key=lambda config: results[config].cost)[: memory // 2]
    kept = dict.fromkeys([*best, *configs[-(memory // 4) :]])
    others = [config for config in configs if config not in kept]
    room = memory - len(kept)
    kept.update(dict.fromkeys(others[i * len(others) // room] for i in range(room)))
    return list(kept)


def standardised(costs: Sequence[float]) -> NDArray[np.float64]:
    """Return logarithms of costs with mean 0 and deviation 1, failures as the worst; ``(n,)``."""
    import numpy as np

    logs = np.log(np.array(costs))
    finite = np.isfinite(logs)
    logs[~finite] = logs[finite].max() if finite.any() else 0.0
    scores: NDArray[np.float64] = (logs - logs.mean()) / (float(logs.std()) or 1.0)
    return scores


def rank_scores(costs: Sequence[float]) -> NDArray[np.float64]:
    """Return normal scores of the ranks of ``costs``, shape ``(n,)``: only their order counts."""
    import numpy as np
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores: NDArray[np.float64] = ndtri((rankdata(np.array(costs)) - 0.5) / len(costs))
    return scores


def log_expected_improvement(
    means: NDArray[np.float64], deviations: NDArray[np.float64], lowest: float
) -> NDArray[np.float64]:
    """Return the logarithm of the expected improvement below ``lowest``, shape as ``means``.

    Far from any chance of improving, where the formula underflows, its asymptote takes over.
    """
    import numpy as np
    from scipy.special import ndtr

    u = (lowest - means) / deviations
    density = np.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
    near = np.log(np.maximum(density + u * ndtr(u), 1e-300))
    far = -0.5 * u * u - 0.5 * math.log(2.0 * math.pi) - 2.0 * np.log(np.maximum(-u, 1.0))
    return np.log(deviations) + np.where(u > -5.0, near, far)
