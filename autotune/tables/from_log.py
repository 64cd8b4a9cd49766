"""Make tables of autotune's own logs: one for each problem (workload, target, template) in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, InvalidConfig
from autotune.search.parameters import Categorical, Ordinal, lists_to_tuples
from autotune.search.space import ConfigSpace
from autotune.tables.table import Entry, Table, free_parameter
from autotune.trial import FailureKind

if TYPE_CHECKING:
    from autotune.log import TrialRecord
    from autotune.search.parameters import Parameter


def tables_from_records(records: Iterable[TrialRecord], name: str) -> list[Table]:
    """Return one table for each problem, in the order of first appearance."""
    problems: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for record in records:
        problem = (record.workload_key, record.target_key, record.template_id)
        problems.setdefault(problem, []).append(record)
    several = len(problems) > 1
    return [
        _table(group, f"{name}:{key[0]}" if several else name) for key, group in problems.items()
    ]


def _table(records: Sequence[TrialRecord], name: str) -> Table:
    first = records[0]
    readings: dict[str, list[float]] = {}
    failures: dict[str, Entry] = {}
    plain: dict[str, dict[str, Any]] = {}
    for record in records:
        key = record.config_key
        plain.setdefault(key, record.config)
        if record.ok and record.source is None:  # with a source it is a copy of another record
            readings.setdefault(key, []).extend(record.costs)
        elif not record.ok and record.failure != FailureKind.NOISY.value:
            result = record.result()
            failures.setdefault(key, Entry(failure=result.failure, message=result.message))
    parameters = _parameters(records, plain.values())
    space = ConfigSpace(name, parameters)
    entries = {
        space.config_from_json(config): Entry.measured(readings[key])
        if key in readings
        else failures[key]
        for key, config in plain.items()
        if key in readings or key in failures
    }
    meta = {
        "device": first.target.get("name", first.target_key),
        "kernel": first.workload_key,
        "workload": first.workload,
        "target_key": first.target_key,
        "template": first.template,
        "format": "autotune log",
    }
    return Table(name, parameters, entries, meta)


def _parameters(
    records: Sequence[TrialRecord], configs: Iterable[dict[str, Any]]
) -> Sequence[Parameter]:
    """Return the dimensions: as recorded, as the template makes them, or those of the configs.

    A listed parameter keeps only the values that some config has. With its gaps, a space that was
    restricted to every other value of an ordinal would fall into pieces that no edge joins.
    """
    configs = list(configs)
    for space in (*_recorded_spaces(records), *_template_space(records[0])):
        try:
            for config in configs:
                space.config_from_json(config)
        except InvalidConfig:
            continue  # of another version, or a log whose writer had another space
        return [_held_values(parameter, configs) for parameter in space.parameters]
    names = list(configs[0])
    return [
        free_parameter(
            name, (lists_to_tuples(config[name]) for config in configs if name in config)
        )
        for name in names
    ]


def _held_values(parameter: Parameter, configs: Iterable[dict[str, Any]]) -> Parameter:
    if not isinstance(parameter, (Ordinal, Categorical)):
        return parameter  # part of a factorization or permutation is no such graph
    held = {parameter.value_from_json(config[parameter.name]) for config in configs}
    return type(parameter)(parameter.name, [v for v in parameter.choices if v in held])


def _recorded_spaces(records: Sequence[TrialRecord]) -> list[ConfigSpace]:
    """Return the space that a record carries, as those of `table build` and `compare` do."""
    for record in records:
        if "space" in record.search:
            try:
                return [ConfigSpace.from_json(record.search["space"])]
            except InvalidConfig:
                return []
    return []


def _template_space(record: TrialRecord) -> list[ConfigSpace]:
    """Return the space that the template makes here, if here is where the log was written."""
    from autotune.hw_profiles import resolve_target
    from autotune.kernels.base import get_template
    from autotune.workload import Gemm

    threads = record.target.get("threads", 1)
    try:
        profile = resolve_target(str(record.target.get("kind", "cpu")))
        if f"{profile.key} threads={threads}" != record.target_key:
            return []
        template = get_template(str(record.template.get("name")))
        return [template.space(Gemm.from_json(record.workload), profile, threads)]
    except AutotuneError:
        return []
