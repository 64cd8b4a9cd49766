"""Write winners as MetaSchedule databases, and read back what such a database says of ours.

Each target has a folder of its own, because MetaSchedule ignores the target when it looks a
function up. A record's trace begins with an annotation that holds workload, template and config, so
that the way back needs no trace to be run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError, NotApplicable
from autotune.kernels.alignment import check_ffi
from autotune.kernels.base import get_template
from autotune.log import (
    FinalRecord,
    Record,
    TrialRecord,
    TuningLog,
    new_run_id,
    run_header,
    trial_record,
    winner,
)
from autotune.search.parameters import lists_to_tuples
from autotune.search.space import Config
from autotune.trial import Result
from autotune.workload import Gemm

#: File names of a MetaSchedule work folder.
WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
#: Key of the annotation, and version of what it says.
ANNOTATION, VERSION = "autotune", 1
#: Slower configs tried where the kernel of a faster one is no schedule of TVM's product.
_TRIED = 200


@dataclass(frozen=True)
class Exported:
    """What became of one workload on one target: where it is, or why it is nowhere."""

    workload_key: str
    target_key: str
    folder: Path | None
    note: str


@dataclass(frozen=True)
class _Candidate:
    config: dict[str, Any]
    costs: tuple[float, ...]
    cost: float
    record: Record


def export_metaschedule(records: Iterable[Record], folder: Path) -> list[Exported]:
    """Write the winner of each workload and target to a database below ``folder``.

    Where the winner's kernel is no schedule of TVM's own product, because its tiles stick out, the
    fastest one that is takes its place.

    Returns
    -------
    list of Exported
        One for each workload and target of the log.

    Raises
    ------
    AutotuneError
        If there is no successful record, a database stands there already, or cannot be written, or
        TVM cannot write modules (:func:`~autotune.kernels.alignment.check_ffi`).
    """
    check_ffi()
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.target_key, record.workload_key), []).append(record)
    databases: dict[Path, Any] = {}
    done = []
    for (target_key, workload_key), group in groups.items():
        place = folder / target_folder(group[0])
        try:
            note = _export(group, place, databases)
        except NotApplicable as error:
            done.append(Exported(workload_key, target_key, None, str(error)))
        else:
            done.append(Exported(workload_key, target_key, place, note))
    if not done:
        raise AutotuneError("there is no such record to export; see autotune log show")
    return done


def target_folder(record: Record) -> str:
    """Return the name of the folder of a record's target."""
    target = record.target
    words = f"{target.get('arch', 'unknown')}-{target.get('threads', 1)}t"
    digest = hashlib.sha256(record.target_key.encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9]+", "-", words)[:60] + "-" + digest


