"""One search, as a comparison sees it: the same loop and the same accounting for every method."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from autotune.compare.entrants import Entrant
from autotune.errors import AutotuneError
from autotune.search.base import Searcher
from autotune.search.space import Config, ConfigSpace
from autotune.search.translate import Translation
from autotune.trial import FailureKind, Result

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Protocol:
    """What all runs of a comparison have in common.

    Trials are unique measurements. A preset that proposes illegal configs, as the papers' protocols
    do, pays a trial for each of them, though nothing is measured; all others never propose any.

    Parameters
    ----------
    trials, batch
        Budget of a run, and how many configs are asked for at a time.
    seeds
        The same for every method.
    noise
        "none" or "resample"; see :class:`autotune.measure.replay.ReplayMeasurer`.
    """

    trials: int = 200
    seeds: tuple[int, ...] = tuple(range(20))
    batch: int = 1
    noise: str = "none"

    def __post_init__(self) -> None:
        for name in ("trials", "batch"):
            if getattr(self, name) < 1:
                raise AutotuneError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.seeds:
            raise AutotuneError("a comparison needs at least 1 seed")


@dataclass(frozen=True)
class Step:
    """One trial.

    Parameters
    ----------
    config
        Key of the config.
    reading
        Seconds that the searcher was told; ``inf`` for a failure.
    named
        True cost in seconds of the config with the lowest reading so far: what the search would
        return if it ended here. Not the lowest reading, which is lower than the truth under noise.
    failure
        The failure kind, or "".
    """

    config: str
    reading: float
    named: float
    failure: str = ""


@dataclass(frozen=True)
class Trace:
    """What came of one run.

    Parameters
    ----------
    problem, entrant, seed
        Which run it is; ``entrant`` is a label.
    steps
        One per trial. Fewer than the budget if the method ran out of proposals.
    overhead
        Seconds spent inside the searcher, asking and telling together; no measuring.
    error
        The exception that ended the run, as a text, or "".
    """

    problem: str
    entrant: str
    seed: int
    steps: tuple[Step, ...]
    overhead: float = 0.0
    error: str = ""

    @property
    def illegal(self) -> int:
        """Trials spent on illegal configs."""
        return sum(step.failure == FailureKind.ILLEGAL.value for step in self.steps)

    @property
    def failed(self) -> int:
        """Trials that failed otherwise."""
        return sum(bool(step.failure) for step in self.steps) - self.illegal

    def named_after(self, trials: int) -> float:
        """Return the true cost in seconds of what is named after so many trials.

        A run that ended early keeps what it had; ``inf`` before the first success.
        """
        if not self.steps or trials < 1:
            return math.inf
        return self.steps[min(trials, len(self.steps)) - 1].named


def run_search(
    problem: str,
    entrant: Entrant,
    seed: int,
    space: ConfigSpace,
    measure: Callable[[Config], Result],
    true_cost: Callable[[Config], float],
    protocol: Protocol,
    sources: Iterable[Translation] = (),
) -> Trace:
    """Run one search; an exception of the method ends this run only and is kept in the trace.

    Parameters
    ----------
    measure
        Called for legal configs only.
    true_cost
        Seconds, by which the named config is scored.
    sources
        Results from elsewhere, for :meth:`~autotune.search.base.Searcher.transfer`.
    """
    meter = _Meter()
    steps: list[Step] = []
    error = ""
    try:
        searcher = meter.time(entrant.create, space, seed)
        for source in sources:
            meter.time(searcher.transfer, source.pairs)
        _loop(searcher, space, measure, true_cost, protocol, meter, steps)
    except _MeasureFailed as failure:
        raise failure.cause from None
    except Exception as failure:  # whatever a method raises must not stop the others
        where = traceback.extract_tb(failure.__traceback__)[-1]
        error = f"{type(failure).__name__}: {failure} ({where.name}, line {where.lineno})"
    return Trace(problem, entrant.label, seed, tuple(steps), meter.seconds, error)


def _loop(
    searcher: Searcher,
    space: ConfigSpace,
    measure: Callable[[Config], Result],
    true_cost: Callable[[Config], float],
    protocol: Protocol,
    meter: _Meter,
    steps: list[Step],
) -> None:
    lowest, named = math.inf, math.inf
    while len(steps) < protocol.trials:
        # The last batch is cut, not overrun.
        room = min(protocol.batch, protocol.trials - len(steps))
        configs = meter.time(searcher.ask, room)
        if not configs:
            return
        results = [(config, _outcome(space, config, measure)) for config in configs]
        for config, result in results:
            if result.cost < lowest:
                lowest, named = result.cost, true_cost(config)
            failure = result.failure.value if result.failure else ""
            steps.append(Step(config.key, result.cost, named, failure))
            meter.time(searcher.tell, config, result)


def _outcome(space: ConfigSpace, config: Config, measure: Callable[[Config], Result]) -> Result:
    broken = space.violated(config)
    if broken is not None:
        return Result.failed(FailureKind.ILLEGAL, broken)
    try:
        return measure(config)
    except Exception as error:
        raise _MeasureFailed(error) from error


class _MeasureFailed(Exception):
    """Measuring itself failed: no method is to blame, and no run can go on."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Meter:
    """Adds up the seconds spent in a searcher."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call and return what it returns."""
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start
