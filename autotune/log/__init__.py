"""The tuning log: cache, resume point, and what models are compiled with."""

from __future__ import annotations

from autotune.log.index import (
    Winner,
    best,
    find_run,
    next_sequence,
    results_for,
    run_batches,
    select,
    winner,
)
from autotune.log.lines import Line, Skip
from autotune.log.record import (
    Candidate,
    CompiledRecord,
    FinalRecord,
    Record,
    RunHeader,
    TrialRecord,
    canonical_json,
    compiled_record,
    final_record,
    new_run_id,
    run_header,
    trial_record,
)
from autotune.log.rewrite import Rewritten, compact, merge
from autotune.log.store import Scan, TuningLog, is_log
from autotune.log.tiers import Hit, Tier, lookup

__all__ = [
    "Candidate",
    "CompiledRecord",
    "FinalRecord",
    "Hit",
    "Line",
    "Record",
    "Rewritten",
    "RunHeader",
    "Scan",
    "Skip",
    "Tier",
    "TrialRecord",
    "TuningLog",
    "Winner",
    "best",
    "canonical_json",
    "compact",
    "compiled_record",
    "final_record",
    "find_run",
    "is_log",
    "lookup",
    "merge",
    "new_run_id",
    "next_sequence",
    "results_for",
    "run_batches",
    "run_header",
    "select",
    "trial_record",
    "winner",
]
