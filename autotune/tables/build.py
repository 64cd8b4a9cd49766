"""Measure a whole space, or a chosen part of it, into a table."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError, MeasureError
from autotune.search.parameters import Value
from autotune.search.space import ENUMERABLE, Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.tables.recording import RecordingMeasurer

#: Draws in vain, one after the other, before a sample is given up.
_IN_VAIN = 100_000
#: What is at most this share slower than the best is measured again in later rounds.
NEAR = 0.10


@dataclass(frozen=True)
class Built:
    """How a table came about.

    Parameters
    ----------
    chosen, served, failed
        Configs altogether, those that the log held, and those that failed.
    measured, again
        Configs measured now, and measurements of later rounds made now.
    """

    chosen: int
    served: int
    measured: int
    failed: int
    again: int = 0


def parse_restrictions(
    space: ConfigSpace, restrictions: Sequence[str]
) -> dict[str, frozenset[Value]]:
    """Read ``NAME=V1,V2,...``; values are JSON, or plain text where they are not.

    Raises
    ------
    AutotuneError
        If there is no such parameter, or it has no such value.
    """
    import json

    allowed: dict[str, frozenset[Value]] = {}
    parameters = {parameter.name: parameter for parameter in space.parameters}
    for restriction in restrictions:
        name, separator, text = restriction.partition("=")
        if not separator or name not in parameters:
            raise AutotuneError(
                f"cannot restrict by {restriction!r}; write NAME=V1,V2 with a parameter of"
                f" {space.name!r}: {', '.join(parameters)}"
            )
        try:
            values = json.loads(f"[{text}]")
        except ValueError:
            values = text.split(",")
        allowed[name] = frozenset(parameters[name].value_from_json(value) for value in values)
    return allowed


def choose(
    space: ConfigSpace,
    allowed: Mapping[str, Collection[Value]],
    sample: int | None = None,
    seed: int = 0,
) -> list[Config]:
    """Return the legal configs to measure, each once: all of them, or a uniform sample.

    Raises
    ------
    AutotuneError
        If there is none, or too many to measure without ``sample``.
    """
    size = _restricted_size(space, allowed)
    if size > ENUMERABLE:
        if sample is None:
            raise AutotuneError(
                f"{size:,} configurations are too many for a table; take part of them with"
                " --restrict NAME=V1,V2 or --sample N"
            )
        configs = _draw(space, allowed, sample, seed)
    else:
        configs = [config for config in _vertices(space, allowed) if space.is_legal(config)]
        if sample is not None and sample < len(configs):
            configs = random.Random(seed).sample(configs, sample)
    if not configs:
        raise AutotuneError("no legal configuration is left; relax --restrict")
    return configs


def build_table(
    recorder: RecordingMeasurer,
    configs: Sequence[Config],
    progress: Callable[[int, int, float], None] | None = None,
    rounds: int = 1,
) -> Built:
    """Measure what the log does not hold yet.

    Parameters
    ----------
    rounds
        How often to measure what is within :data:`NEAR` of the best. The lowest of many readings is
        too low; rounds, each in an order of its own, take readings at times that are far apart.
    progress
        Called after each config with how many are done, how many there are, and the lowest cost.

    Raises
    ------
    MeasureError
        If every config failed; the message holds the first failure.
    """
    served = sum(config in recorder for config in configs)
    failures = []
    for done, config in enumerate(configs, 1):
        result = recorder.measure(config)
        if result.failure is not None:
            failures.append(f"{result.failure.value}: {result.message}")
        if progress is not None:
            progress(done, len(configs), recorder.best)
    if len(failures) == len(configs):
        raise MeasureError(f"all {len(configs)} configurations failed; first: {failures[0]}")
    measured = recorder.measured
    for number in range(2, rounds + 1):
        _measure_near(recorder, configs, number, progress)
    again = recorder.measured - measured
    return Built(len(configs), served, measured, len(failures), again)


def _measure_near(
    recorder: RecordingMeasurer,
    configs: Sequence[Config],
    number: int,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    """Measure what is near the best for the ``number``-th time, unless the log holds as many."""
    costs = {config: recorder.pooled_cost(config) for config in configs}
    bound = (1 + NEAR) * min(costs.values())
    near = [config for config, cost in costs.items() if cost <= bound]
    random.Random(number).shuffle(near)
    for done, config in enumerate(near, 1):
        if recorder.times_measured(config) < number:
            recorder.measure_again(config)
        if progress is not None:
            progress(done, len(near), recorder.best)


def _restricted_size(space: ConfigSpace, allowed: Mapping[str, Collection[Value]]) -> int:
    size = 1
    for parameter in space.parameters:
        size *= len(allowed.get(parameter.name, ())) or parameter.size
    return size


def _vertices(space: ConfigSpace, allowed: Mapping[str, Collection[Value]]) -> Iterator[Config]:
    """Yield the vertices that keep the restrictions, in the order of the space."""

    def assign(first: int) -> Iterator[dict[str, Value]]:
        if first == len(space.parameters):
            yield {}
            return
        parameter = space.parameters[first]
        for value in parameter.values():
            if parameter.name in allowed and value not in allowed[parameter.name]:
                continue
            for rest in assign(first + 1):
                yield {parameter.name: value, **rest}

    return map(Config, assign(0))


def _draw(
    space: ConfigSpace, allowed: Mapping[str, Collection[Value]], sample: int, seed: int
) -> list[Config]:
    """Draw distinct legal configs from a space too large to list."""
    rng = random.Random(seed)
    values = {name: sorted(chosen, key=repr) for name, chosen in allowed.items()}
    drawn: dict[Config, None] = {}
    misses = 0
    while len(drawn) < sample and misses < _IN_VAIN:
        config = space.sample(rng, legal=False)
        config = config.replace(**{name: rng.choice(chosen) for name, chosen in values.items()})
        if config in drawn or not space.is_legal(config):
            misses += 1
            continue
        drawn[config], misses = None, 0
    return list(drawn)
