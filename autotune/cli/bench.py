"""``autotune bench``: measure the logged winner again, beside the default and libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import (
    cache_option,
    compared_libraries,
    inductor_option,
    machine_options,
    resolve_machine,
    workload_options,
)

if TYPE_CHECKING:
    from autotune.workload import Gemm


@click.command("bench")
@workload_options
@machine_options
@cache_option
@inductor_option
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=Path("tuned.jsonl"),
    show_default=True,
    help="Tuning log to take the winner from.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=11, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    workload: Gemm,
    target: str,
    threads: int | None,
    template: str,
    cache: str,
    inductor: bool,
    log_path: Path,
    rounds: int,
    as_json: bool,
) -> None:
    """Build the logged winner, verify it, and time it in turns with default and libraries."""
    from autotune.choice import choose_config
    from autotune.kernels.base import choose_template
    from autotune.log import TuningLog
    from autotune.measure import MeasureOptions, make_measurer
    from autotune.measure.final import COMPARED, FinalOptions, run_final

    profile, threads = resolve_machine(target, threads)
    chosen = choose_template(template, workload, profile)
    choice = choose_config(TuningLog(log_path), workload, profile, threads, chosen, cache)
    default = chosen.space(workload, profile, threads).defaults[0]
    options = MeasureOptions(cache=cache)
    with make_measurer(target, workload, profile, threads, options) as measurer:
        final = FinalOptions(rounds=rounds, libraries=compared_libraries(inductor))
        result = run_final(measurer, chosen.name, [choice.config], default, final)
    if as_json:
        rates = {c.label: [workload.flops / x / 1e9 for x in c.costs] for c in result.contenders}
        facts = {
            "workload": workload.to_json(),
            "threads": threads,
            "config": choice.config.to_json(),
            "gflops": rates,
            **{f"speedup_over_{name}": result.speedup(name) for name in COMPARED},
            "measured_peak_gflops": result.peak_gflops,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(f"{workload.key}, {threads} thread(s) on {profile.name}")
    click.echo(choice.note)
    if notes := chosen.notes(workload, profile):
        click.echo(notes)
    for contender in result.contenders:
        if contender.costs:
            rate = workload.flops / contender.cost / 1e9
            share = rate / result.peak_gflops
            click.echo(f"  {contender.label:9} {rate:8.1f} GFLOP/s  {share:4.0%} of peak")
        else:
            click.echo(f"  {contender.label:9} failed: {contender.failure}")
    ratios = [(name, result.speedup(name)) for name in COMPARED]
    said = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios if ratio is not None)
    click.echo(f"median over {rounds} rounds: {said}")
