"""What N-A2C learns from: transitions credited to what they led to, rewards, and when to update."""

from __future__ import annotations

import bisect
import math
import random
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from autotune.search.actor_critic import ActorCritic, Batch, Loss
from autotune.search.moves import MoveGraph
from autotune.search.na2c_options import Na2cOptions
from autotune.search.space import Config
from autotune.trial import Result


class Transition(NamedTuple):
    """The move number ``action`` from ``state``, which led to ``reached``."""

    state: Config
    action: int
    reached: Config


class Learner:
    """The network, and the memory that trains it.

    Parameters
    ----------
    graph
        Moves and features.
    options
        Those of the searcher.
    results
        Those of the searcher, always up to date.
    rng, seed
        Draws from the memory; seeds the network.
    """

    def __init__(
        self,
        graph: MoveGraph,
        inputs: int,
        options: Na2cOptions,
        results: Mapping[Config, Result],
        rng: random.Random,
        seed: int,
    ) -> None:
        self.net = ActorCritic(
            inputs,
            len(graph.moves),
            hidden=options.hidden,
            learning_rate=options.learning_rate,
            seed=seed,
        )
        #: Transitions whose result is not there yet, by the config that they led to.
        self.waiting: dict[Config, Transition] = {}
        #: Transitions with a result, oldest first.
        self.memory: deque[Transition] = deque(maxlen=options.memory or None)
        self._graph = graph
        self._options = options
        self._results = results
        self._rng = rng
        self._untrained = 0
        self._costs: list[float] = []  # of every success, ascending

    def policy(self, state: Config, allowed: list[bool]) -> list[float]:
        """Return the actor's probability of each move."""
        return self.net.policy([self._graph.features(state)], [allowed])[0]

    def observe(self, config: Config, result: Result) -> None:
        """Take a result; that of a config which no walk led to only counts in the ranking."""
        if result.ok:
            bisect.insort(self._costs, result.cost)
        transition = self.waiting.pop(config, None)
        if transition is not None:
            self.memory.append(transition)
            self._untrained += 1

    def reward(self, transition: Transition) -> float:
        """Return the reward of a transition whose end has a result.

        "throughput" is ``1 / cost``, and "inverse" the same in units of the best so far, in 0..1:
        in units of the first cost it grows to hundreds on the way from an untiled start, which
        drives the actor into one corner. Both are 0 for a failure. "gain" is the share of all
        costs so far that the move overtook, in -1..1; half of them, where the state has no result,
        is its rank.
        """
        cost = self._results[transition.reached].cost
        if self._options.reward == "throughput":
            return 1.0 / cost  # the cost of a failure is infinite
        if self._options.reward == "inverse":
            return self._costs[0] / cost if math.isfinite(cost) else 0.0
        before = self._results.get(transition.state)
        return self._rank(cost) - (0.5 if before is None else self._rank(before.cost))

    def _rank(self, cost: float) -> float:
        """Return the share of successes that ``cost`` beats or equals; 0 for a failure."""
        if not math.isfinite(cost):
            return 0.0
        return 1.0 - bisect.bisect_left(self._costs, cost) / len(self._costs)

    def train(self) -> None:
        """Learn from the memory; without one, once from what was told since the last time."""
        options = self._options
        if not options.train or not self._untrained:
            return
        transitions = list(self.memory)
        if options.memory:
            count = min(options.minibatch, len(transitions))
            for _ in range(options.updates * self._untrained):
                self._update(self._rng.sample(transitions, count))
        else:
            self._update(transitions)
            self.memory.clear()
        self._untrained = 0

    def _update(self, sample: list[Transition]) -> None:
        graph, options = self._graph, self._options
        always = [True] * len(graph.moves)
        masks = [
            [end is not None for end in graph.ends(t.state)] if options.mask else always
            for t in sample
        ]
        batch = Batch(
            states=[graph.features(t.state) for t in sample],
            masks=masks,
            actions=[t.action for t in sample],
            rewards=[self.reward(t) for t in sample],
            next_states=[graph.features(t.reached) for t in sample],
        )
        loss = Loss(options.gamma, options.entropy, options.actor_sign, options.detach)
        self.net.update(batch, loss)
