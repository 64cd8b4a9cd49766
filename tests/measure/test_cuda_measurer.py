"""The worker that owns a GPU, on a stand-in for the CUDA driver that counts time."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import MeasureError, NotApplicable, UnsupportedTarget
from autotune.hw_profiles import load_profiles
from autotune.hw_profiles.cuda_driver import LIBRARY, Driver, DriverMissing
from autotune.kernels.base import get_template
from autotune.measure import CudaMeasurer, MeasureOptions, make_measurer
from autotune.measure.process import WorkerProcess
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from numerics import NUMERICS

H200 = load_profiles()["h200"]
WORKLOAD = Gemm(9, 7, 5, epilogue="none")
#: What the stand-in says that a call takes, in seconds.
HOT, COLD = 10e-6, 15e-6


@pytest.fixture
def measurer(fake_driver: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaMeasurer]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    started = CudaMeasurer._started

    def start(self: CudaMeasurer, worker: WorkerProcess | None, module: str) -> WorkerProcess:
        fake = "fake_gpu_templates" if module.endswith("cuda_builder") else module
        return started(self, worker, fake)

    monkeypatch.setattr(CudaMeasurer, "_started", start)
    options = MeasureOptions(build_timeout=5.0, run_timeout=5.0)
    with CudaMeasurer(WORKLOAD, H200, options, library=fake_driver) as running:
        yield running


def measure(measurer: CudaMeasurer, behaviour: str, keep: str | None = None) -> Result:
    return measurer.measure("any", Config({"behaviour": behaviour}), keep=keep)


def test_a_right_kernel_has_the_time_of_the_device_hot_and_cold(measurer: CudaMeasurer) -> None:
    result = measure(measurer, "right")
    assert result.failure is None, result.message
    assert result.cost == pytest.approx(HOT, rel=0.01)
    assert 2 <= len(result.costs) <= 10
    assert result.features["registers"] == 42
    assert result.features["cold_seconds"] == pytest.approx(COLD, rel=0.01)
    assert result.features["hot_seconds"] == result.cost
    assert set(result.phases) == {"build", "verify", "run"}


def test_tensor_maps_and_clusters_reach_the_driver(measurer: CudaMeasurer) -> None:
    result = measure(measurer, "mapped", keep="best")
    assert result.failure is None, result.message
    assert measurer.time_kept("best", 0.02)


def test_launches_that_come_first_count_and_scratch_memory_is_given_back(
    measurer: CudaMeasurer,
) -> None:
    for number in range(6):
        result = measure(measurer, "scratch", keep=f"best{number % 2}")
        assert result.failure is None, result.message
        assert result.cost == pytest.approx(2 * HOT, rel=0.01)
    costs = measurer.time_kept("best0", 0.02)
    assert costs == pytest.approx([2 * HOT] * len(costs), rel=0.01)


def test_cold_costs_are_those_after_the_cache_was_overwritten(measurer: CudaMeasurer) -> None:
    measurer.options = dataclasses.replace(measurer.options, cache="cold")
    assert measure(measurer, "right").cost == pytest.approx(COLD, rel=0.01)


@pytest.mark.parametrize(
    ("behaviour", "kind", "says"),
    [
        ("wrong", FailureKind.WRONG_RESULT, "1 of 63 elements are wrong, first C\\[8, 6\\]"),
        ("idle", FailureKind.WRONG_RESULT, "63 of 63 elements are wrong, first C\\[0, 0\\] = nan"),
        ("reject", FailureKind.RUN_ERROR, "cuModuleLoadData.*209"),
        ("too-wide", FailureKind.RUN_ERROR, "cuLaunchKernel"),
        ("spills", FailureKind.COMPILE_ERROR, "^spills: 8 bytes"),
        ("sticky", FailureKind.RUN_ERROR, "ILLEGAL_ADDRESS"),
    ],
)
def test_faults_are_failures_by_name_and_the_next_kernel_is_measured(
    behaviour: str, kind: FailureKind, says: str, measurer: CudaMeasurer
) -> None:
    result = measure(measurer, behaviour)
    assert result.failure is kind
    assert re.search(says, result.message), result.message
    assert measure(measurer, "right").ok


def test_equal_machine_code_is_measured_once(measurer: CudaMeasurer) -> None:
    first = measure(measurer, "right")
    worker = measurer._kernel_worker()
    worker.kill()
    again = measure(measurer, "right")
    assert again.costs == first.costs and again.code == first.code != ""
    assert not worker.alive, "nothing was run"


def test_only_a_sticky_error_costs_the_worker_its_life(measurer: CudaMeasurer) -> None:
    measure(measurer, "right")
    first = measurer._kernel_worker().pid
    measure(measurer, "wrong")
    assert measurer._kernel_worker().pid == first
    measure(measurer, "sticky")
    assert measurer._kernel_worker().pid != first


def test_a_hang_is_ended_at_its_deadline(measurer: CudaMeasurer) -> None:
    measurer._limits["run"] = 1.0
    assert measure(measurer, "hang").failure is FailureKind.RUN_TIMEOUT
    assert measure(measurer, "right").ok


def test_a_build_that_takes_too_long_is_ended(measurer: CudaMeasurer) -> None:
    measurer._limits["build"] = 1.0
    assert measure(measurer, "slow build").failure is FailureKind.COMPILE_TIMEOUT
    assert measure(measurer, "right").ok


def test_a_kept_kernel_is_timed_again_until_the_context_is_lost(measurer: CudaMeasurer) -> None:
    assert measure(measurer, "right", keep="best").ok
    assert measurer.is_kept("best")
    costs = measurer.time_kept("best", 0.05)
    assert costs == pytest.approx([HOT] * len(costs), rel=0.01)
    measure(measurer, "sticky")
    assert not measurer.is_kept("best")


def test_ceilings_are_those_of_the_datasheet(measurer: CudaMeasurer) -> None:
    assert measurer.ceilings() == (67000.0, 67000.0)  # the operands stay in L2
    thin = CudaMeasurer(Gemm(1, 8192, 8192), H200)
    assert thin.ceilings()[1] == pytest.approx(4800 * 0.5, rel=0.01)  # 2 FLOP per 4 bytes
    thin.close()


def test_a_driver_that_is_not_there_is_an_error_of_the_machine(
    measurer: CudaMeasurer,
) -> None:
    measurer.library = "libabsent.so.1"
    with pytest.raises(MeasureError, match="cannot load the CUDA driver libabsent"):
        measure(measurer, "right")


def test_a_gpu_by_name_is_not_measured_on() -> None:
    with pytest.raises(UnsupportedTarget, match="add --compile-only"):
        make_measurer("cuda:h200", WORKLOAD, H200, 1)


def _real_driver() -> bool:
    try:
        return Driver(LIBRARY).device_count() > 0
    except DriverMissing:
        return False


@pytest.mark.gpu
@pytest.mark.skipif(not _real_driver(), reason="there is no CUDA device")
@pytest.mark.parametrize("shape", [(128, 128, 128), (131, 67, 37), (1, 4096, 64)])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_simt_is_right_and_timed_on_a_gpu(shape: tuple[int, int, int], layout: str) -> None:
    from autotune.hw_profiles import detect_cuda

    profile = detect_cuda()
    workload = Gemm(*shape, layout=layout, epilogue="bias_relu")
    config = get_template("simt").space(workload, profile, 1).defaults[0]
    with CudaMeasurer(workload, profile) as running:
        result = running.measure("simt", config)
    assert result.failure is None, result.message
    assert 0 < result.cost < 1


@pytest.mark.gpu
@pytest.mark.skipif(not _real_driver(), reason="there is no CUDA device")
@pytest.mark.parametrize(
    ("name", "workload", "changes"),
    NUMERICS,
    ids=[f"{name} {workload.key}" for name, workload, _ in NUMERICS],
)
def test_kernels_are_right_and_timed_on_a_gpu(
    name: str, workload: Gemm, changes: dict[str, Any]
) -> None:
    """What an archive for a GPU without a network checks first."""
    from autotune.hw_profiles import detect_cuda

    profile = detect_cuda()
    try:
        space = get_template(name).space(workload, profile, 1)
    except NotApplicable as error:
        pytest.skip(str(error))
    config = space.defaults[0].replace(**changes)
    if space.violated(config) is not None:
        config = space.defaults[0]
    with CudaMeasurer(workload, profile) as running:
        result = running.measure(name, config)
    assert result.failure is None, result.message
    assert 0 < result.cost < 1
