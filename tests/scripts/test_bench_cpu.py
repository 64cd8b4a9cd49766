"""``scripts/bench_cpu``: its table where a library has no such product."""

from __future__ import annotations

import sys
from pathlib import Path

from autotune.measure.libraries import LIBRARIES
from autotune.workload import Gemm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_cpu
from bench_rows import Row


def test_a_library_that_could_not_run_has_a_dash() -> None:
    work = Gemm(512, 512, 512, dtype="int8")
    seconds = {"default": 2e-3, "tuned": 1e-3, "torch": 4e-3}
    costs = {label: [cost] * 3 for label, cost in seconds.items()}
    row = Row(work.to_json(), 1, 24, 60.0, "cpu_dot", costs, 400.0, "2026-01-01")
    line = bench_cpu.table([row], LIBRARIES)[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["512, 512, 512", "nn", "1"]
    assert cells[3:7] == ["134.2", "268.4", "67.1", "-"]
    assert cells[7:9] == ["**4.00** (4.00 to 4.00)", "-"]
    assert bench_cpu.means([row], LIBRARIES)[-1].count("| -") == 2


def test_a_product_is_named_with_all_that_belongs_to_it() -> None:
    named = {suite: [bench_cpu._product(w) for w in bench_cpu._workloads(suite, "float32")]
             for suite in bench_cpu.SUITES}  # fmt: skip
    assert named["attention"][0] == "12 x 128, 128, 64, x 0.125"
    assert named["conv1x1"][1] == "256, 3136, 64, rowbias_residual_relu"
    assert named["odd"][1] == "1000, 333, 77"


def test_means_are_given_without_vectors_too() -> None:
    def row(n: int, threads: int, speedup: float) -> Row:
        seconds = {"default": 2e-3, "tuned": 1e-3, "torch": speedup * 1e-3, "onednn": 1e-3}
        costs = {label: [cost] * 3 for label, cost in seconds.items()}
        work = Gemm(64, n, 64).to_json()
        return Row(work, threads, 24, 60.0, "cpu_tile", costs, 400.0, "2026-01-01")

    rows = [row(1, 1, 8.0), row(64, 1, 2.0), row(64, 2, 3.0)]
    lines = bench_cpu.means(rows, LIBRARIES)[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["2", "1 without vectors", "1"]
    assert [line.split("**")[1] for line in lines] == ["4.00", "2.00", "3.00"]
