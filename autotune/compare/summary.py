"""From runs to figures: what is said about each method on each problem, and about all of them.

The score of a run after n trials is reference / cost of the config it names: the share of the
optimum on a table. On a real workload the optimum is not known, and the reference is the best
config that any run named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.compare.campaign import Campaign, Problem
from autotune.compare.remeasure import Bias, Confirmed, biases, confirm
from autotune.compare.run import Protocol, Trace
from autotune.compare.statistics import (
    Interval,
    Reached,
    bootstrap_mean,
    friedman,
    geometric_mean,
    holm,
    ranks,
    reached,
    wilcoxon,
)
from autotune.errors import AutotuneError

CHECKPOINTS = (20, 50, 100, 200)
GOALS = (0.95, 0.99)


@dataclass(frozen=True)
class Versus:
    """A method against a baseline after some trials, paired by seed.

    Parameters
    ----------
    baseline, trials
        Against whom, and when.
    wins, ties, losses
        Seeds on which this method's config is faster, equally fast, slower.
    cost_ratio
        Geometric mean of cost / baseline's cost, below 1 where this method is better; None if a run
        had no success by then.
    p, p_holm
        Wilcoxon's signed-rank test on the scores, raw, and corrected by Holm over all comparisons
        with this baseline on this problem (methods x checkpoints).
    """

    baseline: str
    trials: int
    wins: int
    ties: int
    losses: int
    cost_ratio: Interval | None
    p: float
    p_holm: float


@dataclass(frozen=True)
class Standing:
    """One method on one problem.

    Parameters
    ----------
    entrant, runs, errors
        Its label, complete runs, and what ended the others. Figures are over complete runs.
    score
        By number of trials: mean score with interval.
    goals
        By goal: trials until the score reached it.
    auc
        Mean score over all trials up to the budget: the normalised area under the curve.
    rank
        By number of trials: mean rank among the methods without errors, 1 the best. Empty with
        errors.
    trials, illegal, failed
        Means per run: trials spent, those spent on illegal configs, those that failed otherwise.
    overhead
        Seconds inside the method per trial: the median over runs, because the first run in each
        process also pays for imports.
    versus
        Against each baseline.
    """

    entrant: str
    runs: int
    errors: tuple[str, ...]
    score: dict[int, Interval]
    goals: dict[float, Reached]
    auc: Interval | None
    rank: dict[int, float]
    trials: float
    illegal: float
    failed: float
    overhead: float
    versus: tuple[Versus, ...]


@dataclass(frozen=True)
class ProblemSummary:
    """All methods on one problem.

    Parameters
    ----------
    problem
        What was searched.
    reference
        Cost in seconds that scores are relative to.
    standings
        In the order of the methods.
    friedman
        By number of trials: chi squared and p over seeds; None where the test says nothing.
    """

    problem: Problem
    reference: float
    standings: tuple[Standing, ...]
    friedman: dict[int, tuple[float, float] | None]


@dataclass(frozen=True)
class Summary:
    """Everything that a report shows, curves apart.

    Parameters
    ----------
    checkpoints
        Numbers of trials at which methods are compared; the budget is the last one.
    baselines
        Labels.
    problems
        One each.
    overall_rank, overall_friedman
        As on a problem, over all problems and seeds together.
    confirmed, biases
        What came of measuring the named configs again; empty where that was not done.
    """

    protocol: Protocol
    checkpoints: tuple[int, ...]
    baselines: tuple[str, ...]
    problems: tuple[ProblemSummary, ...]
    overall_rank: dict[str, dict[int, float]]
    overall_friedman: dict[int, tuple[float, float] | None]
    confirmed: tuple[Confirmed, ...] = ()
    biases: tuple[Bias, ...] = ()


def checkpoints_of(budget: int) -> tuple[int, ...]:
    """Return the usual checkpoints within the budget, and the budget itself."""
    return tuple(sorted({n for n in CHECKPOINTS if n < budget} | {budget}))


def scores(trace: Trace, reference: float, budget: int) -> list[float]:
    """Return the score after 1, 2, ... ``budget`` trials; 0 before the first success."""
    return [reference / trace.named_after(n) for n in range(1, budget + 1)]


def summarise(campaign: Campaign, baselines: Sequence[str] = ()) -> Summary:
    """Compute the figures of a comparison.

    Raises
    ------
    AutotuneError
        If a baseline is not among the methods, or every run of a problem failed.
    """
    labels = [entrant.label for entrant in campaign.entrants]
    for baseline in baselines:
        if baseline not in labels:
            raise AutotuneError(
                f"the baseline {baseline!r} is not compared; add it to --searchers"
                f" ({', '.join(labels)})"
            )
    points = checkpoints_of(campaign.protocol.trials)
    boards = [_Board(campaign, problem, points) for problem in campaign.problems]
    sound = [label for label in labels if all(label in board.sound for board in boards)]
    blocks = {n: [b for board in boards for b in board.blocks(sound, n)] for n in points}
    return Summary(
        campaign.protocol,
        points,
        tuple(baselines),
        tuple(_problem_summary(board, labels, baselines) for board in boards),
        {label: {n: _mean_rank(blocks[n], i) for n in points} for i, label in enumerate(sound)},
        {n: friedman(blocks[n]) for n in points},
        confirm(campaign, baselines),
        biases(campaign),
    )


class _Board:
    """Scores of all complete runs on one problem."""

    def __init__(self, campaign: Campaign, problem: Problem, points: Sequence[int]) -> None:
        self.problem, self.points = problem, points
        self.budget = campaign.protocol.trials
        self.all = {e.label: campaign.runs(problem.name, e.label) for e in campaign.entrants}
        self.complete = {
            label: {run.seed: run for run in runs if not run.error}
            for label, runs in self.all.items()
        }
        self.sound = [
            label for label, runs in self.all.items() if runs and not any(r.error for r in runs)
        ]
        self.reference = problem.optimum or min(
            (
                run.named_after(self.budget)
                for runs in self.complete.values()
                for run in runs.values()
            ),
            default=math.inf,
        )
        if self.reference == math.inf:
            errors = [run.error for runs in self.all.values() for run in runs if run.error]
            raise AutotuneError(
                f"no run on {problem.name} found a configuration that works"
                + (f"; first error: {errors[0]}" if errors else "")
            )

    def score(self, label: str, seed: int, trials: int) -> float:
        return self.reference / self.complete[label][seed].named_after(trials)

    def column(self, label: str, trials: int) -> list[float]:
        return [self.score(label, seed, trials) for seed in self.complete[label]]

    def blocks(self, labels: Sequence[str], trials: int) -> list[list[float]]:
        """Return one list of scores, in the order of ``labels``, for each seed."""
        if not labels:
            return []
        seeds = list(self.complete[labels[0]])
        return [[self.score(label, seed, trials) for label in labels] for seed in seeds]


def _mean_rank(blocks: Sequence[list[float]], place: int) -> float:
    return statistics.fmean(ranks(block)[place] for block in blocks)


def _problem_summary(
    board: _Board, labels: Sequence[str], baselines: Sequence[str]
) -> ProblemSummary:
    blocks = {n: board.blocks(board.sound, n) for n in board.points}
    versus: dict[str, list[Versus]] = {label: [] for label in labels}
    for baseline in baselines:
        for label, duel in _duels(board, labels, baseline):
            versus[label].append(duel)
    standings = []
    for label in labels:
        place = board.sound.index(label) if label in board.sound else None
        rank = {} if place is None else {n: _mean_rank(blocks[n], place) for n in board.points}
        standings.append(_standing(board, label, rank, versus[label]))
    return ProblemSummary(
        board.problem,
        board.reference,
        tuple(standings),
        {n: friedman(blocks[n]) if blocks[n] else None for n in board.points},
    )


def _standing(
    board: _Board, label: str, rank: dict[int, float], versus: Sequence[Versus]
) -> Standing:
    runs = list(board.complete[label].values())
    curves = [scores(run, board.reference, board.budget) for run in runs]
    spent = sum(len(run.steps) for run in runs)
    return Standing(
        entrant=label,
        runs=len(runs),
        errors=tuple(f"seed {run.seed}: {run.error}" for run in board.all[label] if run.error),
        score={n: bootstrap_mean(board.column(label, n)) for n in board.points} if runs else {},
        goals={goal: reached([_first(c, goal) for c in curves], board.budget) for goal in GOALS}
        if runs
        else {},
        auc=bootstrap_mean([statistics.fmean(curve) for curve in curves]) if runs else None,
        rank=rank,
        trials=spent / max(1, len(runs)),
        illegal=sum(run.illegal for run in runs) / max(1, len(runs)),
        failed=sum(run.failed for run in runs) / max(1, len(runs)),
        overhead=statistics.median(run.overhead / max(1, len(run.steps)) for run in runs)
        if runs
        else 0.0,
        versus=tuple(versus),
    )


def _first(curve: Sequence[float], goal: float) -> int | None:
    return next((n for n, score in enumerate(curve, 1) if score >= goal), None)


def _duels(board: _Board, labels: Sequence[str], baseline: str) -> list[tuple[str, Versus]]:
    """Compare every other method with the baseline at every checkpoint; correct all together."""
    raw = []
    for label in labels:
        seeds = [s for s in board.complete[label] if s in board.complete[baseline]]
        if label == baseline or not seeds:
            continue
        for n in board.points:
            pairs = [(board.score(label, s, n), board.score(baseline, s, n)) for s in seeds]
            raw.append((label, n, pairs, wilcoxon([ours - theirs for ours, theirs in pairs])))
    corrected = holm([p for *_, p in raw])
    return [
        (label, _versus(baseline, n, pairs, p, p_holm))
        for (label, n, pairs, p), p_holm in zip(raw, corrected, strict=True)
    ]


def _versus(
    baseline: str, trials: int, pairs: Sequence[tuple[float, float]], p: float, p_holm: float
) -> Versus:
    complete = all(ours and theirs for ours, theirs in pairs)
    return Versus(
        baseline,
        trials,
        sum(ours > theirs for ours, theirs in pairs),
        sum(ours == theirs for ours, theirs in pairs),
        sum(ours < theirs for ours, theirs in pairs),
        geometric_mean([theirs / ours for ours, theirs in pairs]) if complete else None,
        p,
        p_holm,
    )
