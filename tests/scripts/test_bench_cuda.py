"""``scripts/bench_cuda``: what it says without a GPU, going on where it was, and its table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import MeasureError, NotApplicable
from autotune.hw_profiles import load_profiles
from autotune.hw_profiles.cuda_driver import LIBRARY, Driver, DriverMissing
from autotune.workload import DTYPES, Gemm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_cuda
from bench_rows import Row

WORK = list(bench_cuda.workloads("squares", ["bfloat16", "int8"], "nt"))


def row(workload: Gemm, tuned: float = 1.0, torch: float = 1.1, default: float = 1.3) -> Row:
    seconds = workload.flops / 800e12
    costs = {
        label: [factor * seconds] * 3
        for label, factor in (("tuned", tuned), ("torch", torch), ("default", default))
    }
    return Row(workload.to_json(), 1, 60, 30.0, "wgmma", costs, 989400.0, "2026-01-01")


@pytest.fixture
def arguments(tmp_path: Path) -> Any:
    return bench_cuda.parse(["--rows", str(tmp_path / "rows"), "--out", str(tmp_path / "out.md")])


def test_without_a_gpu_it_says_so_in_one_line(capsys: Any) -> None:
    try:
        Driver(LIBRARY)
    except DriverMissing:
        assert bench_cuda.main(["--suite", "full"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("bench_cuda: no CUDA device found:") and said.count("\n") == 1
    else:
        pytest.skip("there is a CUDA driver")
    assert bench_cuda.main(["--suite", "cubes"]) == 2
    assert "unknown suite 'cubes'; choose of full, squares" in capsys.readouterr().err


def test_what_is_done_is_not_done_again_and_what_failed_is(arguments: Any) -> None:
    asked: list[Gemm] = []

    def measured(workload: Gemm) -> Row:
        asked.append(workload)
        if workload.n == 2048:
            raise MeasureError("no kernel ran")
        if workload.n == 4096:
            raise NotApplicable("not today")
        return row(workload)

    documents: list[tuple[list[Row], dict[str, str]]] = []

    def written(rows: list[Row], left_out: dict[str, str]) -> None:
        documents.append((rows, dict(left_out)))

    assert bench_cuda.bench(WORK, arguments, measured, written) == 2
    assert asked == WORK
    rows, left_out = documents[-1]
    assert [r.key[0] for r in rows] == [w.key for w in WORK if w.n in (1024, 8192)]
    assert set(left_out.values()) == {"no kernel ran", "not today"}
    asked.clear()
    assert bench_cuda.bench(WORK, arguments, measured, written) == 2
    assert {w.n for w in asked} == {2048, 4096}


def test_it_ends_in_time_and_counts_what_is_left(arguments: Any, monkeypatch: Any) -> None:
    clock = iter(range(0, 10_000, 45))
    monkeypatch.setattr(bench_cuda.time, "monotonic", lambda: next(clock))
    arguments.minutes = 2.0
    assert bench_cuda.bench(WORK, arguments, row, lambda rows, left_out: None) == len(WORK) - 2


def test_the_table_has_rates_ratios_and_the_least(arguments: Any) -> None:
    rows = [row(WORK[0]), row(WORK[2], torch=0.9), row(WORK[1])]
    thin = row(Gemm(1, 6144, 4096, dtype="bfloat16", layout="nt"), torch=0.5)
    text = bench_cuda.document([*rows, thin], {"x": "why"}, load_profiles()["h200"], arguments)
    assert "| 1024, 1024, 1024 | bfloat16 | 615.4 | 800.0 | 727.3 | **1.10** (1.10 to 1.10)" in text
    assert "| 81% | wgmma |" in text
    # The mean is of all three, the least of those with 128 rows or more.
    assert "| bfloat16 | 3 | **0.79** | **0.90** |" in text
    assert "## llama3-8b" in text and "## deepseek" not in text and "- x: why" in text


def test_torchs_compiler_is_one_more_column() -> None:
    arguments = bench_cuda.parse(["--inductor"])
    slow = row(WORK[0])
    slow.costs["inductor"] = [2 * x for x in slow.costs["tuned"]]
    text = bench_cuda.document([slow, row(WORK[2])], {}, load_profiles()["h200"], arguments)
    lines = text.splitlines()
    assert "inductor is `torch.compile`" in text
    # The row without its figure is not counted, and has a dash.
    assert "| bfloat16 | 2 | **1.10** | **1.10** | **2.00** | **2.00** | **0.77** |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert [line.count("|") for line in tables] == [8] * 3 + [12] * 4
    assert "| 727.3 | 400.0 | **1.10** (1.10 to 1.10) | **2.00** (2.00 to 2.00) |" in text
    assert "| 727.3 | - | **1.10** (1.10 to 1.10) | - |" in text


def test_every_product_of_the_suites_is_a_workload() -> None:
    for suite in bench_cuda.SUITES:
        assert list(bench_cuda.workloads(suite, list(DTYPES), "nt"))
