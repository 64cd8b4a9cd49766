"""The dimensions of a configuration space, each one a finite graph.

A parameter knows its values (vertices) and which of them are one step apart (edges). Nothing is
materialised: sizes are closed formulas, values are generated lazily and neighbours on request.
The four graphs are those of OpEvo (arXiv 2006.05664, section 3); edges of a factorization move any
prime factor, so extents need not be powers of two.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, pairwise, permutations
from operator import mul
from typing import Any, ClassVar, TypeAlias, cast

from autotune.errors import InvalidConfig

#: What a parameter may be set to. Tuples nest, and hold nothing else than these types.
Value: TypeAlias = int | float | str | bool | tuple[Any, ...]

#: Largest extent of a :class:`Factorization`; keeps trial division instantaneous.
MAX_EXTENT = 2**31


def tuples_to_lists(value: Any) -> Any:
    """Return ``value`` as it reads after a trip through JSON: every tuple a list."""
    return [tuples_to_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def lists_to_tuples(value: Any) -> Any:
    """Undo :func:`tuples_to_lists`."""
    return tuple(lists_to_tuples(v) for v in value) if isinstance(value, (tuple, list)) else value


@dataclass(frozen=True)
class Parameter(ABC):
    """One named dimension: a finite, undirected graph of values without self-loops."""

    #: The word that :meth:`to_json` writes for this kind of parameter.
    kind: ClassVar[str]

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a parameter needs a name, got {self.name!r}")

    @property
    @abstractmethod
    def size(self) -> int:
        """Exact number of values."""

    @property
    @abstractmethod
    def origin(self) -> Value:
        """The first value: untiled, or in the order as written."""

    @abstractmethod
    def values(self) -> Iterator[Value]:
        """Yield every value once, lazily, :attr:`origin` first."""

    @abstractmethod
    def sample(self, rng: random.Random) -> Value:
        """Draw one value uniformly."""

    @abstractmethod
    def neighbors(self, value: Value) -> list[Value]:
        """Return the values one step away, without ``value``, in a fixed order.

        Raises
        ------
        InvalidConfig
            If ``value`` is not a value of this parameter.
        """

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Whether ``value`` is a value of this parameter; types count, so 1 is not True."""

    @abstractmethod
    def encode(self, value: Value) -> tuple[float, ...]:
        """Return ``value`` as a vector whose length depends on the parameter only."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that :func:`parameter_from_json` reads back."""

    def value_from_json(self, data: object) -> Value:
        """Read a value from parsed JSON, where tuples are lists.

        Raises
        ------
        InvalidConfig
            If the result is not a value of this parameter.
        """
        return self._require(lists_to_tuples(data))

    def _require(self, value: object) -> Value:
        if not self.contains(value):
            raise InvalidConfig(f"{value!r} is not a value of the parameter {self.describe()}")
        return cast(Value, value)

    def describe(self) -> str:
        """Return a short text for messages."""
        return f"{self.name!r} ({self.kind} of {self.size} values)"


@lru_cache(maxsize=4096)
def prime_factors(extent: int) -> tuple[tuple[int, int], ...]:
    """Return ``(prime, exponent)`` pairs of ``extent`` >= 1, smallest prime first."""
    factors, rest, divisor = [], extent, 2
    while divisor * divisor <= rest:
        exponent = 0
        while rest % divisor == 0:
            rest //= divisor
            exponent += 1
        if exponent:
            factors.append((divisor, exponent))
        divisor += 1 if divisor == 2 else 2
    if rest > 1:
        factors.append((rest, 1))
    return tuple(factors)


@lru_cache(maxsize=4096)
def _divisors(extent: int) -> tuple[int, ...]:
    """Return the divisors of ``extent``, largest first."""
    divisors = [1]
    for prime, exponent in prime_factors(extent):
        divisors = [d * prime**power for d in divisors for power in range(exponent + 1)]
    return tuple(sorted(divisors, reverse=True))


