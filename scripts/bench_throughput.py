"""Trials a minute of our tuner and of MetaSchedule's, on this machine, one after the other.

Both tune the same fp32 product with the same number of trials and the same timed seconds per trial.
Ours runs as `autotune gemm` does: worker processes, deadlines, every output compared with float64.
MetaSchedule runs twice: as shipped (`tune_tir` with its own builder and runner processes, which
check no output), and in one process on our building, verifying and timing, as `autotune compare`
runs it. Clocks include the start of all worker processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError, MeasureError
from autotune.hw_profiles import resolve_target, tvm_target
from autotune.identity import tool_versions
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.measure.final import FinalOptions
from autotune.measure.process import Deadline, WorkerDied
from autotune.measure.timing import HOPELESS_MARGIN
from autotune.report.console import View
from autotune.run import Trial, TuneRequest
from autotune.trial import Result
from autotune.tune import Session
from autotune.workload import Gemm

_BATCH = 64  # MetaSchedule's own
OURS = "ours, stops early"


@dataclass(frozen=True)
class Row:
    """One tuner on one product: trials, wall seconds, and the lowest reading in seconds."""

    who: str
    size: int
    trials: int
    seconds: float
    best: float

    @property
    def per_minute(self) -> float:
        return 60 * self.trials / self.seconds


class _Watch(View):
    """Remembers when the last trial ended: the final re-measurement is not part of the search."""

    last = 0.0

    def trial(self, trial: Trial) -> None:
        self.last = time.monotonic()


class _NoEarlyStop(LocalMeasurer):
    """Reads every candidate for all its timed seconds."""

    def measure(self, template: str, config: Any, hopeless: Any = None, keep: Any = None) -> Result:
        return super().measure(template, config, None, keep)


def ours(size: int, arguments: argparse.Namespace, kind: type[LocalMeasurer], who: str) -> Row:
    workload, profile = Gemm(size, size, size), resolve_target("cpu")
    request = TuneRequest(
        workload,
        profile,
        arguments.threads,
        trials=arguments.trials,
        batch=arguments.batch,
        ahead=arguments.ahead,
        final=FinalOptions(finalists=1, rounds=1),
    )
    options = MeasureOptions(seconds=arguments.seconds)
    watch = _Watch()
    with kind(workload, profile, arguments.threads, options) as measurer:
        session = Session(request, None)
        start = time.monotonic()
        report = session.run(measurer, watch)
    if report.interrupted:
        raise KeyboardInterrupt
    # Not the report's seconds, which leave out what the searcher thinks.
    return Row(who, size, report.trials, watch.last - start, report.best_cost)


def in_process(size: int, arguments: argparse.Namespace, who: str) -> Row:
    from autotune.compare.external import _Tuner

    workload, options = Gemm(size, size, size), MeasureOptions(seconds=arguments.seconds)
    tuner = _Tuner(workload, resolve_target("cpu"), arguments.threads, options)
    start = time.monotonic()
    try:
        search = {"trials": arguments.trials, "batch": min(_BATCH, arguments.trials), "seed": 0}
        results = tuner.tune(search)["results"]
    except (Deadline, WorkerDied) as error:
        raise MeasureError(f"MetaSchedule: {error}") from None
    finally:
        tuner.close()
    seconds = time.monotonic() - start
    best = min((r["cost"] for r in results if "cost" in r), default=float("inf"))
    return Row(who, size, len(results), seconds, best)


def as_shipped(size: int, arguments: argparse.Namespace, who: str) -> Row:
    command = [sys.executable, __file__, "--peer", str(size), "--trials", str(arguments.trials)]
    command += ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
    env = {**os.environ, "TVM_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise MeasureError(f"MetaSchedule ended with code {done.returncode}: {said}")
    return Row(who, size, **json.loads(done.stdout.strip().splitlines()[-1]))


# -- in the process of the peer -------------------------------------------------------------------


def _only_cpu_intrinsics() -> None:
    """Import the tensor intrinsics of CPUs only: those of all GPUs take a minute in each process.

    Without this MetaSchedule's builders run into their own time-out of 30 s.
    """
    import importlib
    import types

    import tvm.s_tir

    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [f"{folder}/tensor_intrin" for folder in tvm.s_tir.__path__]
        sys.modules[name] = package
        tvm.s_tir.tensor_intrin = package
        importlib.import_module(f"{name}.x86")


def peer(arguments: argparse.Namespace) -> None:
    """Run MetaSchedule's `tune_tir`; print trials, seconds and best as JSON."""
    try:
        import cloudpickle  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("MetaSchedule needs cloudpickle; pip install 'autotune-gemm[bench]'")
    sys.modules["torch"] = None  # type: ignore[assignment]
    _only_cpu_intrinsics()
    import tvm
    from tvm.s_tir import meta_schedule

    from autotune.kernels.gemm import gemm_prim_func

    size = arguments.peer
    target = tvm.target.Target(tvm_target(resolve_target("cpu"), arguments.threads))
    builder = meta_schedule.builder.LocalBuilder(
        max_workers=len(os.sched_getaffinity(0)), initializer=_only_cpu_intrinsics
    )
    evaluator = meta_schedule.runner.EvaluatorConfig(
        number=1, repeat=1, min_repeat_ms=round(arguments.seconds * 1e3)
    )
    runner = meta_schedule.runner.LocalRunner(evaluator_config=evaluator)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        database = meta_schedule.tune_tir(
            gemm_prim_func(Gemm(size, size, size)),
            target,
            folder,
            arguments.trials,
            num_trials_per_iter=min(_BATCH, arguments.trials),
            builder=builder,
            runner=runner,
            seed=1,
        )
        seconds = time.monotonic() - start
        records = database.get_all_tuning_records()
        best = min(float(cost) for r in records if r.run_secs for cost in r.run_secs)
    row = {"trials": arguments.trials, "seconds": seconds, "best": best}
    print(json.dumps(row), flush=True)


