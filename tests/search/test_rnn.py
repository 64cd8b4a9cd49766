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
    Parameter,
    Permutation,
    create_searcher,
)
from autotune.search.rnn import RnnController
from autotune.search.rnn_net import LISTED, Controller, Decisions
from autotune.trial import FailureKind, Result

BIG = Factorization("m", 2**10 * 3**2, 6)


def make(
    space: ConfigSpace, preset: str = "default", seed: int = 0, **options: object
) -> RnnController:
    searcher = create_searcher("rnn", space, seed, preset, **options)
    assert isinstance(searcher, RnnController)
    return searcher


def mixed_space() -> ConfigSpace:
    parameters = [
        BIG,
        Permutation("o", tuple("abcdefg")),
        Factorization("k", 8, 2),
        Categorical("p", ("x", "y")),
        Ordinal("only", (1,)),
    ]
    return ConfigSpace("mixed", parameters)


def controller(space: ConfigSpace, seed: int = 0) -> Controller:
    return Controller(space, hidden=16, learning_rate=1e-2, seed=seed)


def sequences(decisions: Decisions) -> list[list[int]]:
    """Every sequence of choices that keeps to the room there is."""
    found: list[list[int]] = [[]]
    for place in range(len(decisions.widths)):
        found = [[*s, c] for s in found for c in range(decisions.room(place, s))]
    return found


@pytest.mark.parametrize(
    "parameter",
    [
        Factorization("m", 12, 3),
        Factorization("prime", 197, 2),
        Factorization("m", 2**8 * 3**2, 5),  # taken apart
        Permutation("o", tuple("abcdefg")),  # taken apart
        Ordinal("u", (0, 16, 64)),
    ],
    ids=str,
)
def test_choices_and_values_are_one_to_one(parameter: Parameter) -> None:
    decisions = Decisions.of(parameter)
    assert bool(decisions.listed) == (parameter.size <= LISTED)
    values = [decisions.value(sequence) for sequence in sequences(decisions)]
    assert len(values) == parameter.size
    assert set(values) == set(parameter.values())


def test_a_huge_factorization_needs_few_outputs() -> None:
    huge = Factorization("m", 2**30, 6)
    assert huge.size > 300_000
    assert Decisions.of(huge).widths == (31,) * 5


def test_samples_are_configs_and_their_probabilities_add_up() -> None:
    space = mixed_space()
    net = controller(space)
    for tokens in net.sample(50):
        assert net.config(tokens) in space
    small = ConfigSpace("small", [Factorization("k", 8, 2), Categorical("p", ("x", "y", "z"))])
    net = controller(small)
    every = list(itertools.product(range(4), range(3)))
    assert sum(math.exp(net.log_probability(s)) for s in every) == pytest.approx(1.0, abs=1e-5)


def test_later_choices_depend_on_earlier_ones() -> None:
    space = ConfigSpace("pair", [Ordinal("a", (0, 1)), Ordinal("b", (0, 1))])
    net = controller(space)
    for _ in range(150):  # a and b should agree
        net.update(list(map(list, itertools.product((0, 1), (0, 1)))), [1.0, -1.0, -1.0, 1.0], 0.3)
    law = {s: math.exp(net.log_probability(s)) for s in itertools.product((0, 1), (0, 1))}
    assert law[0, 0] > 0.25
    assert law[1, 1] > 0.25
    assert law[0, 1] + law[1, 0] < 0.3


@pytest.mark.parametrize("sign", [1, -1])
def test_a_positive_advantage_raises_the_probability(sign: int) -> None:
    net = controller(mixed_space())
    tokens = net.sample(1)[0]
    before = net.log_probability(tokens)
    net.update([tokens], [float(sign)], 0.0)
    assert sign * (net.log_probability(tokens) - before) > 0


def test_results_in_any_order_reach_their_own_sequence() -> None:
    space = ConfigSpace("grid", [Ordinal(name, tuple(range(30))) for name in "ab"])
    searcher = make(space)
    batch = searcher.ask(8)
    learnt = {}

    def update(sequences: list[list[int]], advantages: list[float], entropy: float) -> None:
        for sequence, advantage in zip(sequences, advantages, strict=True):
            learnt[searcher.controller.config(sequence)] = advantage

    searcher.controller.update = update  # type: ignore[method-assign]
    costs = {config: 1.0 + number for number, config in enumerate(batch)}
    for config in random.Random(0).sample(batch, 8):
        searcher.tell(config, Result((costs[config],)))
    searcher.ask(1)
    mean = sum(1 / cost for cost in costs.values()) / 8
    assert learnt == pytest.approx({config: 1 / cost - mean for config, cost in costs.items()})


def test_failures_earn_nothing_and_the_best_earns_one() -> None:
    space = ConfigSpace("grid", [Ordinal(name, tuple(range(30))) for name in "ab"])
    searcher = make(space, batch=2)
    good, bad = searcher.ask(2)
    searcher.tell(good, Result((1e-5,)))
    searcher.tell(bad, Result.failed(FailureKind.CRASHED, "x"))
    searcher.ask(1)
    assert (searcher.reward(good), searcher.reward(bad)) == (1.0, 0.0)


def test_illegal_samples_are_learnt_from_without_a_trial() -> None:
    rule = Constraint("a below b", lambda c: c["a"] < c["b"])  # type: ignore[operator]
    space = ConfigSpace("grid", [Ordinal(name, tuple(range(40))) for name in "ab"], [rule])

    def share(searcher: RnnController) -> float:
        tokens = searcher.controller.sample(400)
        return sum(space.is_legal(searcher.controller.config(t)) for t in tokens) / 400

    searcher = make(space)
    before = share(searcher)
    while len(searcher.results) < 160:
        for config in searcher.ask(8):
            assert space.is_legal(config)
            searcher.tell(config, Result((1.0,)))  # all legal ones are alike
    assert share(searcher) > before + 0.2


def test_a_policy_that_collapsed_on_known_configs_goes_on_at_random() -> None:
    space = ConfigSpace("grid", [Ordinal(name, tuple(range(30))) for name in "ab"])
    searcher = make(space)
    searcher.controller.sample = lambda count: [[3, 4]] * count  # type: ignore[method-assign]
    batch = searcher.ask(5)
    assert len(set(batch)) == 5
    assert batch[0] == Config({"a": 3, "b": 4})


def test_it_beats_random_where_parameters_matter_one_by_one() -> None:
    space = ConfigSpace("grid", [Ordinal(name, tuple(range(16))) for name in "abcdef"])
    best = {"rnn": 0.0, "random": 0.0}
    for name, seed in itertools.product(best, range(3)):
        searcher = create_searcher(name, space, seed)
        while len(searcher.results) < 400:
            for config in searcher.ask(8):
                cost = 1.0 + sum(abs(float(value) - 11.0) for value in config.values())  # type: ignore[arg-type]
                searcher.tell(config, Result((cost,)))
        assert searcher.best is not None
        best[name] += searcher.best[1] / 3
    assert best["rnn"] < 0.8 * best["random"]


def test_torchs_global_state_is_left_alone() -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    searcher = make(mixed_space())
    for _ in range(3):
        for config in searcher.ask(8):
            searcher.tell(config, Result((1.0,)))
    assert torch.rand(3).tolist() == expected


@pytest.mark.parametrize(
    "options",
    [{"hidden": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"entropy": -1.0}, {"decay": 1.0}],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(AutotuneError, match=next(iter(options))):
        make(mixed_space(), **options)
