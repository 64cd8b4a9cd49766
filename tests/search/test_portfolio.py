from __future__ import annotations

import random
from collections import Counter
from typing import cast

import pytest

from autotune.errors import AutotuneError
from autotune.search import Config, ConfigSpace, Factorization, Ordinal, create_searcher
from autotune.search.portfolio import Portfolio
from autotune.trial import Result


def tiles() -> ConfigSpace:
    parameters = [Factorization("m", 256, 3), Factorization("n", 256, 3), Ordinal("u", (0, 1, 2))]
    return ConfigSpace("tiles", parameters)


def make(**options: object) -> Portfolio:
    return cast(Portfolio, create_searcher("portfolio", tiles(), 0, **options))


def warm(portfolio: Portfolio, count: int = 10) -> None:
    rng = random.Random(1)
    for _ in range(count):
        portfolio.tell(portfolio.space.sample(rng), Result((1.0,)))


def authors(portfolio: Portfolio, rounds: int, better: str) -> Counter[str]:
    """Let only the proposals of one member improve; count who proposes."""
    counts: Counter[str] = Counter()
    cost = 1.0
    for _ in range(rounds):
        (config,) = portfolio.ask(1)
        author = portfolio._author[config]
        counts[author] += 1
        if author == better:
            cost *= 0.9
        portfolio.tell(config, Result((cost if author == better else 1.0,)))
    return counts


@pytest.mark.parametrize("better", ["gbfs", "random"])
def test_a_member_that_improves_gets_more_of_the_places(better: str) -> None:
    portfolio = make(members="gbfs,random,opevo")
    warm(portfolio)
    counts = authors(portfolio, 60, better)
    others = [counts[name] for name in ("gbfs", "random", "opevo") if name != better]
    assert counts[better] > 1.5 * max(others)
    assert min(others) > 0  # nobody is shut out


def test_without_pressure_the_shares_are_equal() -> None:
    portfolio = make(members="gbfs,random", pressure=0.0)
    warm(portfolio)
    counts = authors(portfolio, 80, "gbfs")
    assert 25 <= counts["gbfs"] <= 55


def test_credit_fades() -> None:
    portfolio = make(members="gbfs,random", decay=0.5)
    warm(portfolio)
    while portfolio._credit["gbfs"] == 0.0:
        (config,) = portfolio.ask(1)
        better = portfolio._author[config] == "gbfs"
        portfolio.tell(config, Result((0.5 if better else 1.0,)))
    assert portfolio._credit["gbfs"] == pytest.approx(0.5)
    for _ in range(3):
        portfolio.tell(portfolio.ask(1)[0], Result((1.0,)))
    assert portfolio._credit["gbfs"] == pytest.approx(0.5 / 8)


def test_every_member_knows_every_result() -> None:
    portfolio = make()
    warm(portfolio, 4)
    for _ in range(20):
        for config in portfolio.ask(3):
            portfolio.tell(config, Result((1.0 + sum(portfolio.space.encode(config)),)))
    for member in portfolio._members.values():
        if member is not None:
            assert dict(member.results) == dict(portfolio.results)


def test_the_model_picks_the_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    portfolio = make(members="random", drafts=16)
    rng = random.Random(0)

    def seconds(config: Config) -> float:
        return 1.0 + config["m"][2]  # type: ignore[index,operator,return-value,call-overload]

    for _ in range(40):
        config = portfolio.space.sample(rng)
        portfolio.tell(config, Result((seconds(config),)))
    asked = portfolio.ask(6)
    drawn = create_searcher("random", tiles(), 1).ask(60)
    assert max(map(seconds, asked)) <= sorted(map(seconds, drawn))[30]


def test_unknown_members_and_portfolios_of_portfolios_are_refused() -> None:
    for members in ("gbfs,best", "portfolio", ","):
        with pytest.raises(AutotuneError, match="member"):
            make(members=members)
    for option, value in (("drafts", 0), ("decay", 1.5), ("pressure", -1.0)):
        with pytest.raises(AutotuneError, match=option):
            make(**{option: value})
