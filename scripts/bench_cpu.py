"""Tune suites of products on this CPU and write a table of default, tuned and the vendor libraries.

Each product is tuned with the command line's defaults (searcher, seed 0) and a fixed number of
trials; then the winner, the default config and the libraries take turns for some rounds. All
figures of a row come from that one interleaved run; ratios are medians of the rounds' ratios.

A row that is done is kept in a file beside the log, so that the same command goes on after an
interruption, and so that thread counts can be measured at different times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from bench_rows import Row, append_row, measured_row, read_rows

from autotune.cli.options import compared_libraries
from autotune.errors import AutotuneError
from autotune.hw_profiles import resolve_target
from autotune.identity import tool_versions
from autotune.measure import LocalMeasurer
from autotune.measure.final import DEFAULT, FinalOptions
from autotune.measure.libraries import INDUCTOR
from autotune.run import TuneRequest
from autotune.workload import Gemm

#: (m, n, k) and, where it is not a plain product in layout "nn", what else :class:`Gemm` has.
SUITES: dict[str, list[tuple[Any, ...]]] = {
    "squares": [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048)],
    # arXiv 2006.05664: MM1, MM2, MM3.
    "opevo": [(512, 1024, 1024), (512, 4096, 1024), (512, 1024, 4096)],
    "bert": [
        *((128, n, k) for k, n in ((768, 768), (768, 3072), (3072, 768))),
        *((512, n, k) for k, n in ((768, 768), (768, 3072), (3072, 768))),
    ],
    # baidu-research/DeepBench, inference on a device.
    "deepbench-device": [
        (5124, 700, 2048),
        (35, 700, 2048),
        (3072, 1, 1024),
        (64, 1, 1216),
        (3072, 1500, 1024),
        (128, 1500, 1280),
        (3072, 1500, 128),
        (128, 1, 1024),
        (3072, 1, 128),
        (176, 1500, 1408),
        (4224, 1500, 176),
        (128, 1, 1408),
        (4224, 1, 128),
    ],
    "decode": [
        *((m, 4096, 4096) for m in (1, 16)),
        *((m, 4096, 4096, {"layout": "nt"}) for m in (1, 16)),
    ],
    # Layers as they are stored: few tokens, many.
    "linear": [
        *(
            (m, n, k, {"layout": "nt"})
            for m in (8, 24, 64, 128, 512)
            for k, n in ((768, 768), (768, 3072), (3072, 768))
        ),
        (32, 4096, 4096, {"layout": "nt"}),
    ],
    "odd": [(197, 768, 768), (1000, 333, 77), (35, 700, 2048)],
    # Layers with what follows them: of BERT, ViT-B/16, TinyLlama.
    "fused": [
        (128, 3072, 768, {"layout": "nt", "epilogue": "bias_gelu"}),
        (128, 768, 3072, {"layout": "nt", "epilogue": "bias_residual"}),
        (197, 3072, 768, {"layout": "nt", "epilogue": "bias_gelu_tanh"}),
        (128, 5632, 2048, {"layout": "nt", "epilogue": "silu"}),
        (1000, 333, 77, {"layout": "nt", "epilogue": "bias_relu"}),
    ],
    # 1x1 convolutions of ResNet-50, whose channels are rows.
    "conv1x1": [
        (64, 3136, 256, {"epilogue": "rowbias_relu"}),
        (256, 3136, 64, {"epilogue": "rowbias_residual_relu"}),
    ],
    # Scores and sums of 12 heads with 64 channels, over 128 and 197 tokens.
    "attention": [
        (128, 128, 64, {"layout": "nt", "batch": 12, "scale": 0.125}),
        (128, 64, 128, {"batch": 12}),
        (197, 197, 64, {"layout": "nt", "batch": 12, "scale": 0.125}),
        (197, 64, 197, {"batch": 12}),
    ],
}
#: All plain products.
FULL = ["squares", "opevo", "bert", "deepbench-device", "decode", "linear", "odd"]
# Few, for the types of which the vendor libraries are compared by themselves.
SUITES["narrow"] = [*SUITES["squares"], (128, 768, 3072), (512, 3072, 768)]
# Layers of few tokens and many, as they are stored; the last has an odd number of columns.
SUITES["narrow_linear"] = [
    *(
        (m, n, k, {"layout": "nt"})
        for m in (1, 8, 32, 128, 512)
        for k, n in ((768, 3072), (3072, 768))
    ),
    *((m, 4096, 4096, {"layout": "nt"}) for m in (1, 16, 64)),
    (16, 1001, 768, {"layout": "nt"}),
]
#: Of these the weight may be packed once.
PREPACKED = ["bert", "decode", "squares", "fused"]


def measure(workload: Gemm, threads: int, arguments: argparse.Namespace) -> Row:
    profile = resolve_target("cpu")
    request = TuneRequest(
        workload, profile, threads, searcher=arguments.searcher, trials=arguments.trials
    )
    options = FinalOptions(1, arguments.rounds, 0.15, arguments.libraries)
    with LocalMeasurer(workload, profile, threads) as measurer:
        return measured_row(request, measurer, arguments.log, options)


def table(rows: list[Row], libraries: tuple[str, ...]) -> list[str]:
    names = " | ".join(libraries)
    over = " | ".join(f"tuned / {name}" for name in libraries)
    lines = [
        f"| m, n, k | layout | threads | default | tuned | {names} | {over} (p10 to p90) |"
        " default / tuned | of peak | template |",
        "|---" * (8 + 2 * len(libraries)) + "|",
    ]
    for row in rows:
        w = Gemm.from_json(row.workload)
        rates = " | ".join(row.rate_cell(name) for name in (DEFAULT, "tuned", *libraries))
        ratios = " | ".join(row.ratio_cell(name) for name in libraries)
        lines.append(
            f"| {_product(w)} | {w.layout} | {row.threads} | {rates} | {ratios} |"
            f" {row.ratio(DEFAULT, 'tuned'):.2f} |"
            f" {row.rate('tuned') / row.peak_gflops:.0%} of {row.peak_gflops:.0f} |"
            f" {row.template} |"
        )
    return lines


def _product(w: Gemm) -> str:
    """Extents, and what makes it more than a plain product."""
    batch = f"{w.batch} x " if w.batch > 1 else ""
    scale = f", x {w.scale:g}" if w.scale != 1 else ""
    epilogue = f", {w.epilogue}" if w.epilogue != "none" else ""
    return f"{batch}{w.m}, {w.n}, {w.k}{scale}{epilogue}"


def means(rows: list[Row], libraries: tuple[str, ...]) -> list[str]:
    """Geometric means of the ratios, and the least, by thread count; once more without vectors.

    Libraries are slow at products by a vector, which would hide how the others compare.
    """
    lines = ["| threads | products |", "|---|---|"]
    for name in libraries:
        lines[0] += f" tuned / {name} | least |"
        lines[1] += "---|---|"
    lines[0] += " default / tuned | least |"
    lines[1] += "---|---|"
    for threads in sorted({row.threads for row in rows}):
        these = [row for row in rows if row.threads == threads]
        matrices = [row for row in these if 1 not in (row.workload["m"], row.workload["n"])]
        lines.append(f"| {threads} | {len(these)} | {_mean_cells(these, libraries)} |")
        if 0 < len(matrices) < len(these):
            count = f"{len(matrices)} without vectors"
            lines.append(f"| {threads} | {count} | {_mean_cells(matrices, libraries)} |")
    return lines


def _mean_cells(rows: list[Row], libraries: tuple[str, ...]) -> str:
    cells = []
    for label, over in (*(("tuned", name) for name in libraries), (DEFAULT, "tuned")):
        ratios = [x for row in rows if (x := row.ratio(label, over)) == x]
        if ratios:
            cells += [f"**{statistics.geometric_mean(ratios):.2f}**", f"{min(ratios):.2f}"]
        else:
            cells += ["-", "-"]
    return " | ".join(cells)


def document(rows: list[Row], suites: list[str], arguments: argparse.Namespace) -> str:
    profile = resolve_target("cpu")
    tools = ", ".join(f"{name} {version}" for name, version in tool_versions().items())
    plain = [row for row in rows if not row.workload.get("prepacked")]
    packed = [row for row in rows if row.workload.get("prepacked")]
    libraries = arguments.libraries
    dates = " to ".join(sorted({min(r.date for r in rows), max(r.date for r in rows)}))
    lines = [
        f"# {arguments.dtype} GEMM on a CPU",
        "",
        f"Made by `{arguments.command}` on {dates}.",
        f"Hardware: {profile.name}, {profile.physical_cores} cores, a virtual machine on shared"
        " hardware: trust the ratios, which come from interleaved rounds, rather than the rates.",
        f"Software: {tools}.",
        "",
        "Rates in GFLOP/s, medians over the rounds. `default` is the template's config before"
        " tuning. torch is `torch.matmul` with `out=`, which is MKL on x86; onednn is oneDNN's"
        " product through torch's linear layer, which is the faster of the two on some machines;"
        " each in a process of its own. `of peak` is the share of the multiply-add peak measured in"
        f" the same rounds. {arguments.trials} trials each, searcher {arguments.searcher}, seed 0,"
        f" {arguments.rounds} rounds.",
        *_about_inductor(libraries),
        "",
        "Geometric means, packing inside the timed call:",
        "",
        *means(plain, libraries),
    ]
    for suite in suites:
        these = [row for row in plain if row.key[0] in _keys(suite, arguments.dtype)]
        lines += ["", f"## {suite}", "", *table(these, libraries)] if these else []
    if packed:
        lines += [
            "",
            "## B packed beforehand",
            "",
            "Packing is not timed, for us or for the libraries: torch's column is MKL's packed"
            " linear, onednn's a weight that oneDNN reordered for these rows.",
            "",
            *means(packed, libraries),
            "",
            *table(packed, libraries),
        ]
    return "\n".join([*lines, ""])


def _about_inductor(libraries: tuple[str, ...]) -> list[str]:
    if INDUCTOR not in libraries:
        return []
    return [
        "",
        "inductor is `torch.compile` with all that `max-autotune` tries; a packed B and its bias"
        " are parameters, and frozen.",
    ]


def _workloads(suite: str, dtype: str, prepacked: bool = False) -> list[Gemm]:
    out = []
    for m, n, k, *more in SUITES[suite]:
        fields = more[0] if more else {}
        out.append(Gemm(m, n, k, dtype=dtype, prepacked=prepacked, **fields))
    return out


def _keys(suite: str, dtype: str) -> set[str]:
    return {workload.key for workload in _workloads(suite, dtype)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench_cpu", description=__doc__)
    suites = f"full (all plain products), or of {', '.join(SUITES)}"
    parser.add_argument("--suite", default="squares", help=suites)
    parser.add_argument("--threads", default="1", help="comma-separated thread counts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prepacked", action="store_true", help="also with B packed beforehand")
    parser.add_argument("--inductor", action="store_true", help="compare with torch.compile too")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--searcher", default="auto")
    parser.add_argument("--log", type=Path, default=Path("bench-cpu.jsonl"))
    parser.add_argument("--rows", type=Path, default=Path("bench-cpu-rows.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results-cpu.md"))
    arguments = parser.parse_args()
    arguments.libraries = compared_libraries(arguments.inductor)
    arguments.command = "scripts/bench_cpu " + " ".join(sys.argv[1:])
    return arguments


def main() -> None:
    arguments = parse()
    suites = FULL if arguments.suite == "full" else arguments.suite.split(",")
    if unknown := [suite for suite in suites if suite not in SUITES]:
        sys.exit(f"bench_cpu: unknown suite {unknown[0]!r}; choose of full, {', '.join(SUITES)}")
    work = [w for suite in suites for w in _workloads(suite, arguments.dtype)]
    if arguments.prepacked:
        chosen = [suite for suite in PREPACKED if suite in suites]
        work += [w for suite in chosen for w in _workloads(suite, arguments.dtype, True)]
    known = {row.key: row for row in read_rows(arguments.rows)}
    rows: dict[tuple[str, int], Row] = {}
    try:
        for threads in map(int, arguments.threads.split(",")):
            for workload in dict.fromkeys(work):
                key = (workload.key, threads)
                if key not in known:
                    known[key] = measure(workload, threads, arguments)
                    append_row(arguments.rows, known[key])
                rows[key] = known[key]
                arguments.out.write_text(document(list(rows.values()), suites, arguments))
    except AutotuneError as error:
        sys.exit(f"bench_cpu: {error}")
    print(document(list(rows.values()), suites, arguments))


if __name__ == "__main__":
    main()
