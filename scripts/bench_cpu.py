"""Tune a suite of products on this CPU and write a table of default, tuned and torch.

Each product is tuned with the command line's defaults (searcher, seed 0) and a fixed number of
trials; then the winner, the default config and torch.matmul take turns for some rounds. All figures
of a row come from that one interleaved run; ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import AutotuneError
from autotune.hw_profiles import resolve_target
from autotune.log import TuningLog
from autotune.measure import LocalMeasurer
from autotune.measure.final import DEFAULT, VENDOR, FinalOptions, FinalResult, run_final
from autotune.report.console import View
from autotune.run import TuneRequest
from autotune.tune import Session, tool_versions
from autotune.workload import Gemm

SUITES = {
    "main": [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (128, 3072, 768)],
    "odd": [(197, 768, 768), (1000, 333, 77), (127, 131, 137), (1, 4096, 4096)],
}


@dataclass(frozen=True)
class Row:
    """One product at one thread count."""

    workload: Gemm
    threads: int
    trials: int
    trials_per_minute: float | None
    result: FinalResult

    def rate(self, label: str) -> float:
        contender = self.result.by_label(label)
        return self.workload.flops / contender.cost / 1e9 if contender else float("nan")

    def ratios(self) -> list[float]:
        """Tuned over torch, one per round, sorted."""
        vendor = self.result.by_label(VENDOR)
        assert vendor is not None
        pairs = zip(vendor.costs, self.result.winner.costs, strict=True)
        return sorted(v / w for v, w in pairs)


def measure(workload: Gemm, threads: int, arguments: argparse.Namespace) -> Row:
    profile = resolve_target("cpu")
    request = TuneRequest(
        workload, profile, threads, searcher=arguments.searcher, trials=arguments.trials
    )
    with LocalMeasurer(workload, profile, threads) as measurer:
        session = Session(request, TuningLog(arguments.log))
        began = time.monotonic()
        report = session.run(measurer, View())
        if report.interrupted or report.winner is None:
            raise KeyboardInterrupt
        seconds = time.monotonic() - began
        print(f"{workload.key} x{threads}: tuned in {seconds:.0f} s", file=sys.stderr)
        result = run_final(
            measurer,
            request.template,
            [report.winner],
            session.space.defaults[0],
            FinalOptions(finalists=1, rounds=arguments.rounds, seconds=0.15),
        )
    speed = report.trials / report.search_seconds * 60 if report.search_seconds else None
    return Row(workload, threads, report.trials, speed, result)


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| m, n, k | threads | default | tuned | torch | tuned / torch (p10 to p90) |"
        " default / torch | of peak | trials a minute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        w, ratios = row.workload, row.ratios()
        tuned = w.flops / row.result.winner.cost / 1e9
        default = row.rate(DEFAULT)
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        lines.append(
            f"| {w.m}, {w.n}, {w.k} | {row.threads} | {default:.1f} | {tuned:.1f} |"
            f" {row.rate(VENDOR):.1f} |"
            f" **{statistics.median(ratios):.2f}** ({low:.2f} to {high:.2f}) |"
            f" {default / row.rate(VENDOR):.2f} |"
            f" {tuned / row.result.peak_gflops:.0%} of {row.result.peak_gflops:.0f} |"
            f" {row.trials_per_minute:.0f} |"
        )
    return lines


def document(rows: list[Row], arguments: argparse.Namespace) -> str:
    profile = resolve_target("cpu")
    tools = ", ".join(f"{name} {version}" for name, version in tool_versions().items())
    mean = {
        threads: statistics.geometric_mean(
            statistics.median(row.ratios()) for row in rows if row.threads == threads
        )
        for threads in sorted({row.threads for row in rows})
    }
    means = "; ".join(f"{value:.2f} on {threads} thread(s)" for threads, value in mean.items())
    return "\n".join(
        [
            "# fp32 GEMM on a CPU",
            "",
            f"Made by `{arguments.command}` on {time.strftime('%Y-%m-%d')}.",
            f"Hardware: {profile.name}, {profile.physical_cores} cores, a virtual machine on shared"
            " hardware: trust the ratios, which come from interleaved rounds, rather than the"
            " rates.",
            f"Software: {tools}.",
            "",
            "Rates in GFLOP/s, medians over the rounds; packing is inside the timed call. `default`"
            " is the template's config before tuning; torch is `torch.matmul` with `out=`, in its"
            " own process. `of peak` is the share of the multiply-add peak measured in the same"
            f" rounds. {arguments.trials} trials each, searcher {arguments.searcher}, seed 0,"
            f" {arguments.rounds} rounds.",
            "",
            *table(rows),
            "",
            f"Geometric mean of tuned / torch: {means}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench_cpu", description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "full"], default="main")
    parser.add_argument("--threads", default="1", help="comma-separated thread counts")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--searcher", default="auto")
    parser.add_argument("--log", type=Path, default=Path("bench-cpu.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results-cpu.md"))
    arguments = parser.parse_args()
    arguments.command = "scripts/bench_cpu " + " ".join(sys.argv[1:])
    shapes = sum(SUITES.values(), []) if arguments.suite == "full" else SUITES[arguments.suite]
    try:
        rows = [
            measure(Gemm(*shape), threads, arguments)
            for threads in map(int, arguments.threads.split(","))
            for shape in shapes
        ]
    except AutotuneError as error:
        sys.exit(f"bench_cpu: {error}")
    text = document(rows, arguments)
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
