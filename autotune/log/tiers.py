"""From a workload to the config to compile it with, and how close a match that is."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import InvalidWorkload
from autotune.log.index import Winner, best, winner
from autotune.log.record import Record, template_id
from autotune.workload import Gemm

# A single reading this much below the re-measured winner is worth a word: its run was cut short.
_SUSPICIOUS = 0.9
# How far apart batch counts are, compared with extents.
_BATCH_WEIGHT = 0.25


class Tier(str, enum.Enum):
    """How a record was matched with a workload, best first."""

    EXACT = "exact"
    SAME_GEMM = "same GEMM, other epilogue"
    M_BUCKET = "M bucket"
    NEAREST = "nearest"
    DEFAULT = "default"


@dataclass(frozen=True)
class Hit:
    """The answer of :func:`lookup`.

    Parameters
    ----------
    tier
        How close the match is. In all but the first two, the config was tuned for other extents,
        and it is for the caller to check that it belongs to the space of the wanted workload.
    winner
        The config, its cost and its record; ``None`` in the tier ``DEFAULT``.
    distance
        Euclidean distance of (m, n, k) in powers of two. Batch counts that differ by a power of two
        are a quarter of one apart: each product is the same, only their share-out differs.
    note
        One line for the user: what was used, what was ignored, and why.
    """

    tier: Tier
    winner: Winner | None
    distance: float
    note: str

    @property
    def record(self) -> Record | None:
        """The record that the config comes from."""
        return None if self.winner is None else self.winner.record

    @property
    def config(self) -> dict[str, Any] | None:
        """The config, ``None`` if the template's default is to be used."""
        return None if self.winner is None else self.winner.config


def lookup(
    records: Iterable[Record],
    workload: Gemm,
    target_key: str,
    template: Mapping[str, Any],
    *,
    target: Mapping[str, Any] | None = None,
) -> Hit:
    """Find the config for a workload; records of other hardware or template versions are not used.

    Parameters
    ----------
    records
        All records of a log.
    workload, target_key, template
        What is to be compiled, for what, with which ``{"name": ..., "version": ...}``.
    target
        The plain dict that belongs to ``target_key``, to say how other hardware differs.
    """
    usable: dict[str, list[Record]] = {}
    foreign: list[Record] = []
    name, version = template_id(template)
    outdated = 0
    for record in records:
        if record.target_key != target_key:
            foreign.append(record)
        elif record.template_id != (name, version):
            outdated += record.template_id[0] == name
        else:
            usable.setdefault(record.workload_key, []).append(record)
    notes = [_foreign_note(foreign, target_key, target)] if foreign else []
    if outdated:
        notes.append(f"ignored {_count(outdated)} of other versions of {name} than {version}")
    return _closest(usable, workload, notes)


def _closest(usable: Mapping[str, list[Record]], workload: Gemm, notes: list[str]) -> Hit:
    ranked = []
    for key, group in usable.items():
        gemm = _workload_of(group[0])
        # A key that contradicts its workload is a record that nobody can trust.
        if gemm is None or gemm.key != key or not _same_kind(gemm, workload):
            continue
        found = winner(group)
        if found is not None:
            tier, distance = _tier(gemm, workload), _distance(gemm, workload)
            other_epilogue = (gemm.epilogue, gemm.scale) != (workload.epilogue, workload.scale)
            ranked.append(
                (list(Tier).index(tier), distance, other_epilogue, found.cost, key, found, gemm)
            )
    if not ranked:
        return Hit(Tier.DEFAULT, None, math.inf, "; ".join(["nothing tuned fits", *notes]))
    rank, distance, _, _, key, found, gemm = min(ranked, key=lambda entry: entry[:5])
    tier = list(Tier)[rank]
    return Hit(
        tier,
        found,
        distance,
        "; ".join([_used(tier, gemm, distance, found), *notes] + _cut_short(found, usable[key])),
    )


def _tier(gemm: Gemm, wanted: Gemm) -> Tier:
    if gemm == wanted:
        return Tier.EXACT
    if _extents(gemm) == _extents(wanted):
        return Tier.SAME_GEMM
    if (gemm.n, gemm.k, _buckets(gemm)) == (wanted.n, wanted.k, _buckets(wanted)):
        return Tier.M_BUCKET
    return Tier.NEAREST


def _extents(gemm: Gemm) -> tuple[int, int, int, int]:
    return gemm.batch, gemm.m, gemm.n, gemm.k


def _same_kind(a: Gemm, b: Gemm) -> bool:
    """Whether a config of one can be meant for the other; batched and single ones never mix."""
    if (a.dtype, a.acc_dtype, a.out_dtype, a.shared, a.batch > 1) != (
        b.dtype,
        b.acc_dtype,
        b.out_dtype,
        b.shared,
        b.batch > 1,
    ):
        return False
    # A kernel with a packed B never sees how B was stored.
    packed = a.prepacked and b.prepacked
    return a.layout[0] == b.layout[0] if packed else a.layout == b.layout


def _buckets(gemm: Gemm) -> tuple[int, int]:
    return _bucket(gemm.batch), _bucket(gemm.m)


def _bucket(extent: int) -> int:
    """Return the exponent of the power of two that is nearest on a logarithmic scale."""
    return round(math.log2(extent))


def _distance(a: Gemm, b: Gemm) -> float:
    return math.hypot(
        math.log2(a.m / b.m),
        math.log2(a.n / b.n),
        math.log2(a.k / b.k),
        _BATCH_WEIGHT * math.log2(a.batch / b.batch),
    )


def _workload_of(record: Record) -> Gemm | None:
    try:
        return Gemm.from_json(record.workload)
    except InvalidWorkload:
        return None


def _used(tier: Tier, gemm: Gemm, distance: float, found: Winner) -> str:
    text = tier.value
    if tier is not Tier.EXACT:
        text += f": tuned for {gemm.key}"
    if tier in (Tier.M_BUCKET, Tier.NEAREST):
        text += f", {distance:.2f} powers of two away"
    return text if found.confirmed else text + "; not re-measured"


def _cut_short(found: Winner, group: list[Record]) -> list[str]:
    trial = best(group)
    if found.confirmed and trial is not None and trial.cost < _SUSPICIOUS * found.cost:
        return [
            f"trial {trial.id} reads {found.cost / trial.cost:.2f} times as fast but was not"
            " re-measured: finish its run"
        ]
    return []


def _foreign_note(foreign: list[Record], target_key: str, target: Mapping[str, Any] | None) -> str:
    """Say how many records of other hardware there are, and how the newest of them differs."""
    newest = max(foreign, key=lambda record: (record.time, record.id))
    theirs = newest.target
    fields = sorted({*theirs, *target}) if target is not None else []
    differing = [
        f"{name} {theirs.get(name)!r}, here {target.get(name)!r}"
        for name in fields
        if target is not None and theirs.get(name) != target.get(name)
    ]
    if not differing:
        differing = [f"target_key {newest.target_key!r}, here {target_key!r}"]
    return f"ignored {_count(len(foreign))} of other hardware ({', '.join(differing)})"


def _count(number: int) -> str:
    return f"{number} record" + ("" if number == 1 else "s")
