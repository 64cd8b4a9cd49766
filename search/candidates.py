"""Where a model looks for its best unseen legal config.

Where the legal configs can be listed, all are scored. In a larger space, candidates are the
neighbours of the best results, random draws, and what scored well before; from the best of them, a
local search climbs along legal edges.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from autotune.search.codec import Codec
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Codes, shape ``(n, parameters)``, to scores, shape ``(n,)``; higher is better.
Score = Callable[["NDArray[np.intp]"], "NDArray[np.float64]"]
Test = Callable[[Config], bool]

#: A listed space is scored whole at every ``_RESCAN``-th request, at most ``_SCAN`` configs of it;
#: in between only the ``_SHORTLIST`` best of that and the neighbours of good results are.
_RESCAN, _SCAN, _SHORTLIST = 5, 20_000, 2_000
#: Good results whose neighbours are candidates; random draws; candidates kept for the next time.
_INCUMBENTS, _DRAWS, _KEPT = 8, 200, 200
#: Climbs of the local search, and steps of each.
_CLIMBS, _STEPS = 3, 6


class Candidates(Protocol):
    """A source of unseen legal configs."""

    def best(self, score: Score, seen: Test, incumbents: Sequence[Config]) -> Config | None:
        """Return the unseen config with the highest score that was found; None if there is none.

        Parameters
        ----------
        score, seen
            What to maximise, and which configs are out.
        incumbents
            Good results, best first.
        """


def make_candidates(space: ConfigSpace, codec: Codec, rng: random.Random) -> Candidates:
    """Return the source that suits ``space``."""
    if space.listed is not None:
        return ListedCandidates(space, codec, rng)
    return SampledCandidates(space, codec, rng)


class ListedCandidates:
    """Every legal config of a space that lists them."""

    def __init__(self, space: ConfigSpace, codec: Codec, rng: random.Random) -> None:
        import numpy as np

        self._space = space
        self._rng = rng
        self._configs = list(space.listed or ())
        self._codes = codec(self._configs)
        self._rows = {config: row for row, config in enumerate(self._configs)}
        self._shortlist = np.arange(len(self._configs))
        self._requests = 0

    def best(self, score: Score, seen: Test, incumbents: Sequence[Config]) -> Config | None:
        """See :meth:`Candidates.best`."""
        import numpy as np

        if not self._configs:
            return None
        whole = self._requests % _RESCAN == 0 or len(self._configs) <= _SHORTLIST
        self._requests += 1
        rows = self._scan_rows() if whole else self._shortlist
        near = {
            self._rows[config]
            for incumbent in incumbents[:_INCUMBENTS]
            for config in self._space.neighbors(incumbent)
        }
        rows = np.union1d(rows, np.array(sorted(near), dtype=np.intp))
        order = np.argsort(-score(self._codes[rows]), kind="stable")
        if whole:
            self._shortlist = rows[order[:_SHORTLIST]]
        unseen = (self._configs[row] for row in rows[order])
        found = next((config for config in unseen if not seen(config)), None)
        if found is None and not whole:  # the shortlist is used up
            self._requests = 0
            return self.best(score, seen, incumbents)
        return found

    def _scan_rows(self) -> NDArray[np.intp]:
        import numpy as np

        if len(self._configs) <= _SCAN:
            return np.arange(len(self._configs))
        return np.array(sorted(self._rng.sample(range(len(self._configs)), _SCAN)))


class SampledCandidates:
    """Neighbours, draws and climbs in a space too large to list."""

    def __init__(self, space: ConfigSpace, codec: Codec, rng: random.Random) -> None:
        self._space = space
        self._codec = codec
        self._rng = rng
        self._kept: list[Config] = []

    def best(self, score: Score, seen: Test, incumbents: Sequence[Config]) -> Config | None:
        """See :meth:`Candidates.best`."""
        import numpy as np

        pool: dict[Config, None] = dict.fromkeys(self._kept)  # ordered, with fast membership
        for incumbent in incumbents[:_INCUMBENTS]:
            pool.update(dict.fromkeys(self._space.neighbors(incumbent)))
        for _ in range(_DRAWS):
            config = self._space.sample(self._rng, legal=False)
            if self._space.is_legal(config):
                pool[config] = None
        ranked = self._rank([config for config in pool if not seen(config)], score)
        starts = ranked[:_CLIMBS]
        for _ in range(_STEPS):
            near = dict.fromkeys(
                near
                for _, config in starts
                for near in self._space.neighbors(config)
                if near not in pool and not seen(near)
            )
            pool.update(near)
            higher = [item for item in self._rank(list(near), score) if item[0] > starts[-1][0]][
                :_CLIMBS
            ]
            if not higher:
                break
            ranked += higher
            starts = higher
        ranked.sort(key=lambda item: -item[0])
        self._kept = [config for _, config in ranked[:_KEPT]]
        return self._kept[0] if ranked and np.isfinite(ranked[0][0]) else None

    def _rank(self, configs: list[Config], score: Score) -> list[tuple[float, Config]]:
        if not configs:
            return []
        scores = [float(value) for value in score(self._codec(configs))]
        pairs = zip(scores, configs, strict=True)
        return sorted(pairs, key=lambda item: -item[0])
