"""Read what Kernel Tuner writes: cache files, and results in the T4 format (schema 1.0).

A cache file that is still open, or was never closed, lacks its closing braces and ends in a comma:
Kernel Tuner appends a line per config and closes the file at the end. Times are in milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from autotune.errors import InvalidConfig
from autotune.search.parameters import Value, lists_to_tuples
from autotune.search.space import Config
from autotune.tables.table import Entry, Table, TableError, free_parameter
from autotune.trial import FailureKind

_MS = 1e-3
#: What a cache file has in the place of the time -> our kind.
_CACHE_FAILURES = {
    "InvalidConfig": FailureKind.ILLEGAL,
    "CompilationFailedConfig": FailureKind.COMPILE_ERROR,
    "RuntimeFailedConfig": FailureKind.RUN_ERROR,
}
#: The words of T4 in "invalidity" -> our kind.
_T4_FAILURES = {
    "constraints": FailureKind.ILLEGAL,
    "compile": FailureKind.COMPILE_ERROR,
    "runtime": FailureKind.RUN_ERROR,
    "timeout": FailureKind.RUN_TIMEOUT,
    "correctness": FailureKind.WRONG_RESULT,
}
#: Old caches write this many milliseconds for a failure.
_SENTINEL = 1e20


def parse_json(text: str, path: str) -> Any:
    """Parse JSON that may lack its last comma and closing braces; raises TableError."""
    bare = text.rstrip()
    trimmed = bare.removesuffix(",")
    first: json.JSONDecodeError | None = None
    for candidate in (bare, trimmed + "}", trimmed + "}}", trimmed + "\n}\n}"):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError as error:
            first = first or error
        except RecursionError:
            raise TableError(f"{path} is nested too deeply to be a table") from None
    assert first is not None
    raise TableError(
        f"{path} is not complete JSON (line {first.lineno}, column {first.colno}: {first.msg}): it"
        " was cut in the middle of an entry, or is no table; get it again, or remove the cut entry"
    )


def read_kernel_tuner(data: Any, name: str, path: str) -> Table:
    """Make a table of a parsed cache or T4 file; raises TableError for anything else."""
    if isinstance(data, Mapping) and isinstance(data.get("cache"), Mapping):
        return _cache(data, name, path)
    if isinstance(data, Mapping) and isinstance(data.get("results"), list):
        return _t4(data, name, path)
    have = f"an object with {sorted(data)[:6]}" if isinstance(data, Mapping) else type(data)
    raise TableError(
        f"{path} is JSON but no table: expected a Kernel Tuner cache (with 'cache' and"
        f" 'tune_params_keys'), a T4 file (with 'results') or a log of autotune, got {have}"
    )


def _cache(data: Mapping[str, Any], name: str, path: str) -> Table:
    keys, ranges = data.get("tune_params_keys"), data.get("tune_params", {})
    if not (isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys)):
        raise TableError(f"{path}: 'tune_params_keys' is not a list of names")
    if not isinstance(ranges, Mapping):
        raise TableError(f"{path}: 'tune_params' is not an object")
    entries: dict[Config, Entry] = {}
    for key, line in data["cache"].items():
        where = f"{path}: entry {key!r}"
        if not isinstance(line, Mapping):
            raise TableError(f"{where} is not an object")
        config = _config({k: line[k] for k in keys if k in line}, keys, where)
        entries.setdefault(config, _cache_entry(line, where))
    meta = {
        "device": data.get("device_name", "unknown device"),
        "kernel": data.get("kernel_name", "unknown kernel"),
        "problem_size": data.get("problem_size"),
        "format": "Kernel Tuner cache",
    }
    return _table(name, path, keys, ranges, entries, meta)


def _cache_entry(line: Mapping[str, Any], where: str) -> Entry:
    time = line.get("time")
    if isinstance(time, str):
        kind = _CACHE_FAILURES.get(time, FailureKind.RUN_ERROR)
        return Entry(failure=kind, message=time)
    return _timed(time, line.get("times"), where)


def _t4(data: Mapping[str, Any], name: str, path: str) -> Table:
    entries: dict[Config, Entry] = {}
    keys: list[str] = []
    for number, item in enumerate(data["results"]):
        where = f"{path}: result {number}"
        configuration = item.get("configuration") if isinstance(item, Mapping) else None
        if not isinstance(configuration, Mapping) or not configuration:
            raise TableError(f"{where} has no 'configuration'; is it a T4 file?")
        keys = keys or list(configuration)
        entries.setdefault(_config(configuration, keys, where), _t4_entry(item, where))
    metadata = data.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    meta = {
        "device": known.get("device_name", "unknown device"),
        "kernel": known.get("kernel_name", "unknown kernel"),
        "format": "T4",
    }
    return _table(name, path, keys, {}, entries, meta)


def _t4_entry(item: Mapping[str, Any], where: str) -> Entry:
    verdict = item.get("invalidity", "correct")
    if verdict != "correct":
        kind = _T4_FAILURES.get(str(verdict), FailureKind.RUN_ERROR)
        return Entry(failure=kind, message=str(verdict))
    if item.get("correctness", 1) in (0, False):
        return Entry(failure=FailureKind.WRONG_RESULT, message="correctness 0")
    times = item.get("times")
    measurements = item.get("measurements") or ()
    time = next(
        (
            m.get("value")
            for m in measurements
            if isinstance(m, Mapping) and m.get("name") == "time"
        ),
        None,
    )
    readings = times.get("runtimes") if isinstance(times, Mapping) else None
    return _timed(time, readings, where)


def _timed(time: Any, readings: Any, where: str) -> Entry:
    """Make an entry of milliseconds."""
    try:
        if time is not None and (not math.isfinite(time) or time >= _SENTINEL):
            return Entry(failure=FailureKind.RUN_ERROR, message=f"recorded time {time}")
        if time is None and not readings:
            raise ValueError("no time")
        cost = None if time is None else _MS * time
        return Entry.measured([_MS * reading for reading in readings or ()], cost)
    except (TypeError, ValueError):
        raise TableError(
            f"{where} has no usable times in milliseconds: 'time' is {time!r}"
        ) from None


def _config(values: Mapping[str, Any], keys: list[str], where: str) -> Config:
    if list(values) != keys and values.keys() != set(keys):
        lost = sorted(set(keys) ^ values.keys())
        raise TableError(f"{where} does not have the parameters of the others; see {lost}")
    return Config({key: lists_to_tuples(values[key]) for key in keys})


def _table(
    name: str,
    path: str,
    keys: list[str],
    ranges: Mapping[str, Any],
    entries: Mapping[Config, Entry],
    meta: dict[str, Any],
) -> Table:
    if not entries:
        raise TableError(f"{path} holds no configuration")
    try:
        parameters = [free_parameter(key, _values(key, ranges, entries)) for key in keys]
        return Table(name, parameters, entries, meta)
    except (InvalidConfig, TypeError, ValueError) as error:
        raise TableError(f"{path}: {error}") from None


def _values(
    key: str, ranges: Mapping[str, Any], entries: Mapping[Config, Entry]
) -> Iterator[Value]:
    listed = ranges.get(key, ())
    if not isinstance(listed, (list, tuple)):
        raise ValueError(f"the values of {key!r} are not a list")
    yield from (lists_to_tuples(value) for value in listed)
    for config in entries:
        yield config[key]
