"""Bring results of another space, of another workload or device, into the space at hand.

A config whose values all exist here is taken as it is. Otherwise each value moves to the nearest
one: ordinals by ratio, factorizations of another extent part by part, innermost first, because what
happens in the innermost loops depends least on the extent; the outermost part takes the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import AutotuneError
from autotune.search.parameters import (
    Categorical,
    Factorization,
    Ordinal,
    Parameter,
    Value,
    lists_to_tuples,
)
from autotune.search.space import Config, ConfigSpace
from autotune.trial import FailureKind, Result


@dataclass(frozen=True)
class Translation:
    """Results of one source as results of vertices of this space.

    Parameters
    ----------
    pairs
        For :meth:`autotune.search.base.Searcher.transfer`, each config once.
    exact, moved, dropped
        Results taken as they are; moved to a vertex nearby; left out because there is none, they
        were not run, or a better one stands at the same vertex.
    """

    pairs: tuple[tuple[Config, Result], ...]
    exact: int
    moved: int
    dropped: int

    def __str__(self) -> str:
        """Return the counts as words."""
        return (
            f"{self.exact:,} results fit as they are, {self.moved:,} moved to the nearest config,"
            f" {self.dropped:,} left out"
        )


def translate(
    space: ConfigSpace,
    results: Iterable[tuple[Mapping[str, Any], Result]],
    best: int | None = None,
) -> Translation:
    """Translate configs, given as mappings or as plain JSON, with their results.

    Parameters
    ----------
    space
        Where to.
    results
        What was recorded elsewhere.
    best
        Take so many of the fastest only.

    Raises
    ------
    AutotuneError
        If there is no result, none succeeded, or none fits: the other space is a different one.
    """
    known = list(results)
    if best is not None:
        known = sorted((item for item in known if item[1].ok), key=lambda item: item[1].cost)[:best]
    _check(space, known)
    taken: dict[Config, tuple[Result, bool]] = {}
    for data, result in known:
        found = None if result.failure is FailureKind.ILLEGAL else _config(space, data)
        if found is None:
            continue
        config, exact = found
        rival = taken.get(config)
        if rival is None or (not exact, result.cost) < (not rival[1], rival[0].cost):
            taken[config] = (result, exact)
    if not any(result.ok for result, _ in taken.values()):
        raise AutotuneError(
            f"none of its {len(known):,} results has a counterpart in the space {space.name!r}"
        )
    exact_ones = sum(exact for _, exact in taken.values())
    pairs = tuple((config, result) for config, (result, _) in taken.items())
    return Translation(pairs, exact_ones, len(taken) - exact_ones, len(known) - len(taken))


def _check(space: ConfigSpace, known: list[tuple[Mapping[str, Any], Result]]) -> None:
    if not known:
        raise AutotuneError("it holds no result to start from")
    if not any(result.ok for _, result in known):
        raise AutotuneError(f"all of its {len(known):,} results are failures")
    free = {parameter.name for parameter in space.parameters if parameter.size > 1}
    theirs = dict.fromkeys(name for data, _ in known for name in data)
    if free.isdisjoint(theirs):
        raise AutotuneError(
            f"its configs have no parameter of the space {space.name!r}: they have"
            f" {', '.join(theirs)}, the space has {', '.join(sorted(free))}"
        )


def _config(space: ConfigSpace, data: Mapping[str, Any]) -> tuple[Config, bool] | None:
    """Return the vertex that stands for ``data``, and whether it is the same; None without one."""
    found = counterpart(space, data)
    if found is None:
        return None
    config, exact = found
    # What is illegal here, but exists, still tells of its neighbours.
    if exact or space.is_legal(config):
        return found
    legal = next(space.neighbors(config), None)
    return None if legal is None else (legal, False)


def counterpart(space: ConfigSpace, data: Mapping[str, Any]) -> tuple[Config, bool] | None:
    """Return the vertex nearest to a config of another space, and whether it is the same.

    It may be illegal. None if a value has nothing here that it can be compared with.
    """
    values: dict[str, Value] = {}
    exact = True
    for parameter in space.parameters:
        if parameter.name not in data:
            values[parameter.name] = _default(space, parameter)
            exact = False
            continue
        value = lists_to_tuples(data[parameter.name])
        if not parameter.contains(value):
            nearest = _nearest(parameter, value)
            if nearest is None:
                return None
            value, exact = nearest, False
        values[parameter.name] = value
    return Config(values), exact


def _default(space: ConfigSpace, parameter: Parameter) -> Value:
    return space.defaults[0][parameter.name] if space.defaults else parameter.origin


def _nearest(parameter: Parameter, value: Any) -> Value | None:
    """Return the value of ``parameter`` nearest to a foreign one; None if they cannot compare."""
    if isinstance(parameter, Categorical) and parameter.size == 1:
        return parameter.origin  # here there is no choice
    if isinstance(parameter, Factorization):
        return _nearest_factorization(parameter, value)
    if isinstance(parameter, Ordinal) and _is_number(value):
        numbers = [choice for choice in parameter.choices if _is_number(choice)]
        return min(numbers, key=lambda choice: _apart(choice, value), default=None)
    return None


def _nearest_factorization(parameter: Factorization, value: Any) -> Value | None:
    sizes = isinstance(value, tuple) and all(type(part) is int and part >= 1 for part in value)
    if not sizes or len(value) != parameter.parts:
        return None
    rest, parts = parameter.extent, []
    for part in reversed(value[1:]):
        divisor = min(_divisors(rest), key=lambda d: (_apart(d, part), d))
        parts.append(divisor)
        rest //= divisor
    return (rest, *reversed(parts))


def _divisors(extent: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(extent) + 1) if extent % d == 0]
    return sorted({*small, *(extent // d for d in small)})


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _apart(one: Any, other: Any) -> float:
    """Return how far two numbers are apart: by ratio if both are positive."""
    if one > 0 and other > 0:
        return abs(math.log(one / other))
    return abs(float(one) - float(other))
