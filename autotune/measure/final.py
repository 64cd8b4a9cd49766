"""The last word: re-measure the best few against each other before a winner is named.

The best of many noisy readings is lower than the truth, and the machine's speed drifts. So the
finalists, the default config and the vendor libraries take turns, block by block, and each is
judged by the median over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.errors import MeasureError
from autotune.measure.libraries import INDUCTOR, LIBRARIES
from autotune.measure.process import Deadline, WorkerDied
from autotune.trial import FailureKind

if TYPE_CHECKING:
    from autotune.measure.local import LocalMeasurer
    from autotune.search.space import Config

DEFAULT = "default"
#: What a winner can be compared with.
COMPARED = (*LIBRARIES, INDUCTOR, DEFAULT)
#: Slowest over fastest round, one extreme round at each end left out, beyond which a contender's
#: median says too little.
NOISY_SPREAD = 1.2
#: Share of the rounds in which one must be faster than another for its lead to be no accident:
#: by chance alone 6 of 7 happen once in 16 times, 12 of 14 once in 150.
_LEADING_SHARE = 0.8


@dataclass(frozen=True)
class FinalOptions:
    """``finalists`` best configs take part, for ``rounds`` rounds of ``seconds`` per block.

    ``libraries`` are those of :mod:`autotune.measure.libraries` to compare with.
    """

    finalists: int = 4
    rounds: int = 7
    seconds: float = 0.08
    libraries: tuple[str, ...] = LIBRARIES


@dataclass
class Contender:
    """One participant; ``costs`` holds the median seconds per call of each round."""

    label: str
    config: Config | None
    costs: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def cost(self) -> float:
        """Median over the rounds, in seconds; ``inf`` if it failed."""
        return statistics.median(self.costs) if self.costs else float("inf")

    @property
    def noisy(self) -> bool:
        """Whether its rounds disagree by more than :data:`NOISY_SPREAD`."""
        return spread(self.costs) > NOISY_SPREAD

    @property
    def verdict(self) -> str:
        """Why it failed, or that it is noisy, or ""."""
        if self.failure or not self.noisy:
            return self.failure
        reason = f"rounds differ by a factor of {spread(self.costs):.2f}"
        return f"{FailureKind.NOISY.value}: {reason}"


@dataclass(frozen=True)
class FinalResult:
    """Contenders with their costs, and the measured multiply-add peak in GFLOP/s."""

    contenders: list[Contender]
    peak_gflops: float

    @property
    def winner(self) -> Contender:
        """The fastest kernel of ours.

        If its rounds disagree, a steady one takes its place, unless that was slower than it round
        by round: what disturbs the machine mostly disturbs both.

        Raises
        ------
        MeasureError
            If none of them could be measured again.
        """
        ours = [c for c in self.contenders if c.config is not None and c.costs]
        if not ours:
            failures = "; ".join(f"{c.label}: {c.failure}" for c in self.contenders if c.failure)
            raise MeasureError(f"no finalist could be measured again ({failures})")
        fastest = min(ours, key=lambda c: c.cost)
        if not fastest.noisy:
            return fastest
        steady = [c for c in ours if not c.noisy and not leads(fastest.costs, c.costs)]
        return min(steady, key=lambda c: c.cost, default=fastest)

    def by_label(self, label: str) -> Contender | None:
        """Return a contender by its label."""
        return next((c for c in self.contenders if c.label == label), None)

    def speedup(self, over: str) -> float | None:
        """Return how many times faster the winner is: the median of the rounds' ratios."""
        base = self.by_label(over)
        if base is None or not base.costs:
            return None
        if base is self.winner:
            return 1.0
        pairs = zip(base.costs, self.winner.costs, strict=True)
        return statistics.median(b / w for b, w in pairs)


def run_final(
    measurer: LocalMeasurer,
    template: str,
    finalists: Sequence[Config],
    default: Config | None,
    options: FinalOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> FinalResult:
    """Measure finalists, default and vendor libraries interleaved.

    Parameters
    ----------
    measurer, template
        Where and what the configs are built with.
    finalists
        Configs, best first.
    default
        The config used when nothing is tuned; None to leave it out.
    options, progress
        Extent of the comparison; called with (rounds done, rounds in all).
    """
    options = options or FinalOptions()
    contenders = [Contender(f"tuned {i + 1}", config) for i, config in enumerate(finalists)]
    if default is not None and default not in finalists:
        contenders.append(Contender(DEFAULT, default))
    elif default is not None:
        contenders[list(finalists).index(default)].label = DEFAULT
    contenders += [Contender(library, None) for library in options.libraries]
    peak = 0.0

    def after_round() -> None:
        nonlocal peak
        peak = max(peak, measurer.peak_gflops(options.seconds / 2))

    for attempt in range(2):
        take_turns(
            measurer, template, contenders, options.rounds, options.seconds, progress, after_round
        )
        leader = min(
            (c for c in contenders if c.config is not None), key=lambda c: c.cost, default=None
        )
        if attempt or leader is None or not leader.noisy:
            break
        # Once more as many rounds: one disturbance is then a smaller part of them.
    return FinalResult(contenders, peak)


def take_turns(
    measurer: LocalMeasurer,
    template: str,
    contenders: Sequence[Contender],
    rounds: int,
    seconds: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Time all contenders once in each round, block by block; their costs are filled in.

    One that fails in any round is left with its reason and no costs.

    Parameters
    ----------
    seconds
        Timed seconds of one block.
    progress, after_round
        Called before each round with (rounds done, rounds in all), and after it.
    """
    for number in range(rounds):
        progress(number, rounds)
        # Start each round elsewhere, so that a drift within rounds spares nobody.
        for contender in _rotated(contenders, number, rounds):
            if not contender.failure:
                _one_block(measurer, template, contender, seconds)
        after_round()
    for contender in contenders:
        if contender.failure:
            contender.costs.clear()


def spread(costs: Sequence[float]) -> float:
    """Return slowest over fastest round, one extreme at each end left out; 1 without any."""
    inner = sorted(costs)[1:-1] or sorted(costs)
    return inner[-1] / inner[0] if inner else 1.0


def leads(costs: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the first is faster than the other in nearly all rounds, which they shared."""
    faster = sum(own < other for own, other in zip(costs, others, strict=True))
    return faster >= _LEADING_SHARE * len(costs)


def _rotated(contenders: Sequence[Contender], number: int, rounds: int) -> list[Contender]:
    step = max(1, len(contenders) // rounds)
    start = number * step % len(contenders) if contenders else 0
    return [*contenders[start:], *contenders[:start]]


def _one_block(
    measurer: LocalMeasurer, template: str, contender: Contender, seconds: float
) -> None:
    try:
        if contender.config is None:
            costs = measurer.vendor_time(seconds, contender.label)
        else:
            if not measurer.is_kept(contender.label):
                result = measurer.measure(template, contender.config, keep=contender.label)
                if result.failure is not None:
                    contender.failure = f"{result.failure.value}: {result.message}"
                    return
            costs = measurer.time_kept(contender.label, seconds)
    except (MeasureError, WorkerDied, Deadline) as error:
        contender.failure = str(error)
        return
    contender.costs.append(statistics.median(costs))
