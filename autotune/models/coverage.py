"""Which products of a model run on which kernel: the table that ``autotune compile`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.log import Tier

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
    predicted
        Seconds per call by the static model for GPUs, which is no measurement; NaN on a CPU.
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
    predicted: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON, unknown seconds as None."""
        data = dict(self.__dict__)
        for name in ("seconds", "predicted"):
            data[name] = None if math.isnan(data[name]) else data[name]
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
    resources
        Name of every kernel of a GPU -> its registers, shared memory and spills, as the compiler
        reported them.
    """

    rows: tuple[Row, ...]
    missed: tuple[tuple[str, str], ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
                built.code.predicted.get(name, math.nan),
            )
            for name, choice in applied.kernels.items()
        ]
        rows.sort(key=lambda row: (-row.calls * row.flops, row.name))
        missed = tuple((miss.name, miss.reason) for miss in applied.missed)
        resources = {
            name: taken.to_json()
            for code in built.code.device
            for name, taken in sorted(code.resources.items())
        }
        return cls(tuple(rows), missed, built.rules, resources)

    @property
    def flops(self) -> int:
        """Operations of all products that run on kernels of ours."""
        return sum(row.calls * row.flops for row in self.rows)

    @property
    def untuned(self) -> tuple[str, ...]:
        """Products without a kernel that was tuned for exactly them, each with the reason."""
        others = (row for row in self.rows if row.tier != Tier.EXACT.value)
        missed = (f"{name}: {reason}" for name, reason in self.missed)
        return (*(f"{row.workload}: {row.tier}" for row in others), *missed)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "missed": [{"product": name, "reason": reason} for name, reason in self.missed],
            "rules": dict(self.rules),
            **({"resources": dict(self.resources)} if self.resources else {}),
        }
