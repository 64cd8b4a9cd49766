"""Write results of a log in Kernel Tuner's T4 format (results schema 1.0.0); times in ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.tables.from_log import tables_from_records
from autotune.trial import FailureKind

if TYPE_CHECKING:
    from autotune.log import TrialRecord
    from autotune.tables.table import Entry

SCHEMA = "1.0.0"
_MS = 1e3
#: Our kind -> the word of T4's "invalidity".
_INVALIDITY = {
    FailureKind.ILLEGAL: "constraints",
    FailureKind.SCHEDULE_ERROR: "compile",
    FailureKind.COMPILE_ERROR: "compile",
    FailureKind.COMPILE_TIMEOUT: "timeout",
    FailureKind.RUN_ERROR: "runtime",
    FailureKind.RUN_TIMEOUT: "timeout",
    FailureKind.CRASHED: "runtime",
    FailureKind.WRONG_RESULT: "correctness",
}


def t4_results(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the contents of a T4 file: one result a config, with the readings of all its trials.

    A trial that was too noisy to count says nothing of its config and is left out.

    Raises
    ------
    AutotuneError
        If the trials are not all of one workload, target and template, or there is none: a T4 file
        holds one problem.
    """
    problems = {(t.workload_key, t.target_key, *t.template_id): t for t in trials}
    if not problems:
        raise AutotuneError("there is no such trial to export; see autotune log show")
    if len(problems) > 1:
        held = "; ".join(f"{key} on {target} with {name}" for key, target, name, _ in problems)
        raise AutotuneError(
            "a T4 file holds one workload, target and template; choose with --workload, or export"
            f" from a log with one of them: {held}"
        )
    (table,) = tables_from_records(trials, "export")
    first: dict[str, TrialRecord] = {}
    for trial in trials:
        first.setdefault(trial.config_key, trial)
    results = []
    for trial in first.values():
        config = table.space.config_from_json(trial.config)
        if config in table:
            results.append(_result(trial, table.entry(config)))
    head = trials[0]
    metadata = {
        "device_name": table.device,
        "kernel_name": table.kernel,
        "workload": head.workload,
        "target": head.target,
        "template": head.template,
        "tools": head.tools,
    }
    return {"schema_version": SCHEMA, "metadata": metadata, "results": results}


def _result(trial: TrialRecord, entry: Entry) -> dict[str, Any]:
    result: dict[str, Any] = {
        "timestamp": trial.time,
        "configuration": trial.config,
        "times": {
            "compilation_time": _MS * trial.phases.get("build", 0.0),
            "validation": _MS * trial.phases.get("verify", 0.0),
            "framework": 0.0,
            "search_algorithm": 0.0,
            "runtimes": [_MS * reading for reading in entry.readings],
        },
        "invalidity": "correct",
        "correctness": 1,
        "measurements": [],
        "objectives": ["time"],
    }
    if entry.failure is None:
        result["measurements"] = [{"name": "time", "value": _MS * entry.cost, "unit": "ms"}]
    else:
        result["invalidity"] = _INVALIDITY[entry.failure]
        result["correctness"] = int(entry.failure is not FailureKind.WRONG_RESULT)
        result["measurements"] = [{"name": "message", "value": entry.message, "unit": ""}]
    return result
