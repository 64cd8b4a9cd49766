"""The XGBoost tuner of AutoTVM (Chen et al., arXiv 1805.08166), re-implemented.

AutoTVM is no longer part of TVM, so its tuner lives on here as the baseline. It measures a plan of
configs, refits boosted trees on everything measured, lets simulated annealing find the configs
which these score highest, and makes those the next plan, with a few random ones at its end.

The preset "paper" has the constants of AutoTVM's ``XGBTuner``: a plan of 64 whose first one is
random, 128 chains of 500 steps that change a random knob, the ranking loss, knob features, and
illegal configs that cost a trial, where they count as infinitely slow. "published" differs in
leaving illegal configs out, as every other searcher here does. The default learns earlier, from
plans of 8, uses products and ratios of sizes as features, and walks along legal edges of the graph.

Two bugs of the original are not copied: its pairwise ranking raises with xgboost 2 or later, and
its features may differ in length between configs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from autotune.search.annealing import Annealer
from autotune.search.base import Searcher
from autotune.search.boosting import LOSSES, BoostedTrees
from autotune.search.features import Features
from autotune.search.options import option, require
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

FEATURES = ("knob", "analytic")


@dataclass(frozen=True)
class XgbOptions:
    """Options of the XGBoost tuner; the defaults are the preset "default"."""

    plan: int = option(8, "configs between two fits of the model")
    warmup: int = option(16, "results before the first fit, of random configs")
    epsilon: float = option(0.25, "share of a plan that is random")
    chains: int = option(32, "chains of the simulated annealing")
    iterations: int = option(50, "steps of a chain, at most")
    patience: int = option(10, "steps without a better config that end the annealing")
    loss: str = option("rank", f"training loss: {' or '.join(LOSSES)}")
    features: str = option("analytic", f"what the trees see: {' or '.join(FEATURES)}")
    graph_moves: bool = option(True, "walk along legal edges, from the best configs too")
    filter_illegal: bool = option(True, "never measure illegal configs")
    drop_negative: bool = option(False, "leave out of a plan what scores below 0")

    def __post_init__(self) -> None:
        for name in ("plan", "warmup", "chains", "iterations", "patience"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        require(0.0 <= self.epsilon <= 1.0, f"epsilon must be in 0..1, got {self.epsilon}")
        for name, known in (("loss", LOSSES), ("features", FEATURES)):
            require(getattr(self, name) in known, f"{name} must be one of {', '.join(known)}")


_PUBLISHED: dict[str, object] = {
    "plan": 64,
    "warmup": 64,
    "epsilon": 0.05,
    "chains": 128,
    "iterations": 500,
    "patience": 50,
    "loss": "rank",
    "features": "knob",
    "graph_moves": False,
    # Of the ranking loss this makes little sense, as only differences of scores mean something;
    # the original does it all the same, and measures random configs instead.
    "drop_negative": True,
}


class XGBSearch(Searcher):
    """Boosted trees and simulated annealing; see the module's text for the presets."""

    name = "xgb"
    Options = XgbOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "default": {},
        "paper": {**_PUBLISHED, "filter_illegal": False},
        "published": _PUBLISHED,
    }
    options: XgbOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: XgbOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        options = self.options
        self._annealer = Annealer(
            space,
            self.rng,
            chains=options.chains,
            iterations=options.iterations,
            patience=options.patience,
            graph=options.graph_moves,
        )
        self._features = Features(space, analytic=options.features == "analytic")
        self._next_fit = options.warmup
        self._plan: deque[Config] = deque()
        #: Places of the plan that go to random configs.
        self._random_tail = int(options.epsilon * options.plan)

    @property
    def filters_illegal(self) -> bool:
        """Whether illegal configs are never proposed."""
        return self.options.filter_illegal

    def _propose(self, n: int) -> list[Config]:
        if len(self.results) >= self._next_fit and self.best is not None:
            self._make_plan()
        batch: dict[Config, None] = {}  # ordered, with fast membership
        while len(batch) < n:
            config = self._from_plan() or self._draw(batch, legal=self.filters_illegal)
            if config is None:
                break
            if config not in batch and not self._seen(config):
                batch[config] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        """Nothing to do: each fit reads all results."""

    def _from_plan(self) -> Config | None:
        """Return the next planned config, None where the plan is used up or says "random"."""
        while self._plan and self._seen(self._plan[0]):
            self._plan.popleft()
        return self._plan.popleft() if len(self._plan) > self._random_tail else None

    def _make_plan(self) -> None:
        options = self.options
        assert self.best is not None
        model = BoostedTrees(options.loss, top=options.plan, seed=self.seed)
        configs = list(self.results)
        model.fit(self._features(configs), self._fitness())
        start: list[Config] = []
        if options.graph_moves:
            ranked = sorted(configs, key=lambda config: self.results[config].cost)
            start = [c for c in ranked[: options.plan] if self.space.is_legal(c)]
        found = self._annealer.maximize(
            lambda points: model.predict(self._features(points)),
            options.plan,
            skip=lambda config: (
                self._seen(config) or (self.filters_illegal and not self.space.is_legal(config))
            ),
            start=start,
        )
        self._plan = deque(c for score, c in found if score >= 0 or not options.drop_negative)
        self._next_fit = len(self.results) + options.plan

    def _fitness(self) -> Any:
        """Return speeds relative to the best, shape ``(results,)``; 0 for a failure."""
        import numpy as np

        assert self.best is not None
        costs = np.array([result.cost for result in self.results.values()])
        return self.best[1] / costs
