"""``autotune export``: write tuned kernels as a shared library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import machine_options, resolve_machine, workload_options
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.workload import Gemm


@click.command("export")
@workload_options
@machine_options
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=Path("tuned.jsonl"),
    show_default=True,
    help="Tuning log to take the winners from.",
)
@click.option("--all", "everything", is_flag=True, help="Every workload tuned here.")
@click.option(
    "--fallback",
    type=click.Choice(["exact", "nearest", "default"]),
    default="exact",
    show_default=True,
    help="What to take where the log has no result for exactly this workload.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The library, such as gemm.so.",
)
@click.option("--header", is_flag=True, help="Write a C header of the same name beside it.")
def command(
    workload: Gemm,
    target: str,
    threads: int | None,
    template: str,
    log_path: Path,
    everything: bool,
    fallback: str,
    output: Path,
    header: bool,
) -> None:
    """Write the logged winner, or all of them, as a shared library that needs no TVM.

    C programs call its functions; Python loads it with autotune.load_library.
    """
    from autotune.choice import choose_config, tuned_workloads
    from autotune.deploy.export import Item, export_library
    from autotune.kernels.base import choose_template
    from autotune.log import TuningLog

    profile, threads = resolve_machine(target, threads)
    if profile.kind != "cpu":
        raise AutotuneError("only kernels for CPUs can be exported; leave --target out")
    log = TuningLog(log_path)
    items = []
    for wanted in tuned_workloads(log, profile, threads) if everything else [workload]:
        try:
            chosen = choose_template(template, wanted, profile)
            choice = choose_config(log, wanted, profile, threads, chosen, fallback=fallback)
        except AutotuneError as error:
            if not everything:
                raise
            click.echo(f"left out: {error}", err=True)
            continue
        items.append(Item(wanted, choice))
    header_path = output.with_suffix(".h") if header else None
    functions = export_library(items, output, profile, threads, header_path)
    click.echo(f"{output}: {len(functions)} function(s), {threads} thread(s), for {profile.name}")
    for function in functions:
        click.echo(f"  {function.prototype}")
        click.echo(f"    {' '.join(function.comment.replace(' * ', '').split())}")
    if header_path is not None:
        click.echo(f"{header_path}: declares them")
