from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner
from log_samples import ASSETS, GEMM, config, final, header, trial

from autotune.cli.log import command, printable
from autotune.errors import LogError
from autotune.log import TuningLog
from autotune.trial import FailureKind
from autotune.workload import Gemm

OTHER = Gemm(1, 4096, 4096, epilogue="bias_gelu")


@pytest.fixture
def path(tmp_path):
    """A log with three trials and a final of one workload, and one trial of another."""
    path = tmp_path / "tuned.jsonl"
    records = [
        trial(0, 4e-3),
        trial(1, 1e-3),
        trial(2, None, failure=FailureKind.CRASHED),
        final(3, 2e-3, number=0),
        trial(0, 5e-6, head=header("run-b", OTHER)),
    ]
    TuningLog(path).append(records)
    return path


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def objects(result):
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_show_lists_trials_with_cost_speed_and_failure(path):
    result = run("show", path)
    assert result.exit_code == 0
    assert "512x384x256 nn float32" in result.stdout
    assert "llvm znver4 x8" in result.stdout
    assert "gbfs" in result.stdout
    # 2 * 512 * 384 * 256 / 1 ms
    assert "1 ms" in result.stdout
    assert "100.7" in result.stdout
    assert "5 us" in result.stdout
    assert "crashed: no answer in 5 s" in result.stdout


def test_show_prints_one_object_a_line_for_machines(path):
    rows = objects(run("show", path, "--json"))
    assert [row["id"] for row in rows] == [
        "run-a/000000",
        "run-a/000001",
        "run-a/000002",
        "run-b/000000",
    ]
    assert rows[1]["cost"] == 1e-3
    assert rows[1]["gflops"] == pytest.approx(GEMM.flops / 1e6)
    assert rows[1]["config"] == config(1)
    assert (rows[2]["cost"], rows[2]["failure"]) == (None, "crashed")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--failures"], ["run-a/000002"]),
        (["--limit", "2"], ["run-a/000002", "run-b/000000"]),
        (["--workload", "m=1 FLOAT32"], ["run-b/000000"]),
        (["--workload", "1x4096x4096"], ["run-b/000000"]),
        (["--workload", "m=51"], []),
        (["--workload", "m=512", "--limit", "1"], ["run-a/000002"]),
    ],
)
def test_show_can_be_narrowed_down(path, options, ids):
    assert [row["id"] for row in objects(run("show", path, "--json", *options))] == ids


def test_show_says_when_nothing_matches(path):
    result = run("show", path, "--workload", "m=7")
    assert (result.exit_code, result.stdout) == (0, f"no such trials in {path}\n")


def test_best_prints_the_re_measured_winner_of_each_workload(path):
    tuned, other = objects(run("best", path, "--json"))
    assert (tuned["cost"], tuned["remeasured"], tuned["config"]) == (2e-3, True, config(0))
    assert tuned["record"] == "run-a/000003"
    assert tuned["gflops"] == pytest.approx(GEMM.flops / 2e6)
    assert (other["cost"], other["remeasured"]) == (5e-6, False)
    table = run("best", path)
    assert table.exit_code == 0
    assert "1x4096x4096 nn float32 bias_gelu" in table.stdout
    assert "50.3" in table.stdout


def test_best_keeps_targets_apart(path):
    slow = header("run-c", target={"kind": "cuda", "arch": "sm_90"}, target_key="cuda sm_90")
    TuningLog(path).append([trial(0, 9e-3, head=slow)])
    assert [row["cost"] for row in objects(run("best", path, "--json"))] == [2e-3, 5e-6, 9e-3]


def test_best_of_failures_only_says_so(tmp_path):
    TuningLog(tmp_path / "log").append([trial(0, None)])
    assert "no successful trials" in run("best", tmp_path / "log").stdout


def test_check_counts_and_succeeds_on_a_sound_log(path):
    result = run("check", path)
    assert result.exit_code == 0
    assert "4 trials (1 failed), 1 finals, 2 runs" in result.stdout
    assert "crashed: 1" in result.stdout


def test_check_says_what_is_damaged_and_what_to_do_and_fails(path):
    with path.open("ab") as file:
        file.write(b"damage\n" * 7 + b'{"torn')
    result = run("check", path)
    assert result.exit_code == 1
    assert "skipped, bad JSON: 7 (line 6, 7, 8, 9, 10, ...)" in result.stdout
    assert "skipped, torn: 1 (line 13)" in result.stdout
    assert f"autotune log compact {path}" in result.stdout
    assert "8 lines skipped" in run("show", path).stderr
    assert run("compact", path).exit_code == 0
    assert run("check", path).exit_code == 0


def test_check_of_a_newer_log_asks_for_an_update_and_is_no_failure():
    result = run("check", ASSETS / "v99.jsonl")
    assert result.exit_code == 0
    assert "skipped, newer schema: 2 (line 1, 3)" in result.stdout
    assert "update autotune" in result.stdout


def test_merge_and_compact_report_what_they_did(path, tmp_path):
    out = tmp_path / "out.jsonl"
    result = run("merge", out, path, path)
    assert result.exit_code == 0
    assert "5 lines kept, 5 duplicates and 0 damaged lines dropped" in result.stdout
    assert out.read_bytes() == path.read_bytes()
    assert "5 lines kept, 0 duplicates" in run("compact", out).stdout


@pytest.mark.parametrize("name", ["show", "best", "check", "compact"])
def test_a_missing_log_is_an_error_for_the_user(tmp_path, name):
    result = run(name, tmp_path / "missing.jsonl")
    assert isinstance(result.exception, LogError)
    assert "there is no log" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_merging_a_missing_log_is_an_error_for_the_user(tmp_path):
    result = run("merge", tmp_path / "out", tmp_path / "missing")
    assert isinstance(result.exception, LogError)
    assert list(tmp_path.iterdir()) == []


HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\n\u202egnp.exe\x9b1m [bold]markup[/bold] [/]"


def test_hostile_text_reaches_the_terminal_without_control_characters(tmp_path):
    path = tmp_path / "hostile.jsonl"
    record = msgspec.structs.replace(
        trial(0, None, head=header(target={"kind": HOSTILE}, search={"name": HOSTILE})),
        failure=HOSTILE,
        message=HOSTILE,
        time=HOSTILE,
        workload={"op": HOSTILE},
        workload_key=HOSTILE,
    )
    fine = msgspec.structs.replace(record, failure=None, costs=(1.0,), config_key=HOSTILE)
    TuningLog(path).append([record, fine])
    for arguments in (["show"], ["show", "--json"], ["best"], ["best", "--json"], ["check"]):
        result = run(*arguments, path)
        assert result.exit_code == 0
        assert not set("\x1b\x07\r\x9b\u202e") & set(result.stdout)
    assert "[bold]" in run("show", path).stdout


def test_printable_text_is_bounded_and_on_one_line():
    assert printable("a\tb\u2028c\ud800d") == "a b c d"
    assert len(printable("x" * 10_000)) == 120
