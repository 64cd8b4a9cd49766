from __future__ import annotations

import math
import random
from collections import Counter

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
from autotune.search.opevo import OpEvo, OpEvoOptions, q_walk
from autotune.trial import FailureKind, Result

EIGHT = Factorization("m", 8, 3)
FITS = Constraint("the tile fits", lambda c: c["m"][3] * c["n"][3] <= 4)  # type: ignore[index]


def paper_space(*constraints: Constraint, extent: int = 512) -> ConfigSpace:
    parts = {"m": 4, "k": 2, "n": 4}
    parameters = [Factorization(name, extent, p) for name, p in parts.items()]
    return ConfigSpace("paper", parameters, constraints)


def measure(space: ConfigSpace, config: Config) -> Result:
    if not space.is_legal(config):
        return Result.failed(FailureKind.ILLEGAL, "too big")
    return Result((1e-3 * (1 + sum((x - 3.0) ** 2 for x in space.encode(config))),))


def tell_all(searcher: OpEvo, configs: list[Config]) -> None:
    for config in configs:
        searcher.tell(config, measure(searcher.space, config))


def make(space: ConfigSpace, preset: str = "default", seed: int = 0, **options: object) -> OpEvo:
    searcher = create_searcher("opevo", space, seed, preset, **options)
    assert isinstance(searcher, OpEvo)
    return searcher


# ---- the walk -----------------------------------------------------------------------------------


def walk_law(q: float) -> dict[object, float]:
    """(1 - q) * sum_k q^k (P^k)[v, u] from (8, 1, 1), by adding up the powers."""
    here: dict[object, float] = {(8, 1, 1): 1.0}
    law: Counter[object] = Counter()
    for k in range(400):
        after: Counter[object] = Counter()
        for value, mass in here.items():
            law[value] += (1 - q) * q**k * mass
            near = EIGHT.neighbors(value)  # type: ignore[arg-type]
            for other in near:
                after[other] += mass / len(near)
        here = dict(after)
    return dict(law)


def test_the_law_of_the_walk_is_the_published_one() -> None:
    law = walk_law(0.5)
    assert law[8, 1, 1] == pytest.approx(0.541, abs=5e-4)
    assert law[4, 2, 1] == law[4, 1, 2] == pytest.approx(0.163, abs=5e-4)
    assert law[2, 2, 2] == pytest.approx(0.050, abs=5e-4)
    assert sum(law.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_walks_end_where_the_law_says(q: float) -> None:
    rng, draws = random.Random(1), 40_000
    ends = Counter(q_walk(EIGHT, (8, 1, 1), q, rng) for _ in range(draws))
    for value, share in walk_law(q).items():
        assert ends[value] / draws == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "parameter",
    [
        Factorization("m", 360, 3),
        Ordinal("u", (0, 16, 64)),
        Categorical("p", ("a", "b", "c")),
        Permutation("o", ("x", "y", "z")),
    ],
    ids=lambda p: p.kind,
)
def test_walks_stay_on_the_graph_and_reach_all_of_it(parameter: Factorization) -> None:
    rng = random.Random(2)
    ends = {q_walk(parameter, parameter.origin, 0.95, rng) for _ in range(4000)}
    assert ends == set(parameter.values())


def test_a_walk_on_a_single_vertex_ends() -> None:
    assert q_walk(Factorization("m", 1, 3), (1, 1, 1), 0.999, random.Random(0)) == (1, 1, 1)


# ---- selection ----------------------------------------------------------------------------------


def with_elite(costs: list[float], **options: object) -> OpEvo:
    searcher = make(paper_space(), **options)
    configs = [searcher.space.sample(searcher.rng) for _ in costs]
    for config, cost in zip(configs, costs, strict=True):
        searcher.tell(config, Result((cost,)))
    return searcher


def test_proportional_selection_follows_throughput_and_favours_the_fast() -> None:
    weights = with_elite([1 / 9.0, 1 / 9.5], selection="proportional")._weights()
    assert [w / sum(weights) for w in weights] == pytest.approx([0.514, 0.486], abs=5e-4)


def test_rank_selection_keeps_its_pressure_where_costs_are_alike() -> None:
    weights = with_elite([1.0, 1.001, 1.002, 1.003])._weights()
    assert [w / sum(weights) for w in weights] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_extreme_costs_leave_usable_weights() -> None:
    weights = with_elite([5e-324, 1e300, 1.0], selection="proportional")._weights()
    assert all(math.isfinite(w) and w >= 0 for w in weights)
    assert sum(weights) > 0


def test_parents_are_the_best_ever_and_never_failures() -> None:
    space = paper_space()
    searcher = make(space, "paper")
    rng = random.Random(3)
    told: dict[Config, float] = {}
    for number in range(200):
        config = space.sample(rng)
        if config in told:
            continue
        cost = 1e-6 * (1 + number) if number < 8 else rng.uniform(1.0, 2.0)
        told[config] = cost if number % 3 or number < 8 else math.inf
        failed = Result.failed(FailureKind.RUN_ERROR, "made up")
        searcher.tell(config, failed if math.isinf(told[config]) else Result((cost,)))
    best = sorted(told, key=lambda config: told[config])[:8]
    assert [config for _, _, config in searcher._elite] == best


