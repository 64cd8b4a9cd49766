"""Bayesian optimisation on the graph: a Gaussian process with diffusion kernels proposes.

After a short start that spreads over the values of all parameters, each proposal is the unseen
legal config with the highest expected improvement of the speed or of its logarithm, by turns.
Configs without a result yet, pending ones and those of the same batch, count as if they had the
speed that the model expects of them (the "kriging believer"), so a batch spreads by itself. A
failure has the speed 0.

With results of another device or workload, some proposals are taken from those
(:mod:`autotune.search.elsewhere`), and a second model that expects what happened there competes
with the first by its evidence (:mod:`autotune.search.surrogate`).

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
from autotune.search.elsewhere import Elsewhere
from autotune.search.options import option, require
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

if TYPE_CHECKING:
    from autotune.search.codec import Codec
    from autotune.search.surrogate import Surrogate

#: Good results that the acquisition's search begins from.
_INCUMBENTS = 8
#: Powers of the relative speed that the model takes turns to learn; 0 stands for its logarithm. The
#: speed itself tells the fast apart, its logarithm shows effects that multiply; what one of them
#: overlooks, the other may find.
_VIEWS = (1.0, 0.0)
#: Belief in results from elsewhere, from which on their relatives are proposed.
_TRUSTED = 0.5
#: Latest configs that the next one of the start keeps apart from; more only while all fail.
_SPREAD_FROM = 100


@dataclass(frozen=True)
class GraphBoOptions:
    """Options of the graph-kernel Gaussian process; the defaults are the preset "default"."""

    warmup: int = option(6, "results, of configs that spread out, before the model is used")
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
        # One kernel per parameter, on its whole graph, as COMBO has it, and a longer start.
        "combo": {"by_part": False, "warmup": 10},
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
        self._codec: Codec | None = None
        self._surrogates: dict[float, Surrogate] = {}
        self._candidates: Candidates | None = None
        self._elsewhere: Elsewhere | None = None

    def _propose(self, n: int) -> list[Config]:
        batch: dict[Config, None] = {}  # ordered, with fast membership
        if self._codec is None:
            self._prepare()
        # The matrices are small: more threads only wait for each other, and sum in another order.
        with _blas().limit(limits=1, user_api="blas"):
            while len(batch) < n and (config := self._next(batch)) is not None:
                batch[config] = None
        return list(batch)

    def _prepare(self) -> None:
        """Drop sources that are noise; without another, the search is that of a cold start."""
        from autotune.search.codec import Codec
        from autotune.search.source import is_predictable

        self._codec = Codec(self.space, self.options.by_part)
        with _blas().limit(limits=1, user_api="blas"):
            successful = [s for s in self._foreign if any(r.ok for r in s.values())]
            self._foreign = [s for s in successful if is_predictable(self._codec, s)]
        if self._foreign:
            self._elsewhere = Elsewhere(self.space, self._foreign)

    def _observe(self, config: Config, result: Result) -> None:
        """Nothing to do: the model learns all results before each proposal."""

    def _next(self, batch: dict[Config, None]) -> Config | None:
        waiting = [*self.pending, *batch]
        known = [*self.results, *waiting]
        if self.best is None or len(known) < self.options.warmup:
            return self._begin(batch, known)
        found = self._promising(batch, waiting)
        return self._draw(batch) if found is None else found

    def _begin(self, batch: dict[Config, None], known: Sequence[Config]) -> Config | None:
        """Return a config to begin with: one that was fast elsewhere, or one unlike the known."""
        if self._elsewhere is not None:
            config = self._elsewhere.start(known)
            if config is not None:
                return config
        latest = known[-_SPREAD_FROM:]
        return spread_config(self.space, latest, lambda taken: self._draw([*batch, *taken]))

    def _promising(self, batch: dict[Config, None], waiting: Sequence[Config]) -> Config | None:
        """Return the unseen config of the highest expected improvement that was found."""
        surrogate = self._learned(waiting)
        if self._candidates is None:
            self._candidates = make_candidates(self.space, surrogate.codec, self.rng)

        def taken(config: Config) -> bool:
            return self._seen(config) or config in batch

        if self._elsewhere is not None and surrogate.belief >= _TRUSTED:
            count = len(self.results) + len(waiting)
            relatives = self._elsewhere.relatives(self.results, count, taken)
            if relatives:
                return relatives[int(surrogate.improvement(surrogate.codec(relatives)).argmax())]
        ranked = sorted(self.results, key=lambda config: self.results[config].cost)
        return self._candidates.best(
            surrogate.improvement,
            seen=taken,
            incumbents=[c for c in ranked[:_INCUMBENTS] if self.results[c].ok],
        )

    def _learned(self, waiting: Sequence[Config]) -> Surrogate:
        """Return the model whose turn it is, given all results and what is waited for."""
        from autotune.search.surrogate import Surrogate

        assert self._codec is not None  # made at the first proposal; one for all models
        power = _VIEWS[(len(self.results) + len(waiting)) % len(_VIEWS)]
        if power not in self._surrogates:
            self._surrogates[power] = Surrogate(
                self._codec, self.options.memory, self._foreign, power
            )
        surrogate = self._surrogates[power]
        surrogate.condition(self.results, waiting)
        return surrogate