# -- what is kept ---------------------------------------------------------------------------------


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what must agree for rows to stand in one table."""
    names = ("trials", "seconds", "threads", "batch", "ahead")
    return {
        **{name: getattr(arguments, name) for name in names},
        "cores": len(os.sched_getaffinity(0)),
        "hardware": resolve_target("cpu").key,
    }


def row_of(
    who: str, size: int, arguments: argparse.Namespace, run: Callable[[int, str], Row]
) -> Row:
    """Return the newest recorded row of a tuner on a product, or run it and keep the row."""
    wanted = settings(arguments)
    lines = arguments.rows.read_text().splitlines() if arguments.rows.exists() else []
    for line in reversed([json.loads(text) for text in lines]):
        row = Row(**line["row"])
        if line["settings"] == wanted and (row.who, row.size) == (who, size):
            return row
    row = run(size, who)
    print(f"{size} {who}: {row.per_minute:.0f} a minute", file=sys.stderr)
    with open(arguments.rows, "a", encoding="utf-8") as file:
        file.write(json.dumps({"row": row.__dict__, "settings": wanted}) + "\n")
    return row


# -- the page -------------------------------------------------------------------------------------


def document(rows: list[Row], failed: list[str], arguments: argparse.Namespace) -> str:
    profile = resolve_target("cpu")
    cores = len(os.sched_getaffinity(0))
    tools = ", ".join(f"{name} {version}" for name, version in tool_versions().items())
    lines = [
        "# Trials a minute",
        "",
        f"Made by `{arguments.command}` on {time.strftime('%Y-%m-%d')}.",
        f"Hardware: {profile.name}, {cores} core(s) usable by every tuner; kernels on"
        f" {arguments.threads} thread(s).",
        f"Software: {tools}.",
        "",
        f"fp32, {arguments.trials} trials each, {arguments.seconds:g} timed seconds per trial, one"
        " tuner after the other. Seconds are wall time from the call to the last result, worker"
        " start-up and the searcher's own time included. Ours isolates every candidate and compares"
        f" its whole output with float64; searcher auto, batches of {arguments.batch},"
        f" {arguments.ahead} asked for ahead. `stops early` leaves a candidate alone once its 99 %"
        f" lower bound is {HOPELESS_MARGIN - 1:.0%} above the best; `full` reads all for"
        " the same timed seconds."
        " MetaSchedule as shipped is `tune_tir` with its own builder and runner"
        " processes (its import of GPU intrinsics is left out, without which its builders time"
        " out); it checks no output. The last column of rows is the lowest reading of the search,"
        " which is not re-measured here.",
        "",
        "| m = n = k | tuner | seconds | trials a minute | ours, stops early / this | best ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        best = next(r for r in rows if r.size == row.size and r.who == OURS)
        lines.append(
            f"| {row.size} | {row.who} | {row.seconds:.1f} | {row.per_minute:.0f} |"
            f" {best.per_minute / row.per_minute:.2f} | {row.best * 1e3:.3f} |"
        )
    for message in failed:
        lines += ["", message]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench_throughput", description=__doc__)
    parser.add_argument("--sizes", default="512,1024", help="comma-separated")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.12, help="timed seconds per trial")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4, help="of our searcher")
    parser.add_argument("--ahead", type=int, default=1, help="batches asked for ahead")
    parser.add_argument("--out", type=Path, default=Path("docs/results-throughput.md"))
    parser.add_argument(
        "--rows",
        type=Path,
        default=Path("bench-throughput.jsonl"),
        help="what was measured; what is in it with the same settings is not repeated",
    )
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        peer(arguments)
        return
    arguments.command = "scripts/bench_throughput " + " ".join(sys.argv[1:])
    runs: dict[str, Callable[[int, str], Row]] = {
        OURS: lambda size, who: ours(size, arguments, LocalMeasurer, who),
        "ours, full": lambda size, who: ours(size, arguments, _NoEarlyStop, who),
    }
    peers: dict[str, Callable[[int, str], Row]] = {
        "MetaSchedule, our measuring": lambda size, who: in_process(size, arguments, who),
        "MetaSchedule as shipped": lambda size, who: as_shipped(size, arguments, who),
    }
    sizes = list(map(int, arguments.sizes.split(",")))
    rows: list[Row] = []
    failed: list[str] = []
    for size, (who, run) in itertools.product(sizes, [*runs.items(), *peers.items()]):
        try:
            rows.append(row_of(who, size, arguments, run))
        except AutotuneError as error:
            if who in runs:
                sys.exit(f"bench_throughput: {error}")
            # What ends a peer is no reason to lose the rows that there are.
            failed.append(f"{who} failed at {size}: {' '.join(str(error).split())}")
    text = document(rows, failed, arguments)
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
