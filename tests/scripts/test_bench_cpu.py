"""``scripts/bench_cpu``: its table where a library has no such product."""

from __future__ import annotations

import sys
from pathlib import Path

from autotune.workload import Gemm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_cpu
from bench_rows import Row


def test_a_library_that_could_not_run_has_a_dash() -> None:
    work = Gemm(512, 512, 512, dtype="int8")
    seconds = {"default": 2e-3, "tuned": 1e-3, "torch": 4e-3}
    costs = {label: [cost] * 3 for label, cost in seconds.items()}
    row = Row(work.to_json(), 1, 24, 60.0, "cpu_dot", costs, 400.0, "2026-01-01")
    cells = [cell.strip() for cell in bench_cpu.table([row])[-1].strip("|").split("|")]
    assert cells[:3] == ["512, 512, 512", "nn", "1"]
    assert cells[3:7] == ["134.2", "268.4", "67.1", "-"]
    assert cells[7:9] == ["**4.00** (4.00 to 4.00)", "-"]
    assert bench_cpu.means([row])[-1].count("| -") == 2
