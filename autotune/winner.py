"""The winner of a run: what the log keeps of it, and what a report takes from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.log import Candidate, FinalRecord, RunHeader, final_record
from autotune.measure.final import COMPARED, FinalResult

if TYPE_CHECKING:
    from autotune.run import Report
    from autotune.search.space import ConfigSpace


def winner_record(
    header: RunHeader, sequence: int, result: FinalResult, report: Report
) -> FinalRecord:
    """Return the record of a final re-measurement, ``sequence`` being its number in the run."""
    candidates = [
        Candidate(
            label=c.label,
            config=None if c.config is None else c.config.to_json(),
            costs=tuple(c.costs),
            verdict=c.verdict,
        )
        for c in result.contenders
    ]
    winner = result.winner.config
    assert winner is not None
    return final_record(
        header,
        sequence,
        candidates,
        winner.to_json(),
        trials=report.trials,
        summary={
            **{f"speedup_over_{name}": result.speedup(name) for name in COMPARED},
            "measured_peak_gflops": result.peak_gflops,
            "roofline_gflops": max(result.peak_gflops, report.roofline_gflops or 0.0),
        },
    )


def adopt(record: FinalRecord, report: Report, space: ConfigSpace) -> None:
    """Fill in what a report says of the winner."""
    summary = record.summary
    report.winner = space.config_from_json(record.winner)
    report.winner_cost = record.cost
    report.contenders = list(record.candidates)
    ratios = {name: summary.get(f"speedup_over_{name}") for name in COMPARED}
    report.speedups = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    report.peak_gflops = summary.get("measured_peak_gflops")
    report.roofline_gflops = summary.get("roofline_gflops", report.roofline_gflops)
