"""``scripts/bench_proposals``: what is counted as proposing, and what it refuses."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from autotune.errors import AutotuneError
from autotune.measure.replay import load_table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import bench_proposals


@pytest.fixture
def table(tmp_path: Path) -> Path:
    cache = {f"{a},{b}": {"a": a, "b": b, "time": 1.0 + a + b} for a in range(9) for b in range(8)}
    ranges = {"a": list(range(9)), "b": list(range(8))}
    data = {"tune_params_keys": ["a", "b"], "tune_params": ranges, "cache": cache}
    (tmp_path / "table.json").write_text(json.dumps(data))
    return tmp_path / "table.json"


def test_asking_and_telling_are_counted_and_the_look_up_is_not(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entrant,) = bench_proposals.parse_entrants("random")
    held = load_table(table)
    ticks = itertools.count()
    monkeypatch.setattr(bench_proposals.time, "perf_counter", lambda: float(next(ticks)))
    assert bench_proposals.seconds_per_trial(entrant, held, 5) == [2.0] * 5


def test_each_method_has_a_row(table: Path) -> None:
    arguments = [str(table), "--searchers", "random,gbfs", "--history", "20"]
    result = CliRunner().invoke(bench_proposals.main, arguments)
    assert result.exit_code == 0, result.output
    header, _, *rows = result.output.splitlines()
    assert header == "| searcher | mean of 70 trials | with 20 trials behind it |"
    assert [row.split(" | ")[0] for row in rows] == ["| random", "| gbfs"]


def test_a_table_that_is_too_small_is_refused(table: Path) -> None:
    result = CliRunner().invoke(bench_proposals.main, [str(table), "--history", "30"])
    assert isinstance(result.exception, AutotuneError)
    assert "holds 72 configs; lower --history" in str(result.exception)
