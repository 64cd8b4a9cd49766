"""Which products of a model run on which kernel: the table that ``autotune compile`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.models.pipeline import Built


@dataclass(frozen=True)
class Row:
    """One kernel of a model.

    Parameters
    ----------
    name
        Name of the compiled function.
    workload
        Key of what it computes.
    calls
        Products of the model that it computes.
    flops
        Operations of one call.
    tier, note
        How close the log's record is, and one line about it.
    template, config
        What it was built from.
    seconds
        Logged seconds per call; NaN where this product was not measured.
    """

    name: str
    workload: str
    calls: int
    flops: int
    tier: str
    note: str
    template: str
    config: Mapping[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON, unknown seconds as None."""
        data = dict(self.__dict__)
        data["seconds"] = None if math.isnan(self.seconds) else self.seconds
        return data


@dataclass(frozen=True)
class Coverage:
    """How a model was compiled.

    Parameters
    ----------
    rows
        Products that run on a kernel of ours, most operations first.
    missed
        ``(product, reason)`` of those that do not.
    rules
        Name of every other function -> the rule that scheduled it.
    """

    rows: tuple[Row, ...]
    missed: tuple[tuple[str, str], ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, built: Built) -> Coverage:
        """Return the coverage of a built model."""
        applied = built.applied
        rows = [
            Row(
                name,
                choice.workload.key,
                applied.calls[name],
                choice.workload.flops,
                choice.tier.value,
                choice.note,
                choice.template.name,
                choice.config.to_json(),
                choice.seconds,
            )
            for name, choice in applied.kernels.items()
        ]
        rows.sort(key=lambda row: (-row.calls * row.flops, row.name))
        missed = tuple((miss.name, miss.reason) for miss in applied.missed)
        return cls(tuple(rows), missed, built.rules)

    @property
    def flops(self) -> int:
        """Operations of all products that run on kernels of ours."""
        return sum(row.calls * row.flops for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "missed": [{"product": name, "reason": reason} for name, reason in self.missed],
            "rules": dict(self.rules),
        }
