"""All runs of a comparison on recorded tables: every method, every seed, every table."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from autotune.compare.entrants import Entrant, check_entrants
from autotune.compare.remeasure import Remeasured
from autotune.compare.run import Protocol, Trace, run_search
from autotune.compare.warm import WarmStart, describe
from autotune.errors import AutotuneError
from autotune.measure.replay import ReplayMeasurer
from autotune.search.translate import Translation
from autotune.tables import Table, TableError, load_tables

#: Told after each run: how many are done, how many there are, and the run.
Progress = Callable[[int, int, Trace], None]


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Parameters
    ----------
    name
        Different for each problem of a comparison.
    size, legal
        Vertices of the space, and how many a search may measure; None where that is not known.
    optimum
        True cost in seconds of the best config; None where that is not known, on real workloads.
    meta
        Device, kernel and the like, for the report.
    """

    name: str
    size: int
    legal: int | None = None
    optimum: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Campaign:
    """What was compared and what came of it: everything a report is made from."""

    protocol: Protocol
    entrants: tuple[Entrant, ...]
    problems: tuple[Problem, ...]
    traces: tuple[Trace, ...]
    #: What the runs named, measured again in turns; only on real workloads.
    remeasured: Remeasured | None = None

    def runs(self, problem: str, entrant: str) -> list[Trace]:
        """Return the runs of one method on one problem, in the order of seeds."""
        return [t for t in self.traces if t.problem == problem and t.entrant == entrant]


@dataclass(frozen=True)
class _Job:
    path: str
    index: int
    problem: str
    entrant: Entrant
    seed: int
    protocol: Protocol
    warm: WarmStart | None


def run_replay(
    paths: Sequence[str | Path],
    entrants: Sequence[Entrant],
    protocol: Protocol,
    jobs: int = 1,
    progress: Progress | None = None,
    warm: WarmStart | None = None,
) -> Campaign:
    """Compare methods on recorded tables.

    Parameters
    ----------
    paths
        Files for :func:`autotune.tables.load_tables`; each problem of a log counts as a table.
    entrants, protocol
        Who takes part, and under which rules.
    jobs
        Processes. The result does not depend on it, the overhead column apart.
    progress
        Called after each run.
    warm
        Where the methods get a head start from. What each problem takes from it is in its
        ``meta["warm_start"]``.

    Raises
    ------
    AutotuneError
        For a table that cannot be used or holds fewer configs than the budget, or an unknown
        method, or a warm start that cannot be used; before anything is run.
    """
    if jobs < 1:
        raise AutotuneError(f"the number of jobs must be at least 1, got {jobs}")
    problems: list[Problem] = []
    work: list[_Job] = []
    deaf = [] if warm is None else warm.check([str(path) for path in paths], entrants)
    for path in dict.fromkeys(map(str, paths)):
        for index, table in enumerate(_tables(path)):
            problem = _problem(table, protocol, {p.name for p in problems})
            problems.append(problem)
            check_entrants(entrants, table.space)
            if warm is not None:
                taken = describe(_sources(warm), _translated(warm, path, index))
                ignored = f"; ignored by {', '.join(deaf)}" if deaf else ""
                problem.meta["warm_start"] = f"{taken}{ignored}"
            work += [
                _Job(path, index, problem.name, entrant, seed, protocol, warm)
                for seed in protocol.seeds
                for entrant in entrants
            ]
    traces: list[Trace] = []
    for trace in _carry_out(work, jobs):
        traces.append(trace)
        if progress is not None:
            progress(len(traces), len(work), trace)
    return Campaign(
        protocol, tuple(entrants), tuple(problems), in_order(traces, problems, entrants)
    )


def in_order(
    traces: Sequence[Trace], problems: Sequence[Problem], entrants: Sequence[Entrant]
) -> tuple[Trace, ...]:
    """Sort runs by problem, method and seed, whatever order they ended in."""
    names = [problem.name for problem in problems]
    labels = [entrant.label for entrant in entrants]
    return tuple(
        sorted(traces, key=lambda t: (names.index(t.problem), labels.index(t.entrant), t.seed))
    )


def _problem(table: Table, protocol: Protocol, taken: set[str]) -> Problem:
    if len(table) < protocol.trials:
        raise TableError(
            f"the table {table.name!r} holds {len(table)} configurations, fewer than the budget of"
            f" {protocol.trials} trials; lower --trials"
        )
    name, number = table.name, 2
    while name in taken:  # files of one name in two folders
        name, number = f"{table.name}-{number}", number + 1
    return Problem(name, table.space.size, len(table), table.optimum[1], dict(table.meta))


def _carry_out(work: Sequence[_Job], jobs: int) -> Iterator[Trace]:
    if jobs == 1:
        yield from map(_run, work)
        return
    # Not fork: a fork of a process with threads (OpenMP, TVM) can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures: list[Future[Trace]] = [pool.submit(_run, job) for job in work]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


@lru_cache(maxsize=4)
def _tables(path: str) -> tuple[Table, ...]:
    """Read a file once in each process."""
    return tuple(load_tables(path))


@lru_cache(maxsize=1)
def _sources(warm: WarmStart) -> tuple[Table, ...]:
    return tuple(warm.read())


@lru_cache(maxsize=4)
def _translated(warm: WarmStart, path: str, index: int) -> tuple[Translation, ...]:
    return tuple(warm.translated(_sources(warm), _tables(path)[index].space))


def _run(job: _Job) -> Trace:
    table = _tables(job.path)[job.index]
    measurer = ReplayMeasurer(table, job.protocol.noise, job.seed)
    return run_search(
        job.problem,
        job.entrant,
        job.seed,
        table.space,
        lambda config: measurer.measure("", config),
        table.cost,
        job.protocol,
        () if job.warm is None else _translated(job.warm, job.path, job.index),
    )
