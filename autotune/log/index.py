"""Questions put to the records of a log: what is best, what is known already, how did a run go.

Two things are kept apart. A *trial* is one reading; the lowest of many noisy readings is lower
than the truth, so the best trial is biased. A *final* is a re-measurement of the best few of a run
against each other. Where finals exist, they decide (:func:`winner`); raw trials only where there
are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.log.record import FinalRecord, Record, TrialRecord, canonical_json, template_id
from autotune.trial import FailureKind


@dataclass(frozen=True)
class Winner:
    """The config to use, and how it is known.

    Parameters
    ----------
    config, config_key
        The config as plain JSON, and its canonical text.
    cost
        Seconds per call.
    record
        The final that named it, or the trial that read it.
    """

    config: dict[str, Any]
    config_key: str
    cost: float
    record: Record

    @property
    def confirmed(self) -> bool:
        """Whether it was re-measured against its rivals, rather than read once."""
        return isinstance(self.record, FinalRecord)


def select(
    records: Iterable[Record],
    workload_key: str | None = None,
    target_key: str | None = None,
    template: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Yield the records of a workload, target and template; ``None`` stands for any."""
    wanted = None if template is None else template_id(template)
    for record in records:
        if (
            (workload_key is None or record.workload_key == workload_key)
            and (target_key is None or record.target_key == target_key)
            and (wanted is None or record.template_id == wanted)
        ):
            yield record


def best(
    records: Iterable[Record],
    workload_key: str | None = None,
    target_key: str | None = None,
    template: Mapping[str, Any] | None = None,
) -> TrialRecord | None:
    """Return the trial with the lowest reading, the earliest of equals; ``None`` without a success.

    It serves to show progress. What to compile with is what :func:`winner` says.
    """
    trials = (
        record
        for record in select(records, workload_key, target_key, template)
        if isinstance(record, TrialRecord) and record.ok
    )
    return min(trials, key=lambda trial: (trial.cost, trial.time, trial.id), default=None)


def winner(
    records: Iterable[Record],
    workload_key: str | None = None,
    target_key: str | None = None,
    template: Mapping[str, Any] | None = None,
) -> Winner | None:
    """Return the config to use, ``None`` if nothing succeeded.

    Of each run its newest final counts, which is the one made after the most trials (clocks may
    jump). Of those, the one whose winner was re-measured fastest decides. Without any final it is
    the :func:`best` trial.
    """
    chosen = list(select(records, workload_key, target_key, template))
    newest: dict[tuple[str, str, str], FinalRecord] = {}
    for record in chosen:
        if isinstance(record, FinalRecord) and math.isfinite(record.cost):
            part = (record.run, record.workload_key, record.target_key)
            rival = newest.setdefault(part, record)
            if (record.trials, record.time, record.id) > (rival.trials, rival.time, rival.id):
                newest[part] = record
    if newest:
        final = min(newest.values(), key=lambda record: (record.cost, record.time, record.id))
        return Winner(final.winner, final.config_key, final.cost, final)
    trial = best(chosen)
    return None if trial is None else Winner(trial.config, trial.config_key, trial.cost, trial)


def results_for(
    records: Iterable[Record],
    workload_key: str,
    target_key: str,
    template: Mapping[str, Any],
) -> dict[str, TrialRecord]:
    """Return the record that serves as the result of each known config, by ``config_key``.

    A success wins over a failure, a measurement over a record that only copies one, and the newest
    over older ones. Failures are served too: a config that crashed or ran out of time is not worth
    another try. A noisy one is, because that says nothing about the config.
    """
    known: dict[str, TrialRecord] = {}
    for record in select(records, workload_key, target_key, template):
        if not isinstance(record, TrialRecord) or record.failure == FailureKind.NOISY.value:
            continue
        rival = known.setdefault(record.config_key, record)
        if _serves_better(record) > _serves_better(rival):
            known[record.config_key] = record
    return known


def _serves_better(record: TrialRecord) -> tuple[bool, bool, str, str]:
    return record.ok, record.source is None, record.time, record.id


def find_run(
    records: Iterable[Record],
    workload_key: str,
    target_key: str,
    template: Mapping[str, Any],
    search: Mapping[str, Any],
) -> str | None:
    """Return the newest run that did the same search for the same thing: the one to resume."""
    wanted = canonical_json(search)
    same = (
        record
        for record in select(records, workload_key, target_key, template)
        if canonical_json(record.search) == wanted
    )
    newest = max(same, key=lambda record: (record.time, record.id), default=None)
    return None if newest is None else newest.run


def next_sequence(records: Iterable[Record], run: str) -> int:
    """Return the first sequence number that no record of a run has."""
    numbers = (record.id.rpartition("/")[2] for record in records if record.run == run)
    return max((int(n) + 1 for n in numbers if n.isascii() and n.isdigit()), default=0)


def run_batches(
    records: Iterable[Record], run: str
) -> list[tuple[int, list[tuple[int, int, TrialRecord]]]]:
    """Return the batches of a run, so that its searcher can be brought back to where it was.

    To replay: for each ``(asked, told)`` call ``ask(asked)``, then for each ``(ask, tell, record)``
    tell the result of the config at position ``ask``. ``told`` is in the order of telling.

    A batch may be incomplete: the last one if the run was killed, any one if a line was damaged.
    Its other configs were asked for and never told. A batch of which nothing is left cannot be
    replayed: the answer ends before it, and later records still serve through
    :func:`results_for`.
    """
    batches: dict[int, dict[int, TrialRecord]] = {}
    for record in records:
        if isinstance(record, TrialRecord) and record.run == run:
            # A merged log may hold a record twice; the first one counts.
            batches.setdefault(record.batch, {}).setdefault(record.ask, record)
    replay = []
    for index in range(len(batches)):
        if index not in batches:
            break
        told = sorted(batches[index].values(), key=lambda record: (record.tell, record.ask))
        replay.append((told[0].asked, [(r.ask, r.tell, r) for r in told]))
    return replay
