"""``autotune export``: write tuned kernels as a shared library, or for a GPU as cubins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import OutputFile, machine_options, resolve_machine, workload_options
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.deploy.export import Item
    from autotune.hw_profiles import HardwareProfile
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
    type=OutputFile(),
    required=True,
    help="The library, such as gemm.so; for a GPU, a folder.",
)
@click.option(
    "--header", is_flag=True, help="Write a C header too: of the library's name, or kernels.h."
)
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

    C programs call its functions; Python loads it with autotune.load_library. For a GPU (--target
    cuda, or cuda:NAME of one that is elsewhere) it is a folder of cubins with kernels.json, which
    says how they are launched; a C program launches them through kernels.h.
    """
    from autotune.choice import choose_config, tuned_workloads
    from autotune.deploy.export import Item
    from autotune.kernels.base import choose_template
    from autotune.log import TuningLog

    profile, threads = resolve_machine(target, threads)
    log = TuningLog(log_path)
    if profile.kind == "cuda":
        from autotune.deploy.cubins import as_logged

        profile = as_logged(profile, log)
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
    if profile.kind == "cuda":
        _write_cubins(items, output, profile, header)
    else:
        _write_library(items, output, profile, threads, header)


def _write_library(
    items: list[Item], output: Path, profile: HardwareProfile, threads: int, header: bool
) -> None:
    from autotune.deploy.export import export_library

    header_path = output.with_suffix(".h") if header else None
    functions = export_library(items, output, profile, threads, header_path)
    click.echo(f"{output}: {len(functions)} function(s), {threads} thread(s), for {profile.name}")
    for function in functions:
        click.echo(f"  {function.prototype}")
        click.echo(f"    {' '.join(function.comment.replace(' * ', '').split())}")
    if header_path is not None:
        click.echo(f"{header_path}: declares them")


def _write_cubins(items: list[Item], folder: Path, profile: HardwareProfile, header: bool) -> None:
    from autotune.deploy.cubins import DESCRIPTION, HEADER, export_cubins

    def progress(text: str) -> None:
        click.echo(f"compiling {text}", err=True)

    kernels = export_cubins(items, folder, profile, header, progress=progress)
    click.echo(f"{folder / DESCRIPTION}: {len(kernels)} kernel(s) for {profile.name}")
    for kernel in kernels:
        names = ", ".join(argument.name for argument in kernel.arguments)
        click.echo(f"  {folder / kernel.file}: {names}; {len(kernel.launches)} launch(es)")
        click.echo(f"    {kernel.comment}")
    if header:
        click.echo(f"{folder / HEADER}: launches them from C")
