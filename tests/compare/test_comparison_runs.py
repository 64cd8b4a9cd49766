from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from compare_samples import write_table

from autotune.compare import Entrant, Protocol, parse_entrants, run_replay, run_search
from autotune.compare.run import Trace
from autotune.errors import AutotuneError
from autotune.measure.replay import ReplayMeasurer, load_table
from autotune.search.space import Config
from autotune.trial import FailureKind, Result

pytestmark = pytest.mark.usefixtures("odd_searchers")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "bowl.json")


def timeless(traces: tuple[Trace, ...]) -> list[Trace]:
    return [dataclasses.replace(trace, overhead=0.0) for trace in traces]


# -- naming methods -------------------------------------------------------------------------------


def test_methods_are_named_with_preset_and_options_and_read_back() -> None:
    text = "random,gbfs:paper,gbfs+rho=3+epsilon=0.5,walk:careless+most=7"
    entrants = parse_entrants(text)
    assert entrants == [
        Entrant("random"),
        Entrant("gbfs", "paper"),
        Entrant("gbfs", "default", {"rho": 3, "epsilon": 0.5}),
        Entrant("walk", "careless", {"most": 7}),
    ]
    assert ",".join(entrant.label for entrant in entrants) == text


def test_all_is_every_registered_method() -> None:
    names = [entrant.name for entrant in parse_entrants("all")]
    assert {"random", "gbfs", "walk"} <= set(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gbfs,gbfs", "'gbfs' is named twice"),
        ("", "cannot read ''"),
        (":paper", "cannot read ':paper'"),
        ("gbfs+seed=3", "'seed=3' as an option"),
        ("gbfs+rho", "'rho' as an option of 'gbfs'; write name=value"),
    ],
)
def test_unreadable_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(AutotuneError, match=message):
        parse_entrants(text)


@pytest.mark.parametrize("text", ["nobody", "gbfs:fast", "gbfs+wings=2"])
def test_unknown_methods_are_refused_before_anything_runs(table: Path, text: str) -> None:
    ran: list[Trace] = []
    with pytest.raises(AutotuneError, match="unknown"):
        run_replay(
            [table],
            parse_entrants(f"random,{text}"),
            Protocol(5, (0,)),
            progress=lambda done, total, trace: ran.append(trace),
        )
    assert not ran


# -- accounting -----------------------------------------------------------------------------------


def test_a_trial_is_a_unique_measurement_and_the_budget_is_exact(table: Path) -> None:
    campaign = run_replay([table], parse_entrants("random,gbfs"), Protocol(30, (0, 1), batch=7))
    for trace in campaign.traces:
        assert len(trace.steps) == len({step.config for step in trace.steps}) == 30
        assert trace.illegal == trace.failed == 0


def test_illegal_configs_count_as_trials_only_of_methods_that_propose_them(table: Path) -> None:
    campaign = run_replay([table], parse_entrants("walk,walk:careless"), Protocol(21, (0,)))
    careful, careless = campaign.traces
    assert (len(careful.steps), careful.illegal) == (21, 0)
    assert (len(careless.steps), careless.illegal) == (21, 3)  # 3, 10 and 17 are missing
    assert [step.failure for step in careless.steps[2:5]] == ["", "illegal", ""]


def test_a_method_that_ends_early_keeps_what_it_had(table: Path) -> None:
    (trace,) = run_replay([table], parse_entrants("walk+most=4"), Protocol(20, (0,))).traces
    assert len(trace.steps) == 4
    assert not trace.error
    assert trace.named_after(20) == trace.named_after(4) == trace.steps[3].named
    assert trace.named_after(0) == math.inf


def test_under_noise_the_score_is_the_true_cost_of_the_named_config(tmp_path: Path) -> None:
    path = write_table(tmp_path / "noisy.json", noise=0.8)
    table = load_table(path)
    (trace,) = run_replay(
        [path], parse_entrants("random"), Protocol(40, (3,), noise="resample")
    ).traces
    measurer = ReplayMeasurer(table, "resample", 3)
    true = {config.key: table.cost(config) for config in table.configs}
    keys = {config.key: config for config in table.configs}
    lowest, named, differed = math.inf, math.inf, False
    for step in trace.steps:
        assert step.reading == measurer.measure("", keys[step.config]).cost
        if step.reading < lowest:
            lowest, named = step.reading, true[step.config]
        assert step.named == named
        differed |= step.named != lowest
    assert differed


