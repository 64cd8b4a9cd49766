"""Bayesian optimisation on the graph: a Gaussian process with diffusion kernels proposes.

After a short start that spreads over the values of all parameters, each proposal is the unseen
legal config with the highest expected improvement of the logarithm of the cost. Configs without a
result yet, pending ones and those of the same batch, count as if they had the cost that the model
expects of them (the "kriging believer"), so a batch spreads by itself. A failure counts as the
worst cost seen.

Sources: COMBO (Oh et al., arXiv 1902.00448) for kernels on products of graphs and local search for
the acquisition; BaCO (Hellsten et al., ASPLOS 2023) for logarithms of costs and a legality that
is known; the kernel itself is described in :mod:`autotune.search.gaussian_process`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.search.base import Searcher
from autotune.search.candidates import Candidates, make_candidates
from autotune.search.design import spread_config
from autotune.search.options import option, require
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

if TYPE_CHECKING:
    from autotune.search.surrogate import Surrogate

#: Good results that the acquisition's search begins from.
_INCUMBENTS = 8
#: With results from elsewhere: which of the first configs are what was fast there.
_PATTERN = (1, 1, 0, 1, 0)
#: How many count as fast there.
_FAST = 20
#: Correlation of results and expectations from which the source is believed early.
_AGREE = 0.3
LOCAL = 0
#: Latest configs that the next one of the start keeps apart from; more only while all fail.
_SPREAD_FROM = 100


@dataclass(frozen=True)
class GraphBoOptions:
    """Options of the graph-kernel Gaussian process; the defaults are the preset "default"."""

    warmup: int = option(10, "results, of configs that spread out, before the model is used")
    memory: int = option(256, "results that the model is conditioned on, at most")
    by_part: bool = option(True, "give each part of a factorization a kernel of its own")

    def __post_init__(self) -> None:
        require(self.warmup >= 2, f"warmup must be at least 2, got {self.warmup}")
        require(self.memory >= 16, f"memory must be at least 16, got {self.memory}")


@functools.cache
def _blas() -> Any:
    """Find the loaded BLAS libraries, once: a Ctrl-C during the look-up would be swallowed."""
    import numpy  # noqa: F401 (loads its BLAS; the next line loads scipy's)
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class GraphBO(Searcher):
    """Expected improvement under a Gaussian process with diffusion kernels."""

    name = "graph-bo"
    uses_transfer = True
    Options = GraphBoOptions
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "default": {},
        # One kernel per parameter, on its whole graph, as COMBO has it.
        "combo": {"by_part": False},
    }
    options: GraphBoOptions

    def __init__(
        self,
        space: ConfigSpace,
        seed: int,
        *,
        start: Sequence[Config] = (),
        options: GraphBoOptions | None = None,
    ) -> None:
        super().__init__(space, seed, start=start, options=options)
        self._surrogate: Surrogate | None = None
        self._candidates: Candidates | None = None

    def _propose(self, n: int) -> list[Config]:
        batch: dict[Config, None] = {}  # ordered, with fast membership
        # The matrices are small: more threads only wait for each other, and sum in another order.
        with _blas().limit(limits=1, user_api="blas"):
            while len(batch) < n and (config := self._next(batch)) is not None:
                batch[config] = None
        return list(batch)

    def _observe(self, config: Config, result: Result) -> None:
        """Nothing to do: the model learns all results before each proposal."""

    def _next(self, batch: dict[Config, None]) -> Config | None:
        waiting = [*self.pending, *batch]
        known = [*self.results, *waiting]
        if self._foreign:
            config = self._first_with_source(batch, known)
            if config is not None:
                return config
        elif self.best is None or len(known) < self.options.warmup:
            return self._spread(batch, known)
        found = self._promising(batch, waiting)
        return self._draw(batch) if found is None else found

    def _spread(self, batch: dict[Config, None], known: Sequence[Config]) -> Config | None:
        """Return a config unlike the known ones."""
        latest = known[-_SPREAD_FROM:]
        return spread_config(self.space, latest, lambda taken: self._draw([*batch, *taken]))

    def _first_with_source(
        self, batch: dict[Config, None], known: Sequence[Config]
    ) -> Config | None:
        """Return what to try before the model is used, with results from elsewhere; None after.

        By turns what was fast there and what spreads out: only the difference between the two tells
        whether the source is right here. If it is not, the rest of the start spreads out.
        """
        place = len(known)
        if place < len(_PATTERN):
            config = self._trusted(batch, known) if _PATTERN[place] else None
            return self._spread(batch, known) if config is None else config
        if self.best is None:
            return self._spread(batch, known)
        if place < self.options.warmup and self._agreement() < _AGREE:
            return self._spread(batch, known)
        return None

    def _agreement(self) -> float:
        """Return the correlation of the results with what was expected of them."""
        import numpy as np

        surrogate = self._learned(())
        known = [config for config in self.results]
        if len(known) < 3:
            return 0.0
        costs = [self.results[config].cost for config in known]
        expected = surrogate.prior(surrogate.codec(known))[1]
        from scipy.stats import spearmanr

        value = spearmanr(np.array(costs), expected).statistic
        return float(np.nan_to_num(value))

    def _trusted(self, batch: dict[Config, None], known: Sequence[Config]) -> Config | None:
        """Return a config that was fast elsewhere, of these the least like the known ones."""
        for source in self._foreign:
            ok = [(r.cost, place, c) for place, (c, r) in enumerate(source.items()) if r.ok]
            ok.sort()
            fast = [c for _, _, c in ok if self.space.is_legal(c)][:_FAST]
            fresh = [c for c in fast if not self._seen(c) and c not in batch]
            if fresh and not known:
                return fresh[0]
            if fresh:
                draws = iter(fresh)
                return spread_config(
                    self.space, known[-_SPREAD_FROM:], lambda taken, d=draws: next(d, None)
                )
        return None

    def _promising(self, batch: dict[Config, None], waiting: Sequence[Config]) -> Config | None:
        """Return the unseen config of the highest expected improvement that was found."""
        surrogate = self._learned(waiting)
        if self._candidates is None:
            self._candidates = make_candidates(self.space, surrogate.codec, self.rng)
        ranked = sorted(self.results, key=lambda config: self.results[config].cost)
        if LOCAL and len(self.results) % LOCAL == 0:
            near = [
                c
                for inc in ranked[:3]
                for c in self.space.neighbors(inc)
                if not self._seen(c) and c not in batch
            ]
            if near:
                near = list(dict.fromkeys(near))
                return near[int(surrogate.improvement(surrogate.codec(near)).argmax())]
        return self._candidates.best(
            surrogate.improvement,
            seen=lambda config: self._seen(config) or config in batch,
            incumbents=[c for c in ranked[:_INCUMBENTS] if self.results[c].ok],
        )

    def _learned(self, waiting: Sequence[Config]) -> Surrogate:
        """Return the model, given all results and what is waited for."""
        from autotune.search.surrogate import Surrogate

        if self._surrogate is None:
            options = self.options
            self._surrogate = Surrogate(self.space, options.memory, options.by_part, self._foreign)
        self._surrogate.condition(self.results, waiting)
        return self._surrogate
