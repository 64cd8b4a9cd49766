"""One row of the tables of results; imports nothing heavy."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from autotune.workload import Gemm


@dataclass(frozen=True)
class Row:
    """One product at one thread count; costs are medians per round, in seconds."""

    workload: dict[str, object]
    threads: int
    trials: int
    trials_per_minute: float | None
    template: str
    costs: dict[str, list[float]]
    peak_gflops: float
    date: str

    @property
    def key(self) -> tuple[str, int]:
        return Gemm.from_json(self.workload).key, self.threads

    def rate(self, label: str) -> float:
        """GFLOP/s; not a number for what could not run."""
        if not self.costs.get(label):
            return float("nan")
        return Gemm.from_json(self.workload).flops / statistics.median(self.costs[label]) / 1e9

    def ratios(self, label: str, over: str) -> list[float]:
        """How many times faster ``label`` is, one per round, sorted."""
        if not (self.costs.get(over) and self.costs.get(label)):
            return []
        pairs = zip(self.costs[over], self.costs[label], strict=True)
        return sorted(other / own for other, own in pairs)

    def ratio(self, label: str, over: str) -> float:
        ratios = self.ratios(label, over)
        return statistics.median(ratios) if ratios else float("nan")
