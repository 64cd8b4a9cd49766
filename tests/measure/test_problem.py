"""Products that are too large to be checked here are refused before anything is computed."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner

from autotune.cli import cli
from autotune.errors import AutotuneError
from autotune.kernels import verify
from autotune.measure import problem
from autotune.measure.problem import check_memory, write_problem
from autotune.workload import Gemm


def test_what_cannot_be_compared_is_refused_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    size = ["-m", "100000000", "-n", "100000000", "-k", "10"]
    result = CliRunner().invoke(cli, ["gemm", *size, "--log", str(log)])
    assert isinstance(result.exception, AutotuneError)
    message = str(result.exception)
    assert "m=100000000 n=100000000 k=10 " in message
    assert "is too large" in message
    assert f"{problem.memory_bytes() / 2**30:,.1f} GiB" in message
    assert "fallback='nearest'" in message
    assert not log.exists()


def test_the_limit_is_what_the_comparison_holds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Gemm(4, 8, 5)
    a, b, c = 4 * 5, 5 * 8, 4 * 8
    bytes_needed = 4 * (a + b + 2 * c) + 3 * 8 * c

    monkeypatch.setattr(problem, "memory_bytes", lambda: bytes_needed)
    check_memory(workload)
    monkeypatch.setattr(problem, "memory_bytes", lambda: bytes_needed - 1)
    with pytest.raises(AutotuneError, match="too large"):
        check_memory(workload)


def test_running_out_of_memory_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> NoReturn:
        np.empty(1 << 50)
        raise AssertionError("this machine has 8 PiB to spare")

    monkeypatch.setattr(verify, "make_problem", exhausted)
    with pytest.raises(AutotuneError, match=r"m=4 n=8 k=5 .*is too large.*Unable to allocate"):
        write_problem(tmp_path / "problem.npz", Gemm(4, 8, 5))


def test_a_full_folder_is_named_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: Any) -> NoReturn:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verify, "save_problem", full)
    with pytest.raises(AutotuneError, match=r"No space left on device; set TMPDIR") as caught:
        write_problem(tmp_path / "problem.npz", Gemm(4, 8, 5))
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
