"""A portfolio: several search methods take turns on one history, the better ones more often.

Each place of a batch goes to one member, drawn with a probability that grows with its credit: the
improvements of the best cost that its proposals brought, which fade with every result (after P3BO,
Angermueller et al., ICML 2020). A member that walks the graph offers a few drafts, and the
Gaussian process of :mod:`autotune.search.graph_bo`, itself a member, picks the one to measure.
Every member is told every result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from autotune.search.base import Searcher
from autotune.search.graph_bo import GraphBO, GraphBoOptions
from autotune.search.options import option, require
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

#: The member that is the model itself.
_MODEL = GraphBO.name


@dataclass(frozen=True)
class PortfolioOptions(GraphBoOptions):
    """Options of the portfolio; the defaults are the preset "default"."""

    members: str = option("graph-bo,gbfs,opevo,random", "search methods, separated by commas")
    model_share: float = option(0.5, "share of the places that graph-bo gets in any case")
    drafts: int = option(8, "configs that a member offers for each place")
    decay: float = option(0.9, "share of its credit that a member keeps after each result")
    pressure: float = option(2.0, "how much the credit decides; 0 is an equal share for all")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.member_names), "members must name a search method")
        for name in self.member_names:
            require(name == _MODEL or _may_join(name), f"{name!r} cannot be one of the members")
        require(
            0.0 <= self.model_share <= 1.0, f"model_share must be in 0..1, got {self.model_share}"
        )
        require(self.drafts >= 1, f"drafts must be at least 1, got {self.drafts}")
        require(0.0 <= self.decay <= 1.0, f"decay must be in 0..1, got {self.decay}")
        require(self.pressure >= 0.0, f"pressure must be at least 0, got {self.pressure}")

    @property
    def member_names(self) -> list[str]:
        """The names in :attr:`members`, each once."""
        names = (name.strip() for name in self.members.split(","))
        return list(dict.fromkeys(name for name in names if name))


def _may_join(name: str) -> bool:
    """Whether ``name`` is a search method that is no portfolio itself."""
    from autotune.search import SEARCHERS

    return name in SEARCHERS and not issubclass(SEARCHERS[name], Portfolio)


class Portfolio(GraphBO):
    """Members share a history, and the batch by their credit."""

    name = "portfolio"
    Options = PortfolioOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {"default": {}}
    options: PortfolioOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: PortfolioOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        self._members = {name: self._make_member(name) for name in self.options.member_names}
        self._credit = dict.fromkeys(self._members, 0.0)
        self._drafts: dict[str, list[Config]] = {name: [] for name in self._members}
        self._author: dict[Config, str] = {}
        self._record = math.inf  # the best cost before the result at hand

    def _make_member(self, name: str) -> Searcher | None:
        from autotune.search import create_searcher

        if name == _MODEL:
            return None
        return create_searcher(name, self.space, self.rng.randrange(2**32))

    def _observe(self, config: Config, result: Result) -> None:
        for member in self._members.values():
            if member is not None:
                member.tell(config, result)
        author = self._author.pop(config, None)
        if author is not None:
            for name in self._credit:
                self._credit[name] *= self.options.decay
            if math.isfinite(self._record):
                self._credit[author] += max(0.0, 1.0 - result.cost / self._record)
        self._record = min(self._record, result.cost)

    def _promising(self, batch: dict[Config, None], waiting: Sequence[Config]) -> Config | None:
        name = self._choose()
        config = self._draft(name, batch, waiting)
        if config is None:
            name, config = _MODEL, super()._promising(batch, waiting)
        if config is not None and name in self._members:
            self._author[config] = name
        return config

    def _choose(self) -> str:
        """Draw a member, by a softmax of the credits relative to the highest.

        Credit is for improvements, which reward greed; the model's own share is for finding out.
        """
        if _MODEL in self._members and self.rng.random() < self.options.model_share:
            return _MODEL
        highest = max(self._credit.values()) or 1.0
        pressure = self.options.pressure
        weights = [math.exp(pressure * credit / highest) for credit in self._credit.values()]
        return self.rng.choices(list(self._credit), weights)[0]

    def _draft(
        self, name: str, batch: dict[Config, None], waiting: Sequence[Config]
    ) -> Config | None:
        """Return the draft of a member that the model expects most of; None if it has none."""
        member = self._members[name]
        if member is None:
            return None
        drafts = [c for c in self._drafts[name] if not self._seen(c) and c not in batch]
        missing = self.options.drafts - len(drafts)
        if missing > 0:
            asked = member.ask(missing)
            drafts += [c for c in asked if not self._seen(c) and c not in batch]
        self._drafts[name] = drafts
        legal = [config for config in drafts if self.space.is_legal(config)]
        if not legal:
            return None
        surrogate = self._learned(waiting)
        scores = surrogate.improvement(surrogate.codec(legal))
        return legal[int(scores.argmax())]
