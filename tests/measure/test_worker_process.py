"""The parent's side of a worker: whatever the child does, the answer is an error with a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from process_checks import group_members, wait_until_gone

import autotune
from autotune.errors import MeasureError
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess

HERE = Path(__file__).parent
ROOT = Path(autotune.__file__).resolve().parents[1]
ENV = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}
LIMITS = {"": 20.0, "run": 0.5, "long": 20.0}


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("scripted_worker", ENV)
    yield process
    process.close()
    assert wait_until_gone(process.pid)


def dies(worker: WorkerProcess, op: str, **arguments: Any) -> WorkerDied:
    """Make a request that the worker does not survive; check that nothing of it is left."""
    group = worker.pid
    with pytest.raises(WorkerDied) as caught:
        worker.request(op, LIMITS, **arguments)
    assert not worker.alive
    assert wait_until_gone(group)
    return caught.value


def overruns(worker: WorkerProcess, op: str, **arguments: Any) -> Deadline:
    """Make a request that runs into its deadline; check that nothing of the worker is left."""
    group = worker.pid
    with pytest.raises(Deadline) as caught:
        worker.request(op, LIMITS, **arguments)
    assert not worker.alive
    assert wait_until_gone(group)
    return caught.value


def test_a_worker_answers_many_requests_in_one_process(worker: WorkerProcess) -> None:
    first = worker.pid
    for value in (1, "ü\n", None, [1.5, {"a": True}]):
        assert worker.request("echo", LIMITS, value=value)["value"] == value
    assert worker.pid == first and worker.alive


def test_a_large_request_and_answer_get_through(worker: WorkerProcess) -> None:
    text = "z" * 500_000
    assert worker.request("echo", LIMITS, value=text)["value"] == text


def test_a_worker_gets_the_variables_it_is_given() -> None:
    worker = WorkerProcess("scripted_worker", {**ENV, "TVM_NUM_THREADS": "3"})
    try:
        assert worker.request("environment", LIMITS, name="TVM_NUM_THREADS")["value"] == "3"
        assert worker.request("environment", LIMITS, name="HOME")["value"] == os.environ.get("HOME")
    finally:
        worker.close()


def test_each_phase_has_its_own_deadline(worker: WorkerProcess) -> None:
    worker.request("phased_sleep", LIMITS, phase="long", seconds=0.7)
    error = overruns(worker, "phased_sleep", phase="run", seconds=1000)
    assert error.phase == "run" and "run took longer than" in str(error)


def test_a_deadline_below_a_second_is_not_called_zero_seconds(worker: WorkerProcess) -> None:
    assert "0.5 s" in str(overruns(worker, "phased_sleep", phase="run", seconds=1000))


def test_a_worker_that_ignores_sigterm_is_ended_by_its_deadline(worker: WorkerProcess) -> None:
    assert overruns(worker, "deaf_to_sigterm").phase == "run"


@pytest.mark.parametrize("op", ["with_child", "crash_with_child"])
def test_children_of_a_worker_end_with_it(worker: WorkerProcess, op: str) -> None:
    group = worker.pid
    with pytest.raises((Deadline, WorkerDied)):
        worker.request(op, LIMITS)
    assert wait_until_gone(group)


def test_a_crash_names_its_signal(worker: WorkerProcess) -> None:
    assert "killed by SIGSEGV" in str(dies(worker, "segfault"))


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_without_an_answer_names_its_code(worker: WorkerProcess, code: int) -> None:
    assert f"exited with code {code}" in str(dies(worker, "exit", code=code))


def test_an_exception_that_escapes_brings_its_message(worker: WorkerProcess) -> None:
    assert "RuntimeError: broken knob" in str(dies(worker, "raises", message="broken knob"))


def test_a_closed_pipe_counts_as_the_end(worker: WorkerProcess) -> None:
    assert "closed its pipe" in str(dies(worker, "closes_its_pipe"))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON\n", "\0\n", "[1, 2]\n", "3\n", "{}\n", '{"surprise": 1}\n', '{"phase": 7}\n',
        '{"phase": [1]}\n', '{"done"\n', "[" * 5000 + "\n",
        '{"done": true, "x": ' + "9" * 5000 + "}\n", '{"done": 99}\n',
    ],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_what_is_no_answer_ends_the_worker(worker: WorkerProcess, text: str) -> None:
    dies(worker, "sends", text=text)


def test_a_late_answer_does_not_pass_for_the_next_one(worker: WorkerProcess) -> None:
    # As after Ctrl-C in the middle of a request.
    worker._write(b'{"op": "echo", "id": 1000, "value": "late"}\n', "")
    dies(worker, "echo", value="asked for")


def test_a_flood_without_a_line_end_is_cut_off(worker: WorkerProcess) -> None:
    dies(worker, "sends", text="x" * 1024, times=4096)


def test_a_hundred_megabytes_of_print_change_nothing(worker: WorkerProcess) -> None:
    worker.request("prints", LIMITS, megabytes=50, last="bye")
    assert worker.request("echo", LIMITS, value=1)["value"] == 1


def test_only_the_end_of_what_was_printed_is_told(worker: WorkerProcess) -> None:
    message = str(dies(worker, "prints_and_dies", megabytes=2, last="the last words"))
    assert "exited with code 1" in message and message.endswith("the last words")
    assert len(message) < 3000


def test_what_an_earlier_request_printed_is_forgotten(worker: WorkerProcess) -> None:
    worker.request("prints", LIMITS, megabytes=0, last="an earlier candidate")
    assert "earlier" not in str(dies(worker, "exit", code=4))


def test_a_dead_worker_starts_anew(worker: WorkerProcess) -> None:
    first = worker.pid
    dies(worker, "exit", code=1)
    worker.restart()
    assert worker.pid != first
    assert worker.request("echo", LIMITS, value=2)["value"] == 2


def test_restarts_leak_no_descriptor(worker: WorkerProcess) -> None:
    worker.restart()
    before = psutil.Process().num_fds()
    for _ in range(5):
        worker.restart()
    assert psutil.Process().num_fds() == before


def test_an_interrupt_from_the_keyboard_is_left_to_the_parent(worker: WorkerProcess) -> None:
    os.killpg(worker.pid, signal.SIGINT)
    assert worker.request("echo", LIMITS, value=3)["value"] == 3


def test_closing_twice_and_after_death_is_harmless() -> None:
    worker = WorkerProcess("scripted_worker", ENV)
    os.kill(worker.pid, signal.SIGKILL)
    worker.close()
    worker.close()
    assert group_members(worker.pid) == []


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(MeasureError, match="no_such_worker does not start.*No module named"):
        WorkerProcess("no_such_worker", ENV)


_OWNER = """
import sys, time
from autotune.measure.process import WorkerProcess
worker = WorkerProcess("scripted_worker", {})
print(worker.pid, flush=True)
try:
    worker.request("phased_sleep", {"": 1000.0}, phase=sys.argv[1], seconds=1000.0)
finally:
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_busy_worker_dies_with_its_parent(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, "run"],
        env={**os.environ, **ENV},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    group = int(owner.stdout.readline())
    assert group_members(group) == [group]
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    assert wait_until_gone(group)
