from __future__ import annotations

from autotune.search import ConfigSpace, Constraint, Factorization, Ordinal, create_searcher
from autotune.search.space import Config
from autotune.trial import Result


def small() -> ConfigSpace:
    rule = Constraint("not 2", lambda c: c["u"] != 2)
    return ConfigSpace("small", [Factorization("m", 6, 2), Ordinal("u", (1, 2, 3))], [rule])


def test_every_legal_config_comes_once_in_the_order_of_the_space() -> None:
    space = small()
    searcher = create_searcher("grid", space, 0)
    asked: list[Config] = []
    while batch := searcher.ask(3):
        asked += batch
        for config in batch:
            searcher.tell(config, Result((1.0,)))
    assert asked == [config for config in space if space.is_legal(config)]
    assert len(asked) == 8
    assert searcher.exhausted


def test_what_has_a_result_already_is_passed_over() -> None:
    space = small()
    first, second, *_ = (config for config in space if space.is_legal(config))
    searcher = create_searcher("grid", space, 0)
    searcher.warm_start([(first, Result((1.0,)))])
    assert searcher.ask(1) == [second]


def test_a_space_too_large_to_list_is_enumerated_lazily() -> None:
    space = ConfigSpace("huge", [Factorization(name, 2**30, 5) for name in "mnk"])
    assert space.size > 10**12
    assert create_searcher("grid", space, 0).ask(2)[0] == space.origin()
