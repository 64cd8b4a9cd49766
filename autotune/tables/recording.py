"""Measure configs of one problem, each once, and keep every result in a log.

The log is the cache: what it holds is served and never measured again, whoever asks, and whoever
measured it. So building a table can be interrupted, and methods that are compared share their
measurements.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from autotune.identity import target_json, target_key, tool_versions
from autotune.log import (
    Candidate,
    FinalRecord,
    TrialRecord,
    TuningLog,
    final_record,
    find_run,
    next_sequence,
    results_for,
    run_header,
    select,
    trial_record,
)
from autotune.measure.timing import HOPELESS_MARGIN

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.base import Template
    from autotune.search.space import Config, ConfigSpace
    from autotune.trial import Result
    from autotune.workload import Gemm


class Measures(Protocol):
    """What a measurer offers: :class:`autotune.measure.LocalMeasurer` or a replay."""

    def measure(
        self, template: str, config: Config, hopeless: float | None = None, keep: str | None = None
    ) -> Result:
        """Return the result of one config."""


class RecordingMeasurer:
    """Serves from the log what it holds, measures the rest, and appends it.

    Parameters
    ----------
    log, measurer
        Where results are kept, and who measures.
    workload, profile, threads, template, space
        The problem. The space is written into the records, so that the log can be read as a table
        on any machine.
    purpose
        Name of the search that the records say they belong to.

    Raises
    ------
    LogError
        If the log cannot be read or written.
    """

    def __init__(
        self,
        log: TuningLog,
        measurer: Measures,
        workload: Gemm,
        profile: HardwareProfile,
        threads: int,
        template: Template,
        space: ConfigSpace,
        purpose: str,
    ) -> None:
        log.ensure_writable()
        self.log, self.measurer, self.template = log, measurer, template
        template_id = {"name": template.name, "version": template.version}
        key = target_key(profile, threads)
        records = log.scan().records
        search = {"name": purpose, "space": space.to_json()}
        self._header = run_header(
            workload,
            target=target_json(profile, threads),
            target_key=key,
            template=template_id,
            run=find_run(records, workload.key, key, template_id, search),
            search=search,
            hardware=profile.fingerprint(),
            tools=tool_versions(),
        )
        self._sequence = next_sequence(records, self._header.run)
        #: Re-measurements that earlier calls for the same purpose left, oldest first.
        self.finals = [
            r for r in records if isinstance(r, FinalRecord) and r.run == self._header.run
        ]
        self._known = {
            key: record.result()
            for key, record in results_for(records, workload.key, key, template_id).items()
        }
        self._best = min((result.cost for result in self._known.values()), default=math.inf)
        #: The costs of every measurement of a config that succeeded, of any run.
        self._readings: dict[str, list[tuple[float, ...]]] = {}
        for record in select(records, workload.key, key, template_id):
            if isinstance(record, TrialRecord) and record.ok and record.source is None:
                self._readings.setdefault(record.config_key, []).append(record.costs)
        #: How many measurements were made here rather than served from the log.
        self.measured = 0

    def __contains__(self, config: Config) -> bool:
        return config.key in self._known

    @property
    def best(self) -> float:
        """Lowest cost known, in seconds; ``inf`` without any."""
        return self._best

    def measure(self, config: Config) -> Result:
        """Return the result of a config: that of the log, or a new one that is in the log then."""
        if config.key not in self._known:
            hopeless = None if self._best == math.inf else HOPELESS_MARGIN * self._best
            self._known[config.key] = self._measure(config, hopeless)
        return self._known[config.key]

    def measure_again(self, config: Config) -> Result:
        """Measure a config once more, whatever the log holds, without giving up early."""
        return self._measure(config, None)

    def cost(self, config: Config) -> float:
        """Return the recorded cost in seconds of a config measured before."""
        return self._known[config.key].cost

    def times_measured(self, config: Config) -> int:
        """Return how many measurements of a config succeeded."""
        return len(self._readings.get(config.key, ()))

    def pooled_cost(self, config: Config) -> float:
        """Return the median of all readings in seconds, as a table has it; ``inf`` without any."""
        costs = [cost for costs in self._readings.get(config.key, ()) for cost in costs]
        return statistics.median(costs) if costs else math.inf

    def holds(self, key: str) -> bool:
        """Whether the config with this key has been measured."""
        return key in self._known

    def keep_final(self, candidates: Sequence[Candidate]) -> None:
        """Append an interleaved re-measurement of some configs; nothing if all of them failed."""
        winner = min(candidates, key=lambda candidate: candidate.cost, default=None)
        if winner is None or winner.config is None or not winner.costs:
            return
        trials = len(self._known)
        record = final_record(
            self._header, self._sequence, candidates, winner.config, trials=trials
        )
        self.log.append([record])
        self._sequence += 1
        self.finals.append(record)

    def _measure(self, config: Config, hopeless: float | None) -> Result:
        start = time.monotonic()
        result = self.measurer.measure(self.template.name, config, hopeless)
        record = trial_record(
            self._header,
            self._sequence,
            config.to_json(),
            result,
            batch=self._sequence,
            asked=1,
            ask=0,
            tell=0,
            elapsed=round(time.monotonic() - start, 6),
        )
        self.log.append([record])
        self._sequence += 1
        self._best = min(self._best, result.cost)
        if result.ok:
            self._readings.setdefault(config.key, []).append(result.costs)
        self.measured += 1
        return result
