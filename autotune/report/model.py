"""What the commands for models print: their products, how tuning goes, and what was compiled."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autotune.models.defaults_cuda import ONE_THREAD
from autotune.report.columns import aligned

if TYPE_CHECKING:
    from autotune.models.coverage import Coverage
    from autotune.models.tuning import Task
    from autotune.run import Report, Trial
    from autotune.tune import Session

_LINE_SECONDS = 10.0


def task_lines(
    tasks: Sequence[Task], left: Sequence[str], reports: Sequence[Report] = ()
) -> list[str]:
    """Return the products of a model, with what tuning found if it was done."""
    if not tasks:
        return ["no product that a template computes", *_left(left)]
    total = sum(task.flops for task in tasks)
    header = ["calls", "GFLOP", "share"]
    header += ["trials", "default", "tuned", "gain", "of peak"] if reports else []
    rows = [[*header, "workload"]]
    for i, task in enumerate(tasks):
        row = [str(task.calls), f"{task.flops / 1e9:.3f}", f"{task.flops / total:.1%}"]
        if reports:
            row += _tuned(reports[i], task)
        rows.append([*row, task.workload.key])
    lines = aligned(rows)
    if reports:
        lines.append("default and tuned in GFLOP/s, as measured in turns at the end")
    return [*lines, *_left(left)]


def _tuned(report: Report, task: Task) -> list[str]:
    def rate(seconds: float) -> float:
        return task.workload.flops / seconds / 1e9

    if report.winner_cost is None or not math.isfinite(report.winner_cost):
        return [str(report.trials), "-", "-", "-", "-"]
    costs = {candidate.label: candidate.cost for candidate in report.contenders}
    default = costs.get("default", math.nan)
    tuned = rate(report.winner_cost)
    known = not math.isnan(default) and math.isfinite(default)
    peak = f"{tuned / report.peak_gflops:.0%}" if report.peak_gflops else "-"
    return [
        str(report.trials),
        f"{rate(default):.1f}" if known else "-",
        f"{tuned:.1f}",
        f"{default / report.winner_cost:.2f}" if known else "-",
        peak,
    ]


def _left(left: Sequence[str]) -> list[str]:
    return [f"not tuned: {text}" for text in left]


class TuningProgress:
    """Follows the tuning of a model: an :class:`~autotune.run.Observer` that writes to stderr."""

    def __init__(self, trials: int | None, seconds: float | None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status: Any = None
        self._trials, self._seconds = trials, seconds
        self._key, self._count, self._flops = "", 0, 0
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> TuningProgress:
        if sys.stderr.isatty():
            self._status = self._console.status("tuning")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def started(self, session: Session) -> None:
        """A task was taken up."""

    def ready(self, roofline_gflops: float) -> None:
        """Measuring is about to begin."""

    def trial(self, trial: Trial) -> None:
        """One more trial of some task."""
        self._count += trial.origin != "resumed"
        best = f"best {trial.best_cost * 1e3:.4g} ms" if math.isfinite(trial.best_cost) else "none"
        self._show(f"trial {self._count}: {best}")

    def final(self, done: int, rounds: int) -> None:
        """A round of the last measurements."""
        self._show(f"last measurements: round {done + 1} of {rounds}")

    def _show(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        text = f"tuning, {elapsed:.0f} s, {text}"
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self._console.print(text, markup=False)


def coverage_lines(coverage: Coverage, seconds: dict[str, float]) -> list[str]:
    """Return the table of a compiled model.

    Parameters
    ----------
    seconds
        Measured seconds per call of the model, by function; empty if it was not run.
    """
    whole = sum(seconds.values())
    measured = ["GFLOP/s", "time"] if seconds else []
    predicted = any(not math.isnan(row.predicted) for row in coverage.rows)
    header = ["calls", "GFLOP", *measured, "log ms", *(["predicted ms"] if predicted else [])]
    rows = [[*header, "match", "kernel"]]
    for row in coverage.rows:
        share = seconds.get(row.name, 0.0)
        cells = [str(row.calls), f"{row.calls * row.flops / 1e9:.3f}"]
        if seconds:
            rate = f"{row.calls * row.flops / share / 1e9:.1f}" if share else "-"
            cells += [rate, f"{share / whole:.1%}" if whole else "-"]
        cells.append(_milliseconds(row.seconds))
        if predicted:
            cells.append(_milliseconds(row.predicted))
        rows.append([*cells, row.tier, f"{row.template} {row.name}"])
    lines = (
        aligned(rows) if coverage.rows else ["this model has no product that a template computes"]
    )
    if predicted:
        lines.append("predicted by a static model, a call each: not measured, nothing was run")
    lines += _resource_lines(coverage)
    if seconds:
        others = {n: t for n, t in seconds.items() if n not in {r.name for r in coverage.rows}}
        lines.append(
            f"other functions: {sum(others.values()) / whole:.1%} of the time"
            if whole
            else "nothing was timed"
        )
        slowest = sorted(others.items(), key=lambda item: -item[1])[:3]
        lines += [
            f"  {time / whole:.1%} {name} ({coverage.rules.get(name, 'runtime')})"
            for name, time in slowest
        ]
    lines += [f"{row.name}: {row.note}" for row in coverage.rows]
    lines += [f"missed: {name}: {reason}" for name, reason in coverage.missed]
    return lines


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:.4g}"


def _resource_lines(coverage: Coverage) -> list[str]:
    """Say what the GPU's functions were made of, which of them spill, and which are slow."""
    if not coverage.resources:
        return []
    rules: dict[str, int] = {}
    for rule in coverage.rules.values():
        rules[rule] = rules.get(rule, 0) + 1
    counts = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items()))
    lines = [f"{len(coverage.resources)} kernels compiled; functions by rule: {counts or 'none'}"]
    for name, taken in coverage.resources.items():
        spilled = taken["spill_store_bytes"] + taken["spill_load_bytes"]
        if spilled:
            lines.append(f"spills: {name}: {spilled} bytes with {taken['registers']} registers")
    slow = sorted(name for name, rule in coverage.rules.items() if rule == ONE_THREAD)
    return lines + [f"slow: {name} is run by one thread of the GPU" for name in slow]
