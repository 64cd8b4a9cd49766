"""One row of the tables of results, and how it comes about; imports nothing heavy."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.workload import Gemm

if TYPE_CHECKING:
    from autotune.measure.final import FinalOptions
    from autotune.run import TuneRequest


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

    def rate_cell(self, label: str, unit: float = 1.0) -> str:
        """The rate in units of so many GFLOP/s, or a dash for what could not run."""
        return f"{self.rate(label) / unit:.1f}" if self.costs.get(label) else "-"

    def ratios(self, label: str, over: str) -> list[float]:
        """How many times faster ``label`` is, one per round, sorted."""
        if not (self.costs.get(over) and self.costs.get(label)):
            return []
        pairs = zip(self.costs[over], self.costs[label], strict=True)
        return sorted(other / own for other, own in pairs)

    def ratio(self, label: str, over: str) -> float:
        ratios = self.ratios(label, over)
        return statistics.median(ratios) if ratios else float("nan")

    def ratio_cell(self, over: str) -> str:
        """How many times faster the tuned kernel is than ``over``: median, p10 and p90."""
        ratios = self.ratios("tuned", over)
        if not ratios:
            return "-"
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        return f"**{statistics.median(ratios):.2f}** ({low:.2f} to {high:.2f})"


def measured_row(request: TuneRequest, measurer: Any, log: Path, options: FinalOptions) -> Row:
    """Tune a product, and let the winner take turns with the default and the libraries."""
    # Here, because tables are also made where the packages that these need are missing.
    from autotune.log import TuningLog
    from autotune.measure.final import run_final
    from autotune.report.console import View
    from autotune.tune import Session

    workload = request.workload
    session = Session(request, TuningLog(log))
    report = session.run(measurer, View())
    if report.interrupted or report.winner is None:
        raise KeyboardInterrupt
    default = session.space.defaults[0]
    result = run_final(measurer, request.template, [report.winner], default, options)
    costs = {c.label: list(c.costs) for c in result.contenders if c.costs}
    costs["tuned"] = list(result.winner.costs)
    for contender in result.contenders:
        if contender.failure:
            print(f"{workload.key}: {contender.label}: {contender.failure}", file=sys.stderr)
    return Row(
        workload.to_json(),
        request.threads,
        report.trials,
        report.trials / report.search_seconds * 60 if report.search_seconds else None,
        request.template,
        costs,
        result.peak_gflops,
        time.strftime("%Y-%m-%d"),
    )


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, none if there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def append_row(path: Path, row: Row) -> None:
    """Write a row at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")
