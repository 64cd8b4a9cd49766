"""Compare all search methods on the tables of a folder; write the figures as Markdown."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import click

from autotune.compare import Protocol, parse_entrants, run_replay, summarise
from autotune.compare.run import Trace
from autotune.errors import AutotuneError
from autotune.report.comparison import accounting, failures, markdown, tables
from autotune.report.progress import CountedProgress
from autotune.report.write import write_report

#: Mean fraction of the optimum after 20, 50, 100 and 200 trials, by table, as others published it.
QUOTED = {
    "gemm_RTX_2080_Ti": {
        "adaptive_tabu_greywolf": (0.844, 0.907, 0.970, 0.986),
        "hybrid_vndx": (0.834, 0.903, 0.939, 0.973),
        "genetic_algorithm": (0.777, 0.848, 0.916, 0.973),
        "diff_evo": (0.861, 0.890, 0.919, 0.950),
        "random": (0.775, 0.829, 0.863, 0.889),
    }
}
BASELINES = ("xgb", "random")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--searchers", default="all", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--trials", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results-search.md"))
@click.option("--report", type=click.Path(path_type=Path), help="Folder for CSV, HTML and PNG.")
def main(
    folder: Path,
    searchers: str,
    seeds: int,
    trials: int,
    batch: int,
    jobs: int,
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
    with CountedProgress("runs") as bar:

        def show(done: int, total: int, trace: Trace) -> None:
            bar.update(done, total, f"{trace.problem} {trace.entrant} {trace.error}")

        campaign = run_replay(paths, entrants, protocol, jobs, show)
    summary = summarise(campaign, [label for label in BASELINES if label in labels])
    parts = [
        "# Search methods on recorded tables",
        f"Made by `{_command()}` ({_versions()}).",
        accounting(summary),
        *(f"**Failed**: {line}" for line in failures(summary)),
    ]
    for table in tables(summary):
        parts.append(markdown(table))
        name, _, what = table.title.partition(": ")
        if what.startswith("fraction") and name in QUOTED:
            parts.append(_quoted(name))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    click.echo(f"wrote {out}")
    if report is not None:
        for path in write_report(campaign, summary, report):
            click.echo(f"wrote {path}")
    sys.exit(1 if failures(summary) else 0)


def _quoted(name: str) -> str:
    rows = [
        f"| {strategy} | {' | '.join(f'{share:.3f}' for share in shares)} |"
        for strategy, shares in QUOTED[name].items()
    ]
    return "\n".join(
        [
            "Quoted, not run here: strategies of Kernel Tuner 1.5.0 on the same file, mean fraction"
            " of the optimum.",
            "",
            "| Kernel Tuner 1.5.0 | after 20 | after 50 | after 100 | after 200 |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _command() -> str:
    """Return this command, with the folder by its last name: paths differ between machines."""
    arguments = [Path(word).name if Path(word).is_dir() else word for word in sys.argv[1:]]
    return shlex.join(["scripts/compare_tables", *arguments])


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "scipy", "xgboost", "xgboost-cpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    try:
        main()
    except AutotuneError as error:
        sys.exit(f"compare_tables: {error}")
