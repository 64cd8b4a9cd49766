"""Choose the default searcher: by leave-one-device-out on recorded tables."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from result_page import command, versions, write_page

import autotune.search
from autotune.compare import Entrant, Protocol, Trace, parse_entrants, run_replay
from autotune.compare.held_out import Fold, Scoreboard, ScoredRun, check_devices
from autotune.errors import AutotuneError
from autotune.report.comparison import TextTable, markdown
from autotune.report.progress import CountedProgress
from autotune.tables import Table, load_tables

CANDIDATES = "random,gbfs,na2c,opevo,xgb,graph-bo,portfolio"
BUDGETS = (20, 50, 100, 200)
_KINDS = (".json", ".json.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Source:
    """A file of tables."""

    path: Path

    @cached_property
    def tables(self) -> list[Table]:
        return load_tables(self.path)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


class Rows:
    """Runs kept in a file, one a line; those of other tables, budgets or search code do not count.

    A torn last line, of a run that was being written when the process was killed, is overwritten.
    """

    def __init__(self, path: Path, code: str) -> None:
        self._path, self._code = path, code
        self._known: dict[tuple[str, str, str, int], ScoredRun] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        sound = text[: text.rfind("\n") + 1]
        if sound != text:
            path.write_text(sound, encoding="utf-8")
        for number, line in enumerate(sound.splitlines(), 1):
            try:
                self._read(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise AutotuneError(
                    f"{path}: line {number} is no run of choose_auto ({error!r}); name another"
                    " file with --rows, or remove the line"
                ) from None

    def _read(self, row: Mapping[str, Any]) -> None:
        if (row["code"], row["budgets"]) == (self._code, list(BUDGETS)):
            run = ScoredRun(**{**row["run"], "shares": tuple(row["run"]["shares"])})
            self._known[row["file"], run.table, run.entrant, run.seed] = run

    def __contains__(self, key: tuple[str, str, str, int]) -> bool:
        return key in self._known

    def add(self, file: str, run: ScoredRun) -> None:
        row = {"file": file, "code": self._code, "budgets": BUDGETS, "run": asdict(run)}
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        self._known[file, run.table, run.entrant, run.seed] = run

    def of(self, sources: Iterable[Source]) -> list[ScoredRun]:
        files = {source.digest for source in sources}
        return [run for (file, *_), run in self._known.items() if file in files]


def search_code() -> str:
    """Return a digest of the search methods: another code makes other runs."""
    folder = Path(autotune.search.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the files named, and those of the folders named."""
    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(p for p in path.iterdir() if p.name.endswith(_KINDS))
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise AutotuneError(f"there is no table in {path}")
        found += inside
    sources = [Source(path) for path in dict.fromkeys(found)]
    names = [table.name for source in sources for table in source.tables]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AutotuneError(f"two tables are called {twice!r}; rename one of the files")
    for table in (table for source in sources for table in source.tables):
        if len(table) < BUDGETS[-1]:
            raise AutotuneError(
                f"the table {table.name!r} holds {len(table)} configs, fewer than the budget of"
                f" {BUDGETS[-1]} trials; leave it out"
            )
    return sources


def devices_of(sources: Sequence[Source], named: Sequence[str]) -> dict[str, str]:
    """Return the device of each table: what the file says, unless it is named (TABLE=DEVICE)."""
    tables = {table.name: table.device for source in sources for table in source.tables}
    for name in named:
        table, separator, device = name.partition("=")
        if not separator or table not in tables:
            raise AutotuneError(f"cannot read {name!r}; write TABLE=DEVICE, of {', '.join(tables)}")
        tables[table] = device
    for table, device in tables.items():
        if device in ("", "unknown device"):
            raise AutotuneError(f"the table {table!r} has no device; add --device {table}=NAME")
    return tables


def run_missing(
    source: Source, entrants: Sequence[Entrant], seeds: Sequence[int], rows: Rows, jobs: int
) -> None:
    """Make the runs that the rows lack."""
    missing: dict[tuple[int, ...], list[Entrant]] = {}
    for entrant in entrants:
        lacks = [
            seed
            for seed in seeds
            if any((source.digest, t.name, entrant.label, seed) not in rows for t in source.tables)
        ]
        missing.setdefault(tuple(lacks), []).append(entrant)
    optima = {table.name: table.optimum[1] for table in source.tables}

    for lacking, group in missing.items():
        if not lacking:
            continue
        with CountedProgress("runs") as bar:

            def keep(done: int, total: int, trace: Trace) -> None:
                bar.update(done, total, f"{trace.problem} {trace.entrant}")
                rows.add(source.digest, scored(trace, optima[trace.problem]))

            run_replay([source.path], group, Protocol(BUDGETS[-1], lacking), jobs, keep)


def scored(trace: Trace, optimum: float) -> ScoredRun:
    """Return a run as the choice sees it; raises AutotuneError for one that did not end well."""
    if trace.error:
        raise AutotuneError(
            f"{trace.entrant} failed on {trace.problem} with seed {trace.seed}: {trace.error}"
        )
    shares = tuple(optimum / trace.named_after(budget) for budget in BUDGETS)
    seconds = trace.overhead / max(1, len(trace.steps))
    return ScoredRun(trace.problem, trace.entrant, trace.seed, shares, seconds)


# -- what the page says ---------------------------------------------------------------------------


