"""``autotune gemm`` for real: tune, resume, interrupt."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from cli_children import child_environment

from autotune.log import TuningLog

SMALL = ("gemm", "-m", "64", "-n", "64", "-k", "64", "--threads", "1")


def test_tuning_logs_a_winner_and_the_same_command_again_measures_nothing(
    spawn: Callable[..., Any], folder: Path
) -> None:
    first = spawn(*SMALL, "--trials", "6", "--log", "my log.jsonl")
    assert first.code == 0, first.err
    scan = TuningLog(folder / "my log.jsonl").scan()
    assert (len(scan.trials), len(scan.finals), scan.corrupt) == (6, 1, 0)
    lines = first.out.splitlines()
    assert not any("\x1b" in line for line in lines)
    winner = next(line for line in lines if line.startswith("winner: "))
    assert " GFLOP/s" in winner and " x torch" in winner and " x default" in winner
    config = next(line for line in lines if line.startswith("config: "))
    assert json.loads(config.removeprefix("config: ")) == scan.finals[0].winner
    # Which of the first configs have the same machine code depends on the CPU.
    pattern = r"6 trials \((\d) measured(?:; (\d) with the same machine code .*)?\)"
    counts = next(match for line in lines if (match := re.match(pattern, line)))
    assert int(counts[1]) + int(counts[2] or 0) == 6

    again = spawn(*SMALL, "--trials", "6", "--log", "my log.jsonl", "--json")
    assert again.code == 0, again.err
    data = json.loads(again.out)
    assert (data["trials"]["measured"], data["trials"]["resumed"]) == (0, 6)
    assert data["config"] == scan.finals[0].winner and data["confirmed"]
    assert data["speedup_over_torch"] > 0 and data["measured_peak_gflops"] > 0
    assert {c["label"] for c in data["candidates"]} >= {"default", "torch"}
    assert len(TuningLog(folder / "my log.jsonl").scan().records) == 7
    written = {path.name for path in folder.iterdir()}
    assert written <= {"my log.jsonl", "my log.jsonl.lock"}

    use = next(line for line in lines if line.startswith("use it: "))
    used = spawn(*shlex.split(use.removeprefix("use it: "))[1:])
    assert used.code == 0, used.err
    assert "GFLOP/s" in used.out


def test_ctrl_c_prints_the_best_so_far_keeps_the_log_and_leaves_no_worker(folder: Path) -> None:
    log = folder / "tuned.jsonl"
    tuner = subprocess.Popen(
        [sys.executable, "-m", "autotune", *SMALL, "--time", "1h"],
        cwd=folder,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore it, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline and tuner.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(tuner.pid).children(recursive=True)
    assert workers
    tuner.send_signal(signal.SIGINT)
    out, err = tuner.communicate(timeout=60)
    assert tuner.returncode == 130
    assert err == ""
    assert "interrupted; everything measured so far is in the log" in out
    assert "best so far: " in out and "config: {" in out
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    scan = TuningLog(log).scan()
    assert len(scan.trials) >= 5 and not scan.skipped
