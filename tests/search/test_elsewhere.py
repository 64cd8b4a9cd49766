"""What results from elsewhere propose: the start, and relatives of the fastest there."""

from __future__ import annotations

import pytest

from autotune.search import Categorical, Config, ConfigSpace, Constraint, Ordinal, create_searcher
from autotune.search.elsewhere import _CENTRES, _FAST, _START, Elsewhere
from autotune.trial import FailureKind, Result

CRASH = Result.failed(FailureKind.CRASHED, "made up")


def space(legal: bool = True) -> ConfigSpace:
    parameters = [
        Ordinal("x", tuple(range(12))),
        Ordinal("y", tuple(range(12))),
        Categorical("shared", (0, 1)),
    ]
    rule = Constraint("rule", lambda c: legal or c["x"] != 5)
    return ConfigSpace("made up", parameters, [rule])


def config(x: int, y: int, shared: int) -> Config:
    return Config({"x": x, "y": y, "shared": shared})


def there(c: Config) -> float:
    """Return seconds: fast without shared memory, above all around (5, 5)."""
    return 1.0 + abs(c["x"] - 5) + abs(c["y"] - 5) + 2.0 * c["shared"]  # type: ignore[operator]


def here(c: Config) -> float:
    """As there, but without shared memory the five fastest run out of registers."""
    spills = c["shared"] == 0 and there(c) <= 2.0
    return 2.0 if spills else there(c) - 2.1 * c["shared"] + 0.4  # type: ignore[operator]


def everywhere() -> dict[Config, Result]:
    whole = (config(x, y, s) for x in range(12) for y in range(12) for s in (0, 1))
    return {c: Result((there(c),)) for c in whole}


def nothing(_: Config) -> bool:
    return False


def test_the_start_is_the_fastest_there_then_fast_ones_that_are_unlike() -> None:
    elsewhere = Elsewhere(space(), [everywhere()])
    fast = sorted(everywhere(), key=there)[:_FAST]
    known: list[Config] = []
    for trusted in _START:
        found = elsewhere.start(known)
        assert (found is not None) == trusted
        known.append(found or config(11, 11, 1))
        assert not trusted or known[-1] in fast
    assert known[0] == config(5, 5, 0)
    assert known[1]["x"] != 5 and known[1]["y"] != 5
    assert elsewhere.start(known) is None


def test_what_is_illegal_here_or_failed_there_is_no_start() -> None:
    source = {**everywhere(), config(4, 5, 0): CRASH}
    first = Elsewhere(space(legal=False), [source]).start([])
    assert first is not None and first["x"] in (4, 6) and first != config(4, 5, 0)
    assert Elsewhere(space(), [{config(4, 5, 0): CRASH}]).start([]) is None


def test_relatives_are_legal_steps_from_the_fastest_there_by_turns() -> None:
    elsewhere = Elsewhere(space(), [everywhere()])
    best = config(5, 5, 0)
    results = {best: Result((2.0,)), config(0, 0, 1): Result((20.0,))}
    turns = [bool(elsewhere.relatives(results, count, nothing)) for count in range(6, 18)]
    assert turns == [True, True, False, False, False, False] * 2
    found = elsewhere.relatives(results, 6, results.__contains__)
    assert config(5, 5, 1) in found and best not in found
    steps = set(space().neighbors(best))
    assert steps - set(results) <= set(found)
    assert len(found) <= _CENTRES * len(steps)
    strict = Elsewhere(space(legal=False), [everywhere()])
    assert all(c["x"] != 5 for c in strict.relatives({config(4, 5, 0): Result((1.0,))}, 6, nothing))


@pytest.mark.parametrize("slow", [Result((2.1,)), CRASH])
def test_what_is_slow_here_has_no_relatives(slow: Result) -> None:
    elsewhere = Elsewhere(space(), [everywhere()])
    fast = sorted(everywhere(), key=there)[:_CENTRES]
    good = {config(0, 0, 1): Result((1.0,))}
    assert elsewhere.relatives({**good, **dict.fromkeys(fast, slow)}, 6, nothing) == []
    near = elsewhere.relatives({**good, **dict.fromkeys(fast, Result((1.9,)))}, 6, nothing)
    assert config(5, 5, 1) in near
    # Nothing of it was measured here yet, so it is not known to be any good.
    assert elsewhere.relatives(good, 6, nothing) == []


def test_several_sources_take_turns() -> None:
    opposite = {config(11 - c["x"], c["y"], c["shared"]): r for c, r in everywhere().items()}  # type: ignore[operator, arg-type]
    sources = [everywhere(), opposite]
    elsewhere = Elsewhere(space(), sources)
    known: list[Config] = []
    for _ in _START:
        known.append(elsewhere.start(known) or config(11, 11, 1))
    fast = [set(sorted(source, key=lambda c: source[c].cost)[:_FAST]) for source in sources]
    starts = [c for c, trusted in zip(known, _START, strict=True) if trusted]
    assert all(c in fast[place % 2] for place, c in enumerate(starts))
    results = {config(5, 5, 0): Result((1.0,)), config(6, 5, 0): Result((1.0,))}
    near = [elsewhere.relatives(results, count, nothing) for count in (6, 12, 18)]
    assert near[0] != near[1] and near[0] == near[2]
    assert {config(5, 5, 1), config(6, 5, 1)} <= {*near[0], *near[1]}


@pytest.mark.parametrize("name", ["graph-bo", "portfolio"])
def test_one_parameter_that_is_wrong_here_is_soon_found(name: str) -> None:
    """The fastest is one step from the fastest there, of which no near one is fast here."""
    optimum = min(everywhere(), key=here)
    assert optimum == config(5, 5, 1)
    searcher = create_searcher(name, space(), seed=1)
    searcher.transfer(list(everywhere().items()))
    asked: list[Config] = []
    while optimum not in asked and len(asked) < 40:
        asked += searcher.ask(1)
        searcher.tell(asked[-1], Result((here(asked[-1]),)))
    assert len(asked) <= 16
