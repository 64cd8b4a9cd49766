"""Runs of another project's tuner on the same tables, as columns of a comparison.

A file holds, for each run, the configs that the tuner evaluated, in the order of their first
evaluation, and no costs: these come from our own copy of the table, so a run on any other table is
found out, and every method is scored on the same figures. ``scripts/compare_kernel_tuner`` writes
such a file::

    {"format": "autotune runs of another tuner, 1", "tuner": "kernel-tuner", "version": "1.5.0",
     "trials": 200, "problems": {"NAME": {"parameters": ["MWG", ...]}},
     "runs": [{"problem": "NAME", "method": "pso", "seed": 0, "configs": [[16, ...], ...],
               "repeated": 228, "overhead_s": 0.01}, ...]}

``trials`` is the budget of each run, and ``repeated`` how many evaluations of configs seen before
came on top, which cost nothing.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compare.entrants import Entrant
from autotune.compare.run import Protocol, Step, Trace
from autotune.errors import AutotuneError
from autotune.search.parameters import lists_to_tuples
from autotune.search.space import Config
from autotune.tables import Table, load_tables

FORMAT = "autotune runs of another tuner, 1"


@dataclass(frozen=True)
class RecordedRun:
    """One run: which configs were evaluated, as values in the order of the file's parameters."""

    problem: str
    method: str
    seed: int
    configs: tuple[tuple[Any, ...], ...]
    repeated: int
    overhead: float


@dataclass(frozen=True)
class RecordedRuns:
    """What a file holds; see the module."""

    path: str
    tuner: str
    version: str
    trials: int
    parameters: Mapping[str, tuple[str, ...]]
    runs: tuple[RecordedRun, ...]

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        """One per method, in the order of the file."""
        methods = dict.fromkeys(run.method for run in self.runs)
        return tuple(Entrant(self.tuner, method) for method in methods)

    def repeated(self, method: str) -> float:
        """Return the mean number of evaluations that came on top of a run's trials."""
        counts = [run.repeated for run in self.runs if run.method == method]
        return sum(counts) / len(counts)


def read_recorded(path: Path) -> RecordedRuns:
    """Read a file of runs.

    Raises
    ------
    AutotuneError
        If it cannot be read or is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AutotuneError(f"cannot read the runs in {path}: {error}") from None
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise AutotuneError(
            f"{path} holds no runs of another tuner; scripts/compare_kernel_tuner writes such files"
        )
    try:
        return RecordedRuns(
            str(path),
            str(data["tuner"]),
            str(data["version"]),
            int(data["trials"]),
            {name: tuple(about["parameters"]) for name, about in data["problems"].items()},
            tuple(_run(entry) for entry in data["runs"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AutotuneError(f"{path} is damaged ({error!r}); make it again") from None


def _run(entry: Mapping[str, Any]) -> RecordedRun:
    return RecordedRun(
        str(entry["problem"]),
        str(entry["method"]),
        int(entry["seed"]),
        tuple(lists_to_tuples(config) for config in entry["configs"]),
        int(entry["repeated"]),
        float(entry["overhead_s"]),
    )


def score_recorded(
    recorded: RecordedRuns, paths: Sequence[str | Path], protocol: Protocol
) -> tuple[Trace, ...]:
    """Return the runs of a comparison on the tables in ``paths``, by the costs recorded there.

    Parameters
    ----------
    recorded
        Has a run for each problem and seed of the comparison, with the same budget.
    protocol
        Of a comparison without noise.

    Raises
    ------
    AutotuneError
        If a run is missing or had another budget, or evaluated what the table does not hold.
    """
    if protocol.noise != "none":
        raise AutotuneError("recorded runs have no noise; compare with the noise 'none'")
    if recorded.trials != protocol.trials:
        raise AutotuneError(
            f"the runs in {recorded.path} had a budget of {recorded.trials} trials, and the"
            f" comparison has {protocol.trials}; some methods plan for their budget, so make the"
            " file again with the same --trials"
        )
    by_key = {(run.problem, run.method, run.seed): run for run in recorded.runs}
    traces = []
    for table in (table for path in paths for table in load_tables(path)):
        for entrant, seed in itertools.product(recorded.entrants, protocol.seeds):
            run = by_key.get((table.name, entrant.preset, seed))
            if run is None:
                raise AutotuneError(
                    f"{recorded.path} has no run of {entrant.preset} on {table.name} with the seed"
                    f" {seed}; make it again from the same folder, with as many --seeds"
                )
            steps = _steps(run, recorded.parameters[table.name], table, protocol)
            traces.append(Trace(table.name, entrant.label, seed, steps, run.overhead))
    return tuple(traces)


def _steps(
    run: RecordedRun, names: Sequence[str], table: Table, protocol: Protocol
) -> tuple[Step, ...]:
    """Score a run by the table; raises AutotuneError for what cannot have been a run on it."""
    if len(set(run.configs)) < len(run.configs) or len(run.configs) > protocol.trials:
        raise AutotuneError(
            f"{run.method} on {run.problem}, seed {run.seed}: {len(run.configs)} configs, of which"
            f" {len(set(run.configs))} different, are no run of at most {protocol.trials} trials"
        )
    if any(len(values) != len(names) for values in run.configs):
        raise AutotuneError(
            f"{run.method} on {run.problem}, seed {run.seed}: a config does not have a value for"
            f" each of {', '.join(names)}"
        )
    steps: list[Step] = []
    named = math.inf
    for values in run.configs:
        config = Config(dict(zip(names, values, strict=True)))
        result = table.lookup(config)
        named = min(named, result.cost)
        failure = result.failure.value if result.failure else ""
        steps.append(Step(config.key, result.cost, named, failure))
    return tuple(steps)
