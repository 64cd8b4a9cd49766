"""G-BFS: greedy best-first search over the configuration graph (Zhang et al., arXiv 1909.10616).

A priority queue holds measured configs, cheapest first. An expansion pops the cheapest and measures
up to ``rho`` random neighbours, which enter the queue with their own cost.

The preset "paper" does that and no more: it starts untiled, draws ``rho`` among all neighbours,
visited and illegal ones included, forgets a config once it was expanded, and ends when the queue is
empty. The default differs where the paper's method wastes trials: it starts from the space's
defaults and a few random configs, draws among legal unvisited neighbours only, and keeps a config
queued until all its neighbours were tried, at a cost raised a little per expansion, so that a local
optimum with many neighbours does not eat the budget.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from autotune.search.base import Searcher
from autotune.search.space import Config, ConfigSpace
from autotune.trial import FailureKind, Result


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class GbfsOptions:
    """Options of G-BFS; the defaults are the preset "default"."""

    rho: int = _option(5, "neighbours drawn per expansion")
    start_origin: bool = _option(False, "start untiled instead of from the space's defaults")
    random_starts: int = _option(3, "random legal configs measured next to the start")
    filter_illegal: bool = _option(True, "draw among legal neighbours only")
    filter_visited: bool = _option(True, "draw among neighbours without a result only")
    keep_unexpanded: bool = _option(True, "keep a config queued until its neighbours are tried")
    expand_failures: bool = _option(True, "queue failed configs too, last; never illegal ones")
    barrier: bool = _option(False, "expand only when every pending result has arrived")
    restart: bool = _option(True, "when the queue is empty, go on from a random legal config")
    epsilon: float = _option(0.05, "chance of expanding a random queued config instead")
    patience: float = _option(0.1, "share by which each expansion raises a kept config's cost")

    def __post_init__(self) -> None:
        if self.rho < 1:
            raise ValueError(f"rho must be at least 1, got {self.rho}")
        if self.random_starts < 0:
            raise ValueError(f"random_starts must be at least 0, got {self.random_starts}")
        if not 0.0 <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")
        if not 0.0 <= self.patience < math.inf:
            raise ValueError(f"patience must be finite and at least 0, got {self.patience}")


class GBFS(Searcher):
    """Greedy best-first search; see the module's text for the presets."""

    name = "gbfs"
    Options = GbfsOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "default": {},
        "paper": {
            "start_origin": True,
            "random_starts": 0,
            "filter_illegal": False,
            "filter_visited": False,
            "keep_unexpanded": False,
            "barrier": True,
            "restart": False,
            "epsilon": 0.0,
            "patience": 0.0,
        },
    }
    options: GbfsOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: GbfsOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        # (priority, push number, config): equal costs leave in the order in which they came.
        self._queue: list[tuple[float, int, Config]] = []
        self._pushes = 0
        self._expansions: dict[Config, int] = {}
        # Drawn but not proposed yet, because fewer than rho were asked for.
        self._drawn: deque[Config] = deque()
        self._seeded = False

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed."""
        return self.options.filter_illegal

    def _propose(self, n: int) -> list[Config]:
        if not self._seeded:
            self._seeded = True
            self._drawn.extend(self._seeds())
        batch: dict[Config, None] = {}  # ordered, with fast membership
        while True:
            while self._drawn and len(batch) < n:
                config = self._drawn.popleft()
                if not self._seen(config):
                    batch[config] = None
            waiting = bool(batch) or bool(self.pending)
            if len(batch) == n or (self.options.barrier and waiting):
                break
            if self._queue:
                self._expand(self._pop(), n - len(batch), batch)
            elif self.options.restart and not waiting and (jump := self._draw()) is not None:
                self._drawn.append(jump)
            else:
                break
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        if result.ok or (self.options.expand_failures and result.failure != FailureKind.ILLEGAL):
            self._push(config)

    def _seeds(self) -> list[Config]:
        """Return the first configs to measure; none only with history or nothing legal."""
        options = self.options
        seeds = [self.space.origin()] if options.start_origin else list(self.space.defaults)
        if options.filter_illegal:
            seeds = [config for config in seeds if self.space.is_legal(config)]
        for _ in range(options.random_starts or int(not seeds and not self._queue)):
            config = self._draw(taken=seeds)
            if config is not None:
                seeds.append(config)
        return seeds

    def _push(self, config: Config) -> None:
        raised = 1.0 + self.options.patience * self._expansions.get(config, 0)
        self._pushes += 1
        heapq.heappush(self._queue, (self.results[config].cost * raised, self._pushes, config))

    def _pop(self) -> Config:
        if self.options.epsilon and self.rng.random() < self.options.epsilon:
            entry = self._queue.pop(self.rng.randrange(len(self._queue)))
            heapq.heapify(self._queue)
        else:
            entry = heapq.heappop(self._queue)
        return entry[-1]

    def _expand(self, config: Config, room: int, batch: dict[Config, None]) -> None:
        """Draw neighbours of ``config``; put it back unless all of them were tried before."""
        options = self.options
        pool = list(self.space.neighbors(config, legal=options.filter_illegal))
        fresh = [near for near in pool if not self._seen(near) and near not in batch]
        if options.filter_visited:
            pool = fresh
        # A config that stays queued loses nothing when only as many as asked for are drawn, and
        # the next expansion then knows more results.
        count = min(options.rho, room) if options.keep_unexpanded else options.rho
        drawn = self.rng.sample(pool, min(count, len(pool)))
        self._drawn.extend(drawn)
        if options.keep_unexpanded and fresh:
            self._expansions[config] = self._expansions.get(config, 0) + 1
            self._push(config)
