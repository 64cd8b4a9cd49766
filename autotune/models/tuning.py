"""Tune the products of a model: a budget shared by expected gain.

A task is one workload of the model, weighted by how often it is called. Each step goes to the task
that promises to take most time off the model: what its last step gained, and what is left between
its best kernel and the machine's ceiling, which counts the less the longer it was searched for.
That is the gradient of the task scheduler of Ansor (Zheng et al., OSDI 2020, section 6), with the
measured ceiling in the place of similar tasks.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, MeasureError, NotApplicable
from autotune.kernels.base import choose_template, load_templates
from autotune.measure import MeasureOptions, make_measurer
from autotune.models.choose import constant_options, for_constant
from autotune.models.dynamic import range_workloads
from autotune.models.expressions import is_constant
from autotune.run import TuneRequest
from autotune.tune import Session

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.log import TuningLog
    from autotune.models.sites import Site
    from autotune.run import Observer, Report
    from autotune.workload import Gemm

#: Trials of one step.
STEP = 16
#: Share of the last gain in the gradient; the rest is what the ceiling promises.
_ALPHA = 0.2
#: Measurers that are kept open at once; each has some processes.
_OPEN = 4
#: Seconds that the last measurements of one task take, roughly.
FINAL_SECONDS = 6.0


@dataclass(frozen=True)
class Task:
    """One workload of a model.

    Parameters
    ----------
    workload
        As it will be compiled: prepacked where B is a constant and a template packs it.
    calls
        Products of the model that have this workload.
    """

    workload: Gemm
    calls: int

    @property
    def flops(self) -> int:
        """Operations of all its calls."""
        return self.calls * self.workload.flops


def model_tasks(sites: Iterable[Site], profile: HardwareProfile) -> tuple[list[Task], list[str]]:
    """Return the tasks of a model, most operations first, and what no template computes."""
    calls: dict[Gemm, int] = {}
    left: dict[str, None] = {}
    for site in sites:
        parts = [_tunable_part(part, profile) for part in site.lengths()]
        found = next((part for part in parts if isinstance(part, list)), parts[0])
        if isinstance(found, str):
            left[found] = None
            continue
        for workload in found:
            calls[workload] = calls.get(workload, 0) + 1
    tasks = [Task(workload, count) for workload, count in calls.items()]
    return sorted(tasks, key=lambda task: (-task.flops, task.workload.key)), list(left)


def _tunable_part(site: Site, profile: HardwareProfile) -> list[Gemm] | str:
    """Return the workloads to tune for a site, or why one of them is not."""
    wanted = [site.workload] if site.rows is None else range_workloads(site.workload)
    workloads: list[Gemm] = []
    for workload in wanted:
        found = _tunable(workload, is_constant(site.b), profile)
        if isinstance(found, str):
            return found
        workloads.append(found)
    return workloads


def _tunable(workload: Gemm, constant_b: bool, profile: HardwareProfile) -> Gemm | str:
    """Return the workload to tune, or why there is none."""
    wanted = replace(workload, prepacked=constant_b)
    templates = [t for t in load_templates().values() if t.kind == profile.kind]
    reason = ""
    for option in constant_options(templates, wanted, profile):
        try:
            template = choose_template("auto", option, profile)
            if option.prepacked and not template.packs:
                continue
            return for_constant(template, wanted, option)
        except NotApplicable as error:
            reason = f"{option.key}: {error}"
    return reason


@dataclass
class _Progress:
    """Where a task stands."""

    task: Task
    session: Session
    costs: list[float] = field(default_factory=list)
    ceiling: float = 0.0
    failed: str = ""

    @property
    def report(self) -> Report:
        return self.session.report

    def gain(self) -> float:
        """Return the seconds of the model's time that one more trial promises to take off."""
        if not self.costs:
            return float("inf")
        best = self.costs[-1]
        if best == float("inf"):
            return 0.0
        last = (self.costs[-2] - best) / STEP if len(self.costs) > 1 else 0.0
        floor = self.task.workload.flops / self.ceiling if self.ceiling else 0.0
        promised = max(best - floor, 0.0) / max(self.report.trials, 1)
        if last == float("inf"):
            last = promised
        return self.task.calls * (_ALPHA * last + (1 - _ALPHA) * promised)


