"""Tune suites of products on a GPU and write a table of default, tuned and torch (cuBLAS).

Each product is tuned with the command line's defaults (searcher, seed 0) and a fixed number of
trials; then the winner, the default config and torch take turns for some rounds. All figures of a
row come from that one interleaved run; ratios are medians of the rounds' ratios.

A row that is done is kept in a file beside the log, so that the same command goes on where it was
interrupted; with --minutes it ends by itself in time, and says what is left. Exit codes: 0 all
done, 1 something is left or failed, 2 there is no GPU, or the request cannot be carried out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_rows import Row, append_row, measured_row, read_rows

from autotune.errors import AutotuneError, NotApplicable
from autotune.hw_profiles import HardwareProfile, detect_cuda
from autotune.identity import tool_versions
from autotune.measure.final import DEFAULT, FinalOptions
from autotune.measure.libraries import INDUCTOR, LIBRARIES
from autotune.workload import DTYPES, Gemm

LIBRARY = LIBRARIES[0]  # cuBLAS
#: Rows of the activations in the suites of models.
TOKENS = (1, 16, 128, 4096)


def _layers(*shapes: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return the products of linear layers of (outputs, inputs), a few tokens first."""
    return [(m, n, k) for m in TOKENS for n, k in shapes]


#: (m, n, k). Weights are stored as torch's linear layers store them: layout "nt".
SUITES: dict[str, list[tuple[int, int, int]]] = {
    "squares": [(x, x, x) for x in (1024, 2048, 4096, 8192)],
    "odd": [(197, 768, 768), (1000, 333, 77), (1023, 1025, 1000), (4095, 4097, 4104)],
    "bert": [
        (m, n, k) for m in (128, 512) for n, k in ((768, 768), (3072, 768), (768, 3072))
    ],
    # Fused query-key-value, output, fused gate and up, down.
    "llama3-8b": _layers((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    "llama3-70b": _layers((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)),
    # DeepSeek-V3: the dense shapes of DeepGEMM's benchmark.
    "deepseek": _layers(
        (2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)
    ),
}  # fmt: skip


def workloads(suite: str, dtypes: list[str], layout: str) -> Iterator[Gemm]:
    for m, n, k in SUITES[suite]:
        for dtype in dtypes:
            yield Gemm(m, n, k, layout=layout, dtype=dtype)


def measure(
    workload: Gemm,
    profile: HardwareProfile,
    arguments: argparse.Namespace,
    measurer: Callable[[], Any] | None = None,
) -> Row:
    """Tune and measure one product; ``measurer`` makes another than that of the target."""
    # Here, because tables are also made where the packages that these need are missing.
    from autotune.measure import make_measurer
    from autotune.run import TuneRequest

    request = TuneRequest(
        workload, profile, 1, trials=arguments.trials, seconds=arguments.seconds or None
    )
    options = FinalOptions(1, arguments.rounds, 0.1, arguments.libraries)
    made = measurer() if measurer else make_measurer(arguments.target, workload, profile, 1)
    with made as running:
        return measured_row(request, running, arguments.log, options)


def table(rows: list[Row], libraries: tuple[str, ...]) -> list[str]:
    over = " | ".join(f"tuned / {name}" for name in libraries)
    lines = [
        f"| m, n, k | type | default | tuned | {' | '.join(libraries)} | {over} (p10 to p90) |"
        " default / tuned | of datasheet peak | template |",
        "|---" * (7 + 2 * len(libraries)) + "|",
    ]
    for row in rows:
        w = Gemm.from_json(row.workload)
        rates = " | ".join(row.rate_cell(name, 1e3) for name in (DEFAULT, "tuned", *libraries))
        ratios = " | ".join(row.ratio_cell(name) for name in libraries)
        share = f"{row.rate('tuned') / row.peak_gflops:.0%}" if row.peak_gflops else "-"
        lines.append(
            f"| {w.m}, {w.n}, {w.k} | {w.dtype} | {rates} | {ratios} |"
            f" {row.ratio(DEFAULT, 'tuned'):.2f} | {share} | {row.template} |"
        )
    return lines


def means(rows: list[Row], libraries: tuple[str, ...]) -> list[str]:
    """Geometric means of tuned / library by type, and the least with 128 rows or more."""
    over = " | ".join(f"tuned / {name} | least with m >= 128" for name in libraries)
    lines = [
        f"| type | products | {over} | default / tuned |",
        "|---" * (3 + 2 * len(libraries)) + "|",
    ]
    for dtype in DTYPES:
        these = [row for row in rows if row.workload["dtype"] == dtype]
        if not these:
            continue
        many = [row for row in these if _rows(row) >= 128]
        cells = []
        shown: list[tuple[list[float], Callable[[list[float]], float]]] = []
        for name in libraries:
            shown.append((_finite(these, "tuned", name), statistics.geometric_mean))
            shown.append((_finite(many, "tuned", name), min))
        for chosen, how in (*shown, (_finite(these, DEFAULT, "tuned"), statistics.geometric_mean)):
            cells.append(f"**{how(chosen):.2f}**" if chosen else "-")
        lines.append(f"| {dtype} | {len(these)} | {' | '.join(cells)} |")
    return lines


def _rows(row: Row) -> int:
    return Gemm.from_json(row.workload).m


def _finite(rows: list[Row], label: str, over: str) -> list[float]:
    return [x for row in rows if (x := row.ratio(label, over)) == x]


def document(
    rows: list[Row],
    left_out: dict[str, str],
    profile: HardwareProfile,
    arguments: argparse.Namespace,
) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in tool_versions().items())
    dates = " to ".join(sorted({min(r.date for r in rows), max(r.date for r in rows)}))
    lines = [
        "# GEMM on a GPU",
        "",
        f"Made by `{arguments.command}` on {dates}.",
        f"Hardware: {profile.name} ({profile.arch}).",
        f"Software: {tools}.",
        "",
        "Rates in TFLOP/s, medians over the rounds, operands in L2 where they fit. `default` is the"
        " template's config before tuning; torch is cuBLAS by `torch.matmul` (`torch._int_mm`,"
        " `torch._scaled_mm` for int8 and fp8), in a process of its own. Clocks were left as they"
        f" are. {arguments.trials} trials each, searcher auto, seed 0, {arguments.rounds} rounds.",
        "",
        *_about_inductor(arguments.libraries),
        *means(rows, arguments.libraries),
    ]
    for suite in SUITES:
        keys = {w.key for w in workloads(suite, list(DTYPES), arguments.layout)}
        these = [row for row in rows if row.key[0] in keys]
        lines += ["", f"## {suite}", "", *table(these, arguments.libraries)] if these else []
    if left_out:
        lines += ["", "## Left out", "", *(f"- {key}: {why}" for key, why in left_out.items())]
    return "\n".join([*lines, ""])


def _about_inductor(libraries: tuple[str, ...]) -> list[str]:
    if INDUCTOR not in libraries:
        return []
    return [
        "inductor is `torch.compile` with all that `max-autotune` tries (Triton's templates and"
        " cuBLAS), without CUDA graphs.",
        "",
    ]


def bench(
    work: list[Gemm],
    arguments: argparse.Namespace,
    measured: Callable[[Gemm], Row],
    written: Callable[[list[Row], dict[str, str]], None],
) -> int:
    """Measure what is not known yet, in order, until the time is up; return how many are left."""
    start = time.monotonic()
    known = {row.key[0]: row for row in read_rows(arguments.rows)}
    left_out: dict[str, str] = {}
    left = 0
    for workload in work:
        if workload.key in known:
            continue
        if arguments.minutes and time.monotonic() - start > 60 * arguments.minutes:
            left += 1
            continue
        try:
            row = measured(workload)
        except NotApplicable as error:
            left_out[workload.key] = str(error)
            continue
        except AutotuneError as error:
            print(f"{workload.key}: {error}", file=sys.stderr)
            left_out[workload.key] = str(error)
            left += 1
            continue
        known[workload.key] = row
        append_row(arguments.rows, row)
        written([known[w.key] for w in work if w.key in known], left_out)
    rows = [known[w.key] for w in work if w.key in known]
    if rows:
        written(rows, left_out)
    return left


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench_cuda", description=__doc__)
    parser.add_argument("--suite", default="squares", help=f"full, or of {', '.join(SUITES)}")
    parser.add_argument("--dtypes", default="bfloat16,float16", help="full, or comma-separated")
    parser.add_argument("--layout", default="nt")
    parser.add_argument("--target", default="cuda", help="cuda, or cuda:1 for another GPU")
    parser.add_argument("--inductor", action="store_true", help="compare with torch.compile too")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0, help="end a search after that")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=0, help="start no product after that")
    parser.add_argument("--log", type=Path, default=Path("bench-cuda.jsonl"))
    parser.add_argument("--rows", type=Path, default=Path("bench-cuda-rows.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results-cuda.md"))
    arguments = parser.parse_args(words)
    arguments.libraries = (LIBRARY, INDUCTOR) if arguments.inductor else (LIBRARY,)
    arguments.command = "scripts/bench_cuda " + " ".join(sys.argv[1:] if words is None else words)
    return arguments


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    suites = list(SUITES) if arguments.suite == "full" else arguments.suite.split(",")
    dtypes = list(DTYPES) if arguments.dtypes == "full" else arguments.dtypes.split(",")
    try:
        if unknown := [suite for suite in suites if suite not in SUITES]:
            raise AutotuneError(
                f"unknown suite {unknown[0]!r}; choose of full, {', '.join(SUITES)}"
            )
        work = [w for suite in suites for w in workloads(suite, dtypes, arguments.layout)]
        profile = detect_cuda(int(arguments.target.partition(":")[2] or 0))
    except (AutotuneError, ValueError) as error:
        print(f"bench_cuda: {error}", file=sys.stderr)
        return 2
    left = bench(
        list(dict.fromkeys(work)),
        arguments,
        lambda workload: measure(workload, profile, arguments),
        lambda rows, left_out: _write(arguments.out, document(rows, left_out, profile, arguments)),
    )
    if left:
        print(f"bench_cuda: {left} products left; the same command goes on", file=sys.stderr)
    return 1 if left else 0


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
