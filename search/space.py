"""Configurations and the space they live in: a product of parameter graphs with constraints."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, InvalidConfig
from autotune.search.parameters import Parameter, Value, parameter_from_json, tuples_to_lists

if TYPE_CHECKING:
    import networkx

#: Spaces up to this size may be enumerated where drawing at random finds nothing.
ENUMERABLE = 200_000
#: Draws at random before a search for a legal config changes its ways.
SAMPLE_TRIES = 10_000
#: Made once: a search writes keys of tens of thousands of configs.
_KEY = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class Config(Mapping[str, Value]):
    """One vertex of a space: an immutable, hashable mapping from parameter name to value.

    Two configs are equal exactly when their :attr:`key` is; ``1``, ``1.0`` and ``True`` differ.
    """

    __slots__ = ("_key", "_values")

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self._key = ""

    @property
    def key(self) -> str:
        """Canonical text: compact JSON with sorted names.

        Raises
        ------
        InvalidConfig
            If a value cannot be written as JSON.
        """
        if not self._key:
            try:
                self._key = _KEY.encode(self._values)
            except (TypeError, ValueError) as error:
                raise InvalidConfig(f"a config must be JSON-able: {error}") from None
        return self._key

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key or self.key)  # asked for far more often than a key is made

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that :meth:`ConfigSpace.config_from_json` reads back."""
        return {name: tuples_to_lists(value) for name, value in self._values.items()}

    def replace(self, /, **changes: Value) -> Config:
        """Return a copy with some values changed; raises InvalidConfig for an unknown name."""
        unknown = [name for name in changes if name not in self._values]
        if unknown:
            raise InvalidConfig(f"no parameter {unknown[0]!r}; there are {', '.join(self)}")
        return Config({**self._values, **changes})


@dataclass(frozen=True)
class Constraint:
    """A static rule that legal configs keep.

    Parameters
    ----------
    name
        Reads as the rule itself, for example "accumulators fit the registers".
    holds
        Pure and cheap: it is called for every candidate that a search looks at.
    """

    name: str
    holds: Callable[[Config], bool]


