"""``autotune gemm``: tune one matrix product."""

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
    parse_seconds,
    parse_settings,
    resolve_machine,
    workload_options,
)

if TYPE_CHECKING:
    from autotune.compile_only import CompileRequest
    from autotune.workload import Gemm

#: Without a budget on the command line: whichever of the two is spent first.
_DEFAULT_TRIALS, _DEFAULT_SECONDS = 200, 75.0


@click.command("gemm")
@workload_options
@machine_options
@cache_option
@inductor_option
@click.option("--searcher", default="auto", show_default=True, help="Search method.")
@click.option("--preset", default="default", show_default=True, help="default, or paper.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set an option of the searcher."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
@click.option(
    "--trials",
    type=int,
    help=f"Configs to try. Without --trials and --time: {_DEFAULT_TRIALS}, or"
    f" {_DEFAULT_SECONDS:.0f} s of measuring.",
)
@click.option("--time", "seconds", metavar="TIME", help="Time to search: 90s, 10m, 1h.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Configs per ask; those of a batch are built ahead where there are cores for it.",
)
@click.option(
    "--ahead",
    type=click.IntRange(min=0),
    help="Batches to ask for, and to build, while one is measured. [default: 1; 0 with --preset"
    " paper]",
)
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=Path("tuned.jsonl"),
    show_default=True,
    help="Tuning log; the same command again continues from it.",
)
@click.option(
    "--warm-start",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Guide the search by the results in this log, of this or of other workloads and hardware"
    " (may be given several times).",
)
@click.option("--timeout", type=float, help="Seconds that one candidate may run.")
@click.option("--plugin", multiple=True, metavar="MODULE", help="Import templates of your own.")
@click.option(
    "--compile-only",
    is_flag=True,
    help="With --target cuda:NAME: search on a static model, compile the best, run nothing."
    " --trials is then the number of estimates.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many kernels --compile-only compiles.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    workload: Gemm,
    target: str,
    threads: int | None,
    template: str,
    cache: str,
    inductor: bool,
    searcher: str,
    preset: str,
    settings: tuple[str, ...],
    seed: int,
    trials: int | None,
    seconds: str | None,
    batch: int,
    ahead: int | None,
    log_path: Path,
    warm_start: tuple[Path, ...],
    timeout: float | None,
    plugin: tuple[str, ...],
    compile_only: bool,
    top: int,
    as_json: bool,
) -> int:
    """Tune C = A x B for this machine: search, verify, log, and re-measure the best.

    Every candidate's whole output is compared with a float64 product before its time counts. At the
    end the best few, the default config, torch and oneDNN take turns, and a winner is named.
    """
    from autotune.cli import EXIT_INTERRUPTED
    from autotune.log import TuningLog
    from autotune.measure import MeasureOptions, make_measurer
    from autotune.measure.final import FinalOptions
    from autotune.report.console import make_view
    from autotune.run import TuneRequest
    from autotune.tune import Session

    profile, threads = resolve_machine(target, threads)
    if compile_only:
        from autotune.compile_only import CompileRequest
        from autotune.kernels.base import choose_template

        exploration = CompileRequest(
            workload,
            profile,
            choose_template(template, workload, profile, plugin).name,
            searcher=searcher,
            preset=preset,
            seed=seed,
            searcher_options=parse_settings(settings),
            top=top,
            plugins=plugin,
            **({} if trials is None else {"estimates": trials}),
        )
        return _compile_only(exploration, log_path, as_json)
    budget = None if seconds is None else parse_seconds(seconds)
    if trials is None and budget is None:
        trials, budget = _DEFAULT_TRIALS, _DEFAULT_SECONDS
    request = TuneRequest(
        workload,
        profile,
        threads,
        template=template,
        searcher=searcher,
        preset=preset,
        seed=seed,
        searcher_options=parse_settings(settings),
        trials=trials,
        seconds=budget,
        batch=batch,
        # The papers' methods know all results when they propose.
        ahead=(preset == "default") if ahead is None else ahead,
        final=FinalOptions(libraries=compared_libraries(inductor)),
        plugins=plugin,
        cache=cache,
    )
    log = TuningLog(log_path)
    log.ensure_writable()
    history = [record for path in warm_start for record in _read(path)]
    session = Session(request, log, history)
    if warm_start:
        click.echo(session.warm.describe(session.searcher), err=True)
    view = make_view(as_json)
    options = MeasureOptions(run_timeout=timeout, cache=cache)
    with make_measurer(target, workload, profile, threads, options, plugin) as measurer, view:
        report = session.run(measurer, view)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        view.summarise(report)
    return EXIT_INTERRUPTED if report.interrupted else 0


def _compile_only(request: CompileRequest, log_path: Path, as_json: bool) -> int:
    """Rank without a device; the log gets records that no lookup takes for results."""
    from autotune.compile_only import record_report, run_compile_only
    from autotune.log import TuningLog
    from autotune.report.compiled import ranking_lines

    log = TuningLog(log_path)
    log.ensure_writable()
    report = run_compile_only(request, lambda text: click.echo(text, err=True))
    record_report(report, log)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        click.echo("\n".join(ranking_lines(report, str(log_path))))
    return 0


def _read(path: Path) -> list:  # type: ignore[type-arg]
    from autotune.errors import LogError
    from autotune.log import TuningLog

    if not path.exists():
        raise LogError(f"there is no log {path} to start from; check --warm-start")
    trials = TuningLog(path).scan().trials
    if not trials:
        raise LogError(f"the log {path} holds no trial to start from; check --warm-start")
    return trials
