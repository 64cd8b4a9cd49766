"""The edges of a configuration space as one fixed list of moves, for policies that choose a move.

A move is an edge kind of one parameter: shift a prime from part i to part j of a factorization,
step up or down an ordinal, swap places i and j of a permutation, set a categorical to a value.
Applied to a config it gives a neighbour, or nothing where it does not apply; the moves that apply
give each neighbour once. (arXiv 1909.10616 has those of factorizations by 2; the graphs are those
of arXiv 2006.05664.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, cast

from autotune.search.parameters import (
    Categorical,
    Factorization,
    Ordinal,
    Parameter,
    Permutation,
    Value,
    prime_factors,
)
from autotune.search.space import Config, ConfigSpace

#: How many states a :class:`MoveGraph` remembers.
_REMEMBERED = 4096


@dataclass(frozen=True)
class Move:
    """One edge kind of one parameter.

    Parameters
    ----------
    parameter
        What it changes.
    detail
        ``(prime, from, to)`` for a factorization, ``(+-1,)`` for an ordinal, ``(i, j)`` for a
        permutation, ``(value,)`` for a categorical.
    """

    parameter: Parameter
    detail: tuple[Any, ...]

    def apply(self, config: Config) -> Config | None:
        """Return the neighbour of ``config`` that this move leads to; None if it leads nowhere."""
        value = config[self.parameter.name]
        moved = _moved(self.parameter, value, self.detail)
        return None if moved is None else config.replace(**{self.parameter.name: moved})


class MoveGraph:
    """Where moves lead, and what states look like, remembered for the states seen last.

    Parameters
    ----------
    space
        Whose graph this is.
    legal
        Whether moves to illegal configs lead nowhere.
    features
        "log" or "ratio": :func:`log_features` or :func:`ratio_features`.
    """

    def __init__(self, space: ConfigSpace, *, legal: bool, features: str) -> None:
        self.moves = all_moves(space)
        self._space = space
        self._legal = legal
        self._encode = {"log": log_features, "ratio": ratio_features}[features]
        self._ends: dict[Config, list[Config | None]] = {}
        self._codes: dict[Config, list[float]] = {}

    def ends(self, state: Config) -> list[Config | None]:
        """Return where each move leads from ``state``; None where it leads nowhere."""
        if state not in self._ends:
            if len(self._ends) >= _REMEMBERED:
                self._ends.clear()
            ends = [move.apply(state) for move in self.moves]
            if self._legal:
                ends = [e if e is not None and self._space.is_legal(e) else None for e in ends]
            self._ends[state] = ends
        return self._ends[state]

    def features(self, state: Config) -> list[float]:
        """Return ``state`` as a vector."""
        if state not in self._codes:
            if len(self._codes) >= _REMEMBERED:
                self._codes.clear()
            self._codes[state] = self._encode(self._space, state)
        return self._codes[state]


def all_moves(space: ConfigSpace) -> list[Move]:
    """Return every move of the space, in a fixed order; none for a space of one config."""
    return [Move(p, detail) for p in space.parameters for detail in _details(p)]


def _details(parameter: Parameter) -> list[tuple[Any, ...]]:
    if parameter.size == 1:
        return []
    if isinstance(parameter, Factorization):
        pairs = list(permutations(range(parameter.parts), 2))
        return [(prime, i, j) for prime, _ in prime_factors(parameter.extent) for i, j in pairs]
    if isinstance(parameter, Ordinal):
        return [(-1,), (1,)]
    if isinstance(parameter, Permutation):
        return list(combinations(range(len(parameter.items)), 2))
    if isinstance(parameter, Categorical):
        return [(choice,) for choice in parameter.choices]
    raise TypeError(f"no moves are known for the parameter {parameter.describe()}")


def _moved(parameter: Parameter, value: Value, detail: tuple[Any, ...]) -> Value | None:
    if isinstance(parameter, Factorization):
        prime, source, target = detail
        parts = list(cast("tuple[int, ...]", value))
        if parts[source] % prime:
            return None
        parts[source] //= prime
        parts[target] *= prime
        return tuple(parts)
    if isinstance(parameter, Ordinal):
        index = int(parameter.encode(value)[0]) + detail[0]
        return parameter.choices[index] if 0 <= index < parameter.size else None
    if isinstance(parameter, Permutation):
        order = list(cast("tuple[Value, ...]", value))
        i, j = detail
        order[i], order[j] = order[j], order[i]
        return tuple(order)
    choice: Value = detail[0]
    return None if choice == value else choice


def log_features(space: ConfigSpace, config: Config) -> list[float]:
    """Return ``space.encode`` with every entry brought into -0.5..0.5; one-hot entries stay."""
    vector: list[float] = []
    for parameter in space.parameters:
        if isinstance(parameter, Factorization):
            top = math.log2(parameter.extent)
        elif isinstance(parameter, Permutation):
            top = len(parameter.items) - 1.0
        else:
            top = parameter.size - 1.0
        code = parameter.encode(config[parameter.name])
        if isinstance(parameter, Categorical):
            vector.extend(code)
        else:
            vector.extend(x / (top or 1.0) - 0.5 for x in code)
    return vector


def ratio_features(space: ConfigSpace, config: Config) -> list[float]:
    """Return ``part / extent - 0.5`` as NNI's N-A2C does, and the rest as :func:`log_features`."""
    vector = iter(log_features(space, config))
    ratios: list[float] = []
    for parameter in space.parameters:
        value = config[parameter.name]
        code = [next(vector) for _ in parameter.encode(value)]
        if isinstance(parameter, Factorization):
            code = [part / parameter.extent - 0.5 for part in cast("tuple[int, ...]", value)]
        ratios.extend(code)
    return ratios
