"""``autotune compare``: search methods against each other on the same measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autotune.cli.options import machine_options, resolve_machine, workload_options
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.compare import Campaign, Entrant, Protocol, WarmStart
    from autotune.report.progress import CountedProgress
    from autotune.workload import Gemm

#: The first of these that takes part is the baseline, unless one is named.
_BASELINES = ("xgb", "random")
_REAL_ONLY = {
    "m": "-m", "n": "-n", "k": "-k", "layout": "--layout", "dtype": "--dtype",
    "epilogue": "--epilogue", "prepacked": "--prepacked", "batch_count": "--batch-count",
    "scale": "--scale", "shared": "--shared", "target": "--target",
    "threads": "--threads",
    "template": "--template", "log_path": "--log", "timeout": "--timeout", "plugin": "--plugin",
    "final_rounds": "--final-rounds",
}  # fmt: skip


@click.command("compare")
@click.option(
    "--replay",
    multiple=True,
    metavar="FILE[,FILE]",
    help="Recorded tables: Kernel Tuner cache or T4 files, or logs. Without it, measure.",
)
@workload_options
@machine_options
@click.option(
    "--searchers",
    default="all",
    show_default=True,
    metavar="LIST",
    help="name[:preset][+option=value], separated by commas; all for every method. Without"
    " --replay also metaschedule, which searches its own space.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True, help="Runs.")
@click.option(
    "--first-seed", type=int, default=0, show_default=True, help="Seeds count up from this one."
)
@click.option("--trials", type=int, default=200, show_default=True, help="Budget of each run.")
@click.option("--batch", type=int, default=1, show_default=True, help="Configs per ask.")
@click.option(
    "--baseline",
    multiple=True,
    metavar="NAME",
    help="Test the others against this method (may be given several times); by default xgb, or"
    " random.",
)
@click.option(
    "--noise",
    type=click.Choice(["none", "resample"]),
    default="none",
    show_default=True,
    help="Replay the one cost of each config, or draw from its recorded readings.",
)
@click.option(
    "--warm-start",
    metavar="FILE",
    help="With --replay: a table or log of another device or workload, for the methods that can use"
    " one.",
)
@click.option(
    "--warm-start-best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of --warm-start, only the N fastest configs.",
)
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes, for replay only.")
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=Path("compare.jsonl"),
    show_default=True,
    help="Shared measurements; the same command again continues from it.",
)
@click.option(
    "--final-rounds",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Measure what each run named again, in turns, so many times; 0 to skip.",
)
@click.option("--timeout", type=float, help="Seconds that one candidate may run.")
@click.option("--plugin", multiple=True, metavar="MODULE", help="Import templates of your own.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for CSV, JSON, PNG and a self-contained HTML report.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    replay: tuple[str, ...],
    searchers: str,
    seeds: int,
    first_seed: int,
    trials: int,
    batch: int,
    baseline: tuple[str, ...],
    noise: str,
    warm_start: str | None,
    warm_start_best: int | None,
    jobs: int,
    out: Path | None,
    as_json: bool,
    **real: Any,
) -> int:
    """Compare search methods: same seeds, same budget, same measurements.

    With --replay, every method searches recorded tables. Without, the configs of -m -n -k are
    measured on this machine, each once, and all methods share the results. A method that fails is
    reported as such, and the others go on; the exit code is then 1.
    """
    from rich.console import Console

    from autotune.compare import Protocol, parse_entrants, summarise
    from autotune.compare.campaign import Progress
    from autotune.compare.run import Trace
    from autotune.report.comparison import failures, print_summary, summary_json
    from autotune.report.plots import have_matplotlib
    from autotune.report.progress import CountedProgress
    from autotune.report.write import make_folder, write_report

    entrants = parse_entrants(searchers)
    baselines = _baselines(baseline, entrants)
    warm = _warm_start(warm_start, warm_start_best, replay)
    protocol = Protocol(trials, tuple(range(first_seed, first_seed + seeds)), batch, noise)
    if out is not None:
        make_folder(out)
        if not have_matplotlib():
            click.echo("no plots: pip install 'autotune-gemm[report]' for matplotlib", err=True)
    with CountedProgress("runs") as bar:

        def show(done: int, total: int, trace: Trace) -> None:
            outcome = f" FAILED: {trace.error}" if trace.error else ""
            bar.update(done, total, f"{trace.entrant} seed {trace.seed}{outcome}")

        progress: Progress = show
        campaign = (
            _replay(ctx, replay, entrants, protocol, jobs, progress, warm)
            if replay
            else _measure(real, entrants, protocol, jobs, progress, bar)
        )
    summary = summarise(campaign, baselines)
    files = [] if out is None else write_report(campaign, summary, out)
    if as_json:
        click.echo(json.dumps(summary_json(campaign, summary), allow_nan=False))
    else:
        console = Console(highlight=False)
        print_summary(summary, console)
        for file in files:
            console.print(f"wrote {file}", markup=False, soft_wrap=True)
    return 1 if failures(summary) else 0


def _baselines(named: tuple[str, ...], entrants: Sequence[Entrant]) -> list[str]:
    labels = [entrant.label for entrant in entrants]
    chosen = [label.strip() for text in named for label in text.split(",")]
    unknown = next((label for label in chosen if label not in labels), None)
    if unknown is not None:
        raise AutotuneError(
            f"the baseline {unknown!r} is not compared; choose one of {', '.join(labels)}"
        )
    return chosen or [label for label in _BASELINES if label in labels][:1]


def _replay(
    ctx: click.Context,
    replay: tuple[str, ...],
    entrants: Sequence[Entrant],
    protocol: Protocol,
    jobs: int,
    progress: Any,
    warm: WarmStart | None,
) -> Campaign:
    from autotune.compare import run_replay

    for name, option in _REAL_ONLY.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise AutotuneError(f"{option} is for measuring; leave it out with --replay")
    paths = [path for text in replay for path in text.split(",")]
    campaign = run_replay(paths, entrants, protocol, jobs, progress, warm)
    for problem in campaign.problems:
        if warm is not None:
            click.echo(f"warm start of {problem.name}: {problem.meta['warm_start']}", err=True)
    return campaign


def _warm_start(path: str | None, best: int | None, replay: tuple[str, ...]) -> WarmStart | None:
    from autotune.compare import WarmStart

    if path is None:
        if best is not None:
            raise AutotuneError("--warm-start-best says how much of --warm-start FILE to take")
        return None
    if not replay:
        raise AutotuneError("--warm-start is for comparisons with --replay")
    return WarmStart(path, best)


def _measure(
    real: dict[str, Any],
    entrants: Sequence[Entrant],
    protocol: Protocol,
    jobs: int,
    progress: Any,
    bar: CountedProgress,
) -> Campaign:
    from autotune.compare.external import EXTERNAL, external_log
    from autotune.compare.real import run_real
    from autotune.compare.remeasure import remeasure
    from autotune.kernels.base import choose_template
    from autotune.log import TuningLog
    from autotune.measure import MeasureOptions, make_measurer
    from autotune.tables.recording import RecordingMeasurer

    if jobs != 1:
        raise AutotuneError("--jobs is for --replay; measurements would disturb each other")
    workload: Gemm = real["workload"]
    profile, threads = resolve_machine(real["target"], real["threads"])
    template = choose_template(real["template"], workload, profile, real["plugin"])
    space = template.space(workload, profile, threads)
    options = MeasureOptions(run_timeout=real["timeout"])
    made = make_measurer(real["target"], workload, profile, threads, options, real["plugin"])
    with made as measurer:
        recorder = RecordingMeasurer(
            TuningLog(real["log_path"]),
            measurer,
            workload,
            profile,
            threads,
            template,
            space,
            "compare",
        )
        count = f"{workload.batch} x " if workload.batch > 1 else ""
        name = f"{count}{workload.m}x{workload.n}x{workload.k} {template.name}"
        log = external_log(real["log_path"])
        external = {
            other: partial(run, name, protocol, measurer, log) for other, run in EXTERNAL.items()
        }
        campaign = run_real(
            name, space, recorder, entrants, protocol, progress, external, bar.update
        )
        rounds = real["final_rounds"]
        if not rounds:
            return campaign
        again = remeasure(
            campaign,
            space,
            recorder,
            measurer,
            rounds,
            lambda done, of: bar.update(done, of, "measuring again what the runs named", "rounds"),
        )
        return replace(campaign, remeasured=again)
