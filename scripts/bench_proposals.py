"""Measure the seconds that search methods spend per trial, on average and with a long history."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from autotune.compare import Entrant, parse_entrants
from autotune.errors import AutotuneError
from autotune.tables import Table, load_table

#: Trials after the history, over which the late cost is averaged.
_LATE = 50


def seconds_per_trial(entrant: Entrant, table: Table, trials: int) -> list[float]:
    """Return the seconds inside the method, asking and telling together, for each trial."""
    searcher = entrant.create(table.space, 0)
    spent: list[float] = []
    while len(spent) < trials:
        start = time.perf_counter()
        asked = searcher.ask(1)
        asking = time.perf_counter() - start
        if not asked:
            raise AutotuneError(f"{entrant.label} ended after {len(spent)} trials")
        result = table.lookup(asked[0])
        start = time.perf_counter()
        searcher.tell(asked[0], result)
        spent.append(asking + time.perf_counter() - start)
    return spent


@click.command()
@click.argument("table", type=click.Path(exists=True, path_type=Path))
@click.option("--searchers", default="random,gbfs,opevo,na2c,rnn,xgb,auto,portfolio")
@click.option("--history", type=click.IntRange(min=1), default=1000, show_default=True)
def main(table: Path, searchers: str, history: int) -> None:
    """Print a Markdown table of milliseconds per trial on TABLE, batches of 1, seed 0."""
    held = load_table(table)
    if len(held) < history + _LATE:
        raise AutotuneError(f"{table} holds {len(held)} configs; lower --history")
    click.echo(f"| searcher | mean of {history + _LATE} trials | with {history} trials behind it |")
    click.echo("| --- | --- | --- |")
    for entrant in parse_entrants(searchers):
        spent = [1e3 * seconds for seconds in seconds_per_trial(entrant, held, history + _LATE)]
        mean, late = sum(spent) / len(spent), sum(spent[-_LATE:]) / _LATE
        click.echo(f"| {entrant.label} | {mean:.2f} ms | {late:.2f} ms |")


if __name__ == "__main__":
    try:
        main()
    except AutotuneError as error:
        sys.exit(f"bench_proposals: {error}")