class ModelTuner:
    """Tunes tasks into one log; the same call again continues where it stopped.

    Parameters
    ----------
    tasks
        What to tune.
    profile, threads, log
        As for :class:`~autotune.tune.Session`.
    seconds, trials
        Budgets of all tasks together; both count what earlier calls have spent, and None is none.
    searcher, seed, batch
        Search method for every task.
    target
        What ``--target`` names: what tells one GPU of a machine from another.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        profile: HardwareProfile,
        threads: int,
        log: TuningLog,
        *,
        seconds: float | None = None,
        trials: int | None = None,
        searcher: str = "auto",
        seed: int = 0,
        batch: int = 8,
        measurer: Callable[..., Any] = make_measurer,
        target: str = "cpu",
    ) -> None:
        if seconds is None and trials is None:
            raise AutotuneError("give a budget: a number of trials, seconds, or both")
        if not tasks:
            raise AutotuneError("this model has no product that a template computes")
        self.profile, self.threads, self.log = profile, threads, log
        self.seconds, self.trials = seconds, trials
        self._make, self._target = measurer, target
        self._earlier = self._start = 0.0
        self._open: OrderedDict[Gemm, tuple[Any, ExitStack]] = OrderedDict()
        self._progress = [
            _Progress(task, Session(self._request(task, searcher, seed, batch), log))
            for task in tasks
        ]

    def _request(self, task: Task, searcher: str, seed: int, batch: int) -> TuneRequest:
        return TuneRequest(
            task.workload,
            self.profile,
            self.threads,
            searcher=searcher,
            seed=seed,
            batch=batch,
            trials=None,
            seconds=float("inf"),
        )

    def run(
        self, observer: Observer, note: Callable[[str], None] = lambda text: None
    ) -> list[Report]:
        """Tune until the budget is spent, re-measure the best of each task, return the reports.

        A task of which every trial fails is left alone, and ``note`` hears of it; if all do, that
        is an error.

        Raises
        ------
        MeasureError
            If no task has a single working kernel.
        """
        interrupted = False
        try:
            for progress in self._progress:
                progress.session.begin(observer)
                if progress.report.trials:
                    progress.costs.append(progress.report.best_cost)
            self._earlier = sum(progress.report.search_seconds for progress in self._progress)
            self._start = time.monotonic()
            while (following := self._next()) is not None:
                self._step(following, observer)
            for progress in self._progress:
                self._conclude(progress, observer, note)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._close()
        reports = [progress.report for progress in self._progress]
        for report in reports:
            report.interrupted = interrupted
        if not interrupted and all(progress.failed for progress in self._progress):
            raise MeasureError(self._progress[0].failed)
        return reports

    def _step(self, progress: _Progress, observer: Observer) -> None:
        target = progress.report.trials + self._steps()
        progress.session.advance(self._measurer(progress), observer, target)
        progress.ceiling = 1e9 * (progress.report.roofline_gflops or 0.0)
        progress.costs.append(progress.report.best_cost)

    def _steps(self) -> int:
        if self.trials is None:
            return STEP
        return max(1, min(STEP, self.trials - self._trials_done()))

    def _next(self) -> _Progress | None:
        """Return the task to go on with; None when the budget is spent or nothing is left.

        Every task gets its first step, whatever the budget: its default belongs to that.
        """
        new = [progress for progress in self._progress if not progress.costs]
        if new:
            return new[0]
        promising = [p for p in self._progress if not p.report.exhausted and p.gain() > 0.0]
        if self._spent():
            return None
        return max(promising, key=lambda progress: progress.gain(), default=None)

    def _spent(self) -> bool:
        if self.trials is not None and self._trials_done() >= self.trials:
            return True
        if self.seconds is None:
            return False
        used = self._earlier + time.monotonic() - self._start
        return used + FINAL_SECONDS * len(self._progress) >= self.seconds

    def _trials_done(self) -> int:
        return sum(progress.report.trials for progress in self._progress)

    def _conclude(
        self, progress: _Progress, observer: Observer, note: Callable[[str], None]
    ) -> None:
        try:
            progress.session.conclude(self._measurer(progress), observer)
        except MeasureError as error:
            progress.failed = str(error)
            note(f"{progress.task.workload.key}: {error}")

    # -- measurers -------------------------------------------------------------------------------

    def _measurer(self, progress: _Progress) -> Any:
        """Return the measurer of a task; the one that was not used for longest is closed."""
        workload = progress.task.workload
        if workload not in self._open:
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1][1].close()
            stack = ExitStack()
            measurer = stack.enter_context(
                self._make(self._target, workload, self.profile, self.threads, MeasureOptions())
            )
            self._open[workload] = (measurer, stack)
        self._open.move_to_end(workload)
        return self._open[workload][0]

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1][1].close()
