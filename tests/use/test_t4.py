"""What is written in the T4 format reads back as the table of the log itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotune import Gemm
from autotune.cli import main
from autotune.log import TuningLog, run_header, trial_record
from autotune.tables import load_table
from autotune.trial import FailureKind, Result

OUTCOMES = [
    Result((2e-3, 3e-3, 1e-3), phases={"build": 0.25, "verify": 0.5}),
    *(Result.failed(kind, f"it was {kind.value}") for kind in FailureKind),
    Result((4e-3,)),
]


def written(path: Path, workloads: list[Gemm]) -> Path:
    for workload in workloads:
        header = run_header(
            workload,
            target={"kind": "cpu", "name": "Test CPU"},
            target_key="test",
            template={"name": "mine", "version": 1},
        )
        configs: list[dict[str, Any]] = [
            {"tile": [2 << number, 4], "order": "mn", "unroll": number}
            for number in range(len(OUTCOMES))
        ]
        place = {"asked": 1, "ask": 0, "tell": 0}
        records = [
            trial_record(header, number, config, outcome, batch=number, **place)
            for number, (config, outcome) in enumerate(zip(configs, OUTCOMES, strict=True))
        ]
        # The first config once more, in a second trial.
        records.append(trial_record(header, 99, configs[0], Result((5e-3,)), batch=99, **place))
        TuningLog(path).append(records)
    return path


def export(log: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["log", "export-t4", str(log), *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_round_trip(tmp_path: Path) -> None:
    log, file = written(tmp_path / "log.jsonl", [Gemm(8, 8, 8)]), tmp_path / "t4.json"
    assert export(log, str(file)) == 0
    ours, theirs = load_table(log), load_table(file)
    assert len(theirs) == len(ours) and theirs.device == "Test CPU"
    assert theirs.kernel == Gemm(8, 8, 8).key
    for config in ours.configs:
        expected, entry = ours.entry(config), theirs.entry(config)
        assert entry.readings == pytest.approx(expected.readings, rel=1e-12)
        assert entry.cost == pytest.approx(expected.cost, rel=1e-12)
        assert (entry.failure is None) == (expected.failure is None)
    assert theirs.optimum[0] == ours.optimum[0]


def test_the_file_keeps_to_the_schema(tmp_path: Path) -> None:
    """The required fields and closed vocabularies of results-schema.json 1.0.0."""
    log, file = written(tmp_path / "log.jsonl", [Gemm(8, 8, 8)]), tmp_path / "t4.json"
    export(log, str(file))
    data = json.loads(file.read_text())
    assert data["schema_version"] == "1.0.0"
    known = {"timeout", "compile", "runtime", "correctness", "constraints", "correct"}
    for result in data["results"]:
        assert {"configuration", "times", "invalidity", "correctness"} <= result.keys()
        assert result["invalidity"] in known and result["correctness"] in (0, 1)
        assert isinstance(result["timestamp"], str) and result["objectives"] == ["time"]
        assert all(type(m["value"]) in (float, int, str) for m in result["measurements"])
        numbers = [v for k, v in result["times"].items() if k != "runtimes"]
        assert all(type(number) is float for number in numbers)
    by_word = {r["invalidity"] for r in data["results"]}
    assert by_word == known
    first = data["results"][0]
    assert first["times"]["runtimes"] == pytest.approx([2, 3, 1, 5])
    assert (first["times"]["compilation_time"], first["times"]["validation"]) == (250, 500)
    # A noisy trial says nothing of its config.
    assert len(data["results"]) == len(OUTCOMES) - 1


def test_one_problem_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path / "log.jsonl", [Gemm(8, 8, 8), Gemm(16, 8, 8)])
    file = tmp_path / "t4.json"
    assert export(log, str(file)) == 2
    assert "choose with --workload" in capsys.readouterr().err
    assert export(log, str(file), "--workload", "16x8x8") == 0
    assert load_table(file).kernel == Gemm(16, 8, 8).key
    assert export(log, str(file), "--workload", "m=5") == 2
    assert "no such trial" in capsys.readouterr().err
    assert export(log, str(tmp_path / "no" / "folder.json"), "--workload", "m=16") == 2
    assert export(tmp_path / "none.jsonl", str(file)) == 2
