from __future__ import annotations

import random
from collections import Counter

from autotune.search import Config, ConfigSpace, Constraint, Factorization, Ordinal, create_searcher
from autotune.trial import Result


def test_first_draws_are_uniform() -> None:
    space = ConfigSpace("s", [Factorization("m", 4, 2), Ordinal("u", (0, 1))])
    firsts = Counter(create_searcher("random", space, seed).ask(1)[0] for seed in range(3000))
    assert len(firsts) == space.size == 6
    assert sum((n - 500) ** 2 / 500 for n in firsts.values()) < 20.52  # 5 degrees, 0.1 %


def test_a_big_space_is_never_listed() -> None:
    class Unlistable(ConfigSpace):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("the space was listed")

    space = Unlistable("big", [Factorization(name, 2**31, 8) for name in "abc"])
    searcher = create_searcher("random", space, 0)
    assert len(set(searcher.ask(500))) == 500


def test_a_sparse_big_space_ends_instead_of_hanging() -> None:
    only = Config({"a": 700, "b": 3})
    rule = Constraint("the only one", lambda c: c["a"] == 700 and c["b"] == 3)
    space = ConfigSpace("sparse", [Ordinal("a", range(1000)), Ordinal("b", range(1000))], [rule])
    searcher = create_searcher("random", space, 0)
    searcher.tell(only, Result((1.0,)))
    assert searcher.ask(3) == []
    assert searcher.exhausted


def test_the_rest_of_a_nearly_used_up_space_is_listed_not_guessed() -> None:
    space = ConfigSpace("s", [Ordinal("a", range(300)), Ordinal("b", range(300))])
    left = set(random.Random(1).sample(list(space), 40))
    searcher = create_searcher("random", space, 0)
    for config in space:
        if config not in left:
            searcher.tell(config, Result((1.0,)))
    asked: list[Config] = []
    while batch := searcher.ask(7):
        asked += batch
        for config in batch[::2]:  # half of them stay pending
            searcher.tell(config, Result((1.0,)))
    assert set(asked) == left
    assert len(asked) == 40
    assert not searcher.exhausted
