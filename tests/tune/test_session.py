"""The tuning loop with a pretended measurer: budgets, resuming, sharing, failures, winners."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from fake_measurer import FakeMeasurer, Killed, Witness, made_up

from autotune.errors import AutotuneError, MeasureError, NotApplicable
from autotune.hw_profiles import HardwareProfile
from autotune.log import TuningLog
from autotune.measure.final import FinalOptions
from autotune.run import Report, TuneRequest
from autotune.search import SEARCHERS
from autotune.search.rounds import Rounds
from autotune.search.space import Config
from autotune.trial import FailureKind, Result
from autotune.tune import Session
from autotune.workload import Gemm

PROFILE = HardwareProfile("cpu", "Test CPU", "znver4", "x86_64", physical_cores=2, logical_cores=2,
                          l1d_bytes=1 << 15, l2_bytes=1 << 20, l3_bytes=1 << 25, simd_bits=512,
                          vector_registers=32)  # fmt: skip
MEMBERS = [(name, preset) for name, cls in SEARCHERS.items() for preset in cls.presets]


@pytest.fixture
def log(tmp_path: Path) -> TuningLog:
    return TuningLog(tmp_path / "tuned.jsonl")


in_batches = pytest.mark.parametrize(("batch", "ahead"), [(1, 0), (5, 0), (3, 1)])


def request(**changes: Any) -> TuneRequest:
    usual = {"trials": 12, "searcher": "gbfs", "final": FinalOptions(rounds=2)}
    fields: dict[str, Any] = {**usual, **changes}
    return TuneRequest(fields.pop("workload", Gemm(48, 48, 36)), PROFILE, 2, **fields)


def tune(
    log: TuningLog | None,
    measurer: FakeMeasurer | None = None,
    witness: Witness | None = None,
    warm_start: Any = (),
    **changes: Any,
) -> Report:
    session = Session(request(**changes), log, warm_start)
    return session.run(measurer or FakeMeasurer(), witness or Witness())  # type: ignore[arg-type]


def story(log: TuningLog) -> list[tuple[Any, ...]]:
    """What a run did, in its own order."""
    trials = sorted(log.scan().trials, key=lambda t: (t.batch, t.ask))
    return [(t.batch, t.ask, t.asked, t.config_key, t.costs, t.failure) for t in trials]


# -- one run --------------------------------------------------------------------------------------


def test_a_run_measures_as_many_trials_as_asked_and_logs_each(log: TuningLog) -> None:
    measurer, witness = FakeMeasurer(), Witness()
    report = tune(log, measurer, witness)
    scan = log.scan()
    assert report.trials == report.measured == len(measurer.measured) == len(scan.trials) == 12
    assert [t.config_key for t in scan.trials] == [c.key for c in measurer.measured]
    assert [t.number for t in witness.trials] == list(range(1, 13))
    assert len({r.id for r in scan.records}) == len(scan.records) == 13
    assert (witness.roofline, measurer.ceilings_asked) == (150.0, 1)


def test_the_first_trial_is_the_default_config(log: TuningLog) -> None:
    measurer, witness = FakeMeasurer(), Witness()
    tune(log, measurer, witness)
    assert measurer.measured[0] == witness.session.space.defaults[0]


def test_the_winner_is_the_cheapest_config_and_is_in_the_log(log: TuningLog) -> None:
    measurer = FakeMeasurer()
    report = tune(log, measurer)
    cheapest = min(made_up(config).cost for config in measurer.measured)
    assert report.best_cost == report.winner_cost == cheapest
    (final,) = log.scan().finals
    assert report.winner is not None and final.winner == report.winner.to_json()
    assert (final.trials, final.cost) == (12, cheapest)
    assert [c.label for c in final.candidates][-2:] == ["torch", "onednn"]
    assert report.speedups["torch"] == pytest.approx(2e-3 / cheapest)
    assert report.speedups["onednn"] == pytest.approx(1e-3 / cheapest)


def test_the_final_may_overturn_a_lucky_reading(log: TuningLog) -> None:
    lucky: list[Config] = []

    class Lucky(FakeMeasurer):
        def measure(self, template: str, config: Config, *a: Any, **k: Any) -> Result:
            result = super().measure(template, config, *a, **k)
            if len(self.measured) == 5 and not lucky:
                lucky.append(config)
                return Result((1e-7,))
            return result

    report = tune(log, Lucky(lambda config: dataclasses.replace(made_up(config), costs=(
        # Far slower in truth than anything else.
        1.0 if config in lucky else 1e-3 * (1 + zlib.crc32(config.key.encode()) % 100),
    ), failure=None)))  # fmt: skip
    assert report.best == lucky[0]
    assert report.winner is not None and report.winner != lucky[0]


def test_a_candidate_behind_the_best_by_a_margin_is_not_read_further(log: TuningLog) -> None:
    measurer = FakeMeasurer()
    tune(log, measurer)
    assert measurer.hopeless[0] is None
    best = float("inf")
    for config, hopeless in zip(measurer.measured, measurer.hopeless, strict=True):
        assert hopeless == (None if best == float("inf") else pytest.approx(1.03 * best))
        best = min(best, made_up(config).cost)


def test_what_of_a_batch_will_be_measured_is_built_ahead_in_its_order(log: TuningLog) -> None:
    measurer = FakeMeasurer()
    tune(log, measurer, trials=12, batch=5)
    assert all(2 <= len(batch) <= 5 for batch in measurer.prepared)
    assert [c for batch in measurer.prepared for c in batch] == measurer.measured
    # What the log knows, what is illegal and what is beyond the budget is not.
    again = FakeMeasurer()
    report = tune(log, again, seed=1, batch=5, searcher="random", trials=12)
    assert [c for batch in again.prepared for c in batch] == again.measured
    assert len(again.measured) == report.measured
    careless = FakeMeasurer()
    tune(None, careless, preset="paper", batch=5, trials=12)
    assert [c for batch in careless.prepared for c in batch] == careless.measured


class Twins(FakeMeasurer):
    """Builds one of three kernels from each config, and times each of them once."""

    def __init__(self, *a: Any, **k: Any) -> None:
        super().__init__(*a, **k)
        self.by_code: dict[str, Result] = {}

    def measure(self, template: str, config: Config, *a: Any, **k: Any) -> Result:
        code = f"code {zlib.crc32(config.key.encode()) % 3}"
        if k.get("keep") is not None:
            return super().measure(template, config, *a, **k)
        if code in self.by_code:
            return dataclasses.replace(self.by_code[code], phases={"build": 0.1})
        super().measure(template, config, *a, **k)
        phases = {"build": 0.1, "run": 0.1}
        self.by_code[code] = Result((1e-3 * int(code[-1]) + 1e-3,), phases=phases, code=code)
        return self.by_code[code]


def test_configs_with_the_same_machine_code_share_a_measurement_and_say_whose(
    log: TuningLog,
) -> None:
    report = tune(log, Twins())
    trials = log.scan().trials
    assert (report.trials, report.measured, report.twins, report.shared) == (12, 3, 9, 0)
    measured = {t.code: t for t in trials if t.source is None}
    assert len(measured) == 3
    for trial in trials:
        if trial.source is not None:
            assert trial.source == measured[trial.code].id
            assert trial.costs == measured[trial.code].costs
    # After a restart a kernel is measured once more, and what follows shares that.
    again = tune(log, Twins(), trials=20)
    assert (again.resumed, again.measured + again.twins) == (12, 8) and again.measured <= 3


def test_cold_and_hot_results_are_kept_apart(log: TuningLog) -> None:
    tune(log)
    report = tune(log, cache="cold")
    assert (report.measured, report.shared, report.resumed) == (12, 0, 0)
    assert {t.target.get("cache") for t in log.scan().trials} == {None, "cold"}
    assert tune(log, FakeMeasurer(stop_at=0), cache="cold").resumed == 12


def test_the_default_is_the_reference_for_drift(log: TuningLog) -> None:
    measurer, witness = FakeMeasurer(), Witness()
    tune(log, measurer, witness)
    assert measurer.watched == witness.session.space.defaults[0]


def test_without_a_log_a_run_works_and_leaves_nothing(tmp_path: Path) -> None:
    report = tune(None)
    assert (report.trials, report.log_path) == (12, None)
    assert report.winner is not None


def test_the_report_is_plain_json(log: TuningLog) -> None:
    import json

    report = tune(log)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["trials"] == {
        "total": 12,
        "measured": 12,
        "resumed": 0,
        "shared": 0,
        "twins": 0,
        "failures": dict(report.failures),
    }
    assert data["config"] == report.winner.to_json()  # type: ignore[union-attr]
    assert data["confirmed"] and not data["interrupted"] and data["roofline_gflops"] == 210.0


# -- the same request again -----------------------------------------------------------------------


@in_batches
def test_the_same_request_again_measures_nothing_and_names_the_same_winner(
    log: TuningLog, batch: int, ahead: int
) -> None:
    first = tune(log, batch=batch, ahead=ahead)
    size = log.path.stat().st_size
    measurer, witness = FakeMeasurer(stop_at=0), Witness()
    second = tune(log, measurer, witness, batch=batch, ahead=ahead)
    assert (second.trials, second.measured, second.resumed) == (12, 0, 12)
    assert (measurer.finals, measurer.ceilings_asked, witness.rounds) == (0, 0, [])
    assert second.final_from_log and second.run == first.run
    for field in ("best", "best_cost", "winner", "winner_cost", "speedups", "failures",
                  "peak_gflops", "contenders"):  # fmt: skip
        assert getattr(second, field) == getattr(first, field), field
    assert log.path.stat().st_size == size


@in_batches
def test_a_larger_budget_continues_the_run(
    log: TuningLog, tmp_path: Path, batch: int, ahead: int
) -> None:
    tune(log, trials=7, batch=batch, ahead=ahead)
    measurer = FakeMeasurer()
    report = tune(log, measurer, trials=16, batch=batch, ahead=ahead)
    assert (report.resumed, report.measured, len(measurer.measured)) == (7, 9, 9)
    whole = TuningLog(tmp_path / "whole.jsonl")
    tune(whole, trials=16, batch=batch, ahead=ahead)
    assert story(log) == story(whole)
    assert [final.trials for final in log.scan().finals] == [7, 16]


def test_one_more_library_is_compared_with_though_the_search_is_over(log: TuningLog) -> None:
    tune(log)
    final = FinalOptions(rounds=2, libraries=("torch", "onednn", "inductor"))
    for from_log in (False, True):
        report = tune(log, FakeMeasurer(stop_at=0), final=final)
        assert (report.measured, report.final_from_log) == (0, from_log)
        assert report.speedups["inductor"] == pytest.approx(2 * report.speedups["torch"])
        assert report.to_json()["speedup_over_inductor"] == report.speedups["inductor"]
    assert tune(log, FakeMeasurer(stop_at=0)).final_from_log, "what it has is enough"


def test_a_smaller_budget_reuses_what_there_is(log: TuningLog) -> None:
    tune(log, trials=9)
    report = tune(log, FakeMeasurer(stop_at=0), trials=3)
    assert (report.trials, report.measured, report.final_from_log) == (9, 0, True)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch": 2},
        {"searcher": "random"},
        {"preset": "paper"},
        {"searcher_options": {"rho": 3}},
    ],
    ids=str,
)
def test_another_search_is_another_run_that_measures_no_config_twice(
    log: TuningLog, change: dict[str, Any]
) -> None:
    first = tune(log)
    done = {t.config_key for t in log.scan().trials}
    measurer = FakeMeasurer()
    report = tune(log, measurer, **change)
    assert report.run != first.run and report.resumed == 0
    assert not done & {config.key for config in measurer.measured}
    assert report.trials == 12


@pytest.mark.parametrize(
    "change",
    [{"workload": Gemm(48, 48, 40)}, {"template": "cpu_paper"},
     {"workload": Gemm(48, 48, 36, epilogue="relu")}],
    ids=str,
)  # fmt: skip
def test_results_of_other_work_are_never_used(log: TuningLog, change: dict[str, Any]) -> None:
    tune(log)
    report = tune(log, **change)
    assert (report.measured, report.shared, report.resumed) == (12, 0, 0)


def test_results_of_other_hardware_or_threads_are_never_used(log: TuningLog) -> None:
    tune(log)
    other = dataclasses.replace(PROFILE, name="Another CPU")
    for profile, threads in ((PROFILE, 1), (other, 2)):
        same = dataclasses.replace(request(), profile=profile, threads=threads)
        session = Session(same, log)
        report = session.run(FakeMeasurer(), Witness())  # type: ignore[arg-type]
        assert (report.measured, report.shared, report.resumed) == (12, 0, 0)


# -- killed and resumed ---------------------------------------------------------------------------


@in_batches
@pytest.mark.parametrize(("name", "preset"), MEMBERS)
def test_a_run_killed_at_every_trial_goes_on_with_the_same_sequence(
    tmp_path: Path, name: str, preset: str, batch: int, ahead: int
) -> None:
    # Few configs of the richer space are legal, so presets that propose illegal ones get the other.
    template = "cpu_tile" if preset == "default" else "cpu_paper"
    search = {
        "searcher": name, "preset": preset, "batch": batch, "ahead": ahead, "trials": 8,
        "template": template,
    }  # fmt: skip
    whole = TuningLog(tmp_path / "whole.jsonl")
    reference = tune(whole, **search)
    log = TuningLog(tmp_path / "killed.jsonl")
    for done in range(reference.measured):
        measurer = FakeMeasurer(stop_at=1)
        if done < reference.measured - 1:
            with pytest.raises(Killed):
                tune(log, measurer, **search)
        else:
            report = tune(log, measurer, **search)
        assert story(log) == story(whole)[: len(story(log))]
        assert len(measurer.measured) == 1
    assert story(log) == story(whole)
    assert report.winner == reference.winner


@pytest.mark.parametrize("stop", [0, 4, 5, 9])
@in_batches
def test_a_run_killed_once_resumes_to_the_same_winner(
    tmp_path: Path, batch: int, ahead: int, stop: int
) -> None:
    whole = TuningLog(tmp_path / "whole.jsonl")
    reference = tune(whole, batch=batch, ahead=ahead)
    log = TuningLog(tmp_path / "killed.jsonl")
    with pytest.raises(Killed):
        tune(log, FakeMeasurer(stop_at=stop), batch=batch, ahead=ahead)
    report = tune(log, batch=batch, ahead=ahead)
    assert (report.resumed, report.measured) == (stop, 12 - stop)
    assert story(log) == story(whole) and report.winner == reference.winner


@in_batches
def test_a_torn_last_line_costs_that_trial_only(tmp_path: Path, batch: int, ahead: int) -> None:
    whole = TuningLog(tmp_path / "whole.jsonl")
    tune(whole, batch=batch, ahead=ahead)
    log = TuningLog(tmp_path / "torn.jsonl")
    with pytest.raises(Killed):
        tune(log, FakeMeasurer(stop_at=8), batch=batch, ahead=ahead)
    log.path.write_bytes(log.path.read_bytes()[:-20])
    measurer = FakeMeasurer()
    report = tune(log, measurer, batch=batch, ahead=ahead)
    assert (report.resumed, len(measurer.measured)) == (7, 5)
    assert story(log) == story(whole)


@in_batches
@pytest.mark.parametrize(("name", "preset"), [("gbfs", "default"), ("gbfs", "paper")])
@pytest.mark.parametrize("line", [0, 4, 9])
def test_a_damaged_line_in_the_middle_costs_that_trial_only(
    log: TuningLog, name: str, preset: str, batch: int, ahead: int, line: int
) -> None:
    # The second reading differs: a search that is replayed without the lost result goes elsewhere.
    search = {"searcher": name, "preset": preset, "batch": batch, "ahead": ahead}
    reference = tune(log, **search)
    lines = log.path.read_bytes().splitlines(keepends=True)
    lost = log.scan().trials[line]
    lines[line] = lines[line].replace(b'"asked":', b'"Asked":')
    log.path.write_bytes(b"".join(lines))

    def drifted(config: Config) -> Result:
        return Result((5e-5,)) if config.key == lost.config_key else made_up(config)

    for _ in range(3):
        measurer = FakeMeasurer(drifted)
        report = tune(log, measurer, trials=14, **search)
        again = {c.key for c in measurer.measured} & {t.config_key for t in log.scan().trials[:11]}
        assert again <= {lost.config_key}
        assert report.trials == 14
    assert measurer.measured == [] and report.final_from_log
    assert report.winner_cost <= reference.winner_cost


def test_two_processes_in_one_run_leave_a_log_that_can_be_continued(log: TuningLog) -> None:
    tune(log, trials=3)
    one, two = (Session(request(trials=8), log) for _ in range(2))
    one.run(FakeMeasurer(), Witness())  # type: ignore[arg-type]
    noisier = FakeMeasurer(lambda c: Result((7e-3 - min(6e-3, made_up(c).cost / 2),)))
    two.run(noisier, Witness())  # type: ignore[arg-type]
    report = tune(log, trials=20)
    assert report.trials == 20 and report.winner is not None
    assert tune(log, FakeMeasurer(stop_at=0), trials=20).trials == 20


# -- other runs, history --------------------------------------------------------------------------


def test_results_of_another_run_serve_count_and_name_their_source(log: TuningLog) -> None:
    tune(log, trials=12, seed=1, searcher="random")
    sources = {t.config_key: t.id for t in log.scan().trials}
    witness, measurer = Witness(), FakeMeasurer()
    # Both begin with random draws after the default, so at least the default is shared.
    report = tune(log, measurer, witness, trials=12, seed=1)
    assert report.shared >= 1 and report.shared + report.measured == report.trials == 12
    copies = [t for t in log.scan().trials if t.run == report.run and t.source is not None]
    assert len(copies) == report.shared
    assert all(t.source == sources[t.config_key] for t in copies)
    assert [t.origin for t in witness.trials].count("shared") == report.shared


def test_shared_results_are_traced_to_the_measurement_itself(log: TuningLog) -> None:
    first = tune(log, trials=1)
    tune(log, trials=1, seed=1)
    tune(log, trials=1, seed=2)
    assert [t.source for t in log.scan().trials] == [None, *[f"{first.run}/000000"] * 2]
    # Also where only a copy of it is left.
    copies = [t for t in log.scan().trials if t.source is not None]
    log.path.unlink()
    log.append(copies[-1:])
    tune(log, trials=1, seed=3)
    assert log.scan().trials[-1].source == f"{first.run}/000000"


def test_history_enters_only_when_asked(log: TuningLog, tmp_path: Path) -> None:
    tune(log, trials=10, searcher="random")
    history = log.scan().trials
    cold, warm = FakeMeasurer(), FakeMeasurer()
    tune(TuningLog(tmp_path / "cold.jsonl"), cold)
    report = tune(TuningLog(tmp_path / "warm.jsonl"), warm, warm_start=history)
    known = {t.config_key for t in history}
    assert known & {c.key for c in cold.measured}
    assert not known & {c.key for c in warm.measured}
    assert (report.trials, report.measured) == (12, 12)


def test_a_warm_started_run_resumes_with_the_same_history(tmp_path: Path) -> None:
    past = TuningLog(tmp_path / "past.jsonl")
    tune(past, trials=10, searcher="random")
    history = past.scan().trials
    log = TuningLog(tmp_path / "warm.jsonl")
    with pytest.raises(Killed):
        tune(log, FakeMeasurer(stop_at=5), warm_start=history)
    report = tune(log, warm_start=history)
    assert (report.resumed, report.measured) == (5, 7)
    assert tune(log, warm_start=history[:3]).run != report.run


def test_a_long_history_does_not_make_long_lines(tmp_path: Path) -> None:
    past = TuningLog(tmp_path / "past.jsonl")
    tune(past, trials=150, searcher="random")
    log = TuningLog(tmp_path / "warm.jsonl")
    tune(log, warm_start=past.scan().trials, trials=2)
    assert max(map(len, log.path.read_bytes().splitlines())) < 8000


def test_results_of_other_work_are_hints_and_not_history(log: TuningLog, tmp_path: Path) -> None:
    tune(log, workload=Gemm(48, 48, 40))
    tune(log, template="cpu_paper")
    witness = Witness()
    warm = TuningLog(tmp_path / "warm.jsonl")
    report = tune(warm, None, witness, searcher="graph-bo", warm_start=log.scan().trials)
    session = witness.session
    assert session.warm.history == () and session.warm.outside == 12
    ((label, source),) = session.warm.sources
    assert "48" in label and source.exact + source.moved + source.dropped == 12
    assert report.trials == 12  # hints are not measured
    text = session.warm.describe(session.searcher)
    assert text.startswith("warm start: 0 results of this workload and hardware; ")
    assert "moved to the nearest config" in text and "12 records of other templates" in text
    again = tune(warm, None, searcher="graph-bo", warm_start=log.scan().trials)
    assert (again.run, again.measured) == (report.run, 0)
    assert tune(warm, None, searcher="graph-bo", trials=1).run != report.run


def test_hints_change_what_a_search_begins_with(log: TuningLog, tmp_path: Path) -> None:
    tune(log, workload=Gemm(48, 48, 40), searcher="random", trials=30)
    history = log.scan().trials
    first: dict[str, list[str]] = {}
    for kind, records in (("cold", []), ("warm", history)):
        measurer = FakeMeasurer()
        tune(
            TuningLog(tmp_path / f"{kind}.jsonl"),
            measurer,
            searcher="graph-bo",
            warm_start=records,
        )
        first[kind] = [config.key for config in measurer.measured]
    assert first["cold"] != first["warm"]


def test_hints_for_a_method_that_ignores_them_are_an_error(log: TuningLog) -> None:
    tune(log, workload=Gemm(48, 48, 40))
    witness = Witness()
    tune(log, None, witness, searcher="random", warm_start=log.scan().trials)
    with pytest.raises(AutotuneError, match="'random' cannot use results of other workloads"):
        witness.session.warm.describe(witness.session.searcher)


def test_a_warm_start_of_other_templates_only_is_an_error(log: TuningLog, tmp_path: Path) -> None:
    tune(log, template="cpu_paper")
    with pytest.raises(AutotuneError, match="only results of cpu_paper version"):
        tune(TuningLog(tmp_path / "warm.jsonl"), warm_start=log.scan().trials)


# -- budgets and ends -----------------------------------------------------------------------------


class Clock:
    """Replaces the clock: each trial takes one second."""

    def __init__(self) -> None:
        self.ticks = itertools.count()

    def __call__(self) -> float:
        return next(self.ticks) * 1.0


def test_a_time_budget_counts_the_seconds_of_earlier_invocations(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.tune.time.monotonic", Clock())
    assert tune(log, trials=None, seconds=4.0).measured == 4
    report = tune(log, trials=None, seconds=7.0)
    assert (report.resumed, report.measured, report.search_seconds) == (4, 3, 7.0)
    assert tune(log, FakeMeasurer(stop_at=0), trials=None, seconds=7.0).measured == 0


def test_whichever_budget_is_spent_first_ends_the_search(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.tune.time.monotonic", Clock())
    assert tune(log, trials=3, seconds=100.0).trials == 3
    assert tune(log, trials=100, seconds=5.0).trials == 5


@pytest.mark.parametrize(("name", "preset"), MEMBERS)
@in_batches
def test_a_space_of_one_point_ends_the_search_by_itself(
    log: TuningLog, name: str, preset: str, batch: int, ahead: int
) -> None:
    single = {"workload": Gemm(1, 1, 1), "template": "cpu_paper", "batch": batch, "ahead": ahead}
    ok = FakeMeasurer(lambda config: Result((1e-6,)))
    report = tune(log, ok, searcher=name, preset=preset, trials=50, **single)
    assert (report.trials, report.exhausted) == (1, True)
    assert report.winner is not None and report.winner_cost == 1e-6
    again = tune(log, FakeMeasurer(stop_at=0), searcher=name, preset=preset, trials=50, **single)
    assert (again.trials, again.measured, again.winner) == (1, 0, report.winner)


def test_a_small_space_is_tried_whole_and_each_config_once(log: TuningLog) -> None:
    measurer = FakeMeasurer()
    report = tune(log, measurer, workload=Gemm(2, 3, 1), template="cpu_paper", trials=500)
    assert report.exhausted and report.trials == len(set(measurer.measured)) == 16


def test_a_space_that_history_covers_still_names_a_winner(log: TuningLog, tmp_path: Path) -> None:
    small: dict[str, Any] = {"workload": Gemm(1, 1, 1), "template": "cpu_paper"}
    fake = FakeMeasurer(lambda config: Result((1e-6,)))
    tune(log, fake, **small)
    warm = TuningLog(tmp_path / "warm.jsonl")
    report = tune(warm, fake, warm_start=log.scan().trials, **small)
    assert (report.trials, report.exhausted) == (0, True)
    assert report.winner is not None and report.winner_cost == 1e-6


def test_when_every_trial_fails_the_error_tells_the_first_messages(log: TuningLog) -> None:
    def crash(config: Config) -> Result:
        return Result.failed(FailureKind.CRASHED, f"killed by SIGSEGV in {config['micro_m']}")

    with pytest.raises(MeasureError) as caught:
        tune(log, FakeMeasurer(crash))
    message = str(caught.value)
    assert message.startswith(
        "all 12 trials failed (12 crashed); first: crashed: killed by SIGSEGV"
    )
    assert "\n" not in message
    assert len(log.scan().trials) == 12 and log.scan().finals == []


def test_when_every_trial_failed_before_the_error_is_the_same_again(log: TuningLog) -> None:
    failing = FakeMeasurer(lambda config: Result.failed(FailureKind.WRONG_RESULT, "no"))
    for _ in range(2):
        with pytest.raises(MeasureError, match="all 12 trials failed"):
            tune(log, failing)
    assert len(failing.measured) == 12


def test_ctrl_c_keeps_everything_and_reports_the_best_so_far(log: TuningLog) -> None:
    report = tune(log, FakeMeasurer(stop_at=6, stop_with=KeyboardInterrupt))
    assert report.interrupted and report.trials == len(log.scan().trials) == 6
    assert report.best_cost == min(t.cost for t in log.scan().trials)
    assert report.winner is None and log.scan().finals == []
    data = report.to_json()
    assert (data["interrupted"], data["confirmed"], data["seconds"]) == (
        True, False, report.best_cost,
    )  # fmt: skip
    assert tune(log).measured == 6


def test_ctrl_c_before_the_first_result_reports_that_there_is_none(log: TuningLog) -> None:
    report = tune(log, FakeMeasurer(stop_at=0, stop_with=KeyboardInterrupt))
    assert (report.interrupted, report.best, report.to_json()["config"]) == (True, None, None)
    assert not log.path.exists()


def test_ctrl_c_during_the_final_keeps_the_search_and_the_final_is_done_next_time(
    log: TuningLog,
) -> None:
    measurer = FakeMeasurer()
    measurer.stop_in_final = True
    report = tune(log, measurer)
    assert report.interrupted and report.trials == 12 and report.winner is None
    again = tune(log, FakeMeasurer(stop_at=0))
    assert again.winner is not None and not again.final_from_log


# -- legality, refusals ---------------------------------------------------------------------------


def test_illegal_configs_of_the_papers_preset_are_counted_and_not_measured(log: TuningLog) -> None:
    measurer = FakeMeasurer()
    report = tune(log, measurer, preset="paper", trials=40)
    illegal = [t for t in log.scan().trials if t.failure == "illegal"]
    assert report.failures["illegal"] == len(illegal) > 0
    assert report.trials == 40 == len(measurer.measured) + len(illegal)
    # The message is the rule that was broken.
    session = Session(request(preset="paper"), log)
    names = {constraint.name for constraint in session.space.constraints}
    assert {t.message for t in illegal} <= names


def test_the_default_preset_never_proposes_an_illegal_config(log: TuningLog) -> None:
    assert tune(log, trials=60).failures["illegal"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"searcher": "none"}, AutotuneError, "unknown searcher 'none'"),
        ({"preset": "none"}, AutotuneError, "unknown preset 'none'"),
        ({"template": "none"}, AutotuneError, "unknown template 'none'"),
        ({"searcher_options": {"rho": 0}}, AutotuneError, "rho must be at least 1"),
        ({"searcher_options": {"rho": "x"}}, AutotuneError, "must be of type int"),
        ({"searcher_options": {"x": 1}}, AutotuneError, "unknown option 'x'"),
        ({"trials": 0}, AutotuneError, "at least 1"),
        ({"trials": None}, AutotuneError, "give a budget"),
        ({"seconds": 0.0}, AutotuneError, "must be positive"),
        ({"seconds": float("nan")}, AutotuneError, "must be positive"),
        ({"plugins": ("no_such_plugin",)}, AutotuneError, "no_such_plugin"),
        ({"workload": Gemm(4, 4, 4, dtype="int8"), "template": "cpu_tile"}, NotApplicable, "int8"),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_written(
    log: TuningLog, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tune(log, **changes)
    assert list(log.path.parent.iterdir()) == []


# -- asked ahead ----------------------------------------------------------------------------------


def test_processes_are_begun_for_what_is_asked_for_and_only_if_there_is_something_to_do(
    log: TuningLog,
) -> None:
    measurer = FakeMeasurer()
    tune(log, measurer, batch=3, ahead=1)
    assert measurer.begun == 6
    again = FakeMeasurer()
    assert tune(log, again, batch=3, ahead=1).resumed == 12
    assert again.begun == 0


@pytest.mark.parametrize(("name", "preset"), [m for m in MEMBERS if m[1] == "default"])
def test_where_the_searcher_thinks_changes_nothing(tmp_path: Path, name: str, preset: str) -> None:
    stories = []
    for number, cores in enumerate([(), (min(os.sched_getaffinity(0)),)]):
        log, measurer = TuningLog(tmp_path / f"{number}.jsonl"), FakeMeasurer()
        measurer.spare_cores = cores
        report = tune(log, measurer, searcher=name, batch=3, ahead=1, trials=20)
        assert report.trials == 20
        stories.append((story(log), report.winner, measurer.prepared))
    assert stories[0] == stories[1]


def test_the_next_batch_is_thought_of_and_built_while_one_is_measured(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring, asked = threading.Event(), threading.Event()
    fill = Rounds.fill

    def when_measuring(rounds: Rounds, n: int) -> list[Config]:
        assert measuring.wait(20)
        threads.add((threading.current_thread().name, frozenset(os.sched_getaffinity(0))))
        return fill(rounds, n)

    class Slow(FakeMeasurer):
        def prepare(self, *a: Any, **k: Any) -> None:
            super().prepare(*a, **k)
            if measuring.is_set():
                asked.set()

        def measure(self, *a: Any, **k: Any) -> Result:
            measuring.set()
            assert asked.wait(20)
            return super().measure(*a, **k)

    threads: set[tuple[str, frozenset[int]]] = set()
    monkeypatch.setattr(Rounds, "fill", when_measuring)
    measurer = Slow()
    measurer.spare_cores = (max(os.sched_getaffinity(0)),)
    assert tune(log, measurer, batch=3, ahead=1).trials == 12
    assert threads == {("thinking_0", frozenset(measurer.spare_cores))}
    assert measurer.prepared[0] == measurer.measured[:3]
    assert measurer.prepared[1] == measurer.measured[3:6]
    assert threading.active_count() == 1


def test_without_a_core_to_spare_the_searcher_thinks_between_measurements(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Rounds.fill

    def here(rounds: Rounds, n: int) -> list[Config]:
        assert threading.current_thread() is threading.main_thread()
        return fill(rounds, n)

    monkeypatch.setattr(Rounds, "fill", here)
    measurer = FakeMeasurer()
    measurer.spare_cores = ()
    assert tune(log, measurer, batch=3, ahead=1).trials == 12


@pytest.mark.parametrize("call", ["ask", "tell"])
def test_what_goes_wrong_while_thinking_ends_the_run(
    log: TuningLog, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    right = getattr(SEARCHERS["gbfs"], call)

    def wrong(searcher: Any, *a: Any) -> Any:
        if len(searcher.results) >= 4:
            raise RuntimeError("a mistake in a search method")
        return right(searcher, *a)

    monkeypatch.setattr(SEARCHERS["gbfs"], call, wrong)
    with pytest.raises(RuntimeError, match="a mistake"):
        tune(log, batch=3, ahead=1)
    assert 4 < len(log.scan().trials) < 12
    assert threading.active_count() == 1
