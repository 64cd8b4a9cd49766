from __future__ import annotations

import math
import random

import numpy as np
import pytest

from autotune.errors import AutotuneError
from autotune.search import Config, ConfigSpace, Constraint, Factorization, Ordinal, create_searcher
from autotune.search.annealing import Annealer, graph_move, random_knob_move
from autotune.search.boosting import LOSSES, BoostedTrees, average_recall
from autotune.search.features import Features
from autotune.search.parameters import Categorical
from autotune.search.xgb import XGBSearch
from autotune.trial import FailureKind, Result


def tiles() -> ConfigSpace:
    """Every other tile is illegal; cost falls towards square tiles of 32."""
    parameters = [
        Factorization("m", 256, 3),
        Factorization("n", 256, 3),
        Ordinal("unroll", (0, 1, 2, 3)),
        Categorical("order", ("ab", "ba")),
    ]
    return ConfigSpace("tiles", parameters, [Constraint("fits", lambda c: area(c) <= 4096)])


def area(config: Config) -> int:
    return int(config["m"][2]) * int(config["n"][2])  # type: ignore[index,call-overload]


def seconds(config: Config) -> float:
    m, n = (math.log2(config[name][2]) for name in ("m", "n"))  # type: ignore[index]
    bowl = (m - 5.0) ** 2 + (n - 5.0) ** 2 + 0.3 * (3 - config["unroll"])  # type: ignore[operator]
    return 1e-3 * (1.0 + bowl + (config["order"] == "ba"))


def search(seed: int, budget: int, preset: str = "default", **options: object) -> XGBSearch:
    searcher = create_searcher("xgb", tiles(), seed, preset, **options)
    assert isinstance(searcher, XGBSearch)
    advance(searcher, budget)
    return searcher


def advance(searcher: XGBSearch, budget: int) -> list[Config]:
    asked = []
    for _ in range(budget):
        (config,) = searcher.ask(1)
        asked.append(config)
        legal = searcher.space.is_legal(config)
        failure = Result.failed(FailureKind.ILLEGAL, "does not fit")
        searcher.tell(config, Result((seconds(config),)) if legal else failure)
    return asked


def test_the_paper_preset_has_autotvms_constants() -> None:
    options = create_searcher("xgb", tiles(), 0, "paper").options
    assert (options.plan, options.warmup, options.epsilon) == (64, 64, 0.05)
    assert (options.chains, options.iterations, options.patience) == (128, 500, 50)
    assert (options.loss, options.features, options.graph_moves) == ("rank", "knob", False)
    assert not options.filter_illegal


def test_the_first_plan_is_random_and_the_model_is_fitted_every_64_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits: list[int] = []
    fit = BoostedTrees.fit

    def spy(self: BoostedTrees, features: np.ndarray, fitness: np.ndarray) -> None:  # type: ignore[type-arg]
        fits.append(len(features))
        fit(self, features, fitness)

    monkeypatch.setattr(BoostedTrees, "fit", spy)
    short = {"chains": 8, "iterations": 5}
    one = search(3, 193, "paper", **short)
    assert fits == [64, 128, 192]
    other = create_searcher("random", tiles(), 3)
    legal = [config for config in list(one.results)[:64] if tiles().is_legal(config)]
    assert [c for c in other.ask(64) if c in legal] == legal  # the same draws, the illegal left out


def test_the_last_three_of_a_plan_of_64_are_random() -> None:
    searcher = search(0, 64, "published", drop_negative=False)
    searcher.tell(searcher.ask(1)[0], Result((1.0,)))
    assert len(searcher._plan) == 63
    for config in searcher.ask(60):
        searcher.tell(config, Result((1.0,)))
    assert len(searcher._plan) == 3
    planned = set(searcher._plan)
    assert not planned & set(searcher.ask(3))


