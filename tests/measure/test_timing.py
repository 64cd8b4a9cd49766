"""How often a candidate is read, with a clock that only pretends; and what drift makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.measure import drift as drift_module
from autotune.measure.cores import steal_seconds
from autotune.measure.drift import DRIFT_BOUND, Drift
from autotune.measure.protocol import MAX_REPEATS, MIN_REPEAT_SECONDS
from autotune.measure.timing import HOPELESS_MARGIN, lower_bound, time_kernel


class Kernel:
    """Takes the given seconds, one after the other, the last for ever; counts calls."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = itertools.chain(seconds, itertools.repeat(seconds[-1]))
        self.calls = 0
        self.blocks: list[tuple[int, int]] = []

    def call(self) -> float:
        self.calls += 1
        return next(self.seconds)

    def timer(self, number: int, repeats: int) -> list[float]:
        self.blocks.append((number, repeats))
        return [next(self.seconds) for _ in range(repeats)]


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one call enough to be warm."""
    monkeypatch.setattr("autotune.measure.timing._WARM_SECONDS", 0.0)


def read(kernel: Kernel, hopeless: float | None = None, seconds: float = 0.12) -> list[float]:
    return time_kernel(kernel.call, kernel.timer, seconds, hopeless, 2)


def test_without_a_rival_the_budget_is_spent_on_repeats_of_ten_milliseconds() -> None:
    kernel = Kernel(1e-3)
    assert len(read(kernel)) == MAX_REPEATS
    assert {number for number, _ in kernel.blocks} == {round(MIN_REPEAT_SECONDS / 1e-3)}
    slow = Kernel(0.05)
    assert len(read(slow)) == 2
    assert slow.calls == 2  # the call that warmed it is the first of them


def test_a_candidate_that_is_surely_slower_is_left_after_two_repeats() -> None:
    assert len(read(Kernel(1.2e-3), hopeless=HOPELESS_MARGIN * 1e-3)) == 2
    assert len(read(Kernel(1.0e-3), hopeless=HOPELESS_MARGIN * 1e-3)) == MAX_REPEATS


def test_one_disturbed_repeat_does_not_make_a_candidate_hopeless() -> None:
    # The warming call and the first repeat are fine, the second is not, and so on.
    kernel = Kernel(1e-3, 5e-3, 1e-3, 5e-3, 1e-3)
    costs = read(kernel, hopeless=HOPELESS_MARGIN * 1e-3)
    assert len(costs) == MAX_REPEATS and sorted(costs)[len(costs) // 2] == 1e-3


def test_the_nearer_the_rival_the_more_repeats_before_it_is_left() -> None:
    counts = [len(read(Kernel(cost * 1e-3), 1e-3)) for cost in (1.1, 1.03, 1.0)]
    assert counts == [2, 4, MAX_REPEATS]


def test_far_behind_takes_two_calls_to_believe() -> None:
    kernel = Kernel(9e-3)
    assert time_kernel(kernel.call, kernel.timer, 0.12, 1e-3, 2, first=8e-3) == [8e-3]
    assert kernel.blocks == []
    disturbed = Kernel(50e-3, 1e-3)  # the warming call met a disturbance, the verifying did not
    costs = time_kernel(disturbed.call, disturbed.timer, 0.12, 1e-3, 2, first=1.1e-3)
    assert len(costs) > 1


def test_single_calls_are_looked_at_one_by_one() -> None:
    kernel = Kernel(0.02)
    assert len(read(kernel, hopeless=0.012)) == 2
    assert len(read(Kernel(0.02), hopeless=0.03)) == 6
    cold = Kernel(1e-5)
    costs = time_kernel(cold.call, cold.timer, 0.12, None, 2, single=True)
    assert len(costs) == MAX_REPEATS and cold.blocks == []


def test_the_bound_rises_towards_the_lowest_repeat_with_their_number() -> None:
    bounds = [lower_bound([1.0] * n) for n in (1, 2, 4, 9)]
    assert bounds == sorted(bounds) and bounds[0] > 0.95 and bounds[-1] < 1.0
    assert lower_bound([5.0, 1.0]) < 1.0


# -- drift ----------------------------------------------------------------------------------------


def drift(*references: float) -> Drift:
    readings: Iterator[float] = iter(references)
    return Drift(lambda: next(readings))


def never() -> list[float]:
    raise AssertionError("timed again without need")


def settled() -> list[float]:
    return [1.0] * drift_module._ENOUGH


def test_a_steady_machine_times_nothing_again() -> None:
    watch = drift(1.0, 1.01, 0.99, 1.02, 1.0, 1.05, 1.0)
    for _ in range(7):
        assert watch.steady([2.0], never).again == 0


def test_a_trial_in_a_slow_moment_is_timed_again_after_it() -> None:
    watch = drift(*settled(), 1.5, 1.0)
    for _ in settled():
        watch.steady([2.0], never)
    steady = watch.steady([3.1], lambda: [2.0])
    assert (steady.costs, steady.reference, steady.again) == ([2.0], 1.0, 1)


def test_of_a_lasting_disturbance_the_least_disturbed_reading_is_kept() -> None:
    watch = drift(*settled(), 1.5, 1.2, 1.8)
    for _ in settled():
        watch.steady([2.0], never)
    again = iter([[2.5], [3.7]])
    steady = watch.steady([3.1], lambda: next(again))
    assert (steady.costs, steady.reference, steady.again) == ([2.5], 1.2, 2)


def test_a_machine_that_stays_slower_becomes_the_new_normal() -> None:
    watch = drift(*settled(), *[1.3] * 60)
    for _ in settled():
        watch.steady([2.0], never)
    repeats = [watch.steady([2.6], lambda: [2.6]).again for _ in range(12)]
    assert repeats[0] == 2 and repeats[-1] == 0


def test_a_faster_moment_is_a_disturbance_too() -> None:
    watch = drift(*settled(), 1 / DRIFT_BOUND - 0.01, 1.0)
    for _ in settled():
        watch.steady([2.0], never)
    assert watch.steady([1.7], lambda: [2.0]).costs == [2.0]


# -- steal ----------------------------------------------------------------------------------------


def test_stolen_time_is_that_of_the_measured_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  1 2 3 4 5 6 7 300 0 0\ncpu0 1 2 3 4 5 6 7 100 0 0\ncpu1 1 2 3 4 5 6 7 200 0 0\n"
        "intr 5\n"
    )
    monkeypatch.setattr("autotune.measure.cores._STAT", stat)
    monkeypatch.setattr("autotune.measure.cores.os.sysconf", lambda name: 100)
    assert (steal_seconds((1,)), steal_seconds(())) == (2.0, 3.0)
    monkeypatch.setattr("autotune.measure.cores._STAT", tmp_path / "none")
    assert steal_seconds((1,)) == 0.0
