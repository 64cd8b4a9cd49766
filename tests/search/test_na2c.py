from __future__ import annotations

import itertools
import math
import random

import pytest

from autotune.errors import AutotuneError
from autotune.search import (
    Categorical,
    Config,
    ConfigSpace,
    Constraint,
    Factorization,
    Ordinal,
    Permutation,
    create_searcher,
)
from autotune.search.actor_critic import ActorCritic, Batch, Loss
from autotune.search.moves import MoveGraph, all_moves, log_features, ratio_features
from autotune.search.na2c import NA2C
from autotune.search.na2c_learning import Transition
from autotune.trial import FailureKind, Result

FITS = Constraint("the tile fits", lambda c: c["m"][3] * c["n"][3] <= 4)  # type: ignore[index]


def paper_space(*constraints: Constraint, extent: int = 512) -> ConfigSpace:
    parts = {"m": 4, "k": 2, "n": 4}
    parameters = [Factorization(name, extent, p) for name, p in parts.items()]
    return ConfigSpace("paper", parameters, constraints)


def mixed_space() -> ConfigSpace:
    parameters = [
        Factorization("m", 360, 3),
        Ordinal("u", (0, 16, 64)),
        Categorical("p", ("a", "b", "c")),
        Permutation("o", ("x", "y", "z")),
        Factorization("one", 1, 3),
        Categorical("only", ("this",)),
    ]
    return ConfigSpace("mixed", parameters)


def line(length: int = 9) -> ConfigSpace:
    return ConfigSpace("line", [Ordinal("x", tuple(range(length)))])


def measure(space: ConfigSpace, config: Config) -> Result:
    if not space.is_legal(config):
        return Result.failed(FailureKind.ILLEGAL, "too big")
    return Result((1e-3 * (1 + sum((x - 3.0) ** 2 for x in space.encode(config))),))


def tell_all(searcher: NA2C, configs: list[Config]) -> None:
    for config in configs:
        searcher.tell(config, measure(searcher.space, config))


def make(space: ConfigSpace, preset: str = "default", seed: int = 0, **options: object) -> NA2C:
    searcher = create_searcher("na2c", space, seed, preset, **options)
    assert isinstance(searcher, NA2C)
    return searcher


# ---- moves --------------------------------------------------------------------------------------


def test_moves_are_those_of_the_papers_spaces() -> None:
    assert len(all_moves(paper_space())) == 12 + 2 + 12
    opevo = [Factorization("x", 512, 4), Factorization("y", 1024, 4), Factorization("k", 1024, 3)]
    assert len(all_moves(ConfigSpace("mm1", opevo))) == 30


def test_the_moves_that_apply_are_exactly_the_neighbors() -> None:
    space, rng = mixed_space(), random.Random(0)
    moves = all_moves(space)
    for _ in range(50):
        config = space.sample(rng)
        ends = [end for move in moves if (end := move.apply(config)) is not None]
        assert len(set(ends)) == len(ends)
        assert set(ends) == set(space.neighbors(config))


def test_tiles_stay_whole_numbers() -> None:
    space, rng = paper_space(extent=360), random.Random(0)
    config = space.origin()
    moves = all_moves(space)
    for _ in range(500):
        config = rng.choice(moves).apply(config) or config
        assert all(type(part) is int for value in config.values() for part in value)  # type: ignore[union-attr]
        assert config in space


@pytest.mark.parametrize("encode", [log_features, ratio_features])
def test_features_are_of_one_length_bounded_and_different_for_different_configs(encode) -> None:  # type: ignore[no-untyped-def]
    space, rng = mixed_space(), random.Random(0)
    configs = {space.sample(rng) for _ in range(300)}
    vectors = [tuple(encode(space, config)) for config in configs]
    assert {len(vector) for vector in vectors} == {len(space.encode(space.origin()))}
    assert all(-0.5 <= x <= 1.0 for vector in vectors for x in vector)
    assert len(set(vectors)) == len(configs)


def test_the_ratio_features_are_those_of_nni() -> None:
    space = ConfigSpace("k", [Factorization("k", 8, 2)])
    assert ratio_features(space, Config({"k": (2, 4)})) == [-0.25, 0.0]
    assert log_features(space, Config({"k": (2, 4)})) == pytest.approx([1 / 3 - 0.5, 2 / 3 - 0.5])


