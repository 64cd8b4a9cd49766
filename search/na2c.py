"""N-A2C: neighbourhood actor-critic search (Zhang et al., arXiv 1909.10616).

Walks of ``steps`` moves start at a centre, the best config so far. In each state the actor chooses
the move, or chance does with probability ``epsilon``; new states on the way are measured in
batches, and the network learns from the transitions (:mod:`autotune.search.na2c_learning`).

The preset "paper" starts untiled, walks from the one best config through any state, measures
illegal ones as well, and rewards ``1 / cost`` in units of the best. What the paper's public text
leaves open is as in NNI's example (network, batch) or ours (gamma, replay). The default walks
through legal states only and prefers new ones, shares its walks among several centres, goes further
while nothing improves, and rewards the places that a move gains in the ranking of all costs so far.
"nni" has the settings of NNI's example: raw throughput, one update per batch, no replay, the
actor's sign inverted, the advantage not detached. Its crashes, float tiles and mixed-up rewards are
bugs, not settings, and are left out. "frozen-actor" is the default without learning, for an
ablation.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Collection, Sequence
from typing import ClassVar

from autotune.search.base import Searcher
from autotune.search.moves import MoveGraph
from autotune.search.na2c_learning import Learner, Transition
from autotune.search.na2c_options import PRESETS, Na2cOptions
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

#: Walks in a row that find nothing new before the neighbourhood doubles, and how often it may.
_WALKS, _WIDENINGS = 8, 3


class NA2C(Searcher):
    """Neighbourhood actor-critic search; see the module's text for the presets."""

    name = "na2c"
    Options = Na2cOptions
    presets: ClassVar[dict[str, dict[str, object]]] = PRESETS
    options: Na2cOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: Na2cOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        options = self.options
        self.graph = MoveGraph(space, legal=options.mask, features=options.features)
        inputs = len(space.encode(space.origin()))
        self.learner = Learner(self.graph, inputs, options, self.results, self.rng, seed)
        self._centers: list[tuple[float, int, Config]] = []  # cheapest first
        self._since_best = 0
        self._made: deque[Config] = deque()  # found and not proposed yet
        self._seeded = False

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed."""
        return self.options.mask

    def _propose(self, n: int) -> list[Config]:
        options = self.options
        if not self._seeded:
            self._seeded = True
            self._made.extend(self._seeds())
        batch: dict[Config, None] = {}  # ordered, with fast membership
        while len(batch) < n:
            if not self._made:
                if options.barrier and (batch or self.pending):
                    break
                self.learner.train()
                count = options.batch if options.barrier else n - len(batch)
                self._made.extend(self._collect(count, batch))
                if not self._made:
                    break
            config = self._made.popleft()
            if not self._seen(config):
                batch[config] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        self.learner.observe(config, result)
        if result.ok:
            bisect.insort(self._centers, (result.cost, len(self.results), config))
            del self._centers[self.options.centers :]
        improved = self.best is not None and self.best[0] == config
        self._since_best = 0 if improved else self._since_best + 1

    def _seeds(self) -> list[Config]:
        """Return the first configs to measure."""
        options = self.options
        seeds = [self.space.origin()] if options.start_origin else list(self.space.defaults)
        for _ in range(options.random_starts):
            if (config := self._draw(taken=seeds, legal=options.mask)) is not None:
                seeds.append(config)
        return seeds

    def _collect(self, count: int, batch: Collection[Config]) -> list[Config]:
        """Walk until ``count`` states are found that are new and not in ``batch``.

        A walk is not cut short, so there may be a few more. While walks find nothing they become
        longer, up to a limit; then any unseen config will do.
        """
        found: dict[Config, None] = dict.fromkeys(batch)
        goal = len(batch) + count
        steps, barren, widenings = self._radius(), 0, 0
        while len(found) < goal and self._centers and widenings <= _WIDENINGS:
            before = len(found)
            self._walk(steps, found)
            barren = 0 if len(found) > before else barren + 1
            if barren == _WALKS:
                steps, barren, widenings = 2 * steps, 0, widenings + 1
        while len(found) < goal:
            config = self._draw(taken=found, legal=self.options.mask)
            if config is None:
                break
            found[config] = None
        return list(found)[len(batch) :]

    def _radius(self) -> int:
        """Return the length of a walk: one more per ``patience`` results without a new best."""
        options = self.options
        return min(options.steps + self._since_best // options.patience, options.max_steps)

    def _walk(self, steps: int, found: dict[Config, None]) -> None:
        """Take ``steps`` moves from a centre, the k-th best with weight 1/k; add to ``found``."""
        weights = [1.0 / (place + 1) for place in range(len(self._centers))]
        state = self.rng.choices(self._centers, weights)[0][-1]
        for _ in range(steps):
            ends = self.graph.ends(state)
            new = [e is not None and e not in found and not self._seen(e) for e in ends]
            allowed = [True] * len(ends)
            if self.options.mask:
                allowed = new if any(new) else [end is not None for end in ends]
            if not any(allowed):
                return
            action = self._act(state, allowed)
            end = ends[action]
            if end is None:  # a move that does not apply, where these are not masked
                continue
            if new[action]:
                found[end] = None
                self.learner.waiting[end] = Transition(state, action, end)
            state = end

    def _act(self, state: Config, allowed: list[bool]) -> int:
        """Choose one of the allowed moves."""
        if self.rng.random() < self.options.epsilon:
            return self.rng.choice([i for i, holds in enumerate(allowed) if holds])
        weights = self.learner.policy(state, allowed)
        return self.rng.choices(range(len(weights)), weights)[0]
