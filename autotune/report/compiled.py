"""The ranking of kernels that were compiled and not run, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.report.columns import aligned

if TYPE_CHECKING:
    from autotune.compile_only import Compiled, CompileReport

_COLUMNS = ("rank", "estimate", "regs", "smem", "blocks/SM", "occupancy", "waves", "config")


def ranking_lines(report: CompileReport, log: str | None) -> list[str]:
    """Return what ``--compile-only`` prints: a table, the failures, and what it is not."""
    request = report.request
    rows = [_COLUMNS, *(_row(report, i, c) for i, c in enumerate(_good(report), 1))]
    lines = [
        request.workload.key,
        f"for {request.profile.name} ({request.profile.arch}), which was not used; template"
        f" {request.template}, {report.space_size:,} configs, {report.estimated} estimated,"
        f" {len(report.ranking)} compiled by {report.compiler}",
        *aligned(rows),
    ]
    lines += [
        f"failed: {c.message.splitlines()[0]}  {c.config.key}" for c in report.ranking if c.failure
    ]
    lines.append(
        "GFLOP/s are estimates of a static model: a ranking to start from, not measurements"
    )
    if log is not None:
        lines.append(f"recorded in {log} as compiled; no lookup takes them for results")
    return lines


def _good(report: CompileReport) -> list[Compiled]:
    return [c for c in report.ranking if c.failure is None]


def _row(report: CompileReport, rank: int, compiled: Compiled) -> tuple[str, ...]:
    f = compiled.features
    return (
        str(rank),
        f"{report.gflops(compiled.seconds):.0f}",
        str(f["registers"]),
        f"{f['shared_bytes'] / 1024:.1f}K",
        str(f["blocks_per_sm"]),
        f"{f['occupancy']:.0%}",
        f"{f.get('waves', 0):.2f}",
        compiled.config.key,
    )
