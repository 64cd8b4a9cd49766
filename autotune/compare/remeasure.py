"""Measure again what each run of a comparison named, before anything is said about who is faster.

What a run names has the lowest of many readings, and the lowest of many noisy readings is lower
than the truth: the more so, the more a method read. So the named configs of all runs take turns,
round by round, and the costs of two methods are compared within rounds, where the machine's drift
cancels.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autotune.compare.statistics import Interval, geometric_mean, holm, wilcoxon
from autotune.log import Candidate
from autotune.measure.final import Contender, take_turns

if TYPE_CHECKING:
    from autotune.compare.campaign import Campaign
    from autotune.compare.run import Trace
    from autotune.measure.local import LocalMeasurer
    from autotune.search.space import ConfigSpace
    from autotune.tables.recording import RecordingMeasurer

#: Timed seconds per config and round.
_BLOCK_SECONDS = 0.08


@dataclass(frozen=True)
class Remeasured:
    """Costs of the configs that the runs on one problem named.

    Parameters
    ----------
    problem, rounds
        Name of the problem, and how many rounds were measured.
    costs
        By config key: the median seconds per call of each round, ``rounds`` of them.
    failures
        By config key: why a config could not be measured again.
    """

    problem: str
    rounds: int
    costs: Mapping[str, tuple[float, ...]]
    failures: Mapping[str, str] = field(default_factory=dict)

    def cost(self, config: str) -> float:
        """Median over the rounds in seconds; ``inf`` if there are none."""
        return statistics.median(self.costs[config]) if config in self.costs else math.inf

    def ratio(self, config: str, other: str) -> float | None:
        """Cost over the other's cost: the median of the rounds' ratios. None if one has none."""
        if config not in self.costs or other not in self.costs:
            return None
        pairs = zip(self.costs[config], self.costs[other], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


@dataclass(frozen=True)
class Confirmed:
    """A method against a baseline at the end of the budget: as found, and as measured again.

    Parameters
    ----------
    problem, entrant, baseline
        Who against whom, on what.
    pairs, missing
        Seeds compared, and seeds left out because one of the two has nothing measured again.
    found, remeasured
        Geometric mean over the seeds of cost / baseline's cost with interval, from the readings of
        the searches, and from the rounds.
    wins, ties, losses
        Seeds on which this method's config was measured faster, is the same config, was slower.
    p, p_holm
        Wilcoxon's signed-rank test on the logarithms of the re-measured ratios, raw, and corrected
        by Holm over the methods.
    """

    problem: str
    entrant: str
    baseline: str
    pairs: int
    missing: int
    found: Interval | None
    remeasured: Interval | None
    wins: int
    ties: int
    losses: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Bias:
    """How far the readings of a method's named configs lay from the re-measured costs.

    Parameters
    ----------
    problem, entrant, runs
        Which method, and over how many runs.
    cost
        Geometric mean over the runs of re-measured cost / the lowest re-measured cost of any run.
    reading
        Geometric mean over the runs of reading / re-measured cost; below 1: the readings flatter.
    spread
        Largest over the runs of slowest / fastest round of the named config.
    """

    problem: str
    entrant: str
    runs: int
    cost: Interval
    reading: Interval
    spread: float


def named_config(trace: Trace) -> tuple[str, float] | None:
    """Return key and reading of the config that a run names; None without a success."""
    successes = [step for step in trace.steps if not step.failure]
    if trace.error or not successes:
        return None
    best = min(successes, key=lambda step: step.reading)  # the earliest of equals, as in the run
    return best.config, best.reading


def remeasure(
    campaign: Campaign,
    space: ConfigSpace,
    recorder: RecordingMeasurer,
    measurer: LocalMeasurer,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Remeasured:
    """Measure the named configs of all runs on the campaign's one problem, interleaved.

    Runs that searched another space (:mod:`autotune.compare.external`) take no part. What the
    recorder's log holds of an earlier call for the same configs and rounds is not measured again;
    what is measured goes into it.

    Parameters
    ----------
    rounds
        At least 1.
    progress
        Called with (rounds done, rounds in all) before each round.
    """
    (problem,) = campaign.problems
    named = [named_config(trace) for trace in campaign.traces]
    keys = dict.fromkeys(found[0] for found in named if found and recorder.holds(found[0]))
    candidates = _from_log(recorder, keys, rounds)
    if candidates is None:
        contenders = [Contender(key, space.config_from_json(json.loads(key))) for key in keys]
        take_turns(measurer, recorder.template.name, contenders, rounds, _BLOCK_SECONDS, progress)
        candidates = [
            Candidate(
                label=c.label,
                config=json.loads(c.label),
                costs=tuple(c.costs),
                verdict=c.verdict,
            )
            for c in contenders
        ]
        recorder.keep_final(candidates)
    return Remeasured(
        problem.name,
        rounds,
        {c.label: c.costs for c in candidates if c.costs},
        {c.label: c.verdict for c in candidates if not c.costs},
    )


def _from_log(
    recorder: RecordingMeasurer, keys: Iterable[str], rounds: int
) -> list[Candidate] | None:
    """Return what the newest earlier call for these configs measured, if there was one."""
    wanted = set(keys)
    for record in reversed(recorder.finals):
        held = {candidate.label: candidate for candidate in record.candidates}
        lengths = {len(c.costs) for c in record.candidates if c.costs}
        if held.keys() == wanted and lengths == {rounds}:
            return list(record.candidates)
    return None


def confirm(campaign: Campaign, baselines: Sequence[str]) -> tuple[Confirmed, ...]:
    """Compare every method with each baseline by what was measured again; () without that."""
    if campaign.remeasured is None:
        return ()
    labels = [entrant.label for entrant in campaign.entrants]
    found: list[Confirmed] = []
    for baseline in baselines:
        duels = [_duel(campaign, campaign.remeasured, e, baseline) for e in labels if e != baseline]
        corrected = holm([duel.p for duel in duels])
        found += [replace(d, p_holm=p) for d, p in zip(duels, corrected, strict=True)]
    return tuple(found)


def _duel(campaign: Campaign, again: Remeasured, label: str, baseline: str) -> Confirmed:
    theirs = {run.seed: named_config(run) for run in campaign.runs(again.problem, baseline)}
    found, ratios, missing = [], [], 0
    for run in campaign.runs(again.problem, label):
        ours, other = named_config(run), theirs.get(run.seed)
        ratio = again.ratio(ours[0], other[0]) if ours and other else None
        if ours is None or other is None or ratio is None:
            missing += 1
            continue
        found.append(ours[1] / other[1])
        ratios.append(ratio)
    p = wilcoxon([math.log(ratio) for ratio in ratios])
    return Confirmed(
        again.problem,
        label,
        baseline,
        len(ratios),
        missing,
        geometric_mean(found) if found else None,
        geometric_mean(ratios) if ratios else None,
        sum(ratio < 1 for ratio in ratios),
        sum(ratio == 1 for ratio in ratios),
        sum(ratio > 1 for ratio in ratios),
        p,
        p,
    )


def biases(campaign: Campaign) -> tuple[Bias, ...]:
    """Say for each method how its named configs did when they were measured again."""
    again = campaign.remeasured
    if again is None or not again.costs:
        return ()
    lowest = min(again.cost(config) for config in again.costs)
    found = []
    for entrant in campaign.entrants:
        named = [named_config(run) for run in campaign.runs(again.problem, entrant.label)]
        kept = [n for n in named if n is not None and n[0] in again.costs]
        if kept:
            found.append(
                Bias(
                    again.problem,
                    entrant.label,
                    len(kept),
                    geometric_mean([again.cost(config) / lowest for config, _ in kept]),
                    geometric_mean([reading / again.cost(config) for config, reading in kept]),
                    max(max(again.costs[c]) / min(again.costs[c]) for c, _ in kept),
                )
            )
    return tuple(found)