def _export(group: list[Record], place: Path, databases: dict[Path, Any]) -> str:
    """Commit the best that can be expressed; returns what to say, raises NotApplicable."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    from autotune.interchange.plain import plain_products, schedule_plain

    head = group[0]
    if head.target.get("kind") != "cpu" or not isinstance(head.target.get("tvm"), Mapping):
        raise NotApplicable(f"only kernels for CPUs are exported, not for {head.target_key}")
    try:
        workload = Gemm.from_json(head.workload)
    except AutotuneError as error:
        raise NotApplicable(str(error)) from None
    candidates = _candidates(group)
    modules = plain_products(workload)
    reason: NotApplicable | None = None
    for candidate in candidates[:_TRIED]:
        try:
            schedules = [
                schedule_plain(workload, *_compiled_from(candidate), module, _note(candidate))
                for module in modules
            ]
        except NotApplicable as error:
            reason = reason or error
            continue
        target = tvm.target.Target(dict(head.target["tvm"]))
        database = databases.get(place) or databases.setdefault(place, _create(place, head))
        for module, schedule in zip(modules, schedules, strict=True):
            arguments = ms.arg_info.ArgInfo.from_entry_func(module, False)
            entry = database.commit_workload(module)
            database.commit_tuning_record(
                ms.database.TuningRecord(
                    schedule.trace, entry, list(candidate.costs), target, arguments
                )
            )
        if reason is None:
            return f"{candidate.cost * 1e3:.4g} ms"
        slower = candidate.cost / candidates[0].cost
        return f"{candidate.cost * 1e3:.4g} ms, {slower:.2f} x the winner's time, because {reason}"
    assert reason is not None
    raise reason


def _candidates(group: list[Record]) -> list[_Candidate]:
    """Return the winner, and then all successes from the fastest."""
    best = winner(group)
    if best is None:
        raise NotApplicable("nothing succeeded")
    costs: tuple[float, ...] = (best.cost,)
    if isinstance(best.record, TrialRecord):
        costs = best.record.costs
    elif isinstance(best.record, FinalRecord):
        costs = next((c.costs for c in best.record.candidates if c.config == best.config), costs)
    trials = [record for record in group if isinstance(record, TrialRecord) and record.ok]
    trials.sort(key=lambda trial: (trial.cost, trial.time, trial.id))
    return [
        _Candidate(best.config, costs, best.cost, best.record),
        *(_Candidate(trial.config, trial.costs, trial.cost, trial) for trial in trials),
    ]


def _compiled_from(candidate: _Candidate) -> tuple[str, Config]:
    """Return template and config; raises NotApplicable where this autotune has another version."""
    name, version = candidate.record.template_id
    try:
        known = get_template(name)
    except AutotuneError as error:
        raise NotApplicable(str(error)) from None
    if str(known.version) != version:
        raise NotApplicable(f"it is of version {version} of {name}, which is {known.version} here")
    return name, Config({key: lists_to_tuples(value) for key, value in candidate.config.items()})


def _note(candidate: _Candidate) -> tuple[str, str]:
    """Return key and text of the annotation."""
    record = candidate.record
    said = {
        "v": VERSION,
        "workload": record.workload,
        "template": record.template,
        "config": candidate.config,
        "target": record.target,
        "target_key": record.target_key,
        "tools": record.tools,
    }
    return ANNOTATION, json.dumps(_plain(said), separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Replace what JSON escapes: TVM writes the text's quotes twice, and mangles a backslash."""
    if isinstance(value, str):
        return re.sub(r'[^ -~]|["\\]', "?", value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _create(place: Path, head: Record) -> Any:
    from tvm.s_tir import meta_schedule as ms

    if any((place / name).exists() for name in (WORKLOADS, RECORDS)):
        raise AutotuneError(f"{place} holds a database already; export to another folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
        about = {"target_key": head.target_key, "target": head.target}
        (place / "target.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise AutotuneError(f"cannot write to {place}: {error.strerror}") from None
    return ms.database.JSONDatabase(
        path_workload=str(place / WORKLOADS), path_tuning_record=str(place / RECORDS)
    )


@dataclass(frozen=True)
class Imported:
    """How many records were added to the log, and why the others were not."""

    added: int
    skipped: Counter[str]


def import_metaschedule(folder: Path, log: TuningLog) -> Imported:
    """Append the records of ``folder``, or of the folders in it, whose config is known, to a log.

    Nothing in the database is executed: only the annotation that the export leaves is read. What
    MetaSchedule or others tuned has none, and a foreign trace is no config of a template.

    Raises
    ------
    AutotuneError
        If there is no database.
    """
    files = sorted([*folder.glob(RECORDS), *folder.glob(f"*/{RECORDS}")])
    if not files:
        raise AutotuneError(f"there is no {RECORDS} in {folder} or a folder in it")
    known = {
        (trial.workload_key, trial.target_key, trial.template_id, trial.config_key, trial.costs)
        for trial in (log.scan().trials if log.path.exists() else ())
    }
    skipped: Counter[str] = Counter()
    added: list[TrialRecord] = []
    run = new_run_id()
    for said, costs in _read(files, skipped):
        try:
            record = _record(said, costs, run, len(added))
        except (AutotuneError, KeyError, TypeError, ValueError) as error:
            skipped[f"its annotation is not sound: {error}"] += 1
            continue
        key = (
            record.workload_key,
            record.target_key,
            record.template_id,
            record.config_key,
            record.costs,
        )
        if key in known:
            skipped["the log has it, or it is there twice"] += 1
            continue
        known.add(key)
        added.append(record)
    if added:
        log.append(added)
    return Imported(len(added), skipped)


def _read(
    files: Iterable[Path], skipped: Counter[str]
) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """Yield the annotation and the seconds of every record that has both."""
    for file in files:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AutotuneError(f"cannot read {file}: {error}") from None
        for line in filter(str.strip, lines):
            try:
                _, ((instructions, _), costs, *_) = json.loads(line)
                texts = [
                    inputs[1]
                    for name, inputs, attributes, _ in instructions
                    if name == "Annotate" and attributes == [ANNOTATION]
                ]
            except (ValueError, TypeError, IndexError):
                skipped["the line is no tuning record"] += 1
                continue
            if not texts:
                skipped["not from autotune: a foreign trace is no config of a template"] += 1
            elif not costs:
                skipped["it has no time"] += 1
            else:
                try:
                    yield json.loads(texts[0][1:-1]), costs  # TVM puts it in quotes
                except (ValueError, TypeError):
                    skipped["its annotation cannot be read"] += 1


def _record(said: Mapping[str, Any], costs: list[float], run: str, sequence: int) -> TrialRecord:
    if said["v"] != VERSION:
        raise ValueError(f"version {said['v']!r} of another autotune")
    header = run_header(
        Gemm.from_json(said["workload"]),
        target=said["target"],
        target_key=str(said["target_key"]),
        template=said["template"],
        run=run,
        search={"name": "import-metaschedule"},
        tools=said["tools"],
    )
    config = said["config"]
    if not isinstance(config, dict) or not config:
        raise ValueError("it names no config")
    result = Result(tuple(float(cost) for cost in costs))
    return trial_record(header, sequence, config, result, batch=sequence, asked=1, ask=0, tell=0)
