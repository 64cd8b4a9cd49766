"""Grid search: every legal config, in the order of the space. The ground truth of small spaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from autotune.search.base import Searcher
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result


@dataclass(frozen=True)
class GridOptions:
    """Grid search has no options."""


class GridSearch(Searcher):
    """Enumerate the space lazily; the seed plays no part."""

    name = "grid"
    Options = GridOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: Any = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        self._left = self._unseen()

    def _unseen(self) -> Iterator[Config]:
        for config in self.space:
            if self.space.is_legal(config) and not self._seen(config):
                yield config

    def _propose(self, n: int) -> list[Config]:
        return list(islice(self._left, n))

    def _observe(self, config: Config, result: Result) -> None:
        """Learn nothing."""
