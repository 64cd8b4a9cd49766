"""Choosing a default by leaving one device out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest

from autotune.compare.held_out import Scoreboard, ScoredRun
from autotune.errors import AutotuneError

#: Device of each table: two of them are of one device.
DEVICES = {"a1": "A", "a2": "A", "b": "B", "c": "C"}
Shares = Callable[[str, str, int], tuple[float, ...]]


def flat(levels: Mapping[str, Mapping[str, float]]) -> Shares:
    """Return shares by method and first letter of the table, the same for all seeds."""
    return lambda table, entrant, seed: (levels[entrant][table[0]],) * 2


def board(shares: Shares, entrants: str = "xy", seeds: int = 4) -> Scoreboard:
    runs = [
        ScoredRun(table, entrant, seed, shares(table, entrant, seed), 1e-3 * seed)
        for table, entrant, seed in itertools.product(DEVICES, entrants, range(seeds))
    ]
    return Scoreboard(DEVICES, tuple(entrants), range(seeds), runs)


def test_two_tables_of_a_device_count_as_one() -> None:
    levels = {"x": {"a": 0.8, "b": 0.5, "c": 0.4}, "y": {"a": 0.6, "b": 0.8, "c": 0.3}}
    (fold,) = (f for f in board(flat(levels)).folds() if f.device == "C")
    # By table x would lead: (0.8 + 0.8 + 0.5) / 3 against (0.6 + 0.6 + 0.8) / 3.
    assert (fold.chosen, fold.runner_up) == ("y", "x")
    assert fold.expected == pytest.approx(0.7) and fold.margin == pytest.approx(0.05)
    assert (fold.rank, fold.best) == (2, "x")
    assert fold.score.mean == pytest.approx(0.3) and fold.regret.mean == pytest.approx(0.1)


def test_what_happens_on_the_device_held_out_does_not_decide() -> None:
    levels = {"x": {"a": 0.8, "b": 0.7, "c": 0.1}, "y": {"a": 0.6, "b": 0.6, "c": 0.9}}
    everything = board(flat(levels))
    folds = {fold.device: fold for fold in everything.folds()}
    assert everything.choose(everything.devices)[0][0] == "y"
    assert folds["C"].chosen == folds["C"].by_rank == "x"
    assert folds["C"].votes == {"x": 1.0}
    assert [folds[d].chosen for d in "AB"] == ["y", "y"]


def test_a_score_is_the_mean_over_budgets_and_a_regret_is_paired_by_seed() -> None:
    def shares(table: str, entrant: str, seed: int) -> tuple[float, ...]:
        luck = 0.1 * seed if table == "c" else 0.0
        if entrant == "x":
            return (0.2 + luck, 0.6 + luck)
        return (0.3 + luck, 0.7 + luck) if table == "c" else (0.1, 0.2)

    (fold,) = (f for f in board(shares).folds() if f.device == "C")
    assert (fold.chosen, fold.expected) == ("x", pytest.approx(0.4))
    # The luck of a seed is the same for both, so the difference has no spread; the score has.
    assert (fold.regret.low, fold.regret.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert fold.score.mean == pytest.approx(0.55)
    assert fold.score.low < 0.5 < 0.6 < fold.score.high


def test_a_close_race_shows_in_the_resamples() -> None:
    def shares(table: str, entrant: str, seed: int) -> tuple[float, ...]:
        return (0.5 + (0.11 if entrant == "xy"[seed % 2] else 0.0) + 0.01 * (entrant == "x"),)

    votes = board(shares, seeds=10).votes(["A", "B"])
    assert list(votes) == ["x", "y"] and 0.5 < votes["x"] < 0.8
    assert sum(votes.values()) == pytest.approx(1.0)
    assert votes == board(shares, seeds=10).votes(["A", "B"])


def test_the_choice_by_rank_minds_how_often_and_not_how_much() -> None:
    def shares(table: str, entrant: str, seed: int) -> tuple[float, ...]:
        worse = 0.1 if seed == 0 else 0.55
        return (worse if entrant == "x" else 0.5,)

    found = board(shares, seeds=4)
    assert found.choose(["A", "B"])[0][0] == "y" and found.choose_by_rank(["A", "B"]) == "x"
    assert found.rank("A", "x") == pytest.approx(1.25)


def test_what_a_method_costs_is_a_median_over_its_runs() -> None:
    levels = dict.fromkeys("xy", dict.fromkeys("abc", 0.5))
    assert board(flat(levels), seeds=5).seconds("x") == pytest.approx(2e-3)


def test_one_device_one_method_or_a_missing_run_is_refused() -> None:
    levels = dict.fromkeys("xy", dict.fromkeys("abc", 0.5))
    with pytest.raises(AutotuneError, match="two devices at least; there is only A"):
        Scoreboard({"a1": "A", "a2": "A"}, "xy", [0], [])
    with pytest.raises(AutotuneError, match="name two methods"):
        board(flat(levels), entrants="x")
    with pytest.raises(AutotuneError, match="no run of x on a1 with seed 0"):
        Scoreboard(DEVICES, "xy", [0], [])
