"""A table: configs with what was once measured for each of them, and the space they lie in."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autotune.errors import AutotuneError
from autotune.search.parameters import Categorical, Ordinal, Parameter, Value
from autotune.search.space import Config, ConfigSpace, Constraint
from autotune.trial import FailureKind, Result

HELD = "the table holds this configuration"


class TableError(AutotuneError):
    """A table cannot be read, or does not hold what is asked of it."""


@dataclass(frozen=True)
class Entry:
    """What a table says of one config.

    Parameters
    ----------
    readings
        Recorded times in seconds, in the order of measuring; empty for a failure.
    cost
        The cost in seconds that stands for the config: what the file itself gives, by default the
        median of the readings. ``inf`` for a failure.
    failure, message
        Why there are no readings.
    """

    readings: tuple[float, ...] = ()
    cost: float = math.inf
    failure: FailureKind | None = None
    message: str = ""

    @classmethod
    def measured(cls, readings: Sequence[float], cost: float | None = None) -> Entry:
        """Make the entry of a success; raises ValueError for a time that is none."""
        times = tuple(float(reading) for reading in readings)
        if cost is not None and not times:
            times = (float(cost),)
        entry = cls(times, statistics.median(times) if cost is None else float(cost))
        Result((*entry.readings, entry.cost))  # refuses zero, negative and infinite times
        return entry

    def result(self) -> Result:
        """Return the outcome as searchers know it, with the one cost that stands for it."""
        if self.failure is not None:
            return Result.failed(self.failure, self.message)
        return Result((self.cost,))


class TableSpace(ConfigSpace):
    """A space of which only the configs of a table are legal; draws of these are direct."""

    def __init__(
        self, name: str, parameters: Sequence[Parameter], held: Mapping[Config, Entry]
    ) -> None:
        self._held = tuple(
            c for c, entry in held.items() if entry.failure is not FailureKind.ILLEGAL
        )
        legal = frozenset(self._held)
        super().__init__(name, parameters, [Constraint(HELD, legal.__contains__)])

    @cached_property
    def listed(self) -> tuple[Config, ...] | None:
        """Every legal config: a part of a large space is measured as well as a small one whole."""
        return super().listed or self._held

    def sample(self, rng: random.Random, legal: bool = True) -> Config:
        """Draw one config uniformly, from the legal ones unless told otherwise."""
        if not legal:
            return super().sample(rng, legal=False)
        if not self._held:
            raise TableError(f"the table {self.name!r} holds no legal config")
        return self._held[rng.randrange(len(self._held))]


class Table:
    """Recorded results of the configs of one space.

    A vertex of the space that the table does not hold is illegal, as is one that was recorded as
    illegal: neither costs a trial.

    Parameters
    ----------
    name
        For messages and reports.
    parameters
        The dimensions of the space.
    entries
        What is known, by config; every config must be a vertex of the space.
    meta
        What is known of the origin: ``device``, ``kernel``, ``workload``, ``template``, ...

    Raises
    ------
    TableError
        If there is no entry.
    InvalidConfig
        If an entry's config is not a vertex of the space.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Parameter],
        entries: Mapping[Config, Entry],
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if not entries:
            raise TableError(f"the table {name!r} holds no configuration")
        self.name = name
        self.meta: dict[str, Any] = dict(meta or {})
        self._entries = dict(entries)
        self.space: ConfigSpace = TableSpace(name, parameters, self._entries)
        for config in self._entries:
            self.space.check(config)
        #: Legal configs, failures included, in file order: what a search can ask for.
        self.configs: tuple[Config, ...] = tuple(
            c for c, e in self._entries.items() if e.failure is not FailureKind.ILLEGAL
        )

    def __len__(self) -> int:
        return len(self.configs)

    def __contains__(self, config: object) -> bool:
        return config in self._entries

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {len(self)} of {self.space.size} configs)"

    @property
    def device(self) -> str:
        """What it was measured on."""
        return str(self.meta.get("device", "unknown device"))

    @property
    def kernel(self) -> str:
        """What was measured."""
        return str(self.meta.get("kernel", "unknown kernel"))

    def entry(self, config: Config) -> Entry:
        """Return what is recorded; raises TableError for a config that the table lacks."""
        try:
            return self._entries[config]
        except KeyError:
            raise TableError(
                f"the table {self.name!r} has no record of {config.key}; search the table's own"
                " space, or measure the config with `autotune table build`"
            ) from None

    def lookup(self, config: Config) -> Result:
        """Return the recorded result: the one cost in seconds that stands for it, or its failure.

        The single readings are in :meth:`entry`; raises as that does.
        """
        return self.entry(config).result()

    def cost(self, config: Config) -> float:
        """Return the true cost in seconds, ``inf`` for a failure; raises as :meth:`entry`."""
        return self.entry(config).cost

    def items(self) -> Iterator[tuple[Config, Result]]:
        """Yield every legal config with its result, in file order: the history for a warm start."""
        for config in self.configs:
            yield config, self.lookup(config)

    @property
    def optimum(self) -> tuple[Config, float]:
        """The cheapest config, the first of equals, and its true cost in seconds.

        Raises
        ------
        TableError
            If every config failed.
        """
        best = min(self.configs, key=self.cost, default=None)
        if best is None or self.cost(best) == math.inf:
            raise TableError(f"no configuration of the table {self.name!r} succeeded")
        return best, self.cost(best)


def free_parameter(name: str, values: Iterable[Value]) -> Parameter:
    """Return the graph of a foreign parameter: a sorted line of numbers, or else all to all.

    Numbers are int and float; booleans, texts, tuples and mixtures have no order. Equal values are
    taken once.
    """
    distinct = list(dict.fromkeys(values))
    if all(type(value) in (int, float) for value in distinct):
        return Ordinal(name, sorted(distinct))
    return Categorical(name, distinct)
