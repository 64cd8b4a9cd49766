from __future__ import annotations

import math

import pytest

from autotune.compare import Campaign, Entrant, Protocol, Trace, summarise
from autotune.compare.campaign import Problem
from autotune.compare.run import Step
from autotune.compare.summary import Summary, checkpoints_of
from autotune.errors import AutotuneError

INF = math.inf


def trace(entrant: str, seed: int, named: list[float], **more: object) -> Trace:
    steps = tuple(Step(f"{i}", cost, cost) for i, cost in enumerate(named))
    return Trace("p", entrant, seed, steps, **more)  # type: ignore[arg-type]


def campaign(
    runs: dict[str, list[list[float]]], optimum: float | None = 1.0, **errors: str
) -> Campaign:
    traces = [
        trace(name, seed, named, error=errors.get(f"{name}{seed}", ""), overhead=0.5)
        for name, many in runs.items()
        for seed, named in enumerate(many)
    ]
    seeds = tuple(range(max(len(many) for many in runs.values())))
    return Campaign(
        Protocol(5, seeds),
        tuple(Entrant(name) for name in runs),
        (Problem("p", 100, 50, optimum),),
        tuple(traces),
    )


#: Named costs after 1..5 trials: two methods, two seeds.
RUNS = {
    "a": [[INF, 4.0, 2.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0, 1.25]],
    "b": [[4.0, 4.0, 4.0, 4.0, 2.0], [1.25, 1.25, 1.25, 1.25, 1.25]],
}


def standings(summary: Summary):  # type: ignore[no-untyped-def]
    return {standing.entrant: standing for standing in summary.problems[0].standings}


def test_the_score_is_the_fraction_of_the_optimum() -> None:
    of = standings(summarise(campaign(RUNS)))
    assert of["a"].score[5].mean == pytest.approx((1.0 + 0.8) / 2)
    assert of["b"].score[5].mean == pytest.approx((0.5 + 0.8) / 2)
    assert (of["a"].score[5].low, of["a"].score[5].high) == (0.8, 1.0)


def test_the_area_counts_trials_before_the_first_success_as_nothing() -> None:
    of = standings(summarise(campaign(RUNS)))
    first = (0 + 0.25 + 0.5 + 1 + 1) / 5
    second = (0.5 * 4 + 0.8) / 5
    assert of["a"].auc.mean == pytest.approx((first + second) / 2)


def test_trials_to_a_goal_are_censored_at_the_budget() -> None:
    goal = standings(summarise(campaign(RUNS)))["a"].goals[0.95]
    assert (goal.runs, goal.reached, goal.median, goal.restricted_mean) == (2, 1, None, 4.5)


def test_ranks_share_ties() -> None:
    of = standings(summarise(campaign(RUNS)))
    assert of["a"].rank[5] == pytest.approx((1 + 1.5) / 2)
    assert of["b"].rank[5] == pytest.approx((2 + 1.5) / 2)


def test_a_method_is_compared_with_the_baseline_seed_by_seed() -> None:
    (duel,) = standings(summarise(campaign(RUNS), ["b"]))["a"].versus
    assert (duel.baseline, duel.trials, duel.wins, duel.ties, duel.losses) == ("b", 5, 1, 1, 0)
    assert duel.cost_ratio.mean == pytest.approx(math.sqrt(0.5 * 1.0))
    assert duel.p == duel.p_holm == 1.0  # one difference that is not zero says nothing


def test_p_values_are_corrected_over_all_tests_against_a_baseline() -> None:
    better = [[1.0 + i / 100] * 5 for i in range(6)]
    worse = [[2.0 + i / 10] * 5 for i in range(6)]
    of = standings(summarise(campaign({"base": worse, "x": better, "y": better}), ["base"]))
    for name in "xy":
        (duel,) = of[name].versus
        assert duel.p == pytest.approx(2 / 64)
        assert duel.p_holm == pytest.approx(4 / 64)
    assert of["base"].versus == ()


def test_without_a_success_there_is_no_ratio_but_a_loss() -> None:
    of = standings(summarise(campaign({"a": [[INF] * 5, [2.0] * 5], "b": [[2.0] * 5] * 2}), ["b"]))
    (duel,) = of["a"].versus
    assert duel.cost_ratio is None
    assert (duel.wins, duel.ties, duel.losses) == (0, 1, 1)
    assert of["a"].score[5].mean == 0.25


def test_a_run_that_raised_is_reported_and_left_out() -> None:
    three = {**RUNS, "c": [[4.0] * 5, [1.0] * 5]}
    summary = summarise(campaign(three, c1="Boom: no"), ["b"])
    of = standings(summary)
    assert of["c"].errors == ("seed 1: Boom: no",)
    assert (of["c"].runs, of["c"].score[5].mean, of["c"].rank) == (1, 0.25, {})
    assert set(summary.overall_rank) == {"a", "b"}
    assert of["a"].rank[5] == 1.25
    assert [duel.losses for duel in of["c"].versus] == [1]  # on the one seed that it finished


def test_a_method_that_always_raises_has_no_figures() -> None:
    summary = summarise(campaign({**RUNS, "c": [[], []]}, c0="Boom", c1="Boom"), ["b"])
    broken = standings(summary)["c"]
    assert (broken.runs, broken.score, broken.auc, broken.versus) == (0, {}, None, ())
    assert len(broken.errors) == 2


def test_where_the_optimum_is_unknown_the_best_named_config_is_the_reference() -> None:
    summary = summarise(campaign(RUNS, optimum=None))
    assert summary.problems[0].reference == 1.0
    slower = {"a": RUNS["b"], "b": RUNS["b"]}
    assert summarise(campaign(slower, optimum=None)).problems[0].reference == 1.25


def test_overhead_is_per_proposal() -> None:
    assert standings(summarise(campaign(RUNS)))["a"].overhead == pytest.approx(0.1)


def test_checkpoints_end_with_the_budget() -> None:
    assert checkpoints_of(200) == (20, 50, 100, 200)
    assert checkpoints_of(60) == (20, 50, 60)
    assert checkpoints_of(5) == (5,)
    assert checkpoints_of(900) == (20, 50, 100, 200, 900)


def test_a_baseline_that_does_not_take_part_is_refused() -> None:
    with pytest.raises(AutotuneError, match=r"'xgb' is not compared; add it .*\(a, b\)"):
        summarise(campaign(RUNS), ["xgb"])


def test_all_trials_failing_is_an_error_with_the_first_message() -> None:
    runs = {"a": [[INF] * 5], "b": [[]]}
    with pytest.raises(AutotuneError, match="no run on p found .*; first error: Boom: no"):
        summarise(campaign(runs, optimum=None, b0="Boom: no"))
