"""``autotune log``: look at tuning logs, check them, merge them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.log_interchange import COMMANDS
from autotune.errors import InvalidWorkload, LogError
from autotune.workload import Gemm

if TYPE_CHECKING:
    from autotune.log import Record, Scan, TrialRecord, TuningLog, Winner

_MAX_CELL = 120
_PIPED_WIDTH = 200


@click.group("log")
def command() -> None:
    """Look at tuning logs, check them, merge them."""


for _extra in COMMANDS:
    command.add_command(_extra)

_path = click.argument("path", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@command.command()
@_path
@click.option(
    "--workload",
    metavar="TEXT",
    default="",
    help="Only workloads with all these words, such as 'm=512 float32' or 512x512x512.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Newest trials shown.",
)
@click.option("--failures", is_flag=True, help="Only trials that failed.")
@_json
def show(path: Path, workload: str, limit: int, failures: bool, as_json: bool) -> None:
    """List the newest trials of the log PATH."""
    words = set(workload.lower().split())
    scan = open_log(path).scan()
    trials = [
        trial
        for trial in scan.trials
        if words <= record_words(trial) and not (failures and trial.ok)
    ][-limit:]
    warn_of_skipped(path, scan)
    if as_json:
        _print_json(_trial_json(trial) for trial in trials)
        return
    _print_table(
        ("time", "workload", "target", "searcher", "cost", "GFLOP/s", "failure"),
        [
            (
                trial.time[:19],
                _workload_label(trial),
                _target_label(trial),
                str(trial.search.get("name", "")),
                _seconds(trial.cost) if trial.ok else "",
                _gflops(trial, trial.cost) if trial.ok else "",
                "" if trial.failure is None else f"{trial.failure}: {trial.message}",
            )
            for trial in trials
        ],
        empty=f"no such trials in {path}",
    )


@command.command()
@_path
@_json
def best(path: Path, as_json: bool) -> None:
    """Print the config to use for each workload and target of the log PATH."""
    from autotune.log import winner

    scan = open_log(path).scan()
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in scan.records:
        groups.setdefault((record.workload_key, record.target_key), []).append(record)
    winners = [found for group in groups.values() if (found := winner(group)) is not None]
    warn_of_skipped(path, scan)
    if as_json:
        _print_json(_winner_json(found) for found in winners)
        return
    _print_table(
        ("workload", "target", "template", "searcher", "cost", "GFLOP/s", "re-measured", "config"),
        [
            (
                _workload_label(found.record),
                _target_label(found.record),
                " ".join(found.record.template_id),
                str(found.record.search.get("name", "")),
                _seconds(found.cost),
                _gflops(found.record, found.cost),
                "yes" if found.confirmed else "no",
                found.config_key,
            )
            for found in winners
        ],
        empty=f"no successful trials in {path}",
    )


@command.command()
@_path
def check(path: Path) -> None:
    """Count what the log PATH holds; exit with 1 if any line of it is damaged."""
    from autotune.log import Skip

    scan = open_log(path).scan()
    failures = Counter(trial.failure for trial in scan.trials if trial.failure is not None)
    runs = len({record.run for record in scan.records})
    click.echo(
        f"{path}: {len(scan.trials)} trials ({sum(failures.values())} failed),"
        f" {len(scan.finals)} finals, {runs} runs"
    )
    for kind, count in sorted(failures.items()):
        click.echo(f"  {printable(kind)}: {count}")
    for skip in Skip:
        if count := scan.skipped[skip]:
            where = ", ".join(str(number) for number in scan.where[skip])
            more = ", ..." if count > len(scan.where[skip]) else ""
            click.echo(f"skipped, {skip.value}: {count} (line {where}{more})")
    if scan.read_only:
        click.echo("A newer autotune wrote to this log; update autotune to read all of it.")
    if scan.corrupt:
        advice = f"Damaged lines do no harm; `autotune log compact {path}` drops them."
        click.echo(advice if scan.records else "None of its lines is a record.")
        raise click.exceptions.Exit(1)


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
def merge(out: Path, paths: Sequence[Path]) -> None:
    """Write the records of the logs PATHS to OUT, after those that OUT already holds."""
    from autotune.log import merge as merge_logs

    _report(out, merge_logs(paths, out))


@command.command()
@_path
def compact(path: Path) -> None:
    """Drop the damaged and the duplicate lines of the log PATH."""
    from autotune.log import compact as compact_log

    _report(path, compact_log(path))


def printable(text: str) -> str:
    """Return a text of a log on one line of bounded length, without control characters.

    A log may come from anywhere; escape sequences and characters that reverse the writing direction
    must not reach the terminal.
    """
    if len(text) > _MAX_CELL:
        text = text[: _MAX_CELL - 3] + "..."
    return "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)


def open_log(path: Path) -> TuningLog:
    """Return the log at a path; raises LogError if there is none."""
    from autotune.log import TuningLog

    if not path.exists():
        raise LogError(f"there is no log {path}; check the path, or tune something with --log")
    return TuningLog(path)


def warn_of_skipped(path: Path, scan: Scan) -> None:
    """Say on stderr how many lines could not be used."""
    if skipped := sum(scan.skipped.values()):
        click.echo(f"{skipped} lines skipped; see `autotune log check {path}`", err=True)


def _report(path: Path, done: Any) -> None:
    click.echo(
        f"{path}: {done.kept} lines kept, {done.duplicates} duplicates and {done.corrupt} damaged"
        " lines dropped"
    )


def _gemm(record: Record) -> Gemm | None:
    try:
        return Gemm.from_json(record.workload)
    except InvalidWorkload:
        return None


def _workload_label(record: Record) -> str:
    gemm = _gemm(record)
    if gemm is None:
        return record.workload_key
    label = f"{gemm.m}x{gemm.n}x{gemm.k} {gemm.layout} {gemm.dtype}"
    if gemm.batch > 1:
        label = f"{gemm.batch} x {label}"
    if gemm.shared:
        label = f"{label} shared {gemm.shared}"
    return label if gemm.epilogue == "none" else f"{label} {gemm.epilogue}"


def _target_label(record: Record) -> str:
    target = record.target
    parts = [str(target[name]) for name in ("kind", "arch") if target.get(name)]
    if target.get("threads"):
        parts.append(f"x{target['threads']}")
    return " ".join(parts) or record.target_key


def record_words(record: Record) -> set[str]:
    """Return the words by which ``--workload`` finds a record."""
    return set(f"{record.workload_key} {_workload_label(record)}".lower().split())


def _seconds(cost: float) -> str:
    return f"{cost * 1e3:.4g} ms" if cost >= 1e-3 else f"{cost * 1e6:.4g} us"


def _flops_per_second(record: Record, cost: float) -> float | None:
    gemm = _gemm(record)
    return None if gemm is None else gemm.flops / cost


def _gflops(record: Record, cost: float) -> str:
    rate = _flops_per_second(record, cost)
    return "" if rate is None else f"{rate / 1e9:.1f}"


def _trial_json(trial: TrialRecord) -> dict[str, Any]:
    rate = _flops_per_second(trial, trial.cost) if trial.ok else None
    return {
        "id": trial.id,
        "time": trial.time,
        "workload": trial.workload,
        "target": trial.target,
        "template": trial.template,
        "search": trial.search,
        "config": trial.config,
        "cost": trial.cost if trial.ok else None,
        "gflops": None if rate is None else rate / 1e9,
        "failure": trial.failure,
        "message": trial.message,
    }


def _winner_json(found: Winner) -> dict[str, Any]:
    rate = _flops_per_second(found.record, found.cost)
    return {
        "workload": found.record.workload,
        "target": found.record.target,
        "template": found.record.template,
        "search": found.record.search,
        "config": found.config,
        "cost": found.cost,
        "gflops": None if rate is None else rate / 1e9,
        "remeasured": found.confirmed,
        "record": found.record.id,
    }


def _print_json(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        # ASCII only: whatever the log holds reaches the terminal as an escape in a JSON string.
        click.echo(json.dumps(row, ensure_ascii=True))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    if not rows:
        click.echo(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, justify="right" if name in ("cost", "GFLOP/s") else "left")
    for row in rows:
        # Text, not str: brackets in a message are not markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
