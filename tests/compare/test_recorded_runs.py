"""Runs of another tuner, scored on our copy of the table."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compare_samples import write_runs, write_table

from autotune.compare import Entrant, Protocol
from autotune.compare.recorded import FORMAT, read_recorded, score_recorded
from autotune.errors import AutotuneError
from autotune.tables import load_table

PROTOCOL = Protocol(trials=6, seeds=(0, 1))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "bowl.json")


@pytest.fixture
def runs(tmp_path: Path, table: Path) -> Path:
    return write_runs(tmp_path / "runs.json", table, trials=6, seeds=2)


def _change(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_costs_come_from_the_table_and_the_best_so_far_is_named(runs: Path, table: Path) -> None:
    recorded = read_recorded(runs)
    assert recorded.entrants == (Entrant("other", "in-order"),)
    assert recorded.repeated("in-order") == 3
    traces = score_recorded(recorded, [table], PROTOCOL)
    assert [(trace.entrant, trace.seed) for trace in traces] == [
        ("other:in-order", 0),
        ("other:in-order", 1),
    ]
    held = load_table(table)
    costs = [held.cost(config) for config in held.configs[1:7]]
    assert [step.reading for step in traces[1].steps] == costs
    assert [step.named for step in traces[1].steps] == [min(costs[: n + 1]) for n in range(6)]
    assert traces[1].overhead == 0.5


def test_a_recorded_failure_is_a_trial(runs: Path, table: Path) -> None:
    def fail(data: Any) -> None:
        data["cache"]["0,0"]["time"] = "RuntimeFailedConfig"

    _change(table, fail)
    (trace, _) = score_recorded(read_recorded(runs), [table], PROTOCOL)
    assert len(trace.steps) == 6 and trace.failed == 1
    assert trace.named_after(1) == float("inf") and trace.named_after(2) < float("inf")


def _repeat(data: Any) -> None:
    data["runs"][0]["configs"][1] = data["runs"][0]["configs"][0]


def _overrun(data: Any) -> None:
    data["runs"][0]["configs"] *= 2


def _stray(data: Any) -> None:
    data["runs"][0]["configs"][0] = [0, 3]  # which the table lacks


def _shorten(data: Any) -> None:
    data["runs"][0]["configs"][0].pop()


def _forget(data: Any) -> None:
    data["runs"].pop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_repeat, "6 configs, of which 5 different"),
        (_overrun, "12 configs, of which 6 different"),
        (_stray, "no record of"),
        (_shorten, "does not have a value for each of a, b"),
        (_forget, "no run of in-order on bowl with the seed 1"),
        (lambda data: data.update(trials=7), "budget of 7 trials, and the comparison has 6"),
    ],
)
def test_what_was_no_such_run_is_refused(
    runs: Path, table: Path, change: Callable[[Any], None], message: str
) -> None:
    _change(runs, change)
    with pytest.raises(AutotuneError, match=message):
        score_recorded(read_recorded(runs), [table], PROTOCOL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the runs"),
        ("[]", "scripts/compare_kernel_tuner writes"),
        ('{"format": "another"}', "scripts/compare_kernel_tuner writes"),
        (json.dumps({"format": FORMAT, "tuner": "x"}), "damaged"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(AutotuneError, match=message):
        read_recorded(path)


# -- the script that writes them ------------------------------------------------------------------


@pytest.fixture
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "compare_kernel_tuner.py"
    spec = importlib.util.spec_from_file_location("compare_kernel_tuner", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # needs nothing but the standard library
    return module


def test_writer_and_reader_agree_on_the_format(script: ModuleType) -> None:
    assert script.FORMAT == FORMAT


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_script_reads_caches_that_were_never_closed(
    script: ModuleType, table: Path, cut: int
) -> None:
    whole = json.loads(table.read_text())
    text = table.read_text()
    table.write_text(text[: len(text) - cut] + ("," if cut == 2 else ""))
    assert script.read_cache(table) == whole
    slim = script.without_readings(whole)
    assert slim["cache"].keys() == whole["cache"].keys()
    assert slim["cache"]["0,0"] == {"a": 0, "b": 0, "time": whole["cache"]["0,0"]["time"]}


def test_the_script_refuses_what_is_no_cache(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"results": []}')
    with pytest.raises(SystemExit, match="is no Kernel Tuner cache"):
        script.read_cache(tmp_path / "x.json")
