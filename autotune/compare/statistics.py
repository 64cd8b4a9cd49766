"""The statistics of a comparison; every function is deterministic.

Sources: Demsar, "Statistical comparisons of classifiers over multiple data sets" (JMLR 2006), for
Wilcoxon, Friedman and mean ranks; Holm, "A simple sequentially rejective multiple test procedure"
(1979); Efron and Tibshirani, "An introduction to the bootstrap", for percentile intervals.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 5_000
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of ``count`` values with a 95 % confidence interval of it.

    One value has no interval: ``low`` and ``high`` are the value then, and are not shown.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Return the mean, and the interval if there is one."""
        bounds = "" if self.count == 1 else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{bounds}"


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean and its percentile bootstrap interval, 5,000 resamples.

    Parameters
    ----------
    values
        At least one; of a single value the interval is that value.
    seed
        Of the resampling, so that a report can be made again.
    """
    import numpy as np

    data = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), (_RESAMPLES, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def geometric_mean(ratios: Sequence[float], seed: int = 0) -> Interval:
    """Return the geometric mean of positive ratios with its bootstrap interval."""
    logs = bootstrap_mean([math.log(ratio) for ratio in ratios], seed)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.count)


def wilcoxon(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; zeros are dropped, all zero gives 1.

    Exact up to 50 differences without ties, else the normal approximation.
    """
    from scipy.stats import wilcoxon as test

    kept = [difference for difference in differences if difference]
    return float(test(kept).pvalue) if kept else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for testing all of them, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = running
    return corrected


def ranks(scores: list[float]) -> list[float]:
    """Return ranks from 1 for the highest score; equal scores share the mean of their ranks."""
    return [
        1 + sum(other > score for other in scores) + (scores.count(score) - 1) / 2
        for score in scores
    ]


def friedman(blocks: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return Friedman's chi squared and p over blocks of scores, one score per method.

    None where the test says nothing: fewer than 3 methods or 2 blocks, or all scores equal.
    """
    from scipy.stats import friedmanchisquare

    if len(blocks) < 2 or len(blocks[0]) < 3:
        return None
    if all(len(set(block)) == 1 for block in blocks):
        return None
    test = friedmanchisquare(*zip(*blocks, strict=True))
    return float(test.statistic), float(test.pvalue)


@dataclass(frozen=True)
class Reached:
    """How many trials it took to reach a goal, where runs that never did are censored.

    Parameters
    ----------
    runs, reached
        Runs altogether, and those that got there within the budget.
    median
        Median number of trials over all runs, censored ones counting as later than all others; None
        where the median run is censored, that is, the median lies beyond the budget.
    restricted_mean
        Mean of trials where a censored run counts as the whole budget; a lower bound.
    """

    runs: int
    reached: int
    median: float | None
    restricted_mean: float


def reached(trials: Sequence[int | None], budget: int) -> Reached:
    """Summarise trials to a goal; None stands for a run that did not get there."""
    median = statistics.median(math.inf if count is None else count for count in trials)
    capped = [budget if count is None else count for count in trials]
    return Reached(
        len(trials),
        sum(count is not None for count in trials),
        None if median == math.inf else float(median),
        statistics.fmean(capped),
    )
