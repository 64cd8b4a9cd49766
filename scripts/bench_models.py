"""Times models in PyTorch, its compiler, plain TVM and ours; see ``scripts/bench_models --help``.

Every contender has a process of its own, for thread pools of torch and TVM in one process slow each
other down. They take turns, a block of calls each, and each block is a few hundred milliseconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.cli.options import parse_seconds, resolve_machine
from autotune.identity import tool_versions
from autotune.models.samples import SAMPLES

ROOT = Path(__file__).resolve().parents[1]
EAGER, INDUCTOR, FROZEN, PLAIN = "eager", "inductor", "max-autotune", "TVM"
DEFAULT, TUNED = "ours, untuned", "ours"
CONTENDERS = (EAGER, INDUCTOR, FROZEN, PLAIN, DEFAULT, TUNED)
#: Those that ours is compared with.
OTHERS = (EAGER, INDUCTOR, FROZEN)
ONNX = ".onnx"
#: Seconds for which the caches of the one before and its idle threads calm down.
_REST = 0.25
#: A contender that takes this long per call is timed once.
_SLOW = 2.0


# -- one contender, in a process of its own -------------------------------------------------------


def sample(name: str) -> Any:
    return SAMPLES[name.removesuffix(ONNX)]()


def contender(who: str, name: str, threads: int, log: str) -> Callable[[], Any]:
    """Return a function without arguments that runs the model."""
    import torch

    torch.set_num_threads(threads)
    model, inputs = sample(name)
    if who == EAGER:
        return lambda: model(*inputs)
    if who == INDUCTOR:
        compiled = torch.compile(model)
        return lambda: compiled(*inputs)
    if who == FROZEN:
        from autotune.measure.inductor import compiler_options

        frozen = torch.compile(model, options=compiler_options(frozen=True))
        return lambda: frozen(*inputs)
    if who == PLAIN:
        return plain_tvm(model, inputs, threads)
    import autotune

    used = log if who == TUNED else None
    if name.endswith(ONNX):
        from autotune.models.importing import import_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False)
            ours = autotune.compile(import_onnx(path), threads=threads, log=used)
    else:
        ours = autotune.compile(model, inputs, threads=threads, log=used)
    for row in ours.coverage.rows:
        print(f"{name} {who}: {row.tier}: {row.workload}", file=sys.stderr)
    for missed in ours.coverage.missed:
        print(f"{name} {who}: missed: {missed[0]}: {missed[1]}", file=sys.stderr)
    return lambda: ours(*inputs)


def plain_tvm(model: Any, inputs: Any, threads: int) -> Callable[[], Any]:
    """Return what ``tvm.compile`` makes of the exported program by itself."""
    import torch
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    from autotune.hw_profiles import tvm_target

    profile, _ = resolve_machine("cpu", threads)
    program = torch.export.export(model, inputs)
    module = from_exported_program(program, unwrap_unit_return_tuple=True)
    target = tvm.target.Target(tvm_target(profile, threads))
    main = relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())["main"]
    return lambda: main(*inputs)


def work(who: str, name: str, threads: int, log: str, output: str) -> None:
    """Answer requests for timings on standard input until it is closed."""
    import numpy as np
    import torch

    with torch.no_grad():
        try:
            call = contender(who, name, threads, log)
            result = call()
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            print(json.dumps({"failure": reason[0][:300]}), flush=True)
            return
        np.save(output, torch.as_tensor(result).detach().numpy())
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        print(json.dumps({"once": once}), flush=True)
        for line in sys.stdin:
            seconds = float(line)
            call()  # brings weights back into the caches
            costs, end = [], time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                call()
                costs.append(time.perf_counter() - start)
            print(json.dumps({"costs": costs}), flush=True)


class Process:
    """One contender."""

    def __init__(self, who: str, name: str, threads: int, log: Path, folder: Path) -> None:
        self.who, self.output = who, folder / f"{who.replace(' ', '')}.npy"
        command = [sys.executable, __file__, "--worker", who, name, str(threads), str(log)]
        counts = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **{variable: str(threads) for variable in counts}}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        self.child = subprocess.Popen(
            [*command, str(self.output)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.costs: list[float] = []
        ready = self._answer()
        self.failure = ready.get("failure", "")
        self.once = ready.get("once", math.inf)

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        return {"failure": f"its process ended with code {self.child.wait()}"}

    def take_turn(self, seconds: float) -> None:
        """Add the median of one block of calls."""
        if self.failure:
            return
        if self.once > _SLOW:
            self.costs = [self.once]
            return
        assert self.child.stdin is not None
        self.child.stdin.write(f"{max(seconds, 3 * self.once)}\n")
        self.child.stdin.flush()
        answer = self._answer()
        self.failure = answer.get("failure", "")
        if not self.failure:
            self.costs.append(statistics.median(answer["costs"]))

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


# -- the comparison -------------------------------------------------------------------------------


def measure(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one model: medians, and ratios by rounds."""
    wanted = [who for who in CONTENDERS if who != PLAIN or not name.endswith(ONNX)]
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for who in wanted:
            print(f"{name}, {threads} thread(s): preparing {who}", file=sys.stderr)
            processes.append(Process(who, name, threads, arguments.log, Path(folder)))
        try:
            errors = check(processes)
            for _ in range(arguments.rounds):
                for process in processes:
                    time.sleep(_REST)
                    process.take_turn(arguments.seconds)
        finally:
            for process in processes:
                process.close()
    return {
        "model": name,
        "threads": threads,
        "costs": {p.who: p.costs for p in processes if p.costs},
        "failures": {p.who: p.failure for p in processes if p.failure},
        "errors": errors,
    }


