"""Sharing a budget among the products of a model, with a pretended measurer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from fake_measurer import FakeMeasurer, Witness, made_up

from autotune.errors import AutotuneError, MeasureError
from autotune.hw_profiles import HardwareProfile
from autotune.log import FinalRecord, TuningLog
from autotune.models.tuning import STEP, ModelTuner, Task
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

PROFILE = HardwareProfile("cpu", "Test CPU", "znver4", "x86_64", physical_cores=2, logical_cores=2,
                          l1d_bytes=1 << 15, l2_bytes=1 << 20, l3_bytes=1 << 25, simd_bits=512,
                          vector_registers=32)  # fmt: skip
BIG, SMALL, ODD = Gemm(64, 64, 48), Gemm(16, 16, 16), Gemm(35, 70, 20, prepacked=True)
TASKS = [Task(BIG, 1), Task(SMALL, 1), Task(ODD, 3)]


class Workshop:
    """Makes one pretended measurer per workload, and remembers who is open."""

    def __init__(self, outcome: Any = lambda workload: made_up) -> None:
        self.outcome = outcome
        self.made: dict[Gemm, FakeMeasurer] = {}
        self.open = self.most = 0

    def __call__(self, target: str, workload: Gemm, *_: Any) -> Any:
        workshop = self
        made = self.made.setdefault(workload, FakeMeasurer(self.outcome(workload)))

        class Opened(nullcontext):  # type: ignore[type-arg]
            def __enter__(self) -> Any:
                workshop.open += 1
                workshop.most = max(workshop.most, workshop.open)
                return made

            def __exit__(self, *_: Any) -> None:
                workshop.open -= 1

        return Opened()


def tune(
    log: TuningLog, workshop: Workshop | None = None, tasks: Any = TASKS, **changes: Any
) -> Any:
    options: dict[str, Any] = {"trials": 96, "searcher": "random", **changes}
    tuner = ModelTuner(tasks, PROFILE, 1, log, measurer=workshop or Workshop(), **options)
    return tuner.run(Witness())  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> TuningLog:
    return TuningLog(tmp_path / "tuned.jsonl")


def test_the_budget_is_kept_and_every_task_gets_a_share_and_a_winner(log: TuningLog) -> None:
    reports = tune(log)
    assert sum(report.trials for report in reports) == 96
    assert all(report.trials >= STEP for report in reports)
    assert all(report.winner is not None for report in reports)
    finals = [record for record in log.scan().records if isinstance(record, FinalRecord)]
    assert {record.workload_key for record in finals} == {t.workload.key for t in TASKS}


def test_most_trials_go_where_most_time_can_be_taken_off_the_model(log: TuningLog) -> None:
    def slow_or_fast(workload: Gemm) -> Any:
        scale = 1.0 if workload == BIG else 1e-3
        return lambda config: Result((scale * made_up_cost(config),))

    big, small, _ = tune(log, Workshop(slow_or_fast), trials=160)
    assert big.trials == 160 - 2 * STEP
    assert small.trials == STEP


def made_up_cost(config: Config) -> float:
    return made_up(config).cost if made_up(config).ok else 1e-2


def test_the_same_call_again_measures_nothing(log: TuningLog) -> None:
    first = tune(log)
    workshop = Workshop()
    again = tune(log, workshop)
    assert all(not made.measured for made in workshop.made.values())
    assert [r.winner for r in again] == [r.winner for r in first]
    assert [r.trials for r in again] == [r.trials for r in first]


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(log: TuningLog) -> None:
    tune(log)
    workshop = Workshop()
    reports = tune(log, workshop, trials=128)
    assert sum(len(made.measured) for made in workshop.made.values()) == 32
    assert sum(report.trials for report in reports) == 128


def test_only_some_measurers_are_open_at_once(log: TuningLog) -> None:
    workshop = Workshop()
    tasks = [Task(Gemm(16, 16, 16 + i), 1) for i in range(7)]
    tune(log, workshop, tasks=tasks, trials=7 * STEP)
    assert workshop.most == 4
    assert workshop.open == 0


def test_a_task_that_always_fails_is_named_and_does_not_stop_the_others(log: TuningLog) -> None:
    def fails(workload: Gemm) -> Any:
        broken = Result.failed(FailureKind.CRASHED, "signal 11")
        return (lambda config: broken) if workload == SMALL else made_up

    notes: list[str] = []
    tuner = ModelTuner(TASKS, PROFILE, 1, log, trials=96, searcher="random",
                       measurer=Workshop(fails))  # fmt: skip
    reports = tuner.run(Witness(), notes.append)  # type: ignore[arg-type]
    assert [report.winner is None for report in reports] == [False, True, False]
    assert reports[1].trials == STEP
    (note,) = notes
    assert SMALL.key in note and "signal 11" in note


def test_all_failing_is_an_error_that_says_why(log: TuningLog) -> None:
    def fails(workload: Gemm) -> Any:
        return lambda config: Result.failed(FailureKind.CRASHED, "signal 11")

    with pytest.raises(MeasureError, match="signal 11"):
        tune(log, Workshop(fails))


def test_an_interrupt_keeps_what_was_measured(log: TuningLog) -> None:
    workshop = Workshop()
    workshop.made[BIG] = FakeMeasurer(stop_at=5, stop_with=KeyboardInterrupt)
    reports = tune(log, workshop)
    assert all(report.interrupted for report in reports)
    assert len(log.scan().trials) == 5
    assert workshop.open == 0


def test_a_model_without_products_or_a_budget_is_refused(log: TuningLog) -> None:
    with pytest.raises(AutotuneError, match="no product"):
        tune(log, tasks=[])
    with pytest.raises(AutotuneError, match="give a budget"):
        tune(log, trials=None)