def _factorizations(extent: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (extent,)
        return
    for head in _divisors(extent):
        for tail in _factorizations(extent // head, parts - 1):
            yield (head, *tail)


@lru_cache(maxsize=4096)
def _between(prime: int, slots: int, *bars: int) -> tuple[int, ...]:
    """Return ``prime`` to the number of slots before, between and after ``bars``, ascending."""
    return tuple(prime ** (right - left - 1) for left, right in pairwise((-1, *bars, slots)))


@dataclass(frozen=True)
class Factorization(Parameter):
    """Ordered tuples of ``parts`` positive integers with product ``extent``.

    An edge moves one prime factor from one part to another. With ``extent = prod p**e`` there are
    ``prod C(e + parts - 1, parts - 1)`` values; 8 in 3 parts has 10 values and 18 edges.
    """

    kind: ClassVar[str] = "factorization"

    extent: int
    parts: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, low, high in (("extent", 1, MAX_EXTENT), ("parts", 1, 64)):
            number = getattr(self, field)
            if type(number) is not int or not low <= number <= high:
                raise ValueError(f"{self.name}: {field} must be in {low}..{high}, got {number!r}")

    @cached_property
    def size(self) -> int:  # noqa: D102
        spread = self.parts - 1
        return math.prod(math.comb(e + spread, spread) for _, e in prime_factors(self.extent))

    @property
    def origin(self) -> Value:  # noqa: D102
        return (self.extent,) + (1,) * (self.parts - 1)

    def values(self) -> Iterator[Value]:  # noqa: D102
        return _factorizations(self.extent, self.parts)

    def sample(self, rng: random.Random) -> Value:
        """Draw uniformly over all factorizations: stars and bars, one prime at a time."""
        value: tuple[int, ...] = (1,) * self.parts
        for prime, exponent in prime_factors(self.extent):
            slots = exponent + self.parts - 1
            bars = rng.sample(range(slots), self.parts - 1)
            value = tuple(map(mul, value, _between(prime, slots, *sorted(bars))))
        return value

    def neighbors(self, value: Value) -> list[Value]:  # noqa: D102
        factors = cast("tuple[int, ...]", self._require(value))
        found: list[Value] = []
        for source, size in enumerate(factors):
            for prime, _ in prime_factors(self.extent):
                if size % prime:
                    continue
                for target in range(self.parts):
                    if target != source:
                        moved = list(factors)
                        moved[source] //= prime
                        moved[target] *= prime
                        found.append(tuple(moved))
        return found

    def contains(self, value: object) -> bool:  # noqa: D102
        return (
            isinstance(value, tuple)
            and len(value) == self.parts
            and all(type(part) is int and part >= 1 for part in value)
            and math.prod(value) == self.extent
        )

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return log2 of each part, shape ``(parts,)``."""
        return tuple(math.log2(part) for part in cast("tuple[int, ...]", value))

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        return {
            "kind": self.kind,
            "name": self.name,
            "extent": self.extent,
            "parts": self.parts,
        }


@dataclass(frozen=True)
class _Listed(Parameter):
    """A parameter given by a sequence of distinct values."""

    choices: Sequence[Value]

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = lists_to_tuples(tuple(self.choices))
        if not choices:
            raise ValueError(f"{self.name}: needs at least one value")
        for choice in choices:
            _check_plain(self.name, choice)
        # Equality, not identity of type: 1 and True would share a place in every dict.
        if len(set(choices)) != len(choices):
            raise ValueError(f"{self.name}: values must differ, got {choices!r}")
        object.__setattr__(self, "choices", choices)

    @cached_property
    def _index(self) -> dict[Value, int]:
        return {choice: index for index, choice in enumerate(self.choices)}

    def _place(self, value: object) -> int | None:
        """Return the index of ``value``; None if absent. ``repr`` tells 1, 1.0 and True apart."""
        try:
            index = self._index.get(cast(Value, value))
        except TypeError:  # unhashable
            return None
        return index if index is None or repr(self.choices[index]) == repr(value) else None

    @property
    def size(self) -> int:
        return len(self.choices)

    @property
    def origin(self) -> Value:
        return self.choices[0]

    def values(self) -> Iterator[Value]:
        return iter(self.choices)

    def sample(self, rng: random.Random) -> Value:
        return rng.choice(self.choices)

    def contains(self, value: object) -> bool:
        return self._place(value) is not None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "values": tuples_to_lists(self.choices)}


@dataclass(frozen=True)
class Ordinal(_Listed):
    """Values in an order that means something; an edge goes to the next or previous one."""

    kind: ClassVar[str] = "ordinal"

    def neighbors(self, value: Value) -> list[Value]:  # noqa: D102
        index = self._index[self._require(value)]
        return [self.choices[i] for i in (index - 1, index + 1) if 0 <= i < len(self.choices)]

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return the position among the values, shape ``(1,)``."""
        return (float(self._index[value]),)


@dataclass(frozen=True)
class Categorical(_Listed):
    """Values without an order; an edge goes to every other value."""

    kind: ClassVar[str] = "categorical"

    def neighbors(self, value: Value) -> list[Value]:  # noqa: D102
        index = self._index[self._require(value)]
        return [choice for i, choice in enumerate(self.choices) if i != index]

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return the one-hot vector, shape ``(size,)``."""
        index = self._index[value]
        return tuple(float(i == index) for i in range(len(self.choices)))


@dataclass(frozen=True)
class Permutation(Parameter):
    """All orders of the distinct ``items``; an edge swaps two of them."""

    kind: ClassVar[str] = "permutation"

    items: Sequence[Value]

    def __post_init__(self) -> None:
        super().__post_init__()
        items = lists_to_tuples(tuple(self.items))
        for item in items:
            _check_plain(self.name, item)
        if not items or len(set(items)) != len(items):
            raise ValueError(f"{self.name}: needs distinct items, got {items!r}")
        object.__setattr__(self, "items", items)

    @cached_property
    def size(self) -> int:  # noqa: D102
        return math.factorial(len(self.items))

    @property
    def origin(self) -> Value:  # noqa: D102
        return tuple(self.items)

    def values(self) -> Iterator[Value]:  # noqa: D102
        return permutations(self.items)

    def sample(self, rng: random.Random) -> Value:  # noqa: D102
        return tuple(rng.sample(self.items, len(self.items)))

    def neighbors(self, value: Value) -> list[Value]:  # noqa: D102
        order = cast("tuple[Value, ...]", self._require(value))
        found: list[Value] = []
        for i, j in combinations(range(len(order)), 2):
            swapped = list(order)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            found.append(tuple(swapped))
        return found

    @cached_property
    def _names(self) -> list[str]:
        return sorted(map(repr, self.items))

    def contains(self, value: object) -> bool:  # noqa: D102
        return isinstance(value, tuple) and sorted(map(repr, value)) == self._names

    def encode(self, value: Value) -> tuple[float, ...]:
        """Return the position of each item, in the order of ``items``, shape ``(n,)``."""
        order = cast("tuple[Value, ...]", value)
        return tuple(float(order.index(item)) for item in self.items)

    def to_json(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": self.kind, "name": self.name, "items": tuples_to_lists(self.items)}


def _check_plain(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` survives a round trip through JSON."""
    if isinstance(value, tuple):
        for item in value:
            _check_plain(name, item)
    elif type(value) not in (int, float, str, bool):
        raise ValueError(f"{name}: {value!r} is not an int, float, str, bool or tuple of these")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} cannot be written as JSON")


def parameter_from_json(data: Mapping[str, Any]) -> Parameter:
    """Rebuild a parameter from :meth:`Parameter.to_json`.

    Raises
    ------
    InvalidConfig
        If ``data`` does not describe a parameter.
    """
    try:
        kind, name = data["kind"], data["name"]
        if kind == Factorization.kind:
            return Factorization(name, data["extent"], data["parts"])
        if kind == Permutation.kind:
            return Permutation(name, data["items"])
        for listed in (Ordinal, Categorical):
            if kind == listed.kind:
                return listed(name, data["values"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidConfig(f"not a parameter: {data!r} ({error})") from None
    raise InvalidConfig(f"unknown kind of parameter {kind!r}")