def test_what_scores_below_zero_gives_its_place_to_random_configs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in the original, where the margins of a ranking may all be negative: a bug, but AutoTVM's.
    def below(self: BoostedTrees, features: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.full(len(features), -0.5, dtype=np.float32)

    monkeypatch.setattr(BoostedTrees, "predict", below)
    planned = {}
    for drop in (True, False):
        searcher = search(0, 64, "published", drop_negative=drop, iterations=5)
        searcher.ask(1)
        planned[drop] = len(searcher._plan)
    assert planned == {True: 0, False: 63}
    assert create_searcher("xgb", tiles(), 0, "paper").options.drop_negative
    assert not create_searcher("xgb", tiles(), 0).options.drop_negative


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_fitted_model_finds_better_configs_than_random_draws(preset: str) -> None:
    wins = 0
    for seed in range(6):
        searcher = create_searcher("xgb", tiles(), seed, preset)
        assert isinstance(searcher, XGBSearch)
        advance(searcher, 64)
        first = [seconds(c) for c in create_searcher("random", tiles(), seed).ask(100)]
        second = [seconds(c) for c in advance(searcher, 50)]
        wins += float(np.median(second)) < float(np.quantile(first, 0.25))
    assert wins == 6


def test_failures_teach_the_model_what_to_avoid() -> None:
    space = tiles()
    rng = random.Random(1)
    searcher = create_searcher("xgb", space, 1)
    for _ in range(60):
        config = space.sample(rng)
        bad = config["unroll"] in (2, 3)
        crash = Result.failed(FailureKind.CRASHED, "made up")
        searcher.tell(config, crash if bad else Result((seconds(config),)))
    asked = searcher.ask(6)
    assert sum(config["unroll"] in (0, 1) for config in asked) >= 5


@pytest.mark.parametrize("loss", LOSSES)
def test_both_losses_train_and_rank(loss: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((120, 4)).astype(np.float32)
    fitness = features[:, 0] * (features[:, 1] > 0.5)  # zeros are failures
    model = BoostedTrees(loss, top=64, seed=1)
    model.fit(features[:80], fitness[:80])
    scores = model.predict(features[80:])
    assert np.corrcoef(scores, fitness[80:])[0, 1] > 0.8
    again = BoostedTrees(loss, top=64, seed=1)
    again.fit(features[:80], fitness[:80])
    assert (again.predict(features) == model.predict(features)).all()


def test_average_recall_is_the_mean_overlap_of_the_best_n() -> None:
    labels = np.array([4.0, 3.0, 2.0, 1.0])
    assert average_recall(labels, labels, 64) == 1.0
    # predicted order b, a, d, c: overlaps 0/1, 2/2, 2/3, 4/4
    assert average_recall(np.array([3.0, 4.0, 1.0, 2.0]), labels, 4) == pytest.approx(
        (0 + 1 + 2 / 3 + 1) / 4
    )


def test_features_have_one_length_and_contain_products_and_ratios() -> None:
    space = ConfigSpace(
        "s",
        [
            Factorization("m", 8, 2),
            Ordinal("v", (1, 2, 4)),
            Ordinal("u", (0, 3)),
            Categorical("c", ("x", "y")),
            Ordinal("fixed", (32,)),
        ],
    )
    config = Config({"m": (2, 4), "v": 4, "u": 3, "c": "y", "fixed": 32})
    knob, analytic = (Features(space, analytic=a)([config])[0].tolist() for a in (False, True))
    assert knob == [1, 2, 2, 1, 0, 1]
    assert analytic[:6] == [1, 2, 2, 2, 0, 1]  # log2, of one more where zero is a value
    sums, differences = [3, 3, 3, 4, 4, 4], [-1, -1, -1, 0, 0, 0]
    assert analytic[6:] == sums + differences
    everything = list(space)
    assert Features(space, analytic=True)(everything).shape == (space.size, 18)


def test_annealing_finds_the_best_unseen_configs_of_a_model() -> None:
    space = tiles()
    ranked = sorted((c for c in space if space.is_legal(c)), key=seconds)
    annealer = Annealer(space, random.Random(0), chains=32, iterations=200, patience=50, graph=True)
    found = annealer.maximize(
        lambda points: np.array([-1e3 * seconds(p) for p in points], dtype=np.float32),
        8,
        skip=lambda config: config == ranked[0],
        start=ranked[500:504],
    )
    scores = [score for score, _ in found]
    assert scores == sorted(scores, reverse=True)
    assert ranked[0] not in [config for _, config in found]
    assert seconds(found[0][1]) == seconds(ranked[1])


def test_moves_change_one_parameter() -> None:
    space, rng = tiles(), random.Random(2)
    jumps = set()
    for _ in range(200):
        config = space.sample(rng)
        jumped, walked = random_knob_move(space, config, rng), graph_move(space, config, rng)
        assert sum(jumped[name] != config[name] for name in config) == 1
        assert walked == config or walked in set(space.neighbors(config))
        jumps.add(jumped in set(space.neighbors(config, legal=False)))
    assert jumps == {True, False}
    point = ConfigSpace("point", [Ordinal("u", (1,))])
    assert random_knob_move(point, point.origin(), rng) == point.origin()
    assert graph_move(point, point.origin(), rng) == point.origin()


def test_bad_options_are_refused() -> None:
    for option, value in (("plan", 0), ("epsilon", 1.5), ("loss", "mse"), ("features", "all")):
        with pytest.raises(AutotuneError, match=option):
            create_searcher("xgb", tiles(), 0, **{option: value})
