"""Candidates built ahead by other processes: the same kinds of failure, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from process_checks import group_members, wait_until_gone, workers

import autotune
from autotune.errors import MeasureError
from autotune.hw_profiles import detect_cpu
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.measure.builders import Builders
from autotune.measure.building import find_linker
from autotune.measure.cores import Cores
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

pytestmark = pytest.mark.skipif(find_linker() is None, reason="no linker")
ROOT = Path(autotune.__file__).resolve().parents[1]
WORKLOAD = Gemm(37, 21, 128)
OPTIONS = MeasureOptions(seconds=0.02, build_timeout=8.0, run_timeout=3.0, ahead=True)
K = FailureKind


@pytest.fixture(scope="module")
def measurer() -> Iterator[LocalMeasurer]:
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["faulty_templates"]) as running:
        yield running


def measure(measurer: LocalMeasurer, *faults: str) -> list[Result]:
    """Prepare all of them, then measure them in that order."""
    configs = [Config({"fault": fault}) for fault in faults]
    measurer.prepare("faulty", configs)
    return [measurer.measure("faulty", config) for config in configs]


def builders() -> list[int]:
    return workers("autotune.measure.builder")


def test_what_is_built_ahead_is_verified_and_timed_like_the_rest(measurer: LocalMeasurer) -> None:
    good, wrong = measure(measurer, "good", "drops_last_row")
    assert good.ok, good.message
    assert set(good.phases) - {"steal"} == {"build", "verify", "run"}
    assert good.phases["build"] > 0
    assert wrong.failure is K.WRONG_RESULT
    assert builders()
    assert not list(Path(measurer._folder.name).glob("*.so"))  # loaded, and so removed


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("segfault", K.CRASHED, "during build: the worker killed by SIGSEGV"),
        ("exits", K.CRASHED, "during build: the worker exited with code 0"),
        ("loops", K.COMPILE_TIMEOUT, "build took longer than 8 s"),
        ("deaf_to_sigterm", K.COMPILE_TIMEOUT, "build took longer than 8 s"),
        ("spawns_and_loops", K.COMPILE_TIMEOUT, "build took longer than 8 s"),
        ("garbles_the_pipe", K.CRASHED, "what is not JSON"),
        ("forges_an_answer", K.CRASHED, "what is not an answer"),
    ],
)
def test_a_build_that_ends_its_builder_is_named_and_leaves_nothing(
    measurer: LocalMeasurer, fault: str, kind: FailureKind, says: str
) -> None:
    measure(measurer, "good", "prints")
    before = set(builders())
    (runner,) = workers("autotune.measure.worker")
    result, after = measure(measurer, fault, "good")
    assert (result.failure, says in result.message) == (kind, True), result.message
    assert after.ok, after.message
    ended = before - set(builders())
    assert len(ended) <= 1 and all(wait_until_gone(group) for group in ended)
    assert workers("autotune.measure.worker") == [runner]


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("raises", K.SCHEDULE_ERROR, "RuntimeError: this knob cannot be scheduled"),
        ("not_a_module", K.COMPILE_ERROR, "must be a PrimFunc or IRModule"),
        ("undefined_variable", K.COMPILE_ERROR, "nowhere"),
        ("missing_symbol", K.COMPILE_ERROR, "no_such_symbol"),
        ("no_main", K.COMPILE_ERROR, "main"),
        ("extra_argument", K.COMPILE_ERROR, "4 arguments"),
        ("reads_c_first", K.WRONG_RESULT, "777 of 777 elements are wrong"),
    ],
)
def test_what_leaves_everybody_alive_is_named(
    measurer: LocalMeasurer, fault: str, kind: FailureKind, says: str
) -> None:
    measure(measurer, "good", "prints")
    before = (builders(), workers("autotune.measure.worker"))
    result, after = measure(measurer, fault, "good")
    assert (result.failure, says in result.message) == (kind, True), result.message
    assert after.ok, after.message
    assert (builders(), workers("autotune.measure.worker")) == before


@pytest.mark.parametrize(
    ("fault", "kind"), [("kernel_crashes", K.CRASHED), ("kernel_loops", K.RUN_TIMEOUT)]
)
def test_a_kernel_that_ends_the_runner_spares_the_builders_and_what_they_built(
    measurer: LocalMeasurer, fault: str, kind: FailureKind
) -> None:
    assert all(result.ok for result in measure(measurer, "good", "prints"))
    before = builders()
    measurer.start()
    (runner,) = workers("autotune.measure.worker")
    result, after = measure(measurer, fault, "good")
    assert result.failure is kind, result.message
    assert after.ok, after.message
    assert builders() == before
    assert wait_until_gone(runner)


def test_what_is_prepared_twice_or_never_asked_for_does_no_harm(measurer: LocalMeasurer) -> None:
    configs = [Config({"fault": fault}) for fault in ("good", "raises", "prints")]
    measurer.prepare("faulty", configs)
    measurer.prepare("faulty", configs)
    assert measurer.measure("faulty", configs[1]).failure is K.SCHEDULE_ERROR
    assert measurer.measure("faulty", configs[0]).ok
    assert measurer.measure("faulty", configs[0]).ok  # not prepared any more


def test_what_is_begun_serves_the_first_trials() -> None:
    others = set(builders())
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["faulty_templates"]) as running:
        running.begin(1)
        running.begin(1)
        assert running._builders is not None
        assert [future.result() for future in running._builders._begun] == [None]
        (builder,) = set(builders()) - others
        assert all(result.ok for result in measure(running, "good", "prints"))
        assert builder in builders()
        running.begin(1000)
        assert all(future.result() is None for future in running._builders._begun)
        assert len(set(builders()) - others) == len(_groups())


def test_what_is_begun_in_vain_is_ended_and_says_why_if_it_is_needed() -> None:
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["no_such_plugin"]) as running:
        running.begin(2)
        with pytest.raises(MeasureError, match="no_such_plugin"):
            measure(running, "good", "prints")
    before = psutil.Process().children(recursive=True)
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS) as running:
        running.begin(2)
    assert psutil.Process().children(recursive=True) == before


def test_builders_are_pinned_one_to_a_core(measurer: LocalMeasurer) -> None:
    measure(measurer, "good", "prints")
    cores = [os.sched_getaffinity(pid) for pid in builders()]
    assert all(len(core) == 1 for core in cores)
    assert len({next(iter(core)) for core in cores}) == len(cores)


# -- halting --------------------------------------------------------------------------------------


class OneCore:
    """Everything happens on one core, which is measured on."""

    def __init__(self) -> None:
        core = min(os.sched_getaffinity(0))
        self.measured = self.building = (core,)

    def disturbs(self, core: int) -> bool:
        return True


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Builders]:
    from autotune.hw_profiles import tvm_target

    linker = find_linker()
    assert linker is not None
    setup = {
        "workload": WORKLOAD.to_json(),
        "target": tvm_target(detect_cpu(), 1),
        "plugins": ["faulty_templates"],
        "sys_path": [str(Path(__file__).parent)],
    }
    limits = {"": 60.0, "build": 2.0}
    running = Builders(OneCore(), {}, setup, limits, tmp_path, linker)  # type: ignore[arg-type]
    yield running
    running.close()


def of(pool: Builders) -> list[int]:
    return [b._worker.pid for b in pool._builders if b._worker is not None and b._worker.alive]


def _busy(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def test_a_halted_builder_does_nothing_and_its_deadline_stands_still(pool: Builders) -> None:
    pool.submit("faulty", Config({"fault": "good"})).result()
    loops = pool.submit("faulty", Config({"fault": "loops"}))
    time.sleep(0.3)
    with pool.halted():
        time.sleep(0.2)
        before = _busy(of(pool))
        time.sleep(2.5)  # longer than the deadline
        assert _busy(of(pool)) == before
        assert all(psutil.Process(p).status() == psutil.STATUS_STOPPED for p in of(pool))
        assert not loops.done()
    result = loops.result(timeout=10)
    assert isinstance(result, Result) and result.failure is K.COMPILE_TIMEOUT


def test_a_builder_that_is_started_during_a_halt_is_born_halted(pool: Builders) -> None:
    with pool.halted():
        future = pool.submit("faulty", Config({"fault": "good"}))
        deadline = time.monotonic() + 10
        while not of(pool) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        (pid,) = of(pool)
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        assert not future.done()
    assert not isinstance(future.result(timeout=100), Result)


def test_equal_code_has_equal_digests_and_other_code_another(pool: Builders) -> None:
    one, same, other = (
        pool.submit("faulty", Config({"fault": fault})).result()
        for fault in ("good", "prints", "drops_last_k")
    )
    assert not any(isinstance(built, Result) for built in (one, same, other))
    assert one.digest == same.digest != other.digest  # type: ignore[union-attr]


@pytest.mark.parametrize("halted", [False, True])
def test_closing_ends_builders_at_once_whatever_they_do(pool: Builders, halted: bool) -> None:
    pool.submit("faulty", Config({"fault": "good"})).result()
    futures = [pool.submit("faulty", Config({"fault": "loops"})) for _ in range(3)]
    time.sleep(0.3)
    groups = of(pool)
    if halted:
        pool._halt(True)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 1.9  # the deadline of one build
    assert all(wait_until_gone(group) for group in groups)
    assert all(future.done() for future in futures)
    assert threading.active_count() < 10


_OWNER = """
import sys, time
from autotune.hw_profiles import detect_cpu
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.search.space import Config
from autotune.workload import Gemm
sys.path.append(sys.argv[1])
options = MeasureOptions(build_timeout=1000.0, ahead=True)
with LocalMeasurer(Gemm(8, 8, 8), detect_cpu(), 1, options, ["faulty_templates"]) as measurer:
    first = [Config({"fault": fault}) for fault in ("good", "prints")]
    measurer.prepare("faulty", first)
    assert all(measurer.measure("faulty", config).ok for config in first)
    measurer.prepare("faulty", [Config({"fault": "loops"}), Config({"fault": "deaf_to_sigterm"})])
    time.sleep(0.5)
    if sys.argv[2] == "halted":
        measurer._builders._halt(True)
    print(*[b._worker.pid for b in measurer._builders._builders], flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("state", ["running", "halted"])
def test_builders_die_with_their_killed_parent(state: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(Path(__file__).parent), state],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    groups = [int(pid) for pid in owner.stdout.readline().split()]
    assert groups and all(group_members(group) for group in groups)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert all(wait_until_gone(group) for group in groups)


# -- cores ----------------------------------------------------------------------------------------


def test_two_measurers_do_not_claim_the_same_core(tmp_path: Path) -> None:
    available = len({tuple(group) for group in _groups()})
    first = Cores(available, tmp_path)
    assert len(first.measured) == available
    assert set(first.building) == set(first.measured)
    second = Cores(1, tmp_path)
    assert second.measured == ()
    assert all(second.disturbs(core) for core in second.building)
    first.release()
    third = Cores(1, tmp_path)
    assert len(third.measured) == 1 and third.building[-1] == third.measured[0]
    assert [core for core in third.building if not third.disturbs(core)] == list(
        third.building[:-1]
    )


def test_more_threads_than_cores_are_not_pinned(tmp_path: Path) -> None:
    cores = Cores(10_000, tmp_path)
    assert cores.measured == ()
    assert Cores(1, tmp_path).measured  # and nothing stays claimed


def _groups() -> list[tuple[int, ...]]:
    from autotune.measure.cores import physical_cores

    return physical_cores(sorted(os.sched_getaffinity(0)))


def test_the_kernel_worker_runs_on_the_measured_cores(measurer: LocalMeasurer) -> None:
    measurer.start()
    assert measurer._cores is not None
    (runner,) = workers("autotune.measure.worker")
    assert os.sched_getaffinity(runner) == set(measurer._cores.measured)
