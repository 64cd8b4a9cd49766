"""OpEvo: evolution with walks on the parameter graphs (Gao et al., arXiv 2006.05664, algorithm 1).

Parents are the ``parents`` best configs ever measured. A child takes every parameter from a parent
of its own, and then every parameter takes a q-random walk on its graph (:func:`q_walk`).

The preset "paper" does that and no more: parents are chosen in proportion to throughput, a child
that was measured already walks on, illegal configs are trials of fitness zero, and configs are
drawn uniformly until ``parents`` of them worked. The default breeds a child again if it is illegal
or known, which costs no trial; chooses parents by rank, because throughputs near the optimum are
too alike to select on; draws q per child between ``q_min`` and ``q``, so that one- and many-step
mutations both occur at every stage; and starts from the space's defaults and random configs.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from autotune.search.base import Searcher
from autotune.search.options import option, require
from autotune.search.parameters import Parameter, Value
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

#: Children bred in vain before a config is drawn uniformly.
_TRIES = 200
#: Walks that go on from a known child before it is given up, in the preset "paper".
_WALKS = 1000


def q_walk(parameter: Parameter, value: Value, q: float, rng: random.Random) -> Value:
    """Return where a q-random walk from ``value`` ends.

    While a coin of probability ``q`` < 1 says so, step to a uniformly drawn neighbour: the number
    of steps is k with probability ``(1 - q) * q**k`` (arXiv 2006.05664, section 3). With P the
    transition matrix of the simple walk, u is the end with probability
    ``(1 - q) * inv(I - q P)[value, u]``; larger q walks further.
    """
    while rng.random() < q:
        near = parameter.neighbors(value)
        if not near:
            break
        value = near[rng.randrange(len(near))]
    return value


@dataclass(frozen=True)
class OpEvoOptions:
    """Options of OpEvo; the defaults are the preset "default"."""

    parents: int = option(4, "lambda: how many of the best configs ever measured breed")
    offspring: int = option(8, "rho: children per generation; only the barrier makes it matter")
    q: float = option(0.5, "chance of one more step in the walk of each parameter")
    q_min: float = option(0.05, "each child draws its q log-uniformly between this and q")
    selection: str = option("rank", "parents by 'rank', or 'proportional' to throughput")
    filter_illegal: bool = option(True, "breed again, at no cost, while a child is illegal")
    force_move: bool = option(True, "at least one parameter takes a step")
    start_defaults: bool = option(True, "measure the space's defaults first")
    warmup: int = option(4, "successes among random configs before the first child")
    barrier: bool = option(False, "breed only when every pending result has arrived")

    def __post_init__(self) -> None:
        require(self.parents >= 1, f"parents must be at least 1, got {self.parents}")
        require(self.offspring >= 1, f"offspring must be at least 1, got {self.offspring}")
        require(self.warmup >= 1, f"warmup must be at least 1, got {self.warmup}")
        require(
            0.0 < self.q_min <= self.q < 1.0,
            f"0 < q_min <= q < 1 must hold, got {self.q_min} and {self.q}",
        )
        require(
            self.selection in ("rank", "proportional"),
            f"selection must be 'rank' or 'proportional', got {self.selection!r}",
        )


class OpEvo(Searcher):
    """Evolutionary search; see the module's text for the presets."""

    name = "opevo"
    Options = OpEvoOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "default": {},
        "paper": {
            "parents": 8,
            "q_min": 0.5,
            "selection": "proportional",
            "filter_illegal": False,
            "force_move": False,
            "start_defaults": False,
            "warmup": 8,
            "barrier": True,
        },
    }
    options: OpEvoOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: OpEvoOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        # The best so far as (cost, order of telling, config), cheapest first.
        self._elite: list[tuple[float, int, Config]] = []
        self._successes = 0
        # Made but not proposed yet; only the barrier makes more than were asked for.
        self._made = deque(space.defaults if self.options.start_defaults else ())
        self._movable = [p for p in space.parameters if p.size > 1]

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed."""
        return self.options.filter_illegal

    def _propose(self, n: int) -> list[Config]:
        batch: dict[Config, None] = {}  # ordered, with fast membership
        while len(batch) < n:
            if not self._made and not self._make(n, batch):
                break
            config = self._made.popleft()
            if not self._seen(config):
                batch[config] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        if result.ok:  # a failure has no fitness, so it never breeds
            self._successes += 1
            bisect.insort(self._elite, (result.cost, len(self.results), config))
            del self._elite[self.options.parents :]

    def _make(self, n: int, batch: dict[Config, None]) -> bool:
        """Make a generation, or what is still asked for; return whether there is any."""
        barrier = self.options.barrier
        if barrier and (batch or self.pending):
            return False
        made: dict[Config, None] = dict(batch)
        for _ in range(self.options.offspring if barrier else n - len(batch)):
            warm = self._successes >= self.options.warmup
            config = self._child(made) if warm else None
            if config is None:
                config = self._draw(taken=made, legal=self.filters_illegal)
            if config is None:
                break
            made[config] = None
        self._made.extend(config for config in made if config not in batch)
        return bool(self._made)

    def _child(self, made: dict[Config, None]) -> Config | None:
        """Breed a new config; None if that keeps failing."""
        options = self.options
        for _ in range(_TRIES if options.filter_illegal else 1):
            child = self._mutate(self._recombine())
            for _ in range(0 if options.filter_illegal else _WALKS):
                if not self._seen(child) and child not in made:
                    break
                child = self._mutate(child)
            if self._seen(child) or child in made:
                continue
            if not options.filter_illegal or self.space.is_legal(child):
                return child
        return None

    def _recombine(self) -> Config:
        """Take every parameter from a parent of its own."""
        weights = self._weights()
        chosen = self.rng.choices(self._elite, weights, k=len(self.space.parameters))
        pairs = zip(self.space.parameters, chosen, strict=True)
        return Config({p.name: parent[-1][p.name] for p, parent in pairs})

    def _weights(self) -> list[float]:
        """Return how likely each of the elite becomes a parent, cheapest first, not normalised."""
        if self.options.selection == "proportional":
            best = self._elite[0][0]  # cancels out; keeps 1 / cost from overflowing
            return [best / cost for cost, _, _ in self._elite]
        return [float(len(self._elite) - place) for place in range(len(self._elite))]

    def _mutate(self, config: Config) -> Config:
        """Let every parameter walk, with one q for all."""
        low, high = self.options.q_min, self.options.q
        q = low if low == high else math.exp(self.rng.uniform(math.log(low), math.log(high)))
        values = {p.name: q_walk(p, config[p.name], q, self.rng) for p in self.space.parameters}
        child = Config(values)
        if self.options.force_move and child == config and self._movable:
            parameter = self.rng.choice(self._movable)
            near = parameter.neighbors(config[parameter.name])
            child = config.replace(**{parameter.name: self.rng.choice(near)})
        return child
