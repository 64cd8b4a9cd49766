"""Starting points that spread over a space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from autotune.search.features import log_vector
from autotune.search.parameters import Categorical
from autotune.search.space import Config, ConfigSpace

#: Draws of which the one that spreads best is taken.
_DRAWS = 64


def spread_config(
    space: ConfigSpace,
    known: Sequence[Config],
    draw: Callable[[Sequence[Config]], Config | None],
) -> Config | None:
    """Return the drawn config that adds most to ``known``; None if nothing can be drawn.

    Every coordinate should see each of its levels equally often, as in a Latin hypercube, and no
    two configs should be alike. ``draw`` gets what was drawn before, to give something else.
    """
    drawn: list[Config] = []
    while len(drawn) < _DRAWS and (config := draw(drawn)) is not None:
        drawn.append(config)
    others = [_levels(space, config) for config in known]
    width = len(others[0]) if others else 0
    counts = [Counter(levels[place] for levels in others) for place in range(width)]

    def crowding(config: Config) -> float:
        levels = _levels(space, config)
        if not others:
            return 0.0
        pairs = zip(counts, levels, strict=True)
        repeats = sum(count[level] / len(others) for count, level in pairs)
        return repeats - min(_distance(levels, other) for other in others)

    return min(drawn, key=crowding, default=None)


def _levels(space: ConfigSpace, config: Config) -> list[Hashable]:
    """Return the coordinates of ``config``: parts of a factorization one by one."""
    levels: list[Hashable] = []
    for parameter in space.parameters:
        value = config[parameter.name]
        if parameter.size > 1:
            listed = isinstance(parameter, Categorical)
            levels += [value] if listed else log_vector(parameter, value)
    return levels


def _distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