def test_masked_graphs_lead_nowhere_illegal() -> None:
    space = paper_space(FITS)
    edge = Config({"m": (128, 1, 1, 4), "k": (512, 1), "n": (512, 1, 1, 1)})
    masked = MoveGraph(space, legal=True, features="log").ends(edge)
    free = MoveGraph(space, legal=False, features="log").ends(edge)
    assert {end for end in masked if end} == set(space.neighbors(edge, legal=True))
    assert {end for end in free if end} == set(space.neighbors(edge, legal=False))
    assert set(masked) < set(free)


# ---- the network --------------------------------------------------------------------------------

STATE = [0.2, -0.4]
FREE = [True, True, True]


def network(hidden: int = 16, actions: int = 3) -> ActorCritic:
    return ActorCritic(2, actions, hidden=hidden, learning_rate=1e-2, seed=3)


def one(action: int, reward: float) -> Batch:
    return Batch([STATE], [FREE], [action], [reward], [STATE])


PLAIN = Loss(gamma=0.0, entropy=0.0)


@pytest.mark.parametrize("action", range(3))
def test_an_action_better_than_expected_becomes_more_likely_and_a_worse_one_less(
    action: int,
) -> None:
    for reward, sign in ((5.0, 1), (-5.0, -1)):
        net = network()
        before = net.policy([STATE], [FREE])[0][action]
        net.update(one(action, reward), PLAIN)
        assert sign * (net.policy([STATE], [FREE])[0][action] - before) > 0


def test_the_inverted_sign_makes_good_actions_less_likely() -> None:
    net = network()
    before = net.policy([STATE], [FREE])[0][1]
    net.update(one(1, 5.0), Loss(gamma=0.0, entropy=0.0, actor_sign=-1.0))
    assert net.policy([STATE], [FREE])[0][1] < before


def test_the_better_of_two_actions_wins() -> None:
    net = network()
    batch = Batch([STATE] * 2, [FREE] * 2, [0, 2], [0.1, 0.9], [STATE] * 2)
    for _ in range(100):
        net.update(batch, PLAIN)
    probabilities = net.policy([STATE], [FREE])[0]
    assert probabilities[2] > 0.8


def test_the_critic_learns_reward_plus_discounted_value() -> None:
    net = network()
    goal = [-0.5, 0.5]
    for _ in range(600):  # goal is worth 1 for ever, so 1 / (1 - gamma)
        net.update(
            Batch([STATE, goal], [FREE] * 2, [0, 1], [0.0, 1.0], [goal, goal]),
            Loss(gamma=0.5, entropy=0.0),
        )
    assert net.values([STATE, goal]) == pytest.approx([1.0, 2.0], abs=0.05)


def test_a_detached_advantage_keeps_the_actors_loss_out_of_the_critic() -> None:
    heads = {}
    for detach, sign in itertools.product((True, False), (1.0, -1.0)):
        net = network()
        net.update(one(1, 5.0), Loss(0.0, 0.0, sign, detach))
        # The first moment after one step is the gradient, up to a factor.
        heads[detach, sign] = net._adam.state[net._critic[0]]["exp_avg"]
    assert heads[True, 1.0].equal(heads[True, -1.0])
    assert not heads[False, 1.0].equal(heads[False, -1.0])


def test_the_policy_is_a_distribution_for_each_state_and_zero_where_masked() -> None:
    net = network()
    masks = [[True, False, True], [False, False, True]]
    rows = net.policy([STATE, [9.0, 9.0]], masks)
    assert [sum(row) for row in rows] == pytest.approx([1.0, 1.0])
    assert [[p > 0 for p in row] for row in rows] == masks


def test_masked_actions_do_not_poison_an_update_with_entropy() -> None:
    net = network()
    batch = Batch([STATE], [[True, False, False]], [0], [1.0], [STATE])
    net.update(batch, Loss(gamma=0.9, entropy=1.0))
    assert all(math.isfinite(p) for p in net.policy([STATE], [FREE])[0])


def test_entropy_evens_the_policy_out() -> None:
    net = network()
    for _ in range(100):
        net.update(one(1, 0.0), Loss(gamma=0.0, entropy=1.0))
    assert max(net.policy([STATE], [FREE])[0]) < 0.36


def test_the_width_is_the_one_asked_for() -> None:
    assert network(hidden=7)._trunk[0].shape == (7, 2)


