"""Gaussian processes that follow the results of one search.

Searchers that use a model share this: which results it learns from, when its hyper-parameters are
fitted again, how pending configs count, and what results from elsewhere contribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.search.codec import Codec
from autotune.search.space import Config
from autotune.trial import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autotune.search.source import Source

#: Steps of the optimiser in the first fit of the hyper-parameters, and in later ones.
_FIRST_FIT, _LATER_FIT = 30, 12
#: Results between two fits: a few, and later a tenth of what there is.
_FIT_EVERY, _FIT_SHARE = 3, 0.1
#: Probability, before any result, that a source is worth something; a share too small to count.
_BELIEF, _NEGLIGIBLE = 0.7, 0.02


class Surrogate:
    """What to expect of configs: one model, or with results from elsewhere two that compete.

    One of the two begins from what the other device or workload makes expect, the other knows
    nothing of it. Each counts by its posterior probability, so a source that misleads loses its say
    as the results come in, and the search goes on as if there had been none.

    Parameters
    ----------
    codec
        Of the space that is searched.
    memory
        Results that the models are conditioned on, at most.
    foreign
        Results from elsewhere, by source, each with a success; see
        :meth:`autotune.search.base.Searcher.transfer`.
    power
        See :func:`relative_speeds`.
    """

    def __init__(
        self,
        codec: Codec,
        memory: int,
        foreign: Sequence[Mapping[Config, Result]] = (),
        power: float = 1.0,
    ) -> None:
        from autotune.search.source import Source

        self._power = power
        self.codec = codec
        self._memory = memory
        self._fitted_at = 0
        self._models = [_Model(self.codec, ())]
        if foreign:
            sources = [Source(self.codec, results, power) for results in foreign]
            self._models.append(_Model(self.codec, sources))
        #: Probability that the sources are worth something here.
        self.belief = _BELIEF if foreign else 0.0

    def condition(self, results: Mapping[Config, Result], waiting: Sequence[Config]) -> None:
        """Learn ``results``, one at least; believe that ``waiting`` cost what is expected."""
        known = remembered(results, self._memory)
        codes, waiting_codes = self.codec(known), self.codec(waiting)
        speeds = relative_speeds([results[config].cost for config in known], self._power)
        count, steps = len(results), 0
        if count - self._fitted_at >= max(_FIT_EVERY, _FIT_SHARE * self._fitted_at):
            steps = _LATER_FIT if self._fitted_at else _FIRST_FIT
            self._fitted_at = count
        for model in self._models:
            model.condition(codes, speeds, waiting_codes, steps)
        if steps and len(self._models) > 1:
            cold, warm = (model.log_evidence for model in self._models)
            odds = math.log(_BELIEF / (1.0 - _BELIEF)) + warm - cold
            self.belief = 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, odds))))

    def improvement(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the logarithm of the expected improvement, shape ``(n,)``."""
        import numpy as np

        shares = [1.0 - self.belief, self.belief][: len(self._models)]
        terms = [
            math.log(share) + model.log_improvement(codes)
            for share, model in zip(shares, self._models, strict=True)
            if share > _NEGLIGIBLE
        ]
        total: NDArray[np.float64] = np.logaddexp.reduce(terms, axis=0)
        return total


class _Model:
    """A Gaussian process of speeds, with or without an expectation from elsewhere."""

    def __init__(self, codec: Codec, sources: Sequence[Source]) -> None:
        from autotune.search.gaussian_process import GaussianProcess

        self._sources = sources
        self._process = GaussianProcess(codec.kernels, with_prior=bool(sources))
        self._center: NDArray[np.float64] | float = 0.0
        self._unit = 1.0
        self._lowest = math.inf
        #: Logarithm of the posterior density of the speeds, at the last fit.
        self.log_evidence = 0.0

    def condition(
        self,
        codes: NDArray[np.intp],
        speeds: NDArray[np.float64],
        waiting: NDArray[np.intp],
        steps: int,
    ) -> None:
        """Learn speeds; fit hyper-parameters first if ``steps`` is not 0."""
        import numpy as np

        unit = self._sources[0].unit if self._sources else float(speeds.std())
        self._unit = unit or 1.0
        targets = (speeds.mean() - speeds) / self._unit
        self._lowest = float(targets.min())
        if self._sources:
            self._center = self._expected(codes).mean(axis=0)
        prior, mean = self._prior(codes)
        if steps:
            loss = self._process.fit(codes, targets - mean, steps, prior)
            self.log_evidence = -loss - len(targets) * math.log(self._unit)
        self._process.condition(codes, targets - mean, prior)
        if len(waiting):
            columns, _ = self._prior(waiting)
            believed = self._process.mean(waiting, columns)
            both = None if prior is None or columns is None else np.vstack([prior, columns])
            self._process.condition(
                np.vstack([codes, waiting]), np.concatenate([targets - mean, believed]), both
            )

    def _expected(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        import numpy as np

        return np.stack([source.scores(codes) for source in self._sources], axis=1)

    def _prior(
        self, codes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | float]:
        """Return what is expected: a column per source, shape ``(n, sources)``; their mean."""
        if not self._sources:
            return None, 0.0
        columns = self._expected(codes) - self._center
        return columns, columns.mean(axis=1)

    def log_improvement(self, codes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the logarithm of the expected improvement of the relative speed, ``(n,)``."""
        columns, mean = self._prior(codes)
        means, deviations = self._process.predict(codes, columns)
        log_gain = log_expected_improvement(mean + means, deviations, self._lowest)
        return log_gain + math.log(self._unit)


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


def relative_speeds(costs: Sequence[float], power: float = 1.0) -> NDArray[np.float64]:
    """Return the speed of each config relative to the fastest, 0 for failures; shape ``(n,)``.

    Speeds, unlike logarithms of costs, do not spend the model's attention on how slow the slow are.
    """
    import numpy as np

    values = np.array(costs, dtype=float)
    speeds: NDArray[np.float64] = np.zeros(len(values))
    finite = np.isfinite(values)
    ratio = values[finite].min(initial=math.inf) / values[finite]
    if power == 0.0:
        speeds[finite] = np.log(ratio)
        speeds[~finite] = speeds[finite].min(initial=0.0)
    else:
        speeds[finite] = ratio**power
    return speeds


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