def check(processes: list[Process]) -> dict[str, float]:
    """Return each output's largest difference from eager, relative to its largest element."""
    import numpy as np

    reference = np.load(processes[0].output)
    scale = float(np.abs(reference).max())
    return {
        process.who: float(np.abs(np.load(process.output) - reference).max()) / scale
        for process in processes[1:]
        if not process.failure
    }


def tune(name: str, threads: int, arguments: argparse.Namespace) -> None:
    """Tune a model into the log, by the command that a user would call."""
    command = [sys.executable, "-m", "autotune", "model"]
    command += [f"autotune.models.samples:{name.removesuffix(ONNX)}", "--tune"]
    command += ["--time", arguments.tune, "--threads", str(threads), "--log", str(arguments.log)]
    subprocess.run(command, check=True, cwd=ROOT)


def ratios(row: dict[str, Any], other: str) -> list[float]:
    """Return ``other / ours`` by rounds; above 1 ours is faster."""
    ours, theirs = row["costs"].get(TUNED, []), row["costs"].get(other, [])
    if len(theirs) == 1:
        theirs = theirs * len(ours)
    return [a / b for a, b in zip(theirs, ours, strict=False)]


def document(rows: list[dict[str, Any]], arguments: argparse.Namespace, words: list[str]) -> str:
    profile, _ = resolve_machine("cpu", 1)
    versions = ", ".join(f"{name} {version}" for name, version in tool_versions().items())
    lines = [
        "# Models",
        "",
        f"Made by `scripts/bench_models {' '.join(words)}` on {datetime.date.today()}.",
        f"Hardware: {profile.name}, {profile.usable_threads} core(s). Software: {versions}.",
        "",
        "fp32, one block of each network (`autotune/models/samples.py`), milliseconds per call,"
        f" medians of {arguments.rounds} rounds in which all contenders took turns, each in a"
        " process of its own. `eager` is PyTorch, `inductor` is `torch.compile`, `max-autotune`"
        " that with all it tries and weights frozen, so that it may pack them, as ours does; `TVM`"
        " is `tvm.compile` of the exported program, which schedules nothing on a CPU. Ours was"
        f" tuned with `autotune model --tune --time {arguments.tune}` per model and thread count;"
        " `untuned` uses no log. Ratios are medians over the rounds (10th to 90th percentile);"
        " above 1 ours is faster.",
        "",
        f"| model | threads | {' | '.join(CONTENDERS)} |"
        f" {' | '.join(f'{other} / ours' for other in OTHERS)} | largest error |",
        "|---" * (3 + len(CONTENDERS) + len(OTHERS)) + "|",
    ]
    for row in rows:
        cells = [row["model"], str(row["threads"])]
        cells += [_milliseconds(row, who) for who in CONTENDERS]
        cells += [_ratio(ratios(row, other)) for other in OTHERS]
        error = row["errors"].get(TUNED)
        cells.append("-" if error is None else f"{error:.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for threads in sorted({row["threads"] for row in rows}):
        for other in OTHERS:
            known = [ratios(row, other) for row in rows if row["threads"] == threads]
            medians = [statistics.median(values) for values in known if values]
            if medians:
                mean = math.exp(statistics.mean(map(math.log, medians)))
                lines.append(
                    f"* {threads} thread(s), {other} / ours: geometric mean {mean:.2f}, least"
                    f" {min(medians):.2f}."
                )
    for row in rows:
        for who, failure in row["failures"].items():
            lines.append(f"* {row['model']}, {row['threads']} thread(s), {who}: {failure}")
    return "\n".join(lines) + "\n"


def _milliseconds(row: dict[str, Any], who: str) -> str:
    costs = row["costs"].get(who)
    return f"{statistics.median(costs) * 1e3:.3g}" if costs else "-"


def _ratio(values: list[float]) -> str:
    if len(values) < 3:
        return "-"
    tenths = statistics.quantiles(values, n=10)
    return f"**{statistics.median(values):.2f}** ({tenths[0]:.2f} to {tenths[-1]:.2f})"


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_models",
        description="Tunes sample models, then times them in PyTorch, torch.compile, plain TVM and"
        " ours in turns, and writes a table.",
    )
    parser.add_argument("--models", default=",".join([*SAMPLES, f"bert_layer{ONNX}"]))
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--tune", default="2m", help="time to tune each model for, or 0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one block of calls")
    parser.add_argument("--log", type=Path, default=Path("bench-models.jsonl"))
    parser.add_argument(
        "--rows",
        type=Path,
        default=Path("bench-models-rows.jsonl"),
        help="what was measured; what is in it is not repeated",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results-models.md")
    arguments = parser.parse_args(words)
    unknown = [n for n in arguments.models.split(",") if n.removesuffix(ONNX) not in SAMPLES]
    if unknown:
        parser.error(f"no model {unknown[0]}; there are {', '.join(SAMPLES)}")
    if arguments.tune != "0":
        parse_seconds(arguments.tune)
    return arguments


def main(words: list[str]) -> None:
    if words[:1] == ["--worker"]:
        who, name, threads, log, output = words[1:]
        work(who, name, int(threads), log, output)
        return
    arguments = parse(words)
    done = {}
    if arguments.rows.exists():
        lines = map(json.loads, arguments.rows.read_text().splitlines())
        done = {(row["model"], row["threads"]): row for row in lines}
    for threads in map(int, arguments.threads.split(",")):
        for name in arguments.models.split(","):
            if (name, threads) in done:
                continue
            if arguments.tune != "0":
                tune(name, threads, arguments)
            row = measure(name, threads, arguments)
            done[name, threads] = row
            with open(arguments.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({k: v for k, v in row.items() if k != "costs"}), file=sys.stderr)
    arguments.out.write_text(document(list(done.values()), arguments, words), "utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
