"""What earlier records give to a new search: its own results, and hints from elsewhere.

Records of the same workload, hardware and template are results of this very space. Those of other
workloads or hardware, of the same template, are moved into this space; only the order of their
costs is believed (:meth:`autotune.search.base.Searcher.transfer`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, InvalidConfig, InvalidWorkload
from autotune.log import TrialRecord
from autotune.log.record import template_id
from autotune.search.translate import Translation, translate
from autotune.workload import Gemm

if TYPE_CHECKING:
    from autotune.search.base import Searcher
    from autotune.search.space import Config, ConfigSpace
    from autotune.trial import Result

#: Problems of a log that become sources, the nearest first; each costs a model of its own.
_MOST_SOURCES = 3


@dataclass(frozen=True)
class WarmStart:
    """What is given to a searcher before it begins.

    Parameters
    ----------
    history
        Results of this space.
    sources
        Those of other workloads or hardware: a label, and the results in terms of this space.
    outside
        How many records are of another template or template version.
    skipped
        Labels of further workloads and hardware, less alike, which are left out.
    """

    history: tuple[tuple[Config, Result], ...] = ()
    sources: tuple[tuple[str, Translation], ...] = ()
    outside: int = 0
    skipped: tuple[str, ...] = ()

    def give(self, searcher: Searcher) -> None:
        """Hand everything to a new searcher."""
        searcher.warm_start(self.history)
        if searcher.uses_transfer:
            for _, translation in self.sources:
                searcher.transfer(translation.pairs)

    def identity(self, searcher: Searcher) -> dict[str, Any]:
        """Return what tells two searches apart that begin with different knowledge."""
        told: dict[str, Any] = {}
        if self.history:
            told["warm_start"] = {"results": len(self.history), "digest": _digest(self.history)}
        if self.sources and searcher.uses_transfer:
            pairs = [pair for _, translation in self.sources for pair in translation.pairs]
            told["transfer"] = {"results": len(pairs), "digest": _digest(pairs)}
        return told

    def describe(self, searcher: Searcher) -> str:
        """Say in one line what was taken.

        Raises
        ------
        AutotuneError
            If nothing can be used.
        """
        if self.sources and not self.history and not searcher.uses_transfer:
            raise AutotuneError(
                f"the searcher {searcher.name!r} cannot use results of other workloads or hardware,"
                " and --warm-start has no others; use --searcher auto"
            )
        parts = [f"{len(self.history):,} results of this workload and hardware"]
        if not searcher.uses_transfer:
            parts += [f"{label}: ignored by {searcher.name}" for label, _ in self.sources]
        else:
            parts += [f"{label}: {translation}" for label, translation in self.sources]
        if self.skipped:
            parts.append(f"{len(self.skipped)} less alike left out")
        if self.outside:
            parts.append(f"{self.outside:,} records of other templates left out")
        return "warm start: " + "; ".join(parts)


def read_warm_start(
    space: ConfigSpace,
    records: Iterable[TrialRecord],
    workload: Gemm,
    target_key: str,
    template: Mapping[str, Any],
) -> WarmStart:
    """Sort records by what they are to a search of ``space``.

    Parameters
    ----------
    space, workload, target_key, template
        What is to be tuned.
    records
        Of any workload, hardware and template.

    Raises
    ------
    AutotuneError
        If there are records, but none of the template, or none fits the space.
    """
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    wanted = template_id(template)
    outside: dict[str, int] = {}
    for record in records:
        if record.source is not None:  # a copy of another record
            continue
        if record.template_id == wanted:
            groups.setdefault((record.workload_key, record.target_key), []).append(record)
        else:
            name = f"{record.template_id[0]} version {record.template_id[1]}"
            outside[name] = outside.get(name, 0) + 1
    if outside and not groups:
        raise AutotuneError(
            f"--warm-start holds only results of {', '.join(outside)}, none of template"
            f" {wanted[0]} version {wanted[1]}: their configs mean other things"
        )
    history = _history(space, groups.pop((workload.key, target_key), ()))
    ranked = sorted(groups, key=lambda key: (*_distance(groups[key][0], workload, target_key), key))
    labels = {key: f"{key[0]} on {_device(groups[key][0])}" for key in ranked}
    near = ranked[:_MOST_SOURCES]
    sources = [(labels[key], _source(space, groups[key], labels[key])) for key in near]
    return WarmStart(
        tuple(history),
        tuple(sources),
        sum(outside.values()),
        tuple(labels[key] for key in ranked[_MOST_SOURCES:]),
    )


def _history(space: ConfigSpace, records: Sequence[TrialRecord]) -> list[tuple[Config, Result]]:
    """Translate records of this very space into results; those that do not fit are left out."""
    history: dict[Config, Result] = {}
    for record in records:
        try:
            config = space.config_from_json(record.config)
        except InvalidConfig:
            continue
        history.setdefault(config, record.result())
    return list(history.items())


def _source(space: ConfigSpace, records: Sequence[TrialRecord], label: str) -> Translation:
    try:
        return translate(space, [(record.config, record.result()) for record in records])
    except AutotuneError as error:
        raise AutotuneError(f"cannot start from {label}: {error}") from None


def _device(record: TrialRecord) -> str:
    threads = record.target.get("threads")
    name = str(record.target.get("name", record.target_key))
    return name if threads is None else f"{name}, {threads} threads"


def _distance(record: TrialRecord, workload: Gemm, target_key: str) -> tuple[bool, float]:
    """Return how unlike a record is: other hardware first, then the ratio of the extents."""
    try:
        theirs = Gemm.from_json(record.workload)
    except InvalidWorkload:
        return record.target_key != target_key, math.inf
    pairs = ((getattr(theirs, x), getattr(workload, x)) for x in ("m", "n", "k", "batch"))
    ratio = math.hypot(*(math.log2(one / other) for one, other in pairs))
    return record.target_key != target_key, ratio


def _digest(pairs: Iterable[tuple[Config, Result]]) -> str:
    text = "".join(f"{config.key} {result.cost}\n" for config, result in pairs)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
