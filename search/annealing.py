"""Simulated annealing over a space, to find configs that a model scores high.

As AutoTVM's ``SimulatedAnnealingOptimizer`` does it: many chains in parallel, a linear cooling, a
heap of the best unseen configs, an end when that heap no longer changes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError
from autotune.search.parameters import Parameter
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _movable(space: ConfigSpace, rng: random.Random) -> Parameter | None:
    """Draw a parameter that has more than one value; None if there is none."""
    parameters = space.parameters
    if space.size == 1:
        return None
    while (parameter := parameters[rng.randrange(len(parameters))]).size == 1:
        pass
    return parameter


def random_knob_move(space: ConfigSpace, config: Config, rng: random.Random) -> Config:
    """Give one random parameter another value, uniformly; the value is not a neighbour's."""
    parameter = _movable(space, rng)
    if parameter is None:
        return config
    value = config[parameter.name]
    while value == config[parameter.name]:
        value = parameter.sample(rng)
    return config.replace(**{parameter.name: value})


def graph_move(space: ConfigSpace, config: Config, rng: random.Random) -> Config:
    """Take one random step of the graph, to a legal config; stay if that step is illegal."""
    parameter = _movable(space, rng)
    if parameter is None:
        return config
    near = parameter.neighbors(config[parameter.name])
    moved = config.replace(**{parameter.name: near[rng.randrange(len(near))]})
    return moved if space.is_legal(moved) else config


class Annealer:
    """Keeps the chains from one search to the next.

    Parameters
    ----------
    space, rng
        Where to walk, and the source of all randomness.
    chains, iterations, patience
        Chains in parallel; steps of each at most; steps without a better config in the heap.
    graph
        Walk along legal edges instead of drawing a new value for one parameter.
    """

    def __init__(
        self,
        space: ConfigSpace,
        rng: random.Random,
        *,
        chains: int,
        iterations: int,
        patience: int,
        graph: bool,
    ) -> None:
        self._space = space
        self._rng = rng
        self._chains = chains
        self._iterations = iterations
        self._patience = patience
        self._graph = graph
        self._points: list[Config] = []

    def maximize(
        self,
        score: Callable[[Sequence[Config]], NDArray[np.float32]],
        count: int,
        skip: Callable[[Config], bool],
        start: Sequence[Config] = (),
    ) -> list[tuple[float, Config]]:
        """Return up to ``count`` pairs (score, config) for which not ``skip``, best first.

        ``start`` replaces as many chains as it has configs; walks along the graph need one at
        least, a legal one.
        """
        space, rng = self._space, self._rng
        while len(self._points) < self._chains:
            self._points.append(self._new_point(start))
        points = [*start, *self._points][: self._chains]
        scores = [float(value) for value in score(points)]
        found = _Heap(count, skip)
        found.offer(scores, points)
        temperature, last_change = 1.0, 0
        move = graph_move if self._graph else random_knob_move
        for step in range(self._iterations):
            if step >= last_change + self._patience:
                break
            moved = [move(space, point, rng) for point in points]
            new_scores = [float(value) for value in score(moved)]
            for chain, (new, old) in enumerate(zip(new_scores, scores, strict=True)):
                chance = math.exp(min((new - old) / (temperature + 1e-5), 1.0))
                if rng.random() < chance:
                    points[chain], scores[chain] = moved[chain], new
            if found.offer(new_scores, moved):
                last_change = step
            temperature -= 1.0 / (self._iterations + 1)
        self._points = points
        return found.sorted()

    def _new_point(self, start: Sequence[Config]) -> Config:
        """Draw where a chain begins; where legal configs are too rare to draw, copy a start."""
        try:
            return self._space.sample(self._rng, legal=self._graph)
        except AutotuneError:
            return start[self._rng.randrange(len(start))]


class _Heap:
    """The best configs offered so far, each once."""

    def __init__(self, count: int, skip: Callable[[Config], bool]) -> None:
        self._count = count
        self._skip = skip
        self._items: list[tuple[float, int, Config]] = []  # the number breaks ties: first come
        self._members: set[Config] = set()
        self._offers = 0

    def offer(self, scores: Sequence[float], configs: Sequence[Config]) -> bool:
        """Take what belongs in; return whether anything did."""
        changed = False
        for score, config in zip(scores, configs, strict=True):
            full = len(self._items) == self._count
            if full and score <= self._items[0][0]:
                continue
            if config in self._members or self._skip(config):
                continue
            self._offers += 1
            item = (score, -self._offers, config)
            if full:
                self._members.remove(heapq.heapreplace(self._items, item)[2])
            else:
                heapq.heappush(self._items, item)
            self._members.add(config)
            changed = True
        return changed

    def sorted(self) -> list[tuple[float, Config]]:
        """Return (score, config), best first, of equals the first offered."""
        return [(score, config) for score, _, config in sorted(self._items, reverse=True)]
