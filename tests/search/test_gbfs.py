from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import pytest

from autotune.search import (
    Categorical,
    Config,
    ConfigSpace,
    Constraint,
    Factorization,
    Ordinal,
    create_searcher,
)
from autotune.search.base import Searcher
from autotune.search.gbfs import GBFS, GbfsOptions
from autotune.trial import FailureKind, Result

RHO = 5


def paper_space(*constraints: Constraint, extent: int = 512) -> ConfigSpace:
    parts = {"m": 4, "k": 2, "n": 4}
    parameters = [Factorization(name, extent, p) for name, p in parts.items()]
    return ConfigSpace("paper", parameters, constraints)


TILE_FITS = Constraint("the tile fits", lambda c: c["m"][3] * c["n"][3] <= 4)  # type: ignore[index]


def measure(space: ConfigSpace, config: Config) -> Result:
    """Cheapest at 8 in every part but the first; the untiled start is bad but works."""
    if not space.is_legal(config):
        return Result.failed(FailureKind.ILLEGAL, "too big")
    return Result((1e-3 * (1 + sum((x - 3.0) ** 2 for x in space.encode(config))),))


def tell_all(searcher: Searcher, configs: list[Config]) -> None:
    for config in configs:
        searcher.tell(config, measure(searcher.space, config))


@pytest.mark.parametrize("constraints", [(), (TILE_FITS,)])
@pytest.mark.parametrize("seed", range(5))
def test_paper_expands_the_cheapest_unexpanded_vertex(
    seed: int, constraints: tuple[Constraint, ...]
) -> None:
    space = paper_space(*constraints)
    searcher = create_searcher("gbfs", space, seed, "paper")
    assert searcher.ask(RHO) == [space.origin()]
    tell_all(searcher, [space.origin()])
    queue = [space.origin()]
    illegal = 0
    for _ in range(60):
        known = set(searcher.results)
        batch = searcher.ask(20)
        assert 1 <= len(batch) <= RHO
        while True:  # an expansion whose draws were all visited proposes nothing
            queue.sort(key=lambda c: searcher.results[c].cost)
            cheapest, queue = queue[0], queue[1:]
            near = set(space.neighbors(cheapest, legal=False))
            if set(batch) <= near:
                break
            assert len(near & known) >= RHO
        tell_all(searcher, batch)
        illegal += sum(not space.is_legal(c) for c in batch)
        queue += [c for c in batch if space.is_legal(c)]  # illegal ones never enter
    assert bool(illegal) == bool(constraints)


def test_paper_draws_before_it_drops_the_visited() -> None:
    searcher = create_searcher("gbfs", paper_space(extent=16), 0, "paper")
    sizes = []
    while not searcher.exhausted:
        batch = searcher.ask(RHO)
        sizes.append(len(batch))
        tell_all(searcher, batch)
    assert min(sizes[1:-1]) < RHO  # some of the five were visited already
    assert len(searcher.results) < searcher.space.size


def test_paper_measures_illegal_neighbors_and_ends_when_none_is_legal() -> None:
    lonely = Constraint("untiled", lambda c: c["k"][1] == 1 and c["m"][0] == c["n"][0] == 512)  # type: ignore[index]
    space = paper_space(lonely)
    searcher = create_searcher("gbfs", space, 0, "paper", rho=100)
    tell_all(searcher, searcher.ask(1))
    batch = searcher.ask(100)
    assert set(batch) == set(space.neighbors(space.origin(), legal=False))
    tell_all(searcher, batch)
    assert searcher.ask(1) == []
    assert searcher.exhausted


def test_paper_hands_out_one_expansion_in_pieces_and_waits_for_all_of_it() -> None:
    space = paper_space()
    searcher = create_searcher("gbfs", space, 1, "paper")
    tell_all(searcher, searcher.ask(1))
    pieces = [searcher.ask(2) for _ in range(3)]
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    drawn = [config for piece in pieces for config in piece]
    assert set(drawn) <= set(space.neighbors(space.origin()))
    for config in drawn:
        assert searcher.ask(3) == []
        assert not searcher.exhausted
        tell_all(searcher, [config])
    assert len(searcher.ask(3)) == 3


class WatchedSpace(ConfigSpace):
    """Records which configs were expanded."""

    expanded: list[Config]

    def neighbors(self, config: Config, legal: bool = True) -> Iterator[Config]:
        self.expanded = [*getattr(self, "expanded", []), config]
        return super().neighbors(config, legal)


@pytest.mark.parametrize("seed", range(8))
def test_paper_goes_on_after_an_expansion_without_news(seed: int) -> None:
    space = WatchedSpace("clique", [Categorical("c", tuple(range(12)))])
    searcher = create_searcher("gbfs", space, seed, "paper", rho=2)
    asks = 0
    while batch := searcher.ask(2):
        asks += 1
        for config in batch:
            searcher.tell(config, Result((1.0,)))
    assert len(space.expanded) == len(searcher.results)  # it ended with an empty queue
    assert len(space.expanded) > asks  # and some expansions had proposed nothing


def test_paper_expands_failures_last_unless_told_not_to() -> None:
    space = paper_space()
    good, bad = space.origin(), space.origin().replace(k=(1, 512))
    broken = Result.failed(FailureKind.RUN_TIMEOUT, "too slow")

    def after(results: list[tuple[Config, Result]], **options: object) -> list[Config]:
        searcher = create_searcher("gbfs", space, 0, "paper", **options)
        searcher.ask(1)
        for config, result in results:
            searcher.tell(config, result)
        return searcher.ask(RHO)

    near_good = set(space.neighbors(good))
    assert set(after([(bad, broken), (good, Result((9.0,)))])) <= near_good
    assert set(after([(good, broken)])) <= near_good
    assert after([(good, broken)], expand_failures=False) == []