def test_torchs_global_state_is_left_alone() -> None:
    import torch

    torch.manual_seed(5)
    expected, threads = torch.rand(3).tolist(), torch.get_num_threads()
    torch.manual_seed(5)
    searcher = make(paper_space())
    for _ in range(4):
        tell_all(searcher, searcher.ask(8))
    assert torch.rand(3).tolist() == expected
    assert torch.get_num_threads() == threads


# ---- the search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", NA2C.presets)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_results_in_any_order_are_credited_to_the_move_that_led_there(
    preset: str, order: int
) -> None:
    space, rng = paper_space(), random.Random(order)
    searcher = make(space, preset, train=False)
    learner, moves = searcher.learner, searcher.graph.moves
    tell_all(searcher, searcher.ask(5))
    batch = searcher.ask(6)
    walked = {config: learner.waiting[config] for config in batch if config in learner.waiting}
    assert walked
    rng.shuffle(batch)
    for config in batch:
        before = len(learner.memory)
        tell_all(searcher, [config])
        if config not in walked:
            assert len(learner.memory) == before
            continue
        transition = learner.memory[-1]
        assert transition == walked[config]
        assert moves[transition.action].apply(transition.state) == transition.reached == config


def test_each_reward_is_that_of_its_own_result() -> None:
    searcher = make(line(), "paper", reward="throughput")
    configs = [Config({"x": x}) for x in range(4)]
    for config, cost in zip(configs[:3], (4.0, 2.0, 1.0), strict=True):
        searcher.tell(config, Result((cost,)))
    searcher.tell(configs[3], Result.failed(FailureKind.CRASHED, "x"))
    steps = [Transition(configs[0], 1, config) for config in configs]
    assert [searcher.learner.reward(step) for step in steps] == [0.25, 0.5, 1.0, 0.0]
    searcher = make(line(), "paper")  # in units of the best so far
    for config, cost in zip(configs[:3], (4.0, 2.0, 1.0), strict=True):
        searcher.tell(config, Result((cost,)))
    assert [searcher.learner.reward(step) for step in steps[:3]] == [0.25, 0.5, 1.0]


def test_the_gain_is_positive_for_an_improvement_and_bounded_whatever_the_scale() -> None:
    for scale in (1e-9, 1.0, 1e9):
        searcher = make(line())
        configs = [Config({"x": x}) for x in range(4)]
        for config, cost in zip(configs[:3], (4.0, 2.0, 1.0), strict=True):
            searcher.tell(config, Result((scale * cost,)))
        searcher.tell(configs[3], Result.failed(FailureKind.CRASHED, "x"))
        reward = searcher.learner.reward
        assert reward(Transition(configs[0], 1, configs[2])) == pytest.approx(2 / 3)
        assert reward(Transition(configs[2], 0, configs[0])) == pytest.approx(-2 / 3)
        assert reward(Transition(configs[2], 1, configs[3])) == pytest.approx(-1.0)
        assert reward(Transition(configs[3], 0, configs[2])) == pytest.approx(1.0)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_unit_of_time_does_not_matter(preset: str) -> None:
    runs = []
    for scale in (1.0, 2.0**20):
        searcher = make(paper_space(), preset)
        while len(searcher.results) < 60:
            for config in searcher.ask(6):
                cost = measure(searcher.space, config).cost
                searcher.tell(config, Result((scale * cost,)))
        runs.append(list(searcher.results))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("preset", NA2C.presets)
def test_walks_start_at_the_incumbent_and_it_moves(preset: str) -> None:
    space = paper_space()
    searcher = make(space, preset)
    incumbents = set()
    while len(searcher.results) < 90:
        batch = searcher.ask(6)
        if searcher.best is not None:
            incumbents.add(searcher.best[0])
            assert searcher._centers[0][-1] == searcher.best[0]
        tell_all(searcher, batch)
    assert len(incumbents) > 3


def test_the_paper_starts_untiled_and_stays_within_t_moves_of_the_best() -> None:
    space = paper_space()
    searcher = make(space, "paper")
    assert searcher.ask(6) == [space.origin()]
    tell_all(searcher, [space.origin()])
    for _ in range(6):
        assert searcher.best is not None
        near = space.to_networkx(searcher.best[0], 3)
        batch = searcher.ask(20)
        assert 6 <= len(batch) <= 8  # the last walk is not cut short
        assert all(config.key in near for config in batch)
        tell_all(searcher, batch)


