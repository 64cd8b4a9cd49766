"""Workers that are forked from one process: as separate as those with a Python of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from process_checks import group_members, wait_until_gone

import autotune
from autotune.errors import MeasureError
from autotune.measure.forking import Forker, can_fork
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system cannot fork workers")
HERE = Path(__file__).parent
ROOT = Path(autotune.__file__).resolve().parents[1]
ENV = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}
LIMITS = {"": 20.0, "run": 0.5}


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    running = Forker(ENV)
    yield running
    running.close()


@pytest.fixture
def worker(forker: Forker) -> Iterator[WorkerProcess]:
    process = WorkerProcess("scripted_worker", {}, forker=forker)
    yield process
    process.close()
    assert wait_until_gone(process.pid)


def pid_of(forker: Forker) -> int:
    forker.wait_until_ready()
    assert forker._process is not None
    return forker._process.pid


def test_a_forked_worker_answers_and_has_a_session_and_a_name_of_its_own(
    forker: Forker, worker: WorkerProcess
) -> None:
    assert worker.request("echo", LIMITS, value="ü\n")["value"] == "ü\n"
    assert os.getsid(worker.pid) == os.getpgid(worker.pid) == worker.pid
    assert psutil.Process(worker.pid).name() == "tune-scripted_w"
    assert psutil.Process(worker.pid).ppid() == pid_of(forker)


def test_the_process_that_is_forked_has_one_thread_and_outlives_its_workers(
    forker: Forker, worker: WorkerProcess
) -> None:
    before = pid_of(forker)
    assert psutil.Process(before).num_threads() == 1
    for op, says in (("segfault", "killed by SIGSEGV"), ("exit", "exited with code 4")):
        with pytest.raises(WorkerDied, match=says):
            worker.request(op, LIMITS, **({"code": 4} if op == "exit" else {}))
        worker.restart()
        assert worker.request("echo", LIMITS, value=op)["value"] == op
    with pytest.raises(Deadline, match="run took longer"):
        worker.request("with_child", LIMITS)
    assert wait_until_gone(worker.pid)
    assert pid_of(forker) == before
    assert not [c for c in psutil.Process(before).children() if c.status() == "zombie"]


def test_each_worker_gets_variables_of_its_own(forker: Forker) -> None:
    for value in ("1", "7"):
        worker = WorkerProcess("scripted_worker", {"TVM_NUM_THREADS": value}, forker=forker)
        answer = worker.request("environment", LIMITS, name="TVM_NUM_THREADS")
        worker.close()
        assert answer["value"] == value


def test_a_worker_holds_its_own_pipes_and_no_others(forker: Forker, worker: WorkerProcess) -> None:
    other = WorkerProcess("scripted_worker", {}, forker=forker)
    try:
        for process in (worker, other):
            ends = {
                os.readlink(f"/proc/{process.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{process.pid}/fd")
            }
            assert not [end for end in ends if end.startswith("socket:")]
            assert len([end for end in ends if end.startswith("pipe:")]) == 2
    finally:
        other.close()


def test_restarts_leak_no_descriptor(forker: Forker, worker: WorkerProcess) -> None:
    processes = psutil.Process(), psutil.Process(pid_of(forker))
    worker.restart()
    before = [process.num_fds() for process in processes]
    for _ in range(5):
        worker.restart()
    assert [process.num_fds() for process in processes] == before


def test_when_the_forked_process_dies_so_do_its_workers_and_the_next_one_starts_it_again() -> None:
    forker = Forker(ENV)
    worker = WorkerProcess("scripted_worker", {}, forker=forker)
    group = worker.pid
    os.kill(pid_of(forker), signal.SIGKILL)
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        worker.request("phased_sleep", LIMITS, phase="", seconds=1000)
    assert wait_until_gone(group)
    worker.restart()
    assert worker.pid != group
    assert worker.request("echo", LIMITS, value=1)["value"] == 1
    worker.close()
    forker.close()


def test_a_module_that_is_not_there_and_a_python_that_is_not_whole_say_so(forker: Forker) -> None:
    with pytest.raises(MeasureError, match="(?s)no_such_worker does not start.*No module named"):
        WorkerProcess("no_such_worker", {}, forker=forker)
    broken = Forker({"PYTHONPATH": str(HERE / "assets" / "no_such_folder"), "PYTHONHOME": "/"})
    with pytest.raises(MeasureError, match="the process to fork workers from has ended: "):
        WorkerProcess("scripted_worker", {}, forker=broken)
    broken.close()


_OWNER = """
import sys, time
from autotune.measure.forking import Forker
from autotune.measure.process import WorkerProcess
forker = Forker({})
worker = WorkerProcess("scripted_worker", {}, forker=forker)
print(forker._process.pid, worker.pid, flush=True)
worker.request("phased_sleep", {"": 1000.0}, phase=sys.argv[1], seconds=1000.0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_all_die_with_their_owner(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, "any"],
        env={**os.environ, **ENV},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    groups = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(groups) == 2 and all(group_members(group) for group in groups)
    time.sleep(0.1)
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    assert all(wait_until_gone(group) for group in groups)
