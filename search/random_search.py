"""Uniform random search without repetition: the baseline that every method must beat."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.search.base import Searcher
from autotune.search.space import Config
from autotune.trial import Result


@dataclass(frozen=True)
class RandomOptions:
    """Random search has no options."""


class RandomSearch(Searcher):
    """Draw legal configs uniformly until none is left."""

    name = "random"
    Options = RandomOptions

    def _propose(self, n: int) -> list[Config]:
        batch: dict[Config, None] = {}  # ordered, with fast membership
        while len(batch) < n and (config := self._draw(taken=batch)) is not None:
            batch[config] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        """Learn nothing."""
