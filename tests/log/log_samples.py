"""Records for the tests of the log, and the folder that child processes import autotune from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import autotune
from autotune.log import (
    Candidate,
    FinalRecord,
    RunHeader,
    TrialRecord,
    final_record,
    run_header,
    trial_record,
)
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

ROOT = Path(autotune.__file__).resolve().parents[1]
ASSETS = Path(__file__).parent / "assets"
GEMM = Gemm(512, 384, 256)
TARGET = {"kind": "llvm", "arch": "znver4", "threads": 8, "tvm": {"kind": "llvm", "num-cores": 8}}
TARGET_KEY = "llvm znver4 x8"
TEMPLATE = {"name": "cpu", "version": 1}
SEARCH = {"name": "gbfs", "preset": "default", "seed": 0, "options": {"rho": 5}}


def header(run: str = "run-a", workload: Gemm = GEMM, **changes: Any) -> RunHeader:
    fields: dict[str, Any] = {
        "target": TARGET,
        "target_key": TARGET_KEY,
        "template": TEMPLATE,
        "search": SEARCH,
        "hardware": {"cpu": "Test CPU", "cores": 8},
        "tools": {"tvm": "0.27.0"},
    }
    return run_header(workload, run=run, **{**fields, **changes})


def config(number: int) -> dict[str, Any]:
    return {"tile_m": [1, number, 8], "order": "mnk", "pack": True}


def trial(
    sequence: int = 0,
    cost: float | None = 1e-3,
    *,
    number: int | None = None,
    failure: FailureKind = FailureKind.RUN_TIMEOUT,
    head: RunHeader | None = None,
    **fields: Any,
) -> TrialRecord:
    """A trial of config ``number`` (its sequence number by default); a failure without a cost."""
    result = Result((cost,)) if cost is not None else Result.failed(failure, "no answer in 5 s")
    place: dict[str, Any] = {"batch": sequence, "asked": 1, "ask": 0, "tell": 0, **fields}
    chosen = config(sequence if number is None else number)
    return trial_record(head or header(), sequence, chosen, result, **place)


def final(
    sequence: int, cost: float, number: int, *, trials: int = 10, head: RunHeader | None = None
) -> FinalRecord:
    """A final in which config ``number`` won with ``cost`` over one that takes twice as long."""
    winner = config(number)
    candidates = [
        Candidate(label="tuned", config=winner, costs=(cost,), verdict="fastest"),
        Candidate(label="default", config=config(0), costs=(2 * cost,)),
        Candidate(label="torch", costs=(1.5 * cost,)),
    ]
    return final_record(head or header(), sequence, candidates, winner, trials=trials)
