"""The interleaved re-measurement, with a measurer that only pretends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from autotune.errors import MeasureError
from autotune.hw_profiles import detect_cpu
from autotune.measure import LocalMeasurer
from autotune.measure.final import DEFAULT, FinalOptions, FinalResult, run_final
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

A, B, C = (Config({"x": name}) for name in "abc")
VENDOR = "torch"
#: label -> reading of round 0, 1, ...; the numbers are seconds.
Readings = dict[str, list[float]]


class FakeMeasurer:
    """Answers from a table, and writes down in which order it was asked."""

    def __init__(self, readings: Readings) -> None:
        self.readings = {label: list(costs) for label, costs in readings.items()}
        self.blocks: list[str] = []
        self.builds: list[str] = []
        self.kept: set[str] = set()
        self.peaks = iter([100.0, 140.0, 120.0] * 10)
        self.refuses: dict[str, Result] = {}
        self.breaks: Callable[[str], bool] = lambda label: False

    def is_kept(self, label: str) -> bool:
        return label in self.kept

    def measure(self, template: str, config: Config, keep: str) -> Result:
        assert template == "some_template"
        self.builds.append(keep)
        if keep in self.refuses:
            return self.refuses[keep]
        self.kept.add(keep)
        return Result((1e-9,))  # must not be used

    def time_kept(self, label: str, seconds: float) -> list[float]:
        assert label in self.kept
        if self.breaks(label):
            self.kept.clear()  # the worker died and took all kernels with it
            raise MeasureError("a kernel that had been verified failed")
        self.blocks.append(label)
        cost = self.readings[label].pop(0)
        return [cost, cost / 2, cost * 50]  # the median is what counts

    def vendor_time(self, seconds: float, library: str) -> list[float]:
        assert library == VENDOR
        if self.breaks(VENDOR):
            raise MeasureError("the vendor worker died")
        self.blocks.append(VENDOR)
        return [self.readings[VENDOR].pop(0)]

    def peak_gflops(self, seconds: float) -> float:
        return next(self.peaks)


def final(
    fake: FakeMeasurer, configs: list[Config], default: Config | None = None, rounds: int = 3
) -> FinalResult:
    options = FinalOptions(rounds=rounds, libraries=(VENDOR,))
    return run_final(cast(LocalMeasurer, fake), "some_template", configs, default, options)


def test_the_median_over_the_rounds_decides_not_the_best_reading() -> None:
    readings = {"tuned 1": [0.1, 9.0, 9.0], "tuned 2": [5.0, 4.0, 3.0], VENDOR: [8.0, 8.0, 8.0]}
    result = final(FakeMeasurer(readings), [A, B])
    assert result.winner.config == B
    assert result.winner.cost == 4.0


def test_a_finalist_whose_rounds_disagree_does_not_win_and_is_called_noisy() -> None:
    shaky = [1.0, 5.0, 1.0, 5.0, 1.0, 1.0] * 2
    readings = {"tuned 1": shaky, "tuned 2": [2.0] * 12, VENDOR: [8.0] * 12}
    fake = FakeMeasurer(readings)
    result = final(fake, [A, B], rounds=6)
    assert result.winner.config == B
    assert result.contenders[0].verdict == "noisy: rounds differ by a factor of 5.00"
    assert result.contenders[1].verdict == ""
    assert len(result.contenders[0].costs) == 12  # it led, so it got as many rounds again


def test_a_finalist_whose_rounds_disagree_wins_if_it_leads_in_nearly_all_of_them() -> None:
    for shaky, winner in (
        ([5.0, 6.5, 5.0, 8.0, 6.5, 5.0], A),  # ahead in 10 of 12 rounds
        ([5.0, 6.5, 5.0, 8.0, 8.0, 5.0], B),  # in 8 of 12
    ):
        readings = {"tuned 1": shaky * 2, "tuned 2": [7.0] * 12, VENDOR: [8.0] * 12}
        result = final(FakeMeasurer(readings), [A, B], rounds=6)
        assert result.winner.config == winner
        assert result.contenders[0].noisy


def test_one_disturbed_round_is_not_noise_and_costs_no_more_rounds() -> None:
    readings = {"tuned 1": [1.0, 1.0, 9.0, 1.0], "tuned 2": [2.0] * 4, VENDOR: [8.0] * 4}
    result = final(FakeMeasurer(readings), [A, B], rounds=4)
    assert (result.winner.config, len(result.winner.costs)) == (A, 4)


def test_where_everything_is_noisy_the_lowest_median_wins_and_says_so() -> None:
    shaky = [1.0, 5.0, 1.0, 5.0] * 2
    readings = {"tuned 1": [2 * x for x in shaky], "tuned 2": shaky, VENDOR: shaky}
    result = final(FakeMeasurer(readings), [A, B], rounds=4)
    assert result.winner.config == B
    assert result.winner.verdict.startswith("noisy")


def test_the_vendor_cannot_be_the_winner() -> None:
    result = final(FakeMeasurer({"tuned 1": [2.0] * 3, VENDOR: [1.0] * 3}), [A])
    assert result.winner.config == A
    assert result.speedup(VENDOR) == 0.5


def test_everybody_takes_part_once_a_round_and_each_round_starts_elsewhere() -> None:
    labels = ["tuned 1", "tuned 2", VENDOR]
    fake = FakeMeasurer({label: [1.0] * 4 for label in labels})
    final(fake, [A, B], rounds=4)
    rounds = [fake.blocks[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(block) == sorted(labels) for block in rounds)
    assert [block[0] for block in rounds] == ["tuned 1", "tuned 2", VENDOR, "tuned 1"]


def test_kernels_are_built_once() -> None:
    fake = FakeMeasurer({"tuned 1": [1.0] * 3, "tuned 2": [1.0] * 3, VENDOR: [1.0] * 3})
    final(fake, [A, B])
    assert sorted(fake.builds) == ["tuned 1", "tuned 2"]


def test_the_default_takes_part_once_even_if_it_is_a_finalist() -> None:
    labels = ["tuned 1", DEFAULT, VENDOR]
    result = final(FakeMeasurer({label: [1.0] * 3 for label in labels}), [A, B], default=B)
    assert [(c.label, c.config) for c in result.contenders] == [
        ("tuned 1", A),
        (DEFAULT, B),
        (VENDOR, None),
    ]


def test_a_default_that_was_not_among_the_best_is_added() -> None:
    readings = {"tuned 1": [1.0] * 3, DEFAULT: [3.0] * 3, VENDOR: [2.0] * 3}
    result = final(FakeMeasurer(readings), [A], default=C)
    assert result.by_label(DEFAULT).config == C  # type: ignore[union-attr]
    assert (result.speedup(DEFAULT), result.speedup(VENDOR)) == (3.0, 2.0)


def test_ratios_are_medians_of_the_rounds_so_a_drifting_machine_cancels() -> None:
    drift = {"tuned 1": [1.0, 10.0, 2.0], VENDOR: [1.5, 15.0, 4.0]}
    result = final(FakeMeasurer(drift), [A])
    assert result.speedup(VENDOR) == pytest.approx(1.5)


def test_a_winner_that_is_the_default_is_one_times_the_default() -> None:
    readings = {"tuned 1": [2.0] * 3, DEFAULT: [1.0] * 3, VENDOR: [4.0] * 3}
    result = final(FakeMeasurer(readings), [A], default=B)
    assert result.winner.label == DEFAULT
    assert result.speedup(DEFAULT) == 1.0


def test_a_finalist_that_fails_half_way_is_dropped_and_the_others_are_built_again() -> None:
    fake = FakeMeasurer(
        {"tuned 1": [1.0] * 3, "tuned 2": [2.0] * 3, "tuned 3": [3.0] * 3, VENDOR: [4.0] * 3}
    )
    fake.breaks = lambda label: label == "tuned 1" and fake.blocks.count("tuned 1") == 1
    result = final(fake, [A, B, C])
    dropped = result.contenders[0]
    assert (dropped.costs, dropped.cost) == ([], math.inf)
    assert "had been verified failed" in dropped.failure
    assert result.winner.config == B
    assert len(result.winner.costs) == 3
    assert fake.blocks.count("tuned 1") == 1
    assert fake.builds.count("tuned 2") == 2


def test_a_finalist_that_cannot_be_built_again_says_why() -> None:
    fake = FakeMeasurer({"tuned 2": [2.0] * 3, VENDOR: [4.0] * 3})
    fake.refuses["tuned 1"] = Result.failed(FailureKind.WRONG_RESULT, "3 elements are wrong")
    result = final(fake, [A, B])
    assert result.winner.config == B
    assert result.contenders[0].failure == "wrong_result: 3 elements are wrong"
    assert fake.builds.count("tuned 1") == 1


def test_without_the_vendor_there_is_a_winner_but_no_ratio() -> None:
    fake = FakeMeasurer({"tuned 1": [2.0] * 3, VENDOR: [1.0] * 3})
    fake.breaks = lambda label: label == VENDOR and len(fake.blocks) > 2
    result = final(fake, [A])
    assert result.winner.cost == 2.0
    assert result.speedup(VENDOR) is None


def test_when_nobody_is_left_the_error_names_the_reasons() -> None:
    fake = FakeMeasurer({VENDOR: [1.0] * 3})
    fake.refuses["tuned 1"] = Result.failed(FailureKind.CRASHED, "killed by SIGSEGV")
    with pytest.raises(MeasureError, match="no finalist.*tuned 1: crashed: killed by SIGSEGV"):
        _ = final(fake, [A]).winner


def test_the_peak_is_the_highest_seen() -> None:
    result = final(FakeMeasurer({"tuned 1": [1.0] * 3, VENDOR: [1.0] * 3}), [A])
    assert result.peak_gflops == 140.0


def test_progress_is_told_before_each_round() -> None:
    fake: Any = FakeMeasurer({"tuned 1": [1.0] * 2, VENDOR: [1.0] * 2})
    told: list[tuple[int, int, int]] = []
    run_final(
        fake, "some_template", [A], None, FinalOptions(rounds=2, libraries=(VENDOR,)),
        lambda done, of: told.append((done, of, len(fake.blocks))),
    )  # fmt: skip
    assert told == [(0, 2, 0), (1, 2, 2)]


def test_a_process_is_timed_only_after_the_other_ones_threads_went_to_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("autotune.measure.local.time.sleep", pauses.append)
    monkeypatch.setattr(LocalMeasurer, "_kernel_worker", lambda self: None)
    monkeypatch.setattr(LocalMeasurer, "_vendor_worker", lambda self: None)
    monkeypatch.setattr(
        LocalMeasurer, "_ask", lambda self, *_, **__: {"costs": [1e-3], "gflops": 1.0}
    )
    for threads, pause in ((1, 0.02), (2, 0.25)):
        pauses.clear()
        with LocalMeasurer(Gemm(4, 4, 4), detect_cpu(), threads) as measurer:
            measurer.time_kept("a", 0.1)
            measurer.time_kept("b", 0.1)
            measurer.vendor_time(0.1)
            measurer.peak_gflops()
        assert pauses == [pause] * 3