class ConfigSpace:
    """A Cartesian product of parameter graphs, with constraints and good starting points.

    Two configs are neighbours when they differ in one parameter, by one edge of its graph.

    Parameters
    ----------
    name
        For messages and logs.
    parameters
        At least one, with distinct names.
    constraints
        Checked in this order; a config that keeps all of them is legal.
    defaults
        Legal configs worth measuring first, best guess first.

    Raises
    ------
    ValueError
        If there is no parameter, or two have one name.
    InvalidConfig
        If a default is not a legal config of this space.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Parameter],
        constraints: Sequence[Constraint] = (),
        defaults: Sequence[Config] = (),
    ) -> None:
        self.name = name
        self._parameters = tuple(parameters)
        self._constraints = tuple(constraints)
        self._defaults = tuple(defaults)
        self._by_name = {parameter.name: parameter for parameter in self._parameters}
        if not self._parameters:
            raise ValueError(f"the space {name!r} has no parameters")
        if len(self._by_name) != len(self._parameters):
            names = ", ".join(parameter.name for parameter in self._parameters)
            raise ValueError(f"the space {name!r} has two parameters of one name: {names}")
        for default in self._defaults:
            self.check(default)
            broken = self.violated(default)
            if broken is not None:
                raise InvalidConfig(f"the default {default!r} of {name!r} breaks: {broken}")

    def __repr__(self) -> str:
        return f"ConfigSpace({self.name!r}, {self.size} configs)"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The dimensions, in the order of :meth:`encode`."""
        return self._parameters

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The rules that legal configs keep."""
        return self._constraints

    @property
    def defaults(self) -> tuple[Config, ...]:
        """Legal configs worth measuring first."""
        return self._defaults

    @cached_property
    def size(self) -> int:
        """Exact number of configs, legal or not."""
        return math.prod(parameter.size for parameter in self._parameters)

    def violated(self, config: Config) -> str | None:
        """Return the name of the first constraint that ``config`` breaks, or None if it is legal.

        ``config`` must be a vertex of this space; see :meth:`check`.
        """
        for constraint in self._constraints:
            if not constraint.holds(config):
                return constraint.name
        return None

    def is_legal(self, config: Config) -> bool:
        """Whether ``config``, a vertex of this space, keeps every constraint."""
        return self.violated(config) is None

    def check(self, config: Config) -> None:
        """Raise InvalidConfig unless ``config`` is a vertex of this space, legal or not."""
        self._check_names(config)
        for name, parameter in self._by_name.items():
            if not parameter.contains(config[name]):
                raise InvalidConfig(
                    f"{config[name]!r} is not a value of the parameter {parameter.describe()}"
                )

    def _check_names(self, config: Mapping[str, Any]) -> None:
        if config.keys() != self._by_name.keys():
            missing = [name for name in self._by_name if name not in config]
            extra = [name for name in config if name not in self._by_name]
            raise InvalidConfig(
                f"not a config of {self.name!r}: missing {missing}, unknown {extra}"
            )

    def __contains__(self, config: object) -> bool:
        """Whether ``config`` is a vertex of this space, legal or not."""
        if not isinstance(config, Config):
            return False
        try:
            self.check(config)
        except InvalidConfig:
            return False
        return True

    def __iter__(self) -> Iterator[Config]:
        """Yield every vertex once, lazily, legal or not, :meth:`origin` first."""
        return map(Config, self._assignments(0))

    def _assignments(self, first: int) -> Iterator[dict[str, Value]]:
        """Yield values for ``parameters[first:]``; unlike itertools.product, nothing is stored."""
        if first == len(self._parameters):
            yield {}
            return
        parameter = self._parameters[first]
        for value in parameter.values():
            for rest in self._assignments(first + 1):
                yield {parameter.name: value, **rest}

    def origin(self) -> Config:
        """Return the config in which every parameter has its first value: nothing is tiled."""
        return Config({parameter.name: parameter.origin for parameter in self._parameters})

    def sample(self, rng: random.Random, legal: bool = True) -> Config:
        """Draw one config uniformly, from the legal ones unless told otherwise.

        Raises
        ------
        AutotuneError
            If no legal config was found: there is none, or it is one in very many.
        """
        for _ in range(SAMPLE_TRIES):
            config = Config({p.name: p.sample(rng) for p in self._parameters})
            if not legal or self.is_legal(config):
                return config
        if self.listed:
            return self.listed[rng.randrange(len(self.listed))]
        raise AutotuneError(
            f"found no legal config in the space {self.name!r} ({self.size} configs, {SAMPLE_TRIES}"
            f" draws; the last one breaks: {self.violated(config)}); pass a default or relax"
            " a constraint"
        )

    @cached_property
    def listed(self) -> tuple[Config, ...] | None:
        """Every legal config of a small space; None for a space too large to list."""
        if self.size > ENUMERABLE:
            return None
        return tuple(config for config in self if self.is_legal(config))

    def neighbors(self, config: Config, legal: bool = True) -> Iterator[Config]:
        """Yield the configs one step away, lazily and in a fixed order, legal ones by default.

        Raises
        ------
        InvalidConfig
            If ``config`` is not a vertex of this space.
        """
        self.check(config)
        return self._neighbors(config, legal)

    def _neighbors(self, config: Config, legal: bool) -> Iterator[Config]:
        for parameter in self._parameters:
            for value in parameter.neighbors(config[parameter.name]):
                neighbor = config.replace(**{parameter.name: value})
                if not legal or self.is_legal(neighbor):
                    yield neighbor

    def encode(self, config: Config) -> list[float]:
        """Return ``config`` as a vector: the parameters' encodings, one after the other."""
        vector: list[float] = []
        for parameter in self._parameters:
            vector.extend(parameter.encode(config[parameter.name]))
        return vector

    def legal_fraction(self, rng: random.Random, samples: int) -> float:
        """Estimate the share of legal configs from ``samples`` >= 1 uniform draws."""
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        return sum(self.is_legal(self.sample(rng, legal=False)) for _ in range(samples)) / samples

    def config_from_json(self, data: Mapping[str, Any]) -> Config:
        """Read a config from :meth:`Config.to_json`; raises InvalidConfig if it is no vertex."""
        if not isinstance(data, Mapping):
            raise InvalidConfig(f"not a config of {self.name!r}: {data!r}")
        self._check_names(data)
        return Config({n: p.value_from_json(data[n]) for n, p in self._by_name.items()})

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that :meth:`from_json` reads back; constraints by name only."""
        return {
            "name": self.name,
            "parameters": [parameter.to_json() for parameter in self._parameters],
            "constraints": [constraint.name for constraint in self._constraints],
            "defaults": [default.to_json() for default in self._defaults],
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], constraints: Sequence[Constraint] = ()
    ) -> ConfigSpace:
        """Rebuild a space from :meth:`to_json`.

        Constraints are code and are never read from ``data``: pass those that apply.

        Raises
        ------
        InvalidConfig
            If ``data`` does not describe a space.
        """
        try:
            parameters = [parameter_from_json(parameter) for parameter in data["parameters"]]
            bare = cls(data["name"], parameters)
            defaults = [bare.config_from_json(default) for default in data.get("defaults", ())]
            return cls(data["name"], parameters, constraints, defaults)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidConfig(f"not a configuration space: {error!r}") from None

    def to_networkx(self, center: Config, radius: int, legal: bool = False) -> networkx.Graph:
        """Return the graph of all configs within ``radius`` steps of ``center``.

        Nodes are config keys with the config as attribute ``config``, in breadth-first order;
        every edge between two of them is there. With ``legal``, only legal configs are walked.
        """
        import networkx

        self.check(center)
        graph = networkx.Graph()
        graph.add_node(center.key, config=center)
        ring = [center]
        for _ in range(radius):
            ring = [
                neighbor
                for config in ring
                for neighbor in self.neighbors(config, legal)
                if self._join(graph, config, neighbor)
            ]
        for config in ring:  # edges inside the outermost ring
            for neighbor in self.neighbors(config, legal):
                if neighbor.key in graph:
                    graph.add_edge(config.key, neighbor.key)
        return graph

    @staticmethod
    def _join(graph: networkx.Graph, config: Config, neighbor: Config) -> bool:
        """Add an edge, and its far end if need be; return whether the far end is new."""
        new = neighbor.key not in graph
        if new:
            graph.add_node(neighbor.key, config=neighbor)
        graph.add_edge(config.key, neighbor.key)
        return new
