"""Every expected number here was computed by hand, from the definitions."""

from __future__ import annotations

import math

import pytest

from autotune.compare.statistics import (
    bootstrap_mean,
    friedman,
    geometric_mean,
    holm,
    ranks,
    reached,
    wilcoxon,
)


def test_the_bootstrap_of_equal_values_has_no_width() -> None:
    interval = bootstrap_mean([0.25] * 7)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_an_interval_is_shown_where_there_is_one() -> None:
    assert str(bootstrap_mean([0.25] * 7)) == "0.250 [0.250, 0.250]"
    assert str(bootstrap_mean([0.0, 1.0])) == "0.500 [0.000, 1.000]"
    assert str(bootstrap_mean([0.25])) == "0.250"
    assert str(geometric_mean([2.0])) == "2.000"


def test_the_bootstrap_of_two_values_spans_both() -> None:
    # The resampled mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    interval = bootstrap_mean([0.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_the_bootstrap_interval_is_near_the_normal_one_for_many_values() -> None:
    values = [i / 399 for i in range(400)]  # uniform: standard error 1 / sqrt(12 * 400)
    interval = bootstrap_mean(values)
    half = 1.96 / math.sqrt(12 * 400)
    assert interval.low == pytest.approx(0.5 - half, abs=0.003)
    assert interval.high == pytest.approx(0.5 + half, abs=0.003)
    assert interval == bootstrap_mean(values)


def test_the_geometric_mean_is_symmetric_in_ratios() -> None:
    interval = geometric_mean([2.0, 0.5, 4.0, 0.25])
    assert interval.mean == pytest.approx(1.0)
    assert interval.low < 1.0 < interval.high
    assert geometric_mean([2.0, 8.0]).mean == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),  # one of 2^5 sign patterns is as extreme, on each side
        ([1, 2, 3, 4, 5, -6], 2 * 14 / 64),  # 14 subsets of 1..6 have a sum of at most 6
        ([-1, -2, -3, -4, -5, -6], 2 / 64),
        ([1, 2, 3, 4, 5, 0, 0], 2 / 32),  # zeros are dropped
        ([0, 0, 0], 1.0),
    ],
)
def test_wilcoxon_is_exact_for_few_differences(differences: list[float], p: float) -> None:
    assert wilcoxon(differences) == pytest.approx(p)


def test_holm_multiplies_by_the_tests_that_remain_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.9]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []


def test_equal_scores_share_the_mean_of_their_ranks() -> None:
    assert ranks([0.9, 0.5, 0.9, 1.0]) == [2.5, 4.0, 2.5, 1.0]
    assert ranks([1.0, 1.0, 1.0]) == [2.0, 2.0, 2.0]


def test_friedman_of_three_methods_in_one_order_on_three_seeds() -> None:
    # Rank sums 9, 6, 3: 12 / (3 * 3 * 4) * (81 + 36 + 9) - 3 * 3 * 4 = 6, with 2 degrees of
    # freedom p = exp(-6 / 2).
    test = friedman([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3], [4.0, 5.0, 6.0]])
    assert test is not None
    assert test == pytest.approx((6.0, math.exp(-3.0)))


@pytest.mark.parametrize(
    "blocks", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0, 3.0]], [[1.0] * 3, [2.0] * 3], []]
)
def test_friedman_says_nothing_where_there_is_nothing_to_say(blocks: list[list[float]]) -> None:
    assert friedman(blocks) is None


def test_runs_that_never_reach_a_goal_are_censored_not_dropped() -> None:
    half = reached([10, None, 30, None, 20], 100)
    assert (half.runs, half.reached, half.median) == (5, 3, 30.0)
    assert half.restricted_mean == pytest.approx((10 + 100 + 30 + 100 + 20) / 5)
    few = reached([10, None], 50)
    assert (few.reached, few.median, few.restricted_mean) == (1, None, 30.0)
    assert reached([None], 50).median is None
