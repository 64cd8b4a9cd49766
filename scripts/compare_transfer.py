"""Measure what results of another device are worth to a search, also where they mislead.

Sources of a table: every other table of the folder; the table itself, its costs shuffled or in
inverted order, which must do no harm; and for a target made unlike it, by a random factor for each
value of each parameter and of some pairs, the table as it was.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from autotune.compare import Protocol, parse_entrants, run_search
from autotune.search.space import Config
from autotune.search.translate import translate
from autotune.tables import Entry, Table, load_tables
from autotune.trial import Result

#: Deviation of the logarithm of a made-up factor, and how many pairs of parameters have one.
FACTOR, PAIRS = 0.05, 8
Pairs = Sequence[tuple[Config, Result]]


@dataclass(frozen=True)
class Task:
    """One target and one source, for each seed; without one, the cold start to compare with."""

    target: Table
    source: str
    pairs: Callable[[int], Pairs] | None = None


def distorted(table: Table, seed: int) -> Table:
    """Return a table of another architecture, so to say."""
    rng = random.Random(seed)
    names = [p.name for p in table.space.parameters if p.size > 1]
    chosen = rng.sample(list(itertools.combinations(names, 2)), PAIRS)
    groups = [*((name,) for name in names), *chosen]
    factors: dict[tuple[object, ...], float] = {}

    def factor(config: Config) -> float:
        keys = [(group, *(repr(config[name]) for name in group)) for group in groups]
        return math.exp(sum(factors[key] for key in keys))

    for config in table.configs:
        for group in groups:
            key = (group, *(repr(config[name]) for name in group))
            if key not in factors:
                factors[key] = rng.gauss(0.0, FACTOR)
    entries = {
        config: Entry.measured([table.cost(config) * factor(config)])
        if table.cost(config) < math.inf
        else table.entry(config)
        for config in table.configs
    }
    return Table(f"{table.name} distorted {seed}", table.space.parameters, entries)


def whole(table: Table, _: int) -> Pairs:
    """Return all results of a table."""
    return list(table.items())


def shuffled(table: Table, seed: int) -> Pairs:
    """Return the results of a table with the wrong configs."""
    items = [(config, result) for config, result in table.items() if result.ok]
    results = [result for _, result in items]
    random.Random(seed).shuffle(results)
    return [(config, result) for (config, _), result in zip(items, results, strict=True)]


def inverted(table: Table, _: int) -> Pairs:
    """Return the best result for the worst config, and so on."""
    items = [(config, result) for config, result in table.items() if result.ok]
    ranked = sorted(items, key=lambda item: item[1].cost)
    worst_first = [result for _, result in reversed(ranked)]
    return [(config, result) for (config, _), result in zip(ranked, worst_first, strict=True)]


def tasks(tables: Sequence[Table], distortions: int) -> Iterator[Task]:
    """Yield every target with its sources, the cold start first."""
    for table in tables:
        yield Task(table, "")
        for other in tables:
            if other is not table:
                yield Task(table, other.name, partial(whole, other))
        yield Task(table, "itself, shuffled", partial(shuffled, table))
        yield Task(table, "itself, inverted", partial(inverted, table))
    for table, seed in itertools.product(tables, range(distortions)):
        target = distorted(table, seed)
        yield Task(target, "")
        yield Task(target, table.name, partial(whole, table))


def copied(task: Task, pairs: Pairs, trials: Sequence[int]) -> list[float]:
    """Return the fraction of the optimum that the source's best legal configs reach."""
    ranked = sorted(pairs, key=lambda pair: pair[1].cost)
    costs = [task.target.cost(c) for c, _ in ranked if task.target.space.is_legal(c)]
    return [task.target.optimum[1] / min(costs[:count]) for count in trials]


def searched(task: Task, searcher: str, protocol: Protocol, marks: Sequence[int]) -> list[float]:
    """Return the mean fraction of the optimum after so many trials, over seeds."""
    (entrant,) = parse_entrants(searcher)
    table, rows = task.target, []
    for seed in protocol.seeds:
        sources = [translate(table.space, task.pairs(seed))] if task.pairs else []
        trace = run_search(
            table.name, entrant, seed, table.space, table.lookup, table.cost, protocol, sources
        )
        if trace.error:
            raise click.ClickException(f"{table.name} from {task.source}: {trace.error}")
        rows.append([table.optimum[1] / trace.named_after(mark) for mark in marks])
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--searcher", default="auto", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--first-seed", type=int, default=0, show_default=True)
@click.option("--trials", type=click.IntRange(min=20), default=50, show_default=True)
@click.option("--distortions", type=click.IntRange(min=0), default=3, show_default=True)
def main(
    folder: Path, searcher: str, seeds: int, first_seed: int, trials: int, distortions: int
) -> None:
    """Print a Markdown table: cold, copied and searched with each source, for tables of FOLDER."""
    paths = sorted(path for path in folder.iterdir() if path.name.endswith((".json", ".json.gz")))
    tables = [table for path in paths for table in load_tables(path)]
    marks = [mark for mark in (20, 50, 100, 200) if mark <= trials]
    protocol = Protocol(trials, tuple(range(first_seed, first_seed + seeds)))
    click.echo(f"| target | source | {' | '.join(f'after {mark}' for mark in marks)} |")
    click.echo("| --- " * (2 + len(marks)) + "|")
    for task in tasks(tables, distortions):
        if task.pairs and not task.source.startswith("itself"):
            _print(task, f"{task.source}, copied", copied(task, task.pairs(0), marks))
        means = searched(task, searcher, protocol, marks)
        _print(task, task.source or "none (cold)", means)


def _print(task: Task, source: str, shares: Sequence[float]) -> None:
    cells = " | ".join(f"{share:.3f}" for share in shares)
    click.echo(f"| {task.target.name} | {source} | {cells} |")


if __name__ == "__main__":
    main()
