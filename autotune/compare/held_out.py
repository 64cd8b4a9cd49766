"""Choose a default method on some devices and look how it does on another: leave one device out.

The score of a run is the mean, over the budgets, of the fraction of the optimum that the config it
names reaches. A device's score is the mean over its tables and seeds; the choice is the method with
the highest mean over devices. Tables of one device are one fold: what is learnt on one of them is
no news about another device.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.compare.statistics import Interval, bootstrap_mean, ranks
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RESAMPLES = 1_000


@dataclass(frozen=True)
class ScoredRun:
    """One run of one method on one table.

    Parameters
    ----------
    table, entrant, seed
        Which run it is; ``entrant`` is a label.
    shares
        Fraction of the optimum after each budget.
    seconds
        Spent in the method per trial.
    """

    table: str
    entrant: str
    seed: int
    shares: tuple[float, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Fold:
    """What came of choosing without one device.

    Parameters
    ----------
    device
        The one held out.
    chosen, expected
        Choice of the other devices, and its score there.
    runner_up, margin
        The next best there, and by how much its score is lower.
    votes
        Share of 1,000 resamples of the seeds in which each method is chosen, most votes first;
        those without a vote are left out.
    by_rank
        Choice of the other devices by mean rank instead of score.
    score, rank
        What the choice does on the device held out, and its place among all methods there.
    best, regret
        The best method there, in hindsight, and by how much its score is higher, paired by seed.
    """

    device: str
    chosen: str
    expected: float
    runner_up: str
    margin: float
    votes: Mapping[str, float]
    by_rank: str
    score: Interval
    rank: int
    best: str
    regret: Interval


def check_devices(devices: Mapping[str, str]) -> None:
    """Raise AutotuneError unless there are two; ``devices`` has that of each table by its name."""
    different = dict.fromkeys(devices.values())
    if len(different) < 2:
        raise AutotuneError(
            "leaving one device out needs tables of two devices at least; there is only"
            f" {', '.join(different) or 'none'}"
        )


class Scoreboard:
    """All runs of all methods, the same seeds on every table.

    Parameters
    ----------
    devices
        The device of each table, by its name.
    entrants, seeds
        Labels of the methods, and the seeds.
    runs
        In any order; those of other tables, methods or seeds are ignored.

    Raises
    ------
    AutotuneError
        If there are fewer than two devices or methods, or a run is missing.
    """

    def __init__(
        self,
        devices: Mapping[str, str],
        entrants: Sequence[str],
        seeds: Sequence[int],
        runs: Sequence[ScoredRun],
    ) -> None:
        self.tables_of: dict[str, list[str]] = {}
        for table, device in devices.items():
            self.tables_of.setdefault(device, []).append(table)
        check_devices(devices)
        if len(entrants) < 2:
            raise AutotuneError("there is nothing to choose from: name two methods at least")
        self.entrants, self.seeds = tuple(entrants), tuple(seeds)
        self._runs = {(run.table, run.entrant, run.seed): run for run in runs}
        for key in itertools.product(devices, entrants, seeds):
            if key not in self._runs:
                raise AutotuneError(f"no run of {key[1]} on {key[0]} with seed {key[2]}")
        self._scores = self._device_scores()
        self._ranks = self._device_ranks()

    @property
    def devices(self) -> tuple[str, ...]:
        """In the order of the tables."""
        return tuple(self.tables_of)

    def shares(self, table: str, entrant: str) -> list[float]:
        """Return the fraction of the optimum after each budget, mean over seeds."""
        runs = [self._runs[table, entrant, seed].shares for seed in self.seeds]
        return [statistics.fmean(column) for column in zip(*runs, strict=True)]

    def seconds(self, entrant: str) -> float:
        """Return the median over all runs of the seconds that the method spends per trial."""
        return statistics.median(r.seconds for r in self._runs.values() if r.entrant == entrant)

    def score(self, device: str, entrant: str) -> Interval:
        """Return the score on a device, with an interval over seeds."""
        return bootstrap_mean(self._column(device, entrant).tolist())

    def rank(self, device: str, entrant: str) -> float:
        """Return the mean rank over tables, budgets and seeds of a device, 1 the best."""
        return self._ranks[device][self.entrants.index(entrant)]

    def choose(self, devices: Sequence[str]) -> list[tuple[str, float]]:
        """Return all methods with their scores over these devices, the choice first."""
        means = self._means(devices).mean(axis=1)
        found = zip(self.entrants, map(float, means), strict=True)
        return sorted(found, key=lambda item: -item[1])

    def choose_by_rank(self, devices: Sequence[str]) -> str:
        """Return the method with the lowest mean rank over these devices."""
        columns = zip(*(self._ranks[device] for device in devices), strict=True)
        means = [statistics.fmean(column) for column in columns]
        return self.entrants[means.index(min(means))]

    def votes(self, devices: Sequence[str]) -> dict[str, float]:
        """Return the share of resamples of the seeds in which each method is the choice."""
        import numpy as np

        rng = np.random.default_rng(0)
        means = self._means(devices)
        drawn = rng.integers(0, len(self.seeds), (_RESAMPLES, len(self.seeds)))
        winners = means[:, drawn].mean(axis=2).argmax(axis=0)
        counts = {name: float((winners == i).mean()) for i, name in enumerate(self.entrants)}
        return {n: share for n, share in sorted(counts.items(), key=lambda item: -item[1]) if share}

    def folds(self) -> list[Fold]:
        """Leave out each device in turn."""
        return [self._fold(device) for device in self.devices]

    def _fold(self, device: str) -> Fold:
        others = [other for other in self.devices if other != device]
        (chosen, expected), (runner_up, next_score), *_ = self.choose(others)
        there = [name for name, _ in self.choose([device])]
        gain = self._column(device, there[0]) - self._column(device, chosen)
        return Fold(
            device,
            chosen,
            expected,
            runner_up,
            expected - next_score,
            self.votes(others),
            self.choose_by_rank(others),
            self.score(device, chosen),
            1 + there.index(chosen),
            there[0],
            bootstrap_mean(gain.tolist()),
        )

    def _column(self, device: str, entrant: str) -> NDArray[np.float64]:
        """Return the scores of one method on one device, one per seed."""
        column: NDArray[np.float64] = self._scores[device][self.entrants.index(entrant)]
        return column

    def _means(self, devices: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores over devices, shape ``(methods, seeds)``."""
        import numpy as np

        means: NDArray[np.float64] = np.mean([self._scores[device] for device in devices], axis=0)
        return means

    def _device_scores(self) -> dict[str, NDArray[np.float64]]:
        import numpy as np

        def score(table: str, entrant: str, seed: int) -> float:
            return statistics.fmean(self._runs[table, entrant, seed].shares)

        return {
            device: np.array(
                [
                    [statistics.fmean(score(t, e, s) for t in tables) for s in self.seeds]
                    for e in self.entrants
                ]
            )
            for device, tables in self.tables_of.items()
        }

    def _device_ranks(self) -> dict[str, list[float]]:
        found = {}
        for device, tables in self.tables_of.items():
            blocks = []
            for table, seed in itertools.product(tables, self.seeds):
                runs = [self._runs[table, entrant, seed].shares for entrant in self.entrants]
                blocks += [ranks(list(budget)) for budget in zip(*runs, strict=True)]
            found[device] = [statistics.fmean(column) for column in zip(*blocks, strict=True)]
        return found
