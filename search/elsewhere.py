"""What results of another device or workload propose to measure here.

The start of a search is mostly what was fast there, as unlike as it can be. Later, two of six
proposals are relatives of the fastest there, one step of the graph away: what makes one device's
fastest config slow on another is often a single parameter, and a model of the differences would
need many results to find out which.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from autotune.search.design import spread_config
from autotune.search.space import Config, ConfigSpace
from autotune.trial import Result

#: Which of the first configs are what was fast there. Only the others tell whether the source is
#: right here: with five of six in place of four, short logs helped less.
_START = (True, True, False, True, False, True)
#: How many count as fast there.
_FAST = 20
#: Relatives of how many of those; in one of how many pairs of proposals. Pairs, so that both views
#: of the model (:mod:`autotune.search.graph_bo`) get to choose.
_CENTRES, _PAIRS = 3, 3
#: What has less than this share of the best speed here is left alone, its relatives too.
_LEAST_SPEED = 0.5


class Elsewhere:
    """Proposals made from the results of other searches.

    Parameters
    ----------
    space
        That is searched here.
    sources
        Results by config of that space, one success at least in each; they take turns.
    """

    def __init__(self, space: ConfigSpace, sources: Sequence[Mapping[Config, Result]]) -> None:
        self._space = space
        self._fast = [fast for source in sources if (fast := _fastest(space, source))]

    def start(self, known: Sequence[Config]) -> Config | None:
        """Return a config to begin with: the fastest there, then the most unlike of the fast.

        None if the next is to be one that no source proposes, or if ``known`` has them all.
        """
        if len(known) >= len(_START) or not _START[len(known)]:
            return None
        turn = sum(_START[: len(known)]) % max(1, len(self._fast))
        by_turns = [*self._fast[turn:], *self._fast[:turn]]
        fresh = ([c for c in fast if c not in known] for fast in by_turns)
        rest = iter(next(filter(None, fresh), ()))
        # Where nothing is known yet, all are equally unlike, and the first is taken.
        return spread_config(self._space, known, lambda _: next(rest, None))

    def relatives(
        self, results: Mapping[Config, Result], count: int, taken: Callable[[Config], bool]
    ) -> list[Config]:
        """Return the configs of which the next proposal is to be one; none if it is free.

        Parameters
        ----------
        results
            Known here.
        count
            How many configs were proposed so far.
        taken
            Which are not to be proposed again.
        """
        pair = count // 2
        if pair % _PAIRS or not self._fast:
            return []
        best = min(result.cost for result in results.values())
        fast = self._fast[pair // _PAIRS % len(self._fast)]
        centres = [
            config
            for config in fast[:_CENTRES]
            if config not in results or best >= _LEAST_SPEED * results[config].cost
        ]
        if not any(config in results for config in centres):
            return []
        near = dict.fromkeys(n for config in centres for n in self._space.neighbors(config))
        return [config for config in near if not taken(config)]


def _fastest(space: ConfigSpace, source: Mapping[Config, Result]) -> list[Config]:
    """Return what was fastest in ``source`` and is legal here, the fastest first."""
    ranked = sorted((c for c, r in source.items() if r.ok), key=lambda config: source[config].cost)
    return list(itertools.islice(filter(space.is_legal, ranked), _FAST))