def test_the_paper_hands_out_one_collection_in_pieces_and_waits_for_all_of_it() -> None:
    searcher = make(paper_space(), "paper")
    tell_all(searcher, searcher.ask(1))
    first = searcher.ask(4)
    rest = searcher.ask(20)
    assert 6 <= len(first + rest) <= 8
    for config in first + rest:
        assert searcher.ask(1) == []
        assert not searcher.exhausted
        tell_all(searcher, [config])
    assert searcher.ask(1) != []


def test_only_presets_that_say_so_measure_illegal_configs() -> None:
    for preset, counts in (("default", False), ("paper", True), ("nni", True)):
        space = paper_space(FITS)
        searcher = make(space, preset)
        while len(searcher.results) < 120:
            tell_all(searcher, searcher.ask(6))
        assert any(not space.is_legal(c) for c in searcher.results) == counts


@pytest.mark.parametrize("preset", NA2C.presets)
def test_an_exhausted_neighborhood_is_left(preset: str) -> None:
    space = line(40)
    searcher = make(space, preset)
    center = Config({"x": 20})
    searcher.warm_start([(center, Result((1e-9,)))])
    for x in [*range(8, 20), *range(21, 33)]:
        searcher.tell(Config({"x": x}), Result((1.0,)))
    while batch := searcher.ask(4):
        for config in batch:
            searcher.tell(config, Result((1.0,)))
    assert len(searcher.results) == space.size
    assert searcher.exhausted


def test_walks_grow_while_nothing_improves_and_shrink_when_something_does() -> None:
    searcher = make(paper_space(), patience=10, max_steps=4)
    rng, lengths = random.Random(0), []
    for number in range(60):
        searcher.tell(searcher.space.sample(rng), Result((1.0 + number,)))
        lengths.append(searcher._radius())
    assert lengths[0] == 1
    assert lengths == sorted(lengths)
    assert lengths[-1] == 4
    searcher.tell(searcher.space.sample(rng), Result((0.5,)))
    assert searcher._radius() == 1


def test_the_actor_comes_to_favour_the_move_that_pays_and_a_frozen_one_does_not() -> None:
    space = ConfigSpace("slope", [Ordinal(name, tuple(range(50))) for name in "abcdef"])
    middle = Config(dict.fromkeys("abcdef", 20))
    raised = {}
    for preset in ("default", "frozen-actor"):
        searcher = make(space, preset, random_starts=0)
        up = [(m.parameter.name, m.detail) for m in searcher.graph.moves].index(("c", (1,)))
        searcher.warm_start([(middle, Result((1.0,)))])
        before = searcher.learner.policy(middle, [True] * 12)[up]
        while len(searcher.results) < 120:
            for config in searcher.ask(4):
                searcher.tell(config, Result((1.0 / (1 + config["c"]),)))  # type: ignore[operator]
        raised[preset] = searcher.learner.policy(middle, [True] * 12)[up] / before
    assert raised["frozen-actor"] == 1.0
    assert raised["default"] > 1.5


def test_nni_learns_once_from_each_batch_and_forgets_it() -> None:
    searcher = make(paper_space(), "nni")
    tell_all(searcher, searcher.ask(1))
    sizes = []
    searcher.learner.net.update = lambda batch, loss: sizes.append((len(batch.actions), loss))  # type: ignore
    for _ in range(4):
        tell_all(searcher, searcher.ask(20))
    assert len(sizes) == 3  # the last batch waits for the next ask
    assert all(6 <= size <= 8 for size, _ in sizes)
    assert sizes[0][1] == Loss(gamma=0.0, entropy=0.0, actor_sign=-1.0, detach=False)
    assert 6 <= len(searcher.learner.memory) <= 8


def test_a_raw_reward_of_thousands_leaves_the_nni_preset_running() -> None:
    searcher = make(paper_space(), "nni")
    while len(searcher.results) < 60:
        for config in searcher.ask(6):
            cost = 1e-9 * measure(searcher.space, config).cost
            searcher.tell(config, Result((cost,)))
    probabilities = searcher.learner.policy(searcher.space.origin(), [True] * 26)
    assert all(math.isfinite(p) for p in probabilities)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"max_steps": 0},
        {"centers": 0},
        {"epsilon": 1.5},
        {"gamma": -0.1},
        {"learning_rate": 0.0},
        {"entropy": -1.0},
        {"actor_sign": 0.5},
        {"reward": "raw"},
        {"features": "raw"},
        {"memory": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(AutotuneError, match=next(iter(options))):
        make(paper_space(), **options)
