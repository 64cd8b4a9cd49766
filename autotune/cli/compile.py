"""``autotune compile``: a model as a shared library, with the kernels of a log."""

from __future__ import annotations

import json
from pathlib import Path

import click

from autotune.cli.options import OutputFile, resolve_machine


@click.command("compile")
@click.argument("model")
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    help="Tuning log; without one every product gets its template's default.",
)
@click.option("-o", "--output", type=OutputFile(), help="Shared library to write.")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="cpu|cuda|cuda:N|cuda:NAME",
    help="What to compile for: this CPU, a GPU here, or a GPU by name, which need not be here.",
)
@click.option("--threads", type=int, help="CPU threads; by default all physical cores.")
@click.option("--no-run", is_flag=True, help="Do not run the model to see where its time goes.")
@click.option(
    "--strict",
    is_flag=True,
    help="Fail, and write nothing, unless the log has a result for exactly each product.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
def command(
    model: str,
    log_path: Path | None,
    output: Path | None,
    target: str,
    threads: int | None,
    no_run: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Compile a model with the tuned kernels of a log, and say which of its products got one.

    MODEL is a .pt2 file (torch.export.save), an .onnx file, or package.module:function, where the
    function returns (module, example_inputs). A product that the log does not know is never silent:
    the table says what its kernel comes from, and with --strict it is an error (exit code 1). For a
    GPU, kernels are compiled to machine code and not run: the table has what a static model
    predicts.
    """
    from autotune.models.importing import load_model
    from autotune.models.model import compile_model
    from autotune.report.model import coverage_lines

    profile, threads = resolve_machine(target, threads)
    compiled = compile_model(load_model(model), target=target, log=log_path, threads=threads)
    untuned = compiled.coverage.untuned if strict else ()
    run = profile.kind == "cpu" and not no_run and not untuned
    seconds = compiled.profile() if run else {}
    if untuned:
        output = None
    if output is not None:
        compiled.export(output)
    if as_json:
        click.echo(json.dumps({**compiled.coverage.to_json(), "seconds": seconds}))
    else:
        click.echo("\n".join(coverage_lines(compiled.coverage, seconds)))
        if output is not None:
            click.echo(f"wrote {output}")
    if untuned:
        click.echo(
            f"autotune: {len(untuned)} products have no result of exactly theirs, the first"
            f" {untuned[0]}; tune the model (autotune model MODEL --tune), or leave --strict out",
            err=True,
        )
        raise click.exceptions.Exit(1)
