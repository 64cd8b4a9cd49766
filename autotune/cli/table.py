"""``autotune table``: measure a space into a table, or look into a recorded one."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import machine_options, resolve_machine, workload_options

if TYPE_CHECKING:
    from autotune.tables import Table
    from autotune.workload import Gemm


@click.group("table")
def command() -> None:
    """Measure whole spaces into tables, and look into them.

    A table is a tuning log in which every config of a space, or of a part of it, has a result.
    Methods can be compared on it without a device: autotune compare --replay TABLE.
    """


@command.command("build")
@workload_options
@machine_options
@click.option(
    "--restrict",
    multiple=True,
    metavar="NAME=V1,V2",
    help="Values that a parameter may have, as JSON: tile_k='[512,1],[256,2]'.",
)
@click.option("--sample", type=click.IntRange(min=1), help="Measure so many, drawn uniformly.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --sample.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Measure what is within 10 % of the best so many times; all readings count.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The table; the same command again continues it.",
)
@click.option("--timeout", type=float, help="Seconds that one candidate may run.")
@click.option("--plugin", multiple=True, metavar="MODULE", help="Import templates of your own.")
def build(
    workload: Gemm,
    target: str,
    threads: int | None,
    template: str,
    restrict: tuple[str, ...],
    sample: int | None,
    seed: int,
    rounds: int,
    out: Path,
    timeout: float | None,
    plugin: tuple[str, ...],
) -> None:
    """Measure every legal config of a space, or the part chosen, into a table."""
    from autotune.kernels.base import choose_template
    from autotune.log import TuningLog
    from autotune.measure import MeasureOptions, make_measurer
    from autotune.report.progress import CountedProgress
    from autotune.tables.build import build_table, choose, parse_restrictions
    from autotune.tables.recording import RecordingMeasurer

    profile, threads = resolve_machine(target, threads)
    kernel = choose_template(template, workload, profile, plugin)
    space = kernel.space(workload, profile, threads)
    configs = choose(space, parse_restrictions(space, restrict), sample, seed)
    options = MeasureOptions(run_timeout=timeout)
    with make_measurer(target, workload, profile, threads, options, plugin) as measurer:
        recorder = RecordingMeasurer(
            TuningLog(out), measurer, workload, profile, threads, kernel, space, "table"
        )
        if space.defaults:  # what is disturbed is timed again
            measurer.watch(kernel.name, space.defaults[0])
        with CountedProgress("configs") as bar:
            built = build_table(
                recorder,
                configs,
                lambda done, total, best: bar.update(
                    done, total, f"best {workload.flops / best / 1e9:.1f} GFLOP/s"
                ),
                rounds,
            )
    click.echo(
        f"{out}: {built.chosen} configs, {built.measured} measured now, {built.served} were there,"
        f" {built.failed} failed"
        + (f"; what is near the best was measured {built.again} times more" * (rounds > 1))
    )


@command.command("pack")
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def pack(log: Path, out: Path) -> None:
    """Write the table in LOG to OUT (.jsonl.gz), small enough to pass on.

    One record a config, with all its readings, rounded to four digits.
    """
    from autotune.errors import AutotuneError
    from autotune.tables.load import load_trials
    from autotune.tables.pack import pack_table

    if not out.name.endswith(".jsonl.gz"):
        raise AutotuneError(f"a packed table is called something.jsonl.gz, not {out.name!r}")
    count = pack_table(load_trials(log), out)
    click.echo(f"{out}: {count} configs, {out.stat().st_size:,} bytes")


@command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Best few.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a table.")
def show(file: Path, top: int, as_json: bool) -> None:
    """Say what a table holds: a Kernel Tuner cache or T4 file, or a log, plain or gzipped."""
    from autotune.tables import load_tables

    for table in load_tables(file):
        facts = _facts(table, top)
        if as_json:
            click.echo(json.dumps(facts))
        else:
            click.echo("\n".join(_lines(facts)))


def _facts(table: Table, top: int) -> dict[str, Any]:
    succeeded = sorted(
        (table.cost(config), index, config)
        for index, config in enumerate(table.configs)
        if table.lookup(config).ok
    )
    readings = [len(table.entry(config).readings) for config in table.configs]
    best = succeeded[0][0] if succeeded else None
    return {
        "name": table.name,
        "device": table.device,
        "kernel": table.kernel,
        "format": table.meta["format"],
        "vertices": table.space.size,
        "configs": len(table),
        "failed": len(table) - len(succeeded),
        "readings": {"least": min(readings, default=0), "most": max(readings, default=0)},
        "parameters": {p.name: {"kind": p.kind, "size": p.size} for p in table.space.parameters},
        "seconds": {
            "best": best,
            "median": statistics.median(cost for cost, *_ in succeeded) if succeeded else None,
            "worst": succeeded[-1][0] if succeeded else None,
        },
        "near": {
            str(share): sum(best / cost >= share for cost, *_ in succeeded) if best else 0
            for share in (0.9, 0.95, 0.99)
        },
        "top": [
            {"seconds": cost, "config": config.to_json()} for cost, _, config in succeeded[:top]
        ],
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    seconds, readings = facts["seconds"], facts["readings"]
    lines = [
        f"{facts['name']}: {facts['kernel']} on {facts['device']} ({facts['format']})",
        f"  {facts['configs']:,} of {facts['vertices']:,} configs, {facts['failed']:,} of them"
        f" failed; {readings['least']} to {readings['most']} readings each",
        "  " + ", ".join(f"{n} ({p['kind']} {p['size']})" for n, p in facts["parameters"].items()),
    ]
    if seconds["best"] is None:
        return [*lines, "  no config succeeded"]
    near = ", ".join(f"{n} reach {share}" for share, n in facts["near"].items())
    times = ", ".join(f"{name} {value * 1e3:.6g} ms" for name, value in seconds.items())
    lines.append(f"  {times}; of the best, {near}")
    return lines + [
        f"  {item['seconds'] * 1e3:.6g} ms  {json.dumps(item['config'])}" for item in facts["top"]
    ]
