"""Write a table as a small file to pass on: one record a config, gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from autotune.log.lines import encode_line
from autotune.tables.table import TableError
from autotune.trial import FailureKind

if TYPE_CHECKING:
    from autotune.log import TrialRecord

#: Significant digits of a packed reading; readings of one config differ by a percent and more.
_DIGITS = 4


def pack_table(trials: Sequence[TrialRecord], out: Path) -> int:
    """Write one record for each config, with the readings of all its trials; return how many.

    What says how a trial went (phases, compiler's features, machine code) is left out, and readings
    are rounded. The file is a log, which :func:`autotune.tables.load_tables` and
    ``autotune log check`` read, and the same trials always give the same bytes.

    Raises
    ------
    TableError
        If the trials are not all of one workload, target and template, or the file cannot be
        written.
    """
    problems = {(t.workload_key, t.target_key, *t.template_id) for t in trials}
    if len(problems) != 1:
        raise TableError(
            f"a packed table holds one workload, target and template, these trials {len(problems)};"
            " build each table into a file of its own"
        )
    records = [_packed(group) for group in _by_config(trials).values()]
    data = b"".join(encode_line(record) for record in records)
    try:
        out.write_bytes(gzip.compress(data, mtime=0))
    except OSError as error:
        raise TableError(f"cannot write the table {out}: {error.strerror or error}") from None
    return len(records)


def _by_config(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Return what counts of each config: measurements, or else failures; noisy ones say nothing."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.source is None and trial.failure != FailureKind.NOISY.value:
            groups.setdefault(trial.config_key, []).append(trial)
    return {key: [t for t in group if t.ok] or group[:1] for key, group in groups.items()}


def _packed(group: Sequence[TrialRecord]) -> TrialRecord:
    costs = tuple(float(f"{cost:.{_DIGITS - 1}e}") for trial in group for cost in trial.costs)
    return msgspec.structs.replace(
        group[0], costs=costs, phases={}, features={}, code="", elapsed=0.0
    )
