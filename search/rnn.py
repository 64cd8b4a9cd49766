"""The RNN controller: policy gradient on an LSTM that writes configs (:mod:`.rnn_net`).

The baseline that Zhang et al. (arXiv 1909.10616) compare with, after Zoph & Le (arXiv 1611.01578)
and Mirhoseini et al. (arXiv 1706.04972): REINFORCE with an exponential moving average of the
rewards as the baseline and an entropy bonus. The reward of a config is ``best / cost``, with the
best cost so far: ``1 / cost`` in a unit that keeps it in 0..1. What was measured already is sampled
again; when that keeps failing, a random unseen config is taken.

The default samples again while a config is illegal, which costs no trial, and learns a reward of 0
from some of those; the preset "paper" measures them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from autotune.search.base import Searcher
from autotune.search.options import option, require
from autotune.search.rnn_net import Controller
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

#: Sequences drawn at once, and how often before chance takes over.
_DRAWN, _ROUNDS = 32, 8


@dataclass(frozen=True)
class RnnOptions:
    """Options of the RNN controller; the defaults are the preset "default"."""

    hidden: int = option(64, "width of the LSTM")
    learning_rate: float = option(1e-2, "step of Adam")
    entropy: float = option(0.01, "weight of the entropy bonus")
    decay: float = option(0.9, "of the moving average of rewards")
    batch: int = option(8, "results per update")
    filter_illegal: bool = option(True, "sample again, at no cost, while a config is illegal")

    def __post_init__(self) -> None:
        require(self.hidden >= 1, "hidden must be at least 1")
        require(self.batch >= 1, "batch must be at least 1")
        require(0.0 < self.learning_rate < math.inf, "learning_rate must be positive and finite")
        require(0.0 <= self.entropy < math.inf, "entropy must be finite and at least 0")
        require(0.0 <= self.decay < 1.0, "decay must be at least 0 and below 1")


class RnnController(Searcher):
    """Policy-gradient search; see the module's text."""

    name = "rnn"
    Options = RnnOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "default": {},
        "paper": {"filter_illegal": False},
    }
    options: RnnOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: RnnOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        self.controller = Controller(
            space,
            hidden=self.options.hidden,
            learning_rate=self.options.learning_rate,
            seed=seed,
        )
        self._sequences: dict[Config, list[int]] = {}  # sampled, and not learnt from yet
        self._told: list[Config] = []  # of these, the ones with a result
        self._refused: list[list[int]] = []  # illegal samples since the last update
        self._baseline: float | None = None
        self._unit = math.inf  # best cost when the baseline was last brought up to date

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed."""
        return self.options.filter_illegal

    def _propose(self, n: int) -> list[Config]:
        while len(self._told) >= self.options.batch:
            self._learn()
        batch: dict[Config, None] = {}  # ordered, with fast membership
        for _ in range(_ROUNDS):
            if len(batch) == n:
                break
            for tokens in self.controller.sample(_DRAWN):
                config = self.controller.config(tokens)
                if len(batch) == n or self._seen(config) or config in batch:
                    continue
                if self.options.filter_illegal and not self.space.is_legal(config):
                    self._refused.append(tokens)
                    continue
                self._sequences[config] = tokens
                batch[config] = None
        while (
            len(batch) < n
            and (unseen := self._draw(taken=batch, legal=self.filters_illegal)) is not None
        ):
            batch[unseen] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        if config in self._sequences:
            self._told.append(config)

    def reward(self, config: Config) -> float:
        """Return best / cost of a config with a result; 0 for a failure."""
        return self._unit / self.results[config].cost if self.results[config].ok else 0.0

    def _learn(self) -> None:
        """Take one step on the oldest ``batch`` results, and on as many illegal samples."""
        count = self.options.batch
        configs, self._told = self._told[:count], self._told[count:]
        best = math.inf if self.best is None else self.best[1]
        if self._baseline is not None and math.isfinite(self._unit):
            self._baseline *= best / self._unit  # the unit of rewards has changed
        self._unit = best
        rewards = [self.reward(config) for config in configs]
        mean = sum(rewards) / count
        if self._baseline is None:
            self._baseline = mean
        advantages = [reward - self._baseline for reward in rewards]
        sequences = [self._sequences.pop(config) for config in configs]
        illegal = self._refused[:count]
        self._refused.clear()
        self.controller.update(
            sequences + illegal,
            advantages + [-self._baseline] * len(illegal),
            self.options.entropy,
        )
        decay = self.options.decay
        self._baseline = decay * self._baseline + (1.0 - decay) * mean
