"""Tuners of other projects as one more column of a comparison on a real workload.

Such a tuner has a space of its own, so nothing can be shared: it measures its own candidates, with
the same verification and the same timing as ours. A new one is a function like
:func:`run_metaschedule` in :data:`EXTERNAL`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compare.run import Protocol, Step, Trace
from autotune.hw_profiles import tvm_target
from autotune.identity import target_json, target_key, tool_versions
from autotune.log import TrialRecord, TuningLog, find_run, run_header, trial_record
from autotune.measure.local import LocalMeasurer
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.log import RunHeader

#: MetaSchedule's own default: candidates planned between two refits of its cost model.
_METASCHEDULE_BATCH = 64
#: Seconds that MetaSchedule may search between two measurements; populations of 2048 take a while.
_SEARCH_SECONDS = 1800.0
#: Seconds for one candidate to run, unless the user says how many. Its own runner gives a slow one
#: up after 30; here that would end the search, as kernels run in the process that searches.
_RUN_SECONDS = 120.0

#: ``(problem, protocol, measurer, log, seed)``: one run, its trials kept in the log.
Runner = Callable[[str, Protocol, LocalMeasurer, TuningLog, int], Trace]


def run_metaschedule(
    problem: str, protocol: Protocol, measurer: LocalMeasurer, log: TuningLog, seed: int
) -> Trace:
    """Run MetaSchedule's tuner with its own space, cost model and batch size.

    A run that the log holds is not repeated. A run that fails is kept in the trace, not in the log.
    """
    search = {
        "name": "metaschedule",
        "seed": seed,
        "trials": protocol.trials,
        "batch": min(_METASCHEDULE_BATCH, protocol.trials),
    }
    header, trials = _recorded(measurer, log, search)
    if not trials:
        try:
            trials = _tune(measurer, log, header, search)
        except (Deadline, WorkerDied) as error:
            return Trace(problem, "metaschedule", seed, (), error=f"MetaSchedule: {error}")
    overhead = sum(float(trial.phases.get("search", 0.0)) for trial in trials)
    return Trace(problem, "metaschedule", seed, steps_of(trials), overhead)


class _Tuner(LocalMeasurer):
    """Starts MetaSchedule's worker with the environment and the problem of our own workers."""

    def tune(self, search: dict[str, Any]) -> dict[str, Any]:
        worker = WorkerProcess("autotune.compare.metaschedule_worker", self._env)
        try:
            self._set_up(
                worker,
                target=tvm_target(self.profile, self.threads),
                plugins=[],
                sys_path=[path for path in sys.path if path],
            )
            return worker.request(
                "tune",
                {**self._limits, "tune": _SEARCH_SECONDS, "run": self._run_limit()},
                trials=search["trials"],
                batch=search["batch"],
                seed=search["seed"] + 1,  # MetaSchedule would draw its own in the place of 0
                seconds=self.options.seconds,
            )
        finally:
            worker.close()

    def _run_limit(self) -> float:
        asked = self.options.run_timeout
        return max(_RUN_SECONDS, self._limits["run"]) if asked is None else asked


def steps_of(trials: Sequence[TrialRecord]) -> tuple[Step, ...]:
    """Return the trials of a run as a comparison sees them."""
    steps: list[Step] = []
    named = math.inf
    for trial in trials:
        named = min(named, trial.cost)
        steps.append(Step(trial.config_key, trial.cost, named, trial.failure or ""))
    return tuple(steps)


def _recorded(
    measurer: LocalMeasurer, log: TuningLog, search: dict[str, Any]
) -> tuple[RunHeader, list[TrialRecord]]:
    tools = tool_versions()
    template = {"name": "metaschedule", "version": tools["apache-tvm"]}
    key = target_key(measurer.profile, measurer.threads)
    records = log.scan().trials
    run = find_run(records, measurer.workload.key, key, template, search)
    header = run_header(
        measurer.workload,
        target=target_json(measurer.profile, measurer.threads),
        target_key=key,
        template=template,
        run=run,
        search=search,
        hardware=measurer.profile.fingerprint(),
        tools=tools,
    )
    return header, [record for record in records if record.run == run]


def _tune(
    measurer: LocalMeasurer, log: TuningLog, header: RunHeader, search: dict[str, Any]
) -> list[TrialRecord]:
    tuner = _Tuner(measurer.workload, measurer.profile, measurer.threads, measurer.options)
    try:
        answer = tuner.tune(search)
    finally:
        tuner.close()
    each = {"search": answer["overhead"] / max(1, len(answer["results"]))}
    records = [
        trial_record(
            header,
            number,
            {"seed": search["seed"], "trial": number},
            Result((result["cost"],), phases=each)
            if "cost" in result
            else Result.failed(FailureKind(result["failure"]), result["message"], each),
            batch=number // search["batch"],
            asked=search["batch"],
            ask=number % search["batch"],
            tell=number % search["batch"],
        )
        for number, result in enumerate(answer["results"])
    ]
    log.append(records)  # in one piece: what the log holds is a whole run
    return records


#: By the name that ``--searchers`` takes.
EXTERNAL: dict[str, Runner] = {"metaschedule": run_metaschedule}


def external_log(log: Path) -> TuningLog:
    """Return the log of other projects' trials beside that of the shared measurements."""
    return TuningLog(log.with_name(f"{log.name.removesuffix('.jsonl')}.external.jsonl"))
