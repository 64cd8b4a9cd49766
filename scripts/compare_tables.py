"""Compare all search methods on the tables of a folder; write the figures as Markdown."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click
from result_page import command, versions, write_page

from autotune.compare import Protocol, parse_entrants, run_replay, summarise
from autotune.compare.recorded import RecordedRuns, read_recorded, score_recorded
from autotune.compare.run import Trace
from autotune.errors import AutotuneError
from autotune.report.comparison import accounting, failures, markdown, tables
from autotune.report.progress import CountedProgress
from autotune.report.write import write_report

BASELINES = ("auto", "xgb", "random")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--searchers", default="all", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--trials", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1)
@click.option(
    "--external",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Runs of another tuner on the same tables, which scripts/compare_kernel_tuner wrote.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results-search.md"))
@click.option("--report", type=click.Path(path_type=Path), help="Folder for CSV, HTML and PNG.")
def main(
    folder: Path,
    searchers: str,
    seeds: int,
    trials: int,
    batch: int,
    jobs: int,
    external: Path | None,
    out: Path,
    report: Path | None,
) -> None:
    """Compare on every table (*.json, *.json.gz, *.jsonl, *.jsonl.gz) of FOLDER."""
    kinds = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(kinds))
    if not paths:
        raise click.ClickException(f"there is no table in {folder}")
    entrants = parse_entrants(searchers)
    labels = [entrant.label for entrant in entrants]
    protocol = Protocol(trials, tuple(range(seeds)), batch)
    recorded = None if external is None else read_recorded(external)
    foreign = () if recorded is None else score_recorded(recorded, paths, protocol)
    with CountedProgress("runs") as bar:

        def show(done: int, total: int, trace: Trace) -> None:
            bar.update(done, total, f"{trace.problem} {trace.entrant} {trace.error}")

        campaign = run_replay(paths, entrants, protocol, jobs, show)
    if recorded is not None:
        entrants += recorded.entrants
        traces = (*campaign.traces, *foreign)
        campaign = replace(campaign, entrants=tuple(entrants), traces=traces)
    summary = summarise(campaign, [label for label in BASELINES if label in labels])
    parts = [
        "# Search methods on recorded tables",
        f"Made by `{command('compare_tables')}` ({versions()}).",
        accounting(summary),
        *([_about(recorded)] if recorded is not None else []),
        *(f"**Failed**: {line}" for line in failures(summary)),
    ]
    parts += [markdown(table) for table in tables(summary)]
    write_page(out, parts)
    click.echo(f"wrote {out}")
    if report is not None:
        for path in write_report(campaign, summary, report):
            click.echo(f"wrote {path}")
    sys.exit(1 if failures(summary) else 0)


def _about(recorded: RecordedRuns) -> str:
    """Say how another tuner's trials are counted."""
    repeated = ", ".join(
        f"{entrant.preset} {recorded.repeated(entrant.preset):.0f}" for entrant in recorded.entrants
    )
    return (
        f"`{recorded.tuner}:...` are strategies of {recorded.tuner} {recorded.version} with their"
        " defaults, which it ran itself in its simulation mode on the same files; their configs in"
        " the order of the first evaluation are scored here, by the same costs. It knows as we do"
        " which configs the table lacks. Those, and evaluating a config again, cost it no trial"
        f" (again, mean per run: {repeated}). What limits calls or iterations besides ends early"
        " (column 'trials'). Its overhead is what it counts as the strategy's own time. Its random"
        " numbers are not ours: pairs of one seed have no more in common than any others."
    )


if __name__ == "__main__":
    try:
        main()
    except AutotuneError as error:
        sys.exit(f"compare_tables: {error}")
