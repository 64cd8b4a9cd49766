"""Readings that no clock can mean never become costs."""

from __future__ import annotations

import math

import pytest

from autotune.measure.worker import Failure, _checked
from autotune.trial import FailureKind


@pytest.mark.parametrize("bad", [0.0, -1e-6, math.nan, math.inf, -math.inf])
def test_a_timer_that_returns_nonsense_fails_the_candidate(bad: float) -> None:
    with pytest.raises(Failure, match="the timer returned") as caught:
        _checked([1e-3, bad])
    assert caught.value.kind is FailureKind.RUN_ERROR


def test_plausible_readings_pass_unchanged() -> None:
    assert _checked([1e-9, 2.0]) == [1e-9, 2.0]