def test_failures_are_trials_without_a_cost(table: Path) -> None:
    space = load_table(table).space

    def fail(config: Config) -> Result:
        return Result.failed(FailureKind.CRASHED, "boom")

    trace = run_search("p", Entrant("random"), 0, space, fail, lambda c: 1.0, Protocol(6, (0,)))
    assert (len(trace.steps), trace.failed, trace.illegal) == (6, 6, 0)
    assert trace.named_after(6) == math.inf


# -- methods that fail ----------------------------------------------------------------------------


def test_a_method_that_raises_is_reported_and_does_not_stop_the_others(table: Path) -> None:
    campaign = run_replay([table], parse_entrants("breaks+on_seed=1,random"), Protocol(10, (0, 1)))
    good, bad, *others = campaign.traces
    assert not good.error and len(good.steps) == 10
    assert "ZeroDivisionError: as it was told" in bad.error and len(bad.steps) == 5
    assert [len(trace.steps) for trace in others] == [10, 10]


def test_a_method_that_cannot_even_be_made_does_not_stop_the_others(table: Path) -> None:
    bad, good = run_replay(
        [table], parse_entrants("breaks+after=0,random"), Protocol(9, (0,))
    ).traces
    assert "as it was told" in bad.error and not bad.steps
    assert len(good.steps) == 9


def test_a_failure_of_measuring_is_nobodys_fault_and_ends_the_comparison(table: Path) -> None:
    space = load_table(table).space

    def broken(config: Config) -> Result:
        raise OSError("the device is gone")

    with pytest.raises(OSError, match="the device is gone"):
        run_search("p", Entrant("random"), 0, space, broken, lambda c: 1.0, Protocol(6, (0,)))


# -- the same again -------------------------------------------------------------------------------


def test_two_comparisons_and_any_number_of_processes_give_the_same_runs(table: Path) -> None:
    entrants, protocol = parse_entrants("random,gbfs"), Protocol(20, (0, 1), noise="resample")
    first = run_replay([table], entrants, protocol)
    assert timeless(run_replay([table], entrants, protocol).traces) == timeless(first.traces)
    spread = run_replay([table], entrants, protocol, jobs=2)
    assert timeless(spread.traces) == timeless(first.traces)
    assert [(t.entrant, t.seed) for t in first.traces] == [
        ("random", 0), ("random", 1), ("gbfs", 0), ("gbfs", 1),
    ]  # fmt: skip


def test_tables_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    paths = [write_table(tmp_path / f / "bowl.json", side) for f, side in (("x", 5), ("y", 6))]
    campaign = run_replay(paths, parse_entrants("random"), Protocol(4, (0,)))
    assert [problem.name for problem in campaign.problems] == ["bowl", "bowl-2"]
    assert [problem.size for problem in campaign.problems] == [25, 36]
    assert len(campaign.traces) == 2


# -- requests that make no sense ------------------------------------------------------------------


def test_a_budget_beyond_the_table_is_refused(table: Path) -> None:
    with pytest.raises(AutotuneError, match="holds 55 configurations, fewer than .* 56 trials"):
        run_replay([table], parse_entrants("random"), Protocol(56, (0,)))
    assert run_replay([table], parse_entrants("random"), Protocol(55, (0,))).traces


@pytest.mark.parametrize("change", [{"trials": 0}, {"batch": 0}, {"seeds": ()}])
def test_empty_protocols_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(AutotuneError, match="at least"):
        Protocol(**change)  # type: ignore[arg-type]


def test_no_processes_are_refused(table: Path) -> None:
    with pytest.raises(AutotuneError, match="jobs must be at least 1"):
        run_replay([table], parse_entrants("random"), Protocol(5, (0,)), jobs=0)
