"""A request that cannot be carried out: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.hw_profiles import cuda_devices

ASSETS = Path(__file__).parents[1] / "log" / "assets"
Call = Callable[..., Any]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with size and time of the last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(call: Call, folder: Path, arguments: list[str], says: str) -> None:
    before = listing(folder)
    done = call(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("autotune: ") and done.err.endswith("\n")
    assert done.err.count("\n") == 1, done.err
    assert says in done.err
    assert "Traceback" not in done.err and len(done.err) < 2000
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("-m 0", "m must be between 1 and"),
        ("-m -1", "m must be between 1 and"),
        ("-n 0", "n must be between 1 and"),
        ("-k 99999999999", "k must be between 1 and"),
        ("-m abc", "'abc' is not a valid integer"),
        ("-m 1.5", "'1.5' is not a valid integer"),
        ("--dtype float99", "unknown dtype 'float99'; choose one of float32"),
        ("--dtype int8 --template cpu_tile", "computes float32, not int8"),
        ("--layout xx", "unknown layout 'xx'; choose one of nn, nt, tn, tt"),
        ("--epilogue softmax", "unknown epilogue 'softmax'; choose one of none, bias"),
        ("--target tpu", "unknown target 'tpu'; choose one of cpu, cuda"),
        ("--searcher magic", "unknown searcher 'magic'; choose one of random"),
        ("--searcher gbfs --preset magic", "unknown preset 'magic' of searcher 'gbfs'"),
        ("--template magic", "unknown template 'magic'; choose one of cpu_"),
        ("--template cpu_paper --layout nt", "use --template cpu_tile"),
        ("--plugin no_such_plugin", "cannot import template module 'no_such_plugin'"),
        ("--trials 0", "number of trials must be at least 1, got 0"),
        ("--trials -5", "number of trials must be at least 1, got -5"),
        ("--trials many", "'many' is not a valid integer"),
        ("--time x", "cannot read 'x' as a time; write it like 90s, 10m or 1h"),
        ("--time -5s", "cannot read '-5s' as a time"),
        ("--time nan", "cannot read 'nan' as a time"),
        ("--time 0", "time budget must be positive"),
        ("--timeout 0", "must be a positive number of seconds, got 0"),
        ("--timeout -1", "must be a positive number of seconds, got -1"),
        ("--timeout nan", "must be a positive number of seconds, got nan"),
        ("--batch 0", "0 is not in the range x>=1"),
        ("--threads 0", "--threads must be between 1 and"),
        ("--threads -2", "--threads must be between 1 and"),
        ("--threads 99999", "the logical cores of this machine; got 99999"),
        ("--seed x", "'x' is not a valid integer"),
        ("--set rho", "cannot read 'rho'; write an option as name=value"),
        ("--set =3", "write an option as name=value"),
        ("--searcher gbfs --set rho=0", "rho must be at least 1"),
        ("--searcher gbfs --set rho=many", "must be of type int, got 'many'"),
        ("--searcher gbfs --set magic=1", "unknown option 'magic' of searcher 'gbfs'"),
        ("--searcher gbfs --set epsilon=NaN", "epsilon must be between 0 and 1"),
        ("--warm-start missing.jsonl", "there is no log missing.jsonl to start from"),
        ("--warm-start file", "the log file holds no trial to start from"),
        ("--log missing/tuned.jsonl", "does not exist; create it first"),
        ("--log folder", "is a directory; name a file in it"),
        ("--log file/tuned.jsonl", "is not a folder"),
        ("--log newer.jsonl", "newer autotune"),
        ("--no-such-option", "No such option"),
        ("stray", "unexpected extra argument"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_one_line(call: Call, folder: Path, arguments: str, says: str) -> None:
    (folder / "folder").mkdir()
    (folder / "file").write_text("something else\n")
    shutil.copy(ASSETS / "v99.jsonl", folder / "newer.jsonl")
    assert_refused(call, folder, ["gemm", *arguments.split()], says)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "99999", "1.5", "²"])
def test_a_bad_thread_variable_is_named(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", value)
    assert_refused(call, folder, ["gemm"], "TVM_NUM_THREADS must be")


def test_threads_on_the_command_line_win_over_the_variable(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "abc")
    assert_refused(call, folder, ["gemm", "--threads", "0"], "--threads must be")


@pytest.mark.skipif(bool(cuda_devices()), reason="there is a CUDA device")
def test_a_missing_gpu_is_named(call: Call, folder: Path) -> None:
    assert_refused(call, folder, ["gemm", "--target", "cuda"], "no CUDA device found")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_without_permission_is_named(call: Call, folder: Path) -> None:
    locked = folder / "locked"
    locked.mkdir(mode=0o555)
    assert_refused(call, folder, ["gemm", "--log", "locked/tuned.jsonl"], "no permission to write")


@pytest.mark.parametrize(
    "arguments",
    [
        "export -m 8 -n 8 -k 8 --log a.jsonl -o a.jsonl",
        "compile nothing.pt2 -o a.jsonl",
        "log export-t4 a.jsonl a.jsonl",
        "space show -m 4 -n 4 -k 4 --graphml a.jsonl",
        "space draw a.jsonl -o a.jsonl",
    ],
)
def test_a_log_is_never_overwritten_by_what_is_made_of_it(
    call: Call, folder: Path, arguments: str
) -> None:
    shutil.copy(ASSETS / "v1.jsonl", folder / "a.jsonl")
    says = "a.jsonl is a tuning log, which would be overwritten; name another file"
    assert_refused(call, folder, arguments.split(), says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("tune", "No such command 'tune'"),
        ("--color", "No such option"),
        ("log show", "Missing argument 'PATH'"),
        ("log best missing.jsonl", "there is no log missing.jsonl"),
        ("log nonsense", "No such command 'nonsense'"),
        ("bench --log missing.jsonl", "missing.jsonl"),
        ("bench -m 0", "m must be between 1"),
        ("bench --target tpu", "unknown target 'tpu'"),
    ],
)
def test_other_commands_refuse_in_the_same_way(
    call: Call, folder: Path, arguments: str, says: str
) -> None:
    assert_refused(call, folder, arguments.split(), says)


def test_a_refusal_with_json_output_prints_no_json(call: Call, folder: Path) -> None:
    assert_refused(call, folder, ["gemm", "--json", "-m", "0"], "m must be")


@pytest.mark.parametrize("arguments", [[], ["log"]])
def test_a_command_without_its_subcommand_shows_the_help(call: Call, arguments: list[str]) -> None:
    done = call(*arguments)
    text = done.out + done.err
    assert "Usage: autotune" in text and "Commands" in text
    assert text.count("\n") > 5


def test_a_refusal_in_a_real_process_has_no_traceback(spawn: Call, folder: Path) -> None:
    assert_refused(spawn, folder, ["gemm", "-m", "0"], "m must be between 1")
