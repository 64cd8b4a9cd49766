"""``autotune model``: the products of a model, and tuning them under one budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import parse_seconds, resolve_machine

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.models.tuning import Task


@click.command("model")
@click.argument("model")
@click.option("--extract", is_flag=True, help="List the products of the model; run nothing.")
@click.option("--tune", is_flag=True, help="Tune them into the log.")
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=Path("tuned.jsonl"),
    show_default=True,
    help="Tuning log; the same command again continues from it.",
)
@click.option(
    "--time", "seconds", help="Time for all products together, such as 90s or 10m.  [default: 10m]"
)
@click.option("--trials", type=click.IntRange(min=1), help="Trials for all products together.")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="cpu|cuda|cuda:N|cuda:NAME",
    help="Device: this CPU, a GPU here, or for --extract a GPU by name.",
)
@click.option("--threads", type=int, help="CPU threads; by default all physical cores.")
@click.option("--searcher", default="auto", show_default=True, help="Search method.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
def command(
    model: str,
    extract: bool,
    tune: bool,
    log_path: Path,
    seconds: str | None,
    trials: int | None,
    target: str,
    threads: int | None,
    searcher: str,
    seed: int,
    as_json: bool,
) -> int:
    """List or tune the matrix products of a model.

    MODEL is a .pt2 file (torch.export.save), an .onnx file, or package.module:function, where the
    function returns (module, example_inputs).
    """
    from autotune.cli import EXIT_INTERRUPTED
    from autotune.errors import AutotuneError
    from autotune.measure import require_present
    from autotune.models.apply import find_sites
    from autotune.models.importing import load_model
    from autotune.models.pipeline import simplify
    from autotune.models.tuning import model_tasks
    from autotune.report.model import task_lines

    if not extract and not tune:
        raise AutotuneError("say what to do with the model: --extract or --tune")
    profile, threads = resolve_machine(target, threads)
    if tune:
        require_present(target)
    sites, missed = find_sites(simplify(load_model(model)))
    tasks, left = model_tasks(sites, profile)
    notes = [f"{miss.name}: {miss.reason}" for miss in missed] + left
    if not tune:
        if as_json:
            click.echo(json.dumps({"tasks": [_task_json(task) for task in tasks], "left": notes}))
        else:
            click.echo("\n".join(task_lines(tasks, notes)))
        return 0
    budget = None if seconds is None else parse_seconds(seconds)
    if budget is None and trials is None:
        budget = 600.0
    reports = _tune(tasks, target, profile, threads, log_path, budget, trials, searcher, seed)
    if as_json:
        click.echo(json.dumps({"reports": [report.to_json() for report in reports]}))
    else:
        click.echo("\n".join(task_lines(tasks, notes, reports)))
    return EXIT_INTERRUPTED if any(report.interrupted for report in reports) else 0


def _task_json(task: Task) -> dict[str, Any]:
    return {
        "workload": task.workload.to_json(),
        "key": task.workload.key,
        "calls": task.calls,
        "flops": task.flops,
    }


def _tune(
    tasks: list[Task],
    target: str,
    profile: HardwareProfile,
    threads: int,
    log_path: Path,
    seconds: float | None,
    trials: int | None,
    searcher: str,
    seed: int,
) -> list[Any]:
    from autotune.log import TuningLog
    from autotune.models.tuning import ModelTuner
    from autotune.report.model import TuningProgress

    log = TuningLog(log_path)
    log.ensure_writable()
    tuner = ModelTuner(
        tasks,
        profile,
        threads,
        log,
        seconds=seconds,
        trials=trials,
        searcher=searcher,
        seed=seed,
        target=target,
    )
    with TuningProgress(trials, seconds) as progress:
        return tuner.run(progress, lambda text: click.echo(f"autotune: {text}", err=True))
