"""Measuring again what the runs of a comparison named, with a measurer that only pretends."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from autotune.compare import Campaign, Entrant, Protocol, Trace, parse_entrants, summarise
from autotune.compare.campaign import Problem
from autotune.compare.real import run_real
from autotune.compare.remeasure import Remeasured, biases, confirm, named_config, remeasure
from autotune.compare.run import Step
from autotune.hw_profiles import resolve_target
from autotune.kernels.base import get_template
from autotune.log import FinalRecord, TuningLog
from autotune.report.comparison import summary_json, tables
from autotune.report.write import write_report
from autotune.search.space import Config, ConfigSpace
from autotune.tables.recording import RecordingMeasurer
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

WORKLOAD = Gemm(16, 16, 16)


class Drifting:
    """Reads 30 % low in the search; in the rounds, everything gets slower from round to round."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.blocks: list[str] = []
        self.refuses = ""

    def true_cost(self, key: str) -> float:
        return 1e-3 * (1 + sum(map(ord, key)) % 97)

    def measure(
        self, template: str, config: Config, hopeless: float | None = None, keep: str | None = None
    ) -> Result:
        if keep is not None:
            if keep == self.refuses:
                return Result.failed(FailureKind.CRASHED, "killed by SIGSEGV")
            self.kept.add(keep)
        return Result((0.7 * self.true_cost(config.key),))

    def is_kept(self, name: str) -> bool:
        return name in self.kept

    def time_kept(self, name: str, seconds: float) -> list[float]:
        self.blocks.append(name)
        return [self.true_cost(name) * (1 + self.blocks.count(name))]


def space() -> ConfigSpace:
    return get_template("cpu_paper").space(WORKLOAD, resolve_target("cpu"), 1)


def compare(log: Path, measurer: Any, rounds: int = 3) -> tuple[Campaign, list[tuple[int, int]]]:
    profile, template = resolve_target("cpu"), get_template("cpu_paper")
    recorder = RecordingMeasurer(
        TuningLog(log), measurer, WORKLOAD, profile, 1, template, space(), "compare"
    )
    other = lambda seed: Trace("w", "other", seed, (Step("x", 2.0, 2.0),))  # noqa: E731
    entrants = parse_entrants("random,gbfs,other")
    campaign = run_real(
        "w", space(), recorder, entrants, Protocol(12, (0, 1)), external={"other": other}
    )
    told: list[tuple[int, int]] = []
    again = remeasure(
        campaign, space(), recorder, measurer, rounds, lambda done, of: told.append((done, of))
    )
    return dataclasses.replace(campaign, remeasured=again), told


def test_each_distinct_named_config_is_measured_once_a_round(tmp_path: Path) -> None:
    measurer = Drifting()
    campaign, told = compare(tmp_path / "c.jsonl", measurer)
    named = {named_config(t)[0] for t in campaign.traces if t.entrant != "other"}  # type: ignore[index]
    assert campaign.remeasured is not None
    assert set(campaign.remeasured.costs) == named
    assert told == [(0, 3), (1, 3), (2, 3)]
    size = len(named)
    for number in range(3):
        assert set(measurer.blocks[number * size : (number + 1) * size]) == named
    assert len(measurer.blocks) == 3 * size


def test_the_same_command_again_takes_the_rounds_from_the_log(tmp_path: Path) -> None:
    first, _ = compare(tmp_path / "c.jsonl", Drifting())
    measurer = Drifting()
    second, told = compare(tmp_path / "c.jsonl", measurer)
    assert second.remeasured == first.remeasured
    assert (measurer.blocks, told) == ([], [])
    compare(tmp_path / "c.jsonl", measurer, rounds=2)
    assert measurer.blocks
    finals = [r for r in TuningLog(tmp_path / "c.jsonl").scan().records if _is_final(r)]
    assert len(finals) == 2


def _is_final(record: object) -> bool:
    return isinstance(record, FinalRecord)


def test_a_config_that_fails_now_is_named_and_its_pairs_are_left_out(tmp_path: Path) -> None:
    found, _ = compare(tmp_path / "c.jsonl", Drifting())
    broken = Drifting()
    broken.refuses = named_config(found.runs("w", "gbfs")[0])[0]  # type: ignore[index]
    campaign, _ = compare(tmp_path / "c.jsonl", broken, rounds=5)
    assert campaign.remeasured is not None
    assert campaign.remeasured.failures == {broken.refuses: "crashed: killed by SIGSEGV"}
    duel = next(d for d in confirm(campaign, ["random"]) if d.entrant == "gbfs")
    assert (duel.pairs, duel.missing) == (1, 1)
    other = next(d for d in confirm(campaign, ["random"]) if d.entrant == "other")
    assert (other.pairs, other.remeasured, other.p) == (0, None, 1.0)