def legal_everywhere() -> ConfigSpace:
    parameters = [Factorization("m", 16, 3), Ordinal("u", (0, 1, 2, 3))]
    return ConfigSpace("connected", parameters, [], [Config({"m": (4, 2, 2), "u": 1})])


@pytest.mark.parametrize("batch", [1, 4, 50])
@pytest.mark.parametrize("rho", [1, 5])
def test_default_never_loses_a_node_with_untried_neighbors(rho: int, batch: int) -> None:
    space = legal_everywhere()
    searcher = create_searcher("gbfs", space, 0, rho=rho, restart=False, random_starts=0)
    asked: list[Config] = []
    while not searcher.exhausted:
        configs = searcher.ask(batch)
        asked += configs
        tell_all(searcher, configs)
    assert len(asked) == len(set(asked)) == space.size


def test_forgetting_expanded_nodes_is_what_ends_the_search_early() -> None:
    space = legal_everywhere()
    options = {"restart": False, "random_starts": 0, "rho": 1, "keep_unexpanded": False}
    searcher = create_searcher("gbfs", space, 0, **options)
    while not searcher.exhausted:
        tell_all(searcher, searcher.ask(1))
    assert len(searcher.results) < space.size


def test_default_starts_from_the_defaults_and_random_legal_configs() -> None:
    plain = paper_space(TILE_FITS)
    default = plain.origin().replace(k=(128, 4))
    space = ConfigSpace("paper", plain.parameters, [TILE_FITS], [default])
    batch = create_searcher("gbfs", space, 0, random_starts=3).ask(16)
    assert batch[0] == default
    assert len(batch) == 4
    assert all(space.is_legal(config) for config in batch)
    assert create_searcher("gbfs", space, 0, random_starts=0).ask(16) == [default]
    assert len(create_searcher("gbfs", plain, 0, random_starts=0).ask(16)) == 1


def test_default_fills_a_batch_from_several_nodes_without_waiting() -> None:
    space = legal_everywhere()
    searcher = create_searcher("gbfs", space, 0, rho=2)
    tell_all(searcher, searcher.ask(4))
    first = searcher.ask(3)
    second = searcher.ask(3)  # the first three are still pending
    assert len(first) == len(second) == 3
    measured = list(searcher.results)
    for config in first + second:
        assert any(config in set(space.neighbors(center)) for center in measured)


def test_default_climbs_from_history_alone() -> None:
    space = paper_space(TILE_FITS)
    known = space.sample(random.Random(0))
    searcher = create_searcher("gbfs", space, 0, random_starts=0)
    searcher.warm_start([(known, Result((1.0,)))])
    batch = searcher.ask(RHO)
    assert len(batch) == RHO
    assert set(batch) <= set(space.neighbors(known))


def test_patience_turns_to_the_next_best_before_the_best_is_used_up() -> None:
    space = paper_space()
    rng = random.Random(2)
    best, second = space.sample(rng), space.sample(rng)

    def sources(patience: float) -> set[Config]:
        searcher = create_searcher(
            "gbfs", space, 0, random_starts=0, epsilon=0.0, patience=patience
        )
        searcher.warm_start([(best, Result((1.0,))), (second, Result((1.05,)))])
        asked = searcher.ask(3) + searcher.ask(3)
        return {s for s in (best, second) if set(asked) & set(space.neighbors(s))}

    assert sources(0.0) == {best}
    assert sources(0.1) == {best, second}


def test_an_epsilon_of_one_expands_anything() -> None:
    space = paper_space()
    rng = random.Random(3)
    history = [(space.sample(rng), Result((1.0 + i,))) for i in range(6)]
    searcher = create_searcher("gbfs", space, 0, random_starts=0, epsilon=1.0, rho=1)
    searcher.warm_start(history)
    asked = set(searcher.ask(12))
    assert sum(bool(asked & set(space.neighbors(config))) for config, _ in history) >= 3


def test_random_expansions_leave_the_others_in_the_order_of_cost() -> None:
    space = WatchedSpace("watched", paper_space().parameters)
    rng = random.Random(4)
    options = GbfsOptions(random_starts=0, epsilon=1.0, rho=1, keep_unexpanded=False)
    searcher = GBFS(space, 0, options=options)
    searcher.warm_start([(space.sample(rng), Result((rng.random() + 0.1,))) for _ in range(40)])
    searcher.ask(10)
    searcher.options = dataclasses.replace(options, epsilon=0.0)
    searcher.ask(30)
    costs = [searcher.results[config].cost for config in space.expanded]
    assert len(costs) == len(set(costs)) == 40
    assert costs[:10] != sorted(costs[:10])
    assert costs[10:] == sorted(costs[10:])


@pytest.mark.parametrize("seed", range(3))
def test_default_finds_a_far_optimum_that_random_misses(seed: int) -> None:
    space = paper_space(TILE_FITS, extent=1024)

    def best_of(name: str) -> float:
        searcher = create_searcher(name, space, seed)
        while len(searcher.results) < 150:
            tell_all(searcher, searcher.ask(4))
        assert searcher.best is not None
        return searcher.best[1]

    assert best_of("gbfs") < 0.8 * best_of("random")


@pytest.mark.parametrize(
    ("option", "value"),
    [("rho", 0), ("random_starts", -1), ("epsilon", 1.5), ("patience", float("nan"))],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        GbfsOptions(**{option: value})  # type: ignore[arg-type]
