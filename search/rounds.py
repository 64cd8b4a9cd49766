"""In which order a search is asked for configs and told their results."""

from __future__ import annotations

from collections import deque

from autotune.search.base import Searcher
from autotune.search.space import Config


class Rounds:
    """Asks a searcher for batches, some of them before it knows the results of earlier ones.

    What has been asked for ahead is built while earlier batches are measured, so that nobody waits
    for anybody; in exchange the searcher knows a little less when it is asked. The order depends on
    nothing but what the searcher answers: a run that is rebuilt from its records by the same calls
    of :meth:`next` makes the same asks, in the same places between the tells, whether or not the
    run itself asked in a thread of its own (:mod:`autotune.thinking`).

    Parameters
    ----------
    searcher
        Whom to ask.
    ahead
        How many batches are asked for beyond the one that is measured.
    """

    def __init__(self, searcher: Searcher, ahead: int = 0) -> None:
        self.searcher = searcher
        self.ahead = ahead
        self._waiting: deque[list[Config]] = deque()

    def take(self, n: int) -> list[Config]:
        """Return the next batch to measure; an empty one is the end.

        Call it when the batch that it returned before has been told, and :meth:`fill` next. Only if
        no batch is waiting, it asks, for ``n`` configs.
        """
        if not self._waiting and (batch := self.searcher.ask(n)):
            self._waiting.append(batch)
        return self._waiting.popleft() if self._waiting else []

    def fill(self, n: int) -> list[Config]:
        """Ask for more, ``n`` configs at a time, and return what came.

        None of a batch that comes back shorter is lost: searchers may hold back while results are
        pending. Call it after each :meth:`take` that was not the end, and before anything is told;
        nothing of the batch that was taken depends on it, so it may go on while that is measured.
        """
        new: list[Config] = []
        while len(self._waiting) < self.ahead and (batch := self.searcher.ask(n)):
            self._waiting.append(batch)
            new += batch
        return new

    def next(self, n: int) -> list[Config]:
        """Return the next batch to measure, and ask for more: :meth:`take` and :meth:`fill`."""
        batch = self.take(n)
        if batch:
            self.fill(n)
        return batch

    @property
    def following(self) -> list[Config]:
        """What has been asked for beyond the batch that is being measured, in order."""
        return [config for batch in self._waiting for config in batch]
