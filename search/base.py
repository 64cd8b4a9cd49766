"""What every search method has in common: ask for configs, tell results.

A searcher minimises seconds over a :class:`~autotune.search.space.ConfigSpace`. It never measures
and never waits: whoever owns it calls :meth:`Searcher.ask` and, in any order and at any time,
:meth:`Searcher.tell`. State is never saved; it is rebuilt by replaying asks and tells
(:mod:`autotune.search.resume`).
"""

from __future__ import annotations

import dataclasses
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from autotune.search.space import ENUMERABLE, Config, ConfigSpace
from autotune.trial import Result

#: Draws at random, legal and unseen or not, before :meth:`Searcher._draw` changes its ways.
_DRAWS_SMALL, _DRAWS_LARGE = 500, 100_000


class Searcher(ABC):
    """A search method over one space.

    The same space, seed, options, starts and history, and the same asks and tells, give the same
    proposals, in every process. For that, subclasses draw from :attr:`rng` only, and never depend
    on the order of a set.

    Parameters
    ----------
    space
        Where to search.
    seed
        Seed of :attr:`rng`.
    start
        Configs to measure first; illegal ones are dropped where :attr:`filters_illegal`.
    options
        An instance of :attr:`Options`; by default that of the preset "default".

    Raises
    ------
    InvalidConfig
        If a start is not a vertex of the space.
    """

    #: Name in :data:`autotune.search.SEARCHERS`.
    name: ClassVar[str]
    #: Frozen dataclass; every field has a default and ``metadata["help"]``. Its ``__post_init__``
    #: raises ValueError for a value out of range.
    Options: ClassVar[type[Any]]
    #: Whether :meth:`transfer` has an effect.
    uses_transfer: ClassVar[bool] = False
    #: Named overrides of the options. There is always "default".
    presets: ClassVar[dict[str, dict[str, object]]] = {"default": {}}

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: Any = None,
    ) -> None:
        self.space = space
        self.seed = seed
        self.rng = random.Random(seed)
        self.options: Any = self.Options(**self.presets["default"]) if options is None else options
        #: Name of the preset that the options came from, for :meth:`describe`.
        self.preset = "default" if options is None else "custom"
        #: How many tells were ignored because the config had a result already.
        self.duplicates = 0
        self._results: dict[Config, Result] = {}
        self._pending: dict[Config, None] = {}  # a dict, because its order is that of asking
        self._best: tuple[Config, float] | None = None
        self._foreign: list[dict[Config, Result]] = []
        self._asked = False
        self._ran_dry = False
        self._rest: list[Config] | None = None
        for config in start:
            space.check(config)
        self._start = deque(c for c in start if not self.filters_illegal or space.is_legal(c))

    # ---- what the owner of a searcher calls -----------------------------------------------------

    def ask(self, n: int) -> list[Config]:
        """Return up to ``n`` configs to measure, none of them measured or pending.

        Fewer than ``n``, even none, come back while the method needs results that are pending, and
        at the end; :attr:`exhausted` tells these apart.

        Raises
        ------
        ValueError
            If ``n`` is below 1.
        """
        if n < 1:
            raise ValueError(f"ask for at least one config, not {n}")
        self._asked = True
        batch: list[Config] = []
        while self._start and len(batch) < n:
            self._accept([self._start.popleft()], batch)
        dropped = True
        while dropped and len(batch) < n:
            proposals = self._propose(n - len(batch))
            if len(proposals) > n - len(batch):
                raise RuntimeError(f"{self.name} proposed more configs than asked for")
            accepted = self._accept(proposals, batch)
            # Only a round that lost some, but not all, is worth another one.
            dropped = 0 < accepted < len(proposals)
        self._ran_dry = not batch  # the end, unless something is pending
        return batch

    def tell(self, config: Config, result: Result) -> None:
        """Take the result of ``config``: asked for or not, in any order, however late.

        Of several results of one config the first counts; the others are only counted, in
        :attr:`duplicates`.

        Raises
        ------
        InvalidConfig
            If ``config`` is not a vertex of the space.
        """
        if config in self._results:
            self.duplicates += 1
            return
        if config not in self._pending:
            self.space.check(config)
        self._pending.pop(config, None)
        self._results[config] = result
        if result.ok and (self._best is None or result.cost < self._best[1]):
            self._best = (config, result.cost)
        self._ran_dry = False
        self._observe(config, result)

    def warm_start(self, pairs: Iterable[tuple[Config, Result]]) -> None:
        """Take results of earlier searches; they guide this one and are not measured again.

        Raises
        ------
        RuntimeError
            After the first :meth:`ask`: a replay could not tell when the history arrived.
        InvalidConfig
            If a config is not a vertex of the space.
        """
        if self._asked:
            raise RuntimeError("warm_start must come before the first ask")
        for config, result in pairs:
            self.tell(config, result)

    def transfer(self, pairs: Iterable[tuple[Config, Result]]) -> None:
        """Take results of one other device or workload, as a hint where to look.

        Unlike those of :meth:`warm_start` they say nothing about seconds here: their configs stay
        unmeasured, only the order of their costs is believed, and that no longer than the
        results of this search agree. Each call adds a source; costs of two sources are never
        compared. A method without :attr:`uses_transfer` ignores them.

        Raises
        ------
        RuntimeError
            After the first :meth:`ask`.
        InvalidConfig
            If a config is not a vertex of the space; translate or leave out those first.
        """
        if self._asked:
            raise RuntimeError("transfer must come before the first ask")
        source: dict[Config, Result] = {}
        for config, result in pairs:
            self.space.check(config)
            source.setdefault(config, result)
        if source:
            self._foreign.append(source)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is pending and nothing remains to propose.

        Known once every config of the space has a result, or an ask with nothing pending came back
        empty; a later tell of an unasked config may give the method something to do again.
        """
        if self._pending:
            return False
        return self._ran_dry or len(self._results) == self.space.size

    @property
    def best(self) -> tuple[Config, float] | None:
        """The cheapest config told, history included, and its seconds; the first of equals."""
        return self._best

    @property
    def pending(self) -> tuple[Config, ...]:
        """Configs asked for and not told yet, in the order of asking."""
        return tuple(self._pending)

    @property
    def results(self) -> Mapping[Config, Result]:
        """Every config told so far, history included, in the order of telling."""
        return MappingProxyType(self._results)

    def describe(self) -> dict[str, Any]:
        """Return what a log needs to name this search: name, preset, options and seed."""
        return {
            "name": self.name,
            "preset": self.preset,
            "options": dataclasses.asdict(self.options),
            "seed": self.seed,
        }

    # ---- what a search method overrides ---------------------------------------------------------

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed; a faithful preset may propose them."""
        return True

    @abstractmethod
    def _propose(self, n: int) -> list[Config]:
        """Return at most ``n`` >= 1 configs, each once, for which :meth:`_seen` is false.

        Called by :meth:`ask` after the starts are used up. What is returned becomes pending at
        once. An empty list means: wait for what is pending or, with nothing pending, the end.
        """

    @abstractmethod
    def _observe(self, config: Config, result: Result) -> None:
        """Learn from a result.

        Called by :meth:`tell` once per config, after :attr:`results`, :attr:`pending` and
        :attr:`best` were updated; also for history and for configs that were never asked for. A
        failure has the cost ``inf``.
        """

    # ---- what helps a search method -------------------------------------------------------------

    def _seen(self, config: Config) -> bool:
        """Whether ``config`` is measured or pending."""
        return config in self._results or config in self._pending

    def _draw(self, taken: Collection[Config] = (), legal: bool = True) -> Config | None:
        """Draw an unseen legal config that is not in ``taken``, uniformly; None if none is left.

        Drawing and rejecting is fine until few are left, which are then listed. Where a space is
        too large for that, a hundred thousand draws in vain pass for the end. Without ``legal``,
        illegal configs are drawn too; a searcher always passes the same.
        """
        small = self.space.size <= ENUMERABLE
        listable = small or (legal and self.space.listed is not None)
        allowed = self.space.is_legal if legal else lambda _: True
        if self._rest is None:
            for _ in range(_DRAWS_SMALL if listable else _DRAWS_LARGE):
                config = self.space.sample(self.rng, legal=False)
                if allowed(config) and not self._seen(config) and config not in taken:
                    return config
            every: Iterable[Config] = self.space if small else self.space.listed or ()
            self._rest = [c for c in every if allowed(c) and not self._seen(c)]
            self.rng.shuffle(self._rest)
        while self._rest and self._seen(self._rest[-1]):
            self._rest.pop()
        fresh = (c for c in reversed(self._rest) if not self._seen(c) and c not in taken)
        return next(fresh, None)

    def _accept(self, proposals: Iterable[Config], batch: list[Config]) -> int:
        """Move unseen proposals to the batch and to pending; return how many there were."""
        fresh = 0
        for config in proposals:
            if not self._seen(config):
                self._pending[config] = None
                batch.append(config)
                fresh += 1
        return fresh