# -- figures --------------------------------------------------------------------------------------


def made_up() -> Campaign:
    """Two methods, two seeds; on seed 1 both name the same config."""

    def run(entrant: str, seed: int, config: str, reading: float) -> Trace:
        steps = (
            Step("slow", 9.0, 9.0),
            Step(config, reading, reading),
            Step("bad", math.inf, reading, "crashed"),
        )
        return Trace("p", entrant, seed, steps)

    again = Remeasured("p", 3, {"x": (4.0, 8.0, 40.0), "y": (2.0, 4.0, 10.0), "z": (1.0, 2.0, 3.0)})
    return Campaign(
        Protocol(3, (0, 1)),
        (Entrant("a"), Entrant("b")),
        (Problem("p", 100),),
        (
            run("a", 0, "x", 1.0),
            run("a", 1, "z", 1.5),
            run("b", 0, "y", 3.0),
            run("b", 1, "z", 1.5),
        ),
        again,
    )


def test_costs_are_compared_within_rounds_and_seeds() -> None:
    (duel,) = confirm(made_up(), ["b"])
    # Seed 0: the rounds' ratios are 2, 2 and 4; seed 1: the same config, so exactly 1.
    assert duel.remeasured is not None and duel.found is not None
    assert duel.remeasured.mean == pytest.approx(math.sqrt(2.0))
    assert (duel.remeasured.low, duel.remeasured.high) == pytest.approx((1.0, 2.0))
    assert duel.found.mean == pytest.approx(math.sqrt(1 / 3))  # the readings said the opposite
    assert (duel.wins, duel.ties, duel.losses, duel.missing) == (0, 1, 1, 0)


def test_the_bias_of_readings_is_told() -> None:
    a, b = biases(made_up())
    assert a.reading.mean == pytest.approx(math.sqrt(1 / 8 * 1.5 / 2))
    assert b.reading.mean == pytest.approx(math.sqrt(3 / 4 * 1.5 / 2))
    assert a.cost.mean == pytest.approx(math.sqrt(8 / 2 * 1))
    assert (a.spread, b.spread) == (10.0, 5.0)


def test_a_run_that_broke_or_found_nothing_names_nothing() -> None:
    step = Step("x", 1.0, 1.0)
    assert named_config(Trace("p", "a", 0, (step,), error="broke")) is None
    assert named_config(Trace("p", "a", 0, (Step("x", math.inf, math.inf, "crashed"),))) is None
    assert named_config(Trace("p", "a", 0, (step, Step("y", 1.0, 1.0)))) == ("x", 1.0)


def test_both_costs_are_in_every_kind_of_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.report.plots.have_matplotlib", lambda: False)
    campaign = made_up()
    summary = summarise(campaign, ["b"])
    titles = [table.title for table in tables(summary)]
    assert titles[-2:] == [
        "p: cost relative to b, as found and measured again",
        "p: named configs measured again",
    ]
    files = {file.name: file for file in write_report(campaign, summary, tmp_path)}
    with open(files["winners.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["searcher"], r["seed"], r["config"]) for r in rows] == [
        ("a", "0", "x"), ("a", "1", "z"), ("b", "0", "y"), ("b", "1", "z"),
    ]  # fmt: skip
    assert (rows[0]["reading_s"], rows[0]["remeasured_s"]) == ("1.0", "8.0")
    assert rows[0]["rounds_s"] == "4.0 8.0 40.0"
    data = summary_json(campaign, summary)
    assert data["confirmed"][0]["remeasured"]["mean"] == pytest.approx(math.sqrt(2.0))
    assert data["remeasured"]["costs"]["z"] == (1.0, 2.0, 3.0)
    assert "measured again" in files["report.html"].read_text()


def test_without_measuring_again_nothing_is_said_about_it(tmp_path: Path) -> None:
    campaign = dataclasses.replace(made_up(), remeasured=None)
    summary = summarise(campaign, ["b"])
    assert summary.confirmed == summary.biases == ()
    assert not any("again" in table.title for table in tables(summary))
    assert "remeasured" not in summary_json(campaign, summary)