def test_every_parameter_comes_from_a_parent_of_its_own() -> None:
    space = ConfigSpace("line", [Ordinal(name, tuple(range(9))) for name in "abc"])
    searcher = make(space, parents=2, q=1e-9, q_min=1e-9, force_move=False)
    for corner in (0, 8):
        searcher.tell(Config(dict.fromkeys("abc", corner)), Result((1.0 + corner,)))
    children = {searcher._mutate(searcher._recombine()).key for _ in range(400)}
    assert len(children) == 8  # all mixtures of two parents, and nothing else


def test_a_forced_move_goes_one_step_where_the_walks_stayed() -> None:
    space = paper_space()
    searcher = make(space, q=1e-9, q_min=1e-9)
    origin = space.origin()
    near = set(space.neighbors(origin))
    assert {searcher._mutate(origin) for _ in range(300)} == near


# ---- the presets --------------------------------------------------------------------------------


def test_the_paper_has_its_constants() -> None:
    options = OpEvoOptions(**OpEvo.presets["paper"])  # type: ignore[arg-type]
    assert (options.parents, options.offspring, options.q, options.q_min) == (8, 8, 0.5, 0.5)
    assert options.selection == "proportional"
    assert not options.filter_illegal


def test_the_paper_breeds_a_generation_at_a_time_in_pieces() -> None:
    searcher = make(paper_space(), "paper")
    tell_all(searcher, searcher.ask(8))
    pieces = [searcher.ask(3) for _ in range(3)]
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    for config in sum(pieces, []):
        assert searcher.ask(1) == []
        assert not searcher.exhausted
        tell_all(searcher, [config])
    assert len(searcher.ask(20)) == 8


def test_the_paper_counts_illegal_configs_and_breeds_once_enough_worked() -> None:
    space = paper_space(FITS)
    searcher = make(space, "paper", seed=5)
    bred: list[int] = []  # how many results there were, for every child

    def recombine() -> Config:
        bred.append(len(searcher.results))
        return OpEvo._recombine(searcher)

    searcher._recombine = recombine  # type: ignore[method-assign]
    illegal = 0
    while len(searcher.results) < 120:
        batch = searcher.ask(8)
        illegal += sum(not space.is_legal(config) for config in batch)
        tell_all(searcher, batch)
    successes = [result.ok for result in searcher.results.values()]
    assert illegal > 0
    assert sum(successes[: bred[0]]) >= 8 > sum(successes[: bred[0] - 8])


def test_failing_for_long_is_followed_by_more_random_configs() -> None:
    searcher = make(paper_space(), "paper")
    for _ in range(10):
        batch = searcher.ask(8)
        assert len(batch) == 8
        for config in batch:
            searcher.tell(config, Result.failed(FailureKind.RUN_ERROR, "made up"))


def test_by_default_illegal_children_cost_no_trial() -> None:
    space = paper_space(FITS)
    assert space.legal_fraction(random.Random(0), 2000) < 0.5
    searcher = make(space)
    while len(searcher.results) < 150:
        batch = searcher.ask(8)
        assert len(batch) == 8
        assert all(space.is_legal(config) for config in batch)
        tell_all(searcher, batch)


@pytest.mark.parametrize("preset", OpEvo.presets)
def test_a_full_space_ends_instead_of_looping(preset: str) -> None:
    rule = Constraint("not 2", lambda c: c["u"] != 2)
    space = ConfigSpace("full", [EIGHT, Ordinal("u", (1, 2, 3))], [rule])
    searcher = make(space, preset)
    while batch := searcher.ask(4):
        tell_all(searcher, batch)
    assert searcher.exhausted
    expected = 30 if preset == "paper" else 20  # the paper's trials include the illegal
    assert len(searcher.results) == expected


def test_factorizations_are_never_listed() -> None:
    space = ConfigSpace("huge", [Factorization(name, 2**30, 16) for name in "mnk"])
    assert space.size > 10**30
    searcher = make(space)
    for _ in range(10):
        tell_all(searcher, searcher.ask(8))
    assert len(searcher.results) == 80


@pytest.mark.parametrize("seed", range(3))
def test_a_smooth_landscape_is_climbed(seed: int) -> None:
    space = paper_space()
    best = {}
    for name in ("opevo", "random"):
        searcher = create_searcher(name, space, seed)
        while len(searcher.results) < 200:
            for config in searcher.ask(8):
                searcher.tell(config, measure(space, config))
        assert searcher.best is not None
        best[name] = searcher.best[1]
    assert best["opevo"] <= 0.013 < best["random"]  # the optimum is 0.012


@pytest.mark.parametrize(
    "options",
    [
        {"parents": 0},
        {"offspring": 0},
        {"warmup": 0},
        {"q": 1.0},
        {"q": 0.01},
        {"q_min": 0.0},
        {"selection": "best"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(AutotuneError, match=next(iter(options))):
        make(paper_space(), **options)
