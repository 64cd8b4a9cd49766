"""What one line of the tuning log says.

A record is self-contained: it spells out its workload, target, template and search instead of
referring to other lines, so that lines can be filtered, merged and reordered without changing their
meaning. How a record becomes bytes is the business of :mod:`autotune.log.lines`.
"""

from __future__ import annotations

import math
import secrets
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar

import msgspec

from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

#: Version of the meaning of a record's fields. Adding a field does not change it.
SCHEMA = 1
_MAX_MESSAGE = 4096

_Count = Annotated[int, msgspec.Meta(ge=0)]


class RunHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What all records of one run have in common.

    Parameters
    ----------
    run
        Id of the run; see :func:`new_run_id`.
    workload, workload_key
        ``Gemm.to_json()`` and ``Gemm.key``.
    target, target_key
        What it was measured on, as a plain dict (``kind``, ``arch``, ``threads``, ...), and a
        string that is equal only for the same hardware with the same number of threads.
    template
        ``{"name": ..., "version": ...}``; both must agree for a record to be used again.
    search
        ``{"name": ..., "preset": ..., "seed": ..., "options": {...}}``.
    hardware, tools
        Fingerprint of the machine, and versions of the software; for the reader, never compared.
    """

    run: str
    workload: dict[str, Any]
    workload_key: str
    target: dict[str, Any]
    target_key: str
    template: dict[str, Any]
    search: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    tools: dict[str, Any] = {}


class _Record(RunHeader, frozen=True, kw_only=True, tag_field="kind"):
    """Fields of every kind of record.

    Parameters
    ----------
    v
        Schema version.
    id
        Unique; the run id, a slash and the sequence number of the record in its run.
    time
        When the record was made, UTC, ISO-8601 with microseconds; such strings sort by time.
    """

    v: int = SCHEMA
    id: str
    time: str

    @property
    def template_id(self) -> tuple[str, str]:
        """Name and version of the template, comparable across records."""
        return template_id(self.template)


class TrialRecord(_Record, frozen=True, kw_only=True, tag="trial"):
    """One measured configuration.

    Parameters
    ----------
    batch, asked
        Index of the batch in its run, and how many configs the searcher was asked for.
    ask, tell
        Position of this config among those asked for, and the order in which its result was told.
    config, config_key
        The config as plain JSON, and its canonical text (:func:`canonical_json`).
    costs
        Seconds per call, one entry per repeat; empty exactly when ``failure`` is set.
    failure, message
        A value of :class:`~autotune.trial.FailureKind`, and its text.
    phases
        Seconds per phase of the trial; besides, ``reference``: seconds per call of the reference
        kernel right after it, ``again``: how often the trial was timed again because that was off,
        and ``steal``: seconds that the hypervisor took from the measured cores.
    features
        What the compiler said of the kernel; see :class:`~autotune.trial.Result`.
    source
        Id of the record that served as this trial's result, if one did: another run's of the same
        config, or this run's of a config with the same machine code.
    code
        Digest of the machine code; "" where it is not known.
    elapsed
        Seconds of wall time that this trial took.
    """

    kind: ClassVar[str] = "trial"

    batch: _Count
    asked: _Count
    ask: _Count
    tell: _Count
    config: dict[str, Any]
    config_key: str
    costs: tuple[float, ...] = ()
    failure: str | None = None
    message: str = ""
    phases: dict[str, float] = {}
    features: dict[str, Any] = {}
    source: str | None = None
    code: str = ""
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        if (self.failure is None) == (not self.costs):
            raise ValueError("a trial has either costs or a failure")
        _check_costs(self.costs)

    @property
    def ok(self) -> bool:
        """Whether the trial has a cost."""
        return self.failure is None

    @property
    def cost(self) -> float:
        """Median of the costs in seconds; ``inf`` for a failure."""
        return statistics.median(self.costs) if self.costs else math.inf

    def result(self) -> Result:
        """Return the outcome as the searchers know it.

        A failure kind that this version does not know becomes ``run_error``, with its name kept in
        the message: it is a failure in any case.
        """
        if self.failure is None:
            return Result(self.costs, phases=self.phases, code=self.code, features=self.features)
        try:
            return Result.failed(FailureKind(self.failure), self.message, self.phases)
        except ValueError:
            message = f"{self.failure}: {self.message}"
            return Result.failed(FailureKind.RUN_ERROR, message, self.phases)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One contender of a final re-measurement; ``costs`` in seconds, empty if it could not run."""

    label: str
    config: dict[str, Any] | None = None
    costs: tuple[float, ...] = ()
    verdict: str = ""

    def __post_init__(self) -> None:
        _check_costs(self.costs)

    @property
    def cost(self) -> float:
        """Median of the costs in seconds; ``inf`` without any."""
        return statistics.median(self.costs) if self.costs else math.inf


class FinalRecord(_Record, frozen=True, kw_only=True, tag="final"):
    """The interleaved re-measurement that named the winner of a run.

    Parameters
    ----------
    candidates
        All contenders: the best few of the run, the default config, the vendor library.
    winner
        The winning config, which is that of one of the candidates.
    trials
        How many trials the run had when this was made.
    summary
        Whatever else the reader of a report wants to know.
    """

    kind: ClassVar[str] = "final"

    candidates: tuple[Candidate, ...]
    winner: dict[str, Any]
    trials: _Count
    summary: dict[str, Any] = {}

    @property
    def cost(self) -> float:
        """Re-measured cost of the winner in seconds; ``inf`` if no candidate has its config."""
        return min((c.cost for c in self.candidates if c.config == self.winner), default=math.inf)

    @property
    def config_key(self) -> str:
        """Canonical text of the winner."""
        return canonical_json(self.winner)


