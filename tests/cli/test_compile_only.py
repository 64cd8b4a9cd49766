"""``autotune gemm --target cuda:NAME --compile-only``: ranks, records, and claims no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autotune.cli.gemm import command
from autotune.hw_profiles import load_profiles
from autotune.identity import target_key
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import CudaCompileError
from autotune.log import CompiledRecord, Tier, TuningLog, lookup, winner
from autotune.workload import Gemm

PTXAS = """\
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers
"""


class FakeCompiler:
    """Rejects every second kernel, and gives each of the others more registers than the last."""

    description = "fake 1.0"

    def __init__(self) -> None:
        self.calls = 0

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        assert arch == "sm_90a" and "main_kernel" in source
        self.calls += 1
        if self.calls % 2 == 0:
            raise CudaCompileError("rejected", "as asked")
        return b"code", PTXAS.format(registers=100 + self.calls)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    compiler = FakeCompiler()
    monkeypatch.setattr("autotune.compile_only.require_compiler", lambda: compiler)
    monkeypatch.chdir(tmp_path)
    options = "-m 256 -n 256 -k 64 --target cuda:h200 --compile-only --trials 60 --top 3"

    def invoke(*more: str) -> Any:
        return CliRunner().invoke(command, [*options.split(), *more])

    return invoke


def test_it_prints_a_ranking_and_says_that_it_is_none_of_results(run: Any) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "NVIDIA H200 SXM (sm_90), which was not used; template simt" in lines[1]
    assert "60 estimated, 3 compiled by fake 1.0" in lines[1]
    assert lines[2].split()[:4] == ["rank", "estimate", "regs", "smem"]
    assert [line.split()[0] for line in lines[3:5]] == ["1", "2"]
    assert sorted(line.split()[2] for line in lines[3:5]) == ["101", "103"]
    assert lines[5].startswith("failed: rejected: as asked")
    assert "not measurements" in lines[6]


def test_its_records_are_kept_and_never_taken_for_results(run: Any) -> None:
    run()
    scan = TuningLog(Path("tuned.jsonl")).scan()
    assert len(scan.records) == 3 and not scan.trials and not scan.finals and not scan.corrupt
    good, _, bad = scan.records
    assert isinstance(good, CompiledRecord) and isinstance(bad, CompiledRecord)
    assert good.failure is None and good.features["registers"] in (101, 103)
    assert good.features["blocks_per_sm"] >= 1 and 0 < good.estimate < 1
    assert (bad.failure, bad.message) == ("rejected", "rejected: as asked")
    assert winner(scan.records) is None
    profile, template = load_profiles()["h200"], get_template("simt")
    hit = lookup(
        scan.records,
        Gemm(256, 256, 64),
        target_key(profile, 1),
        {"name": template.name, "version": template.version},
    )
    assert hit.tier is Tier.DEFAULT and hit.config is None


def test_json_is_one_object(run: Any) -> None:
    report = json.loads(run("--json").stdout)
    assert report["compile_only"] is True
    assert [entry["failure"] for entry in report["ranking"]] == [None, None, "rejected"]
    seconds = [entry["estimated_seconds"] for entry in report["ranking"][:2]]
    assert seconds == sorted(seconds)


def test_the_same_request_compiles_the_same_kernels(run: Any) -> None:
    reports = [json.loads(run("--json", "--seed", "5").stdout) for _ in range(2)]
    first, again = ({str(entry["config"]) for entry in r["ranking"]} for r in reports)
    assert first == again and len(first) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "cpu"], "--compile-only is for CUDA devices"),
        (["--template", "cpu_tile"], "'cpu_tile' is for cpu, not for cuda"),
        (["--threads", "2"], "--threads is for CPUs"),
        (["--target", "cuda:vega"], "unknown GPU 'vega'; choose one of"),
    ],
)
def test_what_cannot_be_done_is_named(run: Any, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert says in str(result.exception)


def test_a_gpu_by_name_is_not_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["--target", "cuda:h200", "--trials", "1"])
    assert "add --compile-only" in str(result.exception)


@pytest.mark.parametrize("words", ["compare", "table build --sample 2 --out t.jsonl"])
def test_what_measures_does_not_measure_on_the_cpu_instead(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.cli import compare, table

    monkeypatch.chdir(tmp_path)
    name, *rest = words.split()
    command = compare.command if name == "compare" else table.command
    shape = ["-m", "64", "-n", "64", "-k", "64", "--target", "cuda:h200"]
    result = CliRunner().invoke(command, [*rest, *shape])  # type: ignore[arg-type]
    assert "add --compile-only" in str(result.exception), result.output
