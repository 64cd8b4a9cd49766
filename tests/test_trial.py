"""A result has costs or a failure, and no nonsensical reading can become the best."""

from __future__ import annotations

import math

import pytest

from autotune.trial import FailureKind, Result


@pytest.mark.parametrize("bad", [0.0, -0.0, -1e-9, math.nan, math.inf, -math.inf])
def test_costs_that_no_timer_can_mean_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="positive finite seconds"):
        Result((1e-3, bad))


def test_a_result_has_either_costs_or_a_failure() -> None:
    with pytest.raises(ValueError, match="either"):
        Result()
    with pytest.raises(ValueError, match="either"):
        Result((1e-3,), FailureKind.NOISY, "both")


def test_the_cost_is_the_median_so_one_slow_reading_does_not_count() -> None:
    assert Result((2e-3, 1.0, 1e-3)).cost == 2e-3
    assert Result((2e-3,)).ok


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_is_worse_than_every_cost(kind: FailureKind) -> None:
    failed = Result.failed(kind, "why", {"build": 0.5})
    assert not failed.ok and failed.cost == math.inf > Result((1e9,)).cost
    assert failed.message == "why" and failed.phases == {"build": 0.5}


def test_the_words_of_the_log_are_these() -> None:
    # Logs hold these words; a renamed one would make old records unreadable.
    assert [kind.value for kind in FailureKind] == [
        "illegal", "schedule_error", "compile_error", "compile_timeout", "run_error",
        "run_timeout", "crashed", "wrong_result", "noisy",
    ]  # fmt: skip