class CompiledRecord(_Record, frozen=True, kw_only=True, tag="compiled"):
    """One configuration that was compiled and never run: it has no cost, and no lookup finds it.

    Parameters
    ----------
    config, config_key
        As those of :class:`TrialRecord`.
    estimate
        Seconds per call by the static model; a rank, not a result.
    features
        What the compiler said of the kernel.
    failure, message
        Why it cannot be used, if so.
    """

    kind: ClassVar[str] = "compiled"

    config: dict[str, Any]
    config_key: str
    estimate: float
    features: dict[str, Any] = {}
    failure: str | None = None
    message: str = ""


Record = TrialRecord | FinalRecord | CompiledRecord


def canonical_json(value: object) -> str:
    """Return compact JSON with sorted keys: equal values have equal texts."""
    return msgspec.json.encode(value, order="sorted").decode()


def template_id(template: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and version of ``{"name": ..., "version": ...}`` as two strings."""
    return str(template.get("name")), str(template.get("version"))


def utc_now() -> str:
    """Return the present time in the form used by records."""
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return now.removesuffix("+00:00") + "Z"


def new_run_id() -> str:
    """Return a run id that sorts by time and that no other process will draw."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ") + "-" + secrets.token_hex(4)


def run_header(
    workload: Gemm,
    *,
    target: Mapping[str, Any],
    target_key: str,
    template: Mapping[str, Any],
    run: str | None = None,
    search: Mapping[str, Any] | None = None,
    hardware: Mapping[str, Any] | None = None,
    tools: Mapping[str, Any] | None = None,
) -> RunHeader:
    """Describe a run once; see :class:`RunHeader`. Without ``run``, a new run id is drawn."""
    return RunHeader(
        run=run or new_run_id(),
        workload=workload.to_json(),
        workload_key=workload.key,
        target=dict(target),
        target_key=target_key,
        template=dict(template),
        search=dict(search or {}),
        hardware=dict(hardware or {}),
        tools=dict(tools or {}),
    )


def trial_record(
    header: RunHeader,
    sequence: int,
    config: Mapping[str, Any],
    result: Result,
    *,
    batch: int,
    asked: int,
    ask: int,
    tell: int,
    elapsed: float = 0.0,
    source: str | None = None,
) -> TrialRecord:
    """Make the record of one trial.

    Parameters
    ----------
    header
        The run that it belongs to.
    sequence
        Number of the record in its run, counting trials and finals; it becomes part of the id.
    config
        The config as plain JSON.
    result
        Its outcome. An over-long message is cut, so that no line can grow beyond what is read.
    batch, asked, ask, tell, elapsed, source
        See :class:`TrialRecord`.
    """
    return TrialRecord(
        **_common(header, sequence),
        batch=batch,
        asked=asked,
        ask=ask,
        tell=tell,
        config=dict(config),
        config_key=canonical_json(config),
        costs=tuple(result.costs),
        failure=None if result.failure is None else result.failure.value,
        message=_storable(result.message),
        phases=dict(result.phases),
        features=dict(result.features),
        source=source,
        code=result.code,
        elapsed=elapsed,
    )


def final_record(
    header: RunHeader,
    sequence: int,
    candidates: Sequence[Candidate],
    winner: Mapping[str, Any],
    *,
    trials: int,
    summary: Mapping[str, Any] | None = None,
) -> FinalRecord:
    """Make the record of a final re-measurement; see :class:`FinalRecord`."""
    return FinalRecord(
        **_common(header, sequence),
        candidates=tuple(candidates),
        winner=dict(winner),
        trials=trials,
        summary=dict(summary or {}),
    )


def compiled_record(
    header: RunHeader,
    sequence: int,
    config: Mapping[str, Any],
    estimate: float,
    features: Mapping[str, Any],
    failure: str | None = None,
    message: str = "",
) -> CompiledRecord:
    """Make the record of a configuration that was only compiled; see :class:`CompiledRecord`."""
    return CompiledRecord(
        **_common(header, sequence),
        config=dict(config),
        config_key=canonical_json(config),
        estimate=estimate,
        features=dict(features),
        failure=failure,
        message=_storable(message),
    )


def _common(header: RunHeader, sequence: int) -> dict[str, Any]:
    fields = {name: getattr(header, name) for name in RunHeader.__struct_fields__}
    # Zero-padded, so that ids of one run sort in the order in which they were made.
    return {**fields, "id": f"{header.run}/{sequence:06d}", "time": utc_now()}


def _storable(message: str) -> str:
    # Compilers print bytes that are not UTF-8; as lone surrogates they could not be encoded.
    text = message[:_MAX_MESSAGE].encode("utf-8", "replace").decode()
    return text if len(message) <= _MAX_MESSAGE else text + " [cut]"


def _check_costs(costs: Sequence[float]) -> None:
    if any(not math.isfinite(cost) or cost <= 0.0 for cost in costs):
        raise ValueError(f"costs must be positive finite seconds, got {list(costs)}")
