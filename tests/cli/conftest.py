"""Runs the command line: in this process for refusals, as a child for everything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_children import Done, child_environment

from autotune.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, without settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process; an exception that is no exit fails the test."""

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        printed = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def spawn(folder: Path) -> Callable[..., Done]:
    """Run the command line as a user does, with its output piped."""

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *arguments],
            cwd=folder,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