def rules(seeds: Sequence[int]) -> str:
    budgets = " / ".join(map(str, BUDGETS))
    return (
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), the same for every method; batches of 1;"
        " a trial is a unique measurement. **Fixed before anything was run:** the score of a run is"
        f" the mean of the fraction of the optimum after {budgets} trials; that of a device is the"
        " mean over its tables and seeds; the choice is the method with the highest mean over the"
        " devices that it is made on. All tables of one device are held out together. Intervals"
        " are 95 % percentile bootstrap intervals over seeds. They say how sure a figure is on"
        " these tables, and nothing of other devices."
    )


def table_list(sources: Sequence[Source], devices: Mapping[str, str]) -> TextTable:
    rows = []
    for table in (table for source in sources for table in source.tables):
        best = table.optimum[1]
        costs = [table.cost(config) for config in table.configs]
        near = [sum(best / cost >= share for cost in costs) for share in (0.9, 0.95, 0.99)]
        sizes = (f"{len(table):,}", f"{table.space.size:,}")
        rows.append((table.name, devices[table.name], *sizes, *map(str, near)))
    return TextTable(
        "Tables",
        ("table", "device", "configs", "of vertices", "reach .9", ".95", ".99"),
        tuple(rows),
        "The last three: how many configs reach that fraction of the optimum.",
    )


def score_table(board: Scoreboard) -> TextTable:
    means = dict(board.choose(board.devices))
    return TextTable(
        "Score on each device",
        ("searcher", *board.devices, "mean", "mean rank", "ms/trial"),
        tuple(
            (
                name,
                *(str(board.score(device, name)) for device in board.devices),
                f"{means[name]:.3f}",
                f"{sum(board.rank(d, name) for d in board.devices) / len(board.devices):.2f}",
                f"{1e3 * board.seconds(name):.2f}",
            )
            for name in board.entrants
        ),
        "Mean rank: over tables, budgets and seeds of a device, then over devices; 1 is the best."
        " Milliseconds: spent in the method per trial, the median over runs.",
    )


def fold_table(folds: Sequence[Fold]) -> TextTable:
    return TextTable(
        "Leave one device out",
        ("held out", "choice of the others", "next (behind by)", "of 1,000 resamples", "by rank")
        + ("score there", "place", "best there", "regret"),
        tuple(
            (
                fold.device,
                f"{fold.chosen} ({fold.expected:.3f})",
                f"{fold.runner_up} ({fold.margin:.3f})",
                ", ".join(f"{name} {share:.0%}" for name, share in fold.votes.items()),
                fold.by_rank,
                str(fold.score),
                str(fold.rank),
                fold.best,
                str(fold.regret),
            )
            for fold in folds
        ),
        "Resamples: the choice of the others when the seeds are drawn again. By rank: the choice"
        " of the others by mean rank instead of score. Regret: score of the best method there,"
        " which only hindsight knows, less that of the choice, paired by seed.",
    )


def budget_table(board: Scoreboard, sources: Sequence[Source]) -> TextTable:
    names = [table.name for source in sources for table in source.tables]
    return TextTable(
        "Fraction of the optimum",
        ("table", "searcher", *(f"after {budget}" for budget in BUDGETS)),
        tuple(
            (table, entrant, *(f"{share:.3f}" for share in board.shares(table, entrant)))
            for table in names
            for entrant in board.entrants
        ),
        "Means over seeds.",
    )


def verdict(board: Scoreboard) -> str:
    (chosen, score), (second, next_score), *_ = board.choose(board.devices)
    is_now = autotune.search.SEARCHERS["auto"].__mro__[1].name  # type: ignore[attr-defined]
    votes = ", ".join(f"{name} {share:.0%}" for name, share in board.votes(board.devices).items())
    same = "the same as" if chosen == is_now else "**not**"
    return (
        f"All devices together choose **{chosen}** ({score:.3f}; {second} is next,"
        f" {next_score:.3f}; in 1,000 resamples of the seeds: {votes}), which is {same} what `auto`"
        f" is, `{is_now}`."
    )


@click.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--device", multiple=True, metavar="TABLE=DEVICE", help="Where a file does not say.")
@click.option("--searchers", default=CANDIDATES, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=20, show_default=True)
@click.option(
    "--first-seed",
    type=int,
    default=2000,
    show_default=True,
    help="Neither those of the results (from 0) nor of development (from 1000).",
)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1)
@click.option("--rows", type=click.Path(path_type=Path), default=Path("choose-auto-rows.jsonl"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results-auto.md"))
def main(
    tables: tuple[Path, ...],
    device: tuple[str, ...],
    searchers: str,
    seeds: int,
    first_seed: int,
    jobs: int,
    rows: Path,
    out: Path,
) -> None:
    """Choose on TABLES, files or folders of them, of two devices at least."""
    sources, entrants = find_sources(tables), parse_entrants(searchers)
    numbers = range(first_seed, first_seed + seeds)
    devices = devices_of(sources, device)
    labels = [entrant.label for entrant in entrants]
    check_devices(devices)
    kept = Rows(rows, search_code())
    for source in sources:
        run_missing(source, entrants, numbers, kept, jobs)
    board = Scoreboard(devices, labels, numbers, kept.of(sources))
    parts = [
        "# How the default searcher is chosen",
        f"Made by `{command('choose_auto')}` ({versions()}).",
        rules(numbers),
        markdown(table_list(sources, devices)),
        markdown(score_table(board)),
        markdown(fold_table(board.folds())),
        verdict(board),
        markdown(budget_table(board, sources)),
    ]
    write_page(out, parts)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    try:
        main()
    except AutotuneError as error:
        sys.exit(f"choose_auto: {error}")
