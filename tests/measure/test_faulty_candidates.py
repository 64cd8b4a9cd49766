"""Candidates that go wrong in every way we know: each has its failure kind, and tuning goes on."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from process_checks import wait_until_gone
from process_checks import workers as by_module

import autotune
from autotune.errors import AutotuneError, MeasureError
from autotune.hw_profiles import detect_cpu
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

ROOT = Path(autotune.__file__).resolve().parents[1]
#: Odd extents, so that a missing tail is really a tail.
WORKLOAD = Gemm(37, 21, 128)
OPTIONS = MeasureOptions(seconds=0.02, build_timeout=4.0, run_timeout=3.0)
K = FailureKind
PACKAGE = "autotune.measure"


@pytest.fixture(scope="module")
def measurer() -> Iterator[LocalMeasurer]:
    # Registered in the workers only: the plugin is not imported here.
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["faulty_templates"]) as running:
        yield running


def measure(measurer: LocalMeasurer, fault: str) -> Result:
    return measurer.measure("faulty", Config({"fault": fault}))


def workers() -> list[int]:
    """Pids, which are also process groups, of the workers of this process."""
    return [
        pid for name in ("worker", "vendor", "builder") for pid in by_module(f"{PACKAGE}.{name}")
    ]


def test_the_plain_template_is_correct(measurer: LocalMeasurer) -> None:
    result = measure(measurer, "good")
    assert result.ok, result.message
    assert len(result.costs) >= 2
    assert set(result.phases) - {"steal"} == {"build", "verify", "run"}


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("segfault", K.CRASHED, "during build: the worker killed by SIGSEGV"),
        ("exits", K.CRASHED, "during build: the worker exited with code 0"),
        ("loops", K.COMPILE_TIMEOUT, "build took longer than 4 s"),
        ("deaf_to_sigterm", K.COMPILE_TIMEOUT, "build took longer than 4 s"),
        ("spawns_and_loops", K.COMPILE_TIMEOUT, "build took longer than 4 s"),
        ("garbles_the_pipe", K.CRASHED, "what is not JSON"),
        ("forges_an_answer", K.CRASHED, "what is not an answer"),
        ("missing_symbol", K.CRASHED, "during run: the worker killed by SIG"),
        ("kernel_crashes", K.CRASHED, "during run: the worker killed by SIGSEGV"),
        ("kernel_loops", K.RUN_TIMEOUT, "run took longer than 3 s"),
    ],
)
def test_what_costs_the_worker_its_life_is_named_and_the_next_candidate_is_measured(
    measurer: LocalMeasurer, fault: str, kind: FailureKind, says: str
) -> None:
    assert measure(measurer, "good").ok
    (group,) = workers()
    result = measure(measurer, fault)
    assert (result.failure, says in result.message) == (kind, True), result.message
    assert wait_until_gone(group)
    after = measure(measurer, "good")
    assert after.ok, after.message
    assert workers() != [group] and len(workers()) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("raises", K.SCHEDULE_ERROR, "RuntimeError: this knob cannot be scheduled"),
        ("not_a_module", K.COMPILE_ERROR, "must be a PrimFunc or IRModule"),
        ("undefined_variable", K.COMPILE_ERROR, "nowhere"),
        ("no_main", K.COMPILE_ERROR, "main"),
        ("extra_argument", K.COMPILE_ERROR, "4 arguments"),
        ("drops_last_k", K.WRONG_RESULT, "elements are wrong, first C[0, "),
        ("drops_last_row", K.WRONG_RESULT, "21 of 777 elements are wrong, first C[36, 0] = nan"),
        ("drops_last_column", K.WRONG_RESULT, "37 of 777 elements are wrong, first C[0, 20] = nan"),
        ("writes_nothing", K.WRONG_RESULT, "777 of 777 elements are wrong"),
        ("reads_c_first", K.WRONG_RESULT, "777 of 777 elements are wrong"),
    ],
)
def test_what_leaves_the_worker_alive_is_named_in_the_same_process(
    measurer: LocalMeasurer, fault: str, kind: FailureKind, says: str
) -> None:
    assert measure(measurer, "good").ok
    before = workers()
    result = measure(measurer, fault)
    assert (result.failure, says in result.message) == (kind, True), result.message
    assert len(result.message) < 1000
    assert measure(measurer, "good").ok
    assert workers() == before


def test_two_hundred_megabytes_of_print_do_not_fail_a_candidate(measurer: LocalMeasurer) -> None:
    before = (measure(measurer, "good").ok, workers())
    assert measure(measurer, "prints").ok
    assert (True, workers()) == before


def test_an_unknown_template_is_a_failure_of_the_candidate(measurer: LocalMeasurer) -> None:
    result = measurer.measure("no_such_template", Config({"fault": "good"}))
    assert result.failure is K.SCHEDULE_ERROR and "no_such_template" in result.message


def test_a_kept_kernel_is_timed_again_until_the_worker_dies(measurer: LocalMeasurer) -> None:
    good = Config({"fault": "good"})
    assert measurer.measure("faulty", good, keep="one").ok
    assert measurer.is_kept("one") and not measurer.is_kept("two")
    assert all(cost > 0 for cost in measurer.time_kept("one", 0.02))
    measure(measurer, "exits")
    assert not measurer.is_kept("one")
    assert measure(measurer, "good").ok
    assert not measurer.is_kept("one")


def test_a_failed_candidate_is_not_kept(measurer: LocalMeasurer) -> None:
    measurer.measure("faulty", Config({"fault": "drops_last_k"}), keep="wrong")
    assert not measurer.is_kept("wrong")


def test_a_hopeless_candidate_is_read_once(measurer: LocalMeasurer) -> None:
    config = Config({"fault": "good"})
    assert len(measurer.measure("faulty", config, hopeless=1e-12).costs) == 1
    assert len(measurer.measure("faulty", config, hopeless=1e3).costs) > 1


def test_the_peak_survives_a_crash_of_the_worker(measurer: LocalMeasurer) -> None:
    measure(measurer, "segfault")
    assert measurer.peak_gflops(0.02) > 0


def test_a_reference_is_read_beside_trials_also_by_the_next_worker() -> None:
    good = Config({"fault": "good"})
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["faulty_templates"]) as running:
        running.watch("faulty", good)
        assert running.measure("faulty", good).phases["reference"] > 0
        assert measure(running, "exits").failure is K.CRASHED
        assert running.measure("faulty", good).phases["reference"] > 0


@pytest.mark.parametrize("fault", ["raises", "drops_last_k", "exits", "kernel_crashes"])
def test_a_reference_that_does_not_work_is_left_out(fault: str) -> None:
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["faulty_templates"]) as running:
        running.start()
        running.watch("faulty", Config({"fault": fault}))
        result = measure(running, "good")
        assert result.ok and "reference" not in result.phases
        assert measure(running, fault).failure is not None


def test_cold_caches_cost_time_and_every_repeat_is_one_call() -> None:
    options = dataclasses.replace(OPTIONS, cache="cold")
    workload, good = Gemm(64, 64, 64), Config({"fault": "good"})
    with LocalMeasurer(workload, detect_cpu(), 1, options, ["faulty_templates"]) as running:
        assert running.measure("faulty", good, keep="one").ok
        assert running.time_kept("one", 0.05)
        assert running.vendor_time(0.05)
        assert running._flush_bytes() >= detect_cpu().l3_bytes


def test_emptying_a_large_cache_does_not_count_against_a_candidate() -> None:
    huge = dataclasses.replace(detect_cpu(), l3_bytes=1 << 30)
    limits = {}
    for cache in ("hot", "cold"):
        options = dataclasses.replace(OPTIONS, cache=cache)
        with LocalMeasurer(Gemm(8, 8, 8), huge, 1, options) as running:
            limits[cache] = running._limits["run"]
    assert limits["hot"] == OPTIONS.run_timeout
    assert limits["cold"] > limits["hot"] + 20


def test_a_cache_state_nobody_knows_is_refused() -> None:
    with pytest.raises(AutotuneError, match="cache must be one of hot, cold, got 'warm'"):
        MeasureOptions(cache="warm")


def test_a_crash_leaves_no_core_dump(measurer: LocalMeasurer) -> None:
    measurer.start()
    (worker,) = workers()
    assert psutil.Process(worker).rlimit(resource.RLIMIT_CORE) == (0, 0)


def test_ceilings_are_measured_whatever_the_deadline_of_candidates() -> None:
    # Without a last-level cache every product is bound by memory, so bandwidth is measured too.
    profile = dataclasses.replace(detect_cpu(), l3_bytes=0)
    hasty = MeasureOptions(build_timeout=0.01, run_timeout=0.01)
    with LocalMeasurer(Gemm(8, 8, 8), profile, 1, hasty, ["faulty_templates"]) as running:
        peak, roofline = running.ceilings()
        assert 0 < roofline < peak
        assert measure(running, "good").failure is FailureKind.COMPILE_TIMEOUT


def test_the_vendor_worker_is_started_again_after_it_died() -> None:
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS) as running:
        before = set(workers())
        assert running.vendor_time(0.01)[0] > 0
        (vendor,) = set(workers()) - before
        running._limits = dict.fromkeys(running._limits, 0.2)
        os.kill(vendor, signal.SIGSTOP)
        with pytest.raises(MeasureError, match="vendor failed at 'time'"):
            running.vendor_time(0.01)
        assert wait_until_gone(vendor)
        running._limits = dict.fromkeys(running._limits, 60.0)
        assert running.vendor_time(0.01)[0] > 0


def test_leaving_the_measurer_ends_its_workers_and_removes_its_files() -> None:
    before = set(workers())
    with LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS) as running:
        running.start()
        running.vendor_time(0.01)
        groups = set(workers()) - before
        folder = Path(running._folder.name)
        assert len(groups) == 2 and folder.is_dir()
    assert all(wait_until_gone(group) for group in groups)
    assert not folder.exists()


def test_a_plugin_that_the_worker_cannot_import_is_a_clear_error() -> None:
    with (
        LocalMeasurer(WORKLOAD, detect_cpu(), 1, OPTIONS, ["no_such_plugin"]) as running,
        pytest.raises(MeasureError, match="(?s)worker failed at 'setup'.*no_such_plugin"),
    ):
        measure(running, "good")


_OWNER = """
import sys
sys.path.insert(0, sys.argv[1])
from autotune.hw_profiles import detect_cpu
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.search.space import Config
from autotune.workload import Gemm
options = MeasureOptions(build_timeout=1000.0)
with LocalMeasurer(Gemm(8, 8, 8), detect_cpu(), 1, options, ["faulty_templates"]) as measurer:
    measurer.start()
    print(measurer._worker.pid, flush=True)
    measurer.measure("faulty", Config({"fault": "loops"}))
"""


def test_a_worker_in_an_endless_candidate_dies_with_its_killed_parent() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    group = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert wait_until_gone(group)
