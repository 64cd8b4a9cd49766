"""Building tables and comparing on real workloads, with a measurer that computes its results."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from autotune.compare import Protocol, parse_entrants, summarise
from autotune.compare.external import _Tuner, external_log, run_metaschedule
from autotune.compare.real import run_real
from autotune.compare.run import Step, Trace
from autotune.errors import AutotuneError, MeasureError
from autotune.hw_profiles import resolve_target
from autotune.kernels.base import get_template
from autotune.log import TuningLog
from autotune.measure import LocalMeasurer, MeasureOptions
from autotune.measure.process import WorkerDied
from autotune.measure.replay import load_table
from autotune.search.parameters import Categorical, Factorization, Ordinal
from autotune.search.space import Config, ConfigSpace, Constraint
from autotune.tables.build import build_table, choose, parse_restrictions
from autotune.tables.recording import RecordingMeasurer
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

WORKLOAD = Gemm(16, 16, 16)


class MadeUp:
    """Computes a cost from the config; dies after ``life`` measurements."""

    def __init__(self, life: int = 10**9) -> None:
        self.life = life
        self.seen: list[Config] = []
        self.hopeless: list[float | None] = []

    def measure(
        self, template: str, config: Config, hopeless: float | None = None, keep: str | None = None
    ) -> Result:
        if len(self.seen) >= self.life:
            raise KeyboardInterrupt
        self.seen.append(config)
        self.hopeless.append(hopeless)
        m, n = config["tile_m"], config["tile_n"]
        if m[0] == 16:  # type: ignore[index]
            return Result.failed(FailureKind.RUN_ERROR, "one task")
        return Result((1e-3 * (1 + abs(math.log2(m[3]) - 2) + abs(math.log2(n[3]) - 3)),))  # type: ignore[index]


def recorder(log: Path, measurer: MadeUp, purpose: str = "table") -> RecordingMeasurer:
    profile, template = resolve_target("cpu"), get_template("cpu_paper")
    space = template.space(WORKLOAD, profile, 1)
    return RecordingMeasurer(
        TuningLog(log), measurer, WORKLOAD, profile, 1, template, space, purpose
    )


def paper_space() -> ConfigSpace:
    return get_template("cpu_paper").space(WORKLOAD, resolve_target("cpu"), 1)


def small_space() -> ConfigSpace:
    return ConfigSpace(
        "small",
        [Factorization("f", 8, 2), Ordinal("o", (1, 2, 3)), Categorical("c", ("x", "y"))],
        [Constraint("not both large", lambda c: c["o"] < 3 or c["c"] == "x")],  # type: ignore[operator]
    )


# -- choosing what to measure ---------------------------------------------------------------------


def test_the_whole_of_a_space_is_its_legal_configs_once() -> None:
    chosen = choose(small_space(), {})
    assert len(set(chosen)) == len(chosen) == 4 * (3 * 2 - 1)


def test_restrictions_leave_the_values_named() -> None:
    space = small_space()
    allowed = parse_restrictions(space, ["f=[2,4],[8,1]", "c=y"])
    assert allowed == {"f": {(2, 4), (8, 1)}, "c": {"y"}}
    chosen = choose(space, allowed)
    assert {c["f"] for c in chosen} == {(2, 4), (8, 1)}
    assert len(chosen) == 2 * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("f", "write NAME=V1"), ("g=1", "parameter of 'small': f, o, c"), ("o=7", "7 is not a value")],
)
def test_restrictions_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(AutotuneError, match=message):
        parse_restrictions(small_space(), [text])


def test_a_sample_is_reproducible_and_keeps_restrictions() -> None:
    space = paper_space()
    allowed = parse_restrictions(space, ["tile_k=[4,4]"])
    one, two, other = (choose(space, allowed, 30, seed) for seed in (1, 1, 2))
    assert one == two != other
    assert len(set(one)) == 30
    assert {c["tile_k"] for c in one} == {(4, 4)}


def test_a_sample_of_a_space_too_large_to_list() -> None:
    large = ConfigSpace("large", [Factorization(name, 2**12, 4) for name in "ab"])
    chosen = choose(large, {"a": {(2, 2, 2**10, 1), (1, 1, 1, 2**12)}}, 20, 1)
    assert len(set(chosen)) == 20 and all(c in large for c in chosen)
    wide = ConfigSpace("wide", [Factorization(name, 2**12, 4) for name in "abc"])
    drawn = choose(wide, {"a": {(2, 2, 2**10, 1), (1, 1, 1, 2**12)}}, 20, 1)
    assert len(set(drawn)) == 20 and len({c["a"] for c in drawn}) == 2
    assert drawn == choose(wide, {"a": {(2, 2, 2**10, 1), (1, 1, 1, 2**12)}}, 20, 1)


def test_too_much_and_nothing_are_refused() -> None:
    wide = ConfigSpace("wide", [Factorization(name, 2**12, 4) for name in "abc"])
    with pytest.raises(AutotuneError, match="94,196,375 configurations are too many.*--sample"):
        choose(wide, {})
    with pytest.raises(AutotuneError, match="no legal configuration is left"):
        choose(small_space(), {"o": {3}, "c": {"y"}})


# -- building a table -----------------------------------------------------------------------------


def test_a_table_is_built_once_and_read_back_in_its_own_space(tmp_path: Path) -> None:
    path, measurer = tmp_path / "t.jsonl", MadeUp()
    configs = choose(paper_space(), {}, 60, 0)
    built = build_table(recorder(path, measurer), configs)
    assert (built.chosen, built.served, built.measured) == (60, 0, 60)
    assert measurer.seen == configs
    table = load_table(path)
    assert set(table.configs) == set(configs)
    assert table.space.parameters == paper_space().parameters
    assert built.failed == sum(not result.ok for _, result in table.items()) > 0


def test_an_interrupted_table_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, configs = tmp_path / "t.jsonl", choose(paper_space(), {}, 12, 0)
    with pytest.raises(KeyboardInterrupt):
        build_table(recorder(path, MadeUp(life=5)), configs)
    second = MadeUp()
    built = build_table(recorder(path, second), configs)
    assert (built.served, built.measured) == (5, 7)
    assert second.seen == configs[5:]
    records = TuningLog(path).scan().trials
    assert len(records) == 12
    assert len({record.run for record in records}) == 1
    assert len({record.id for record in records}) == 12


def test_a_hopeless_config_is_measured_relative_to_the_best_so_far(tmp_path: Path) -> None:
    measurer = MadeUp()
    build_table(recorder(tmp_path / "t.jsonl", measurer), choose(paper_space(), {}, 20, 0))
    costs = [MadeUp().measure("", c).cost for c in measurer.seen]
    for i, bound in enumerate(measurer.hopeless):
        best = min(costs[:i], default=math.inf)
        assert bound == (None if best == math.inf else 1.03 * best)


def test_a_table_of_failures_only_is_an_error(tmp_path: Path) -> None:
    allowed = parse_restrictions(paper_space(), ["tile_m=[16,1,1,1]", "tile_k=[4,4]"])
    configs = choose(paper_space(), allowed, 4, 0)
    with pytest.raises(MeasureError, match="all 4 configurations failed; first: run_error: one"):
        build_table(recorder(tmp_path / "t.jsonl", MadeUp()), configs)


class Slower(MadeUp):
    """Reads a config 1 % slower each time."""

    def measure(
        self, template: str, config: Config, hopeless: float | None = None, keep: str | None = None
    ) -> Result:
        result = super().measure(template, config, hopeless, keep)
        return Result(tuple((1 + 0.01 * self.seen.count(config)) * cost for cost in result.costs))


def test_what_is_near_the_best_is_read_in_rounds_of_other_orders(tmp_path: Path) -> None:
    path, measurer = tmp_path / "t.jsonl", Slower()
    space = ConfigSpace("small", paper_space().parameters)
    # With these innermost parts, costs are 1, 2, 3, ... ms; nothing else counts.
    configs = [c for c in space if c["tile_m"][2:] == (1, 4) and c["tile_n"][1] == 1]  # type: ignore[index]
    near = {c for c in configs if c["tile_n"][3] == 8}  # type: ignore[index]
    assert 3 < len(near) < len(configs)
    built = build_table(recorder(path, measurer), configs, rounds=3)
    assert (built.measured, built.again) == (len(configs), 2 * len(near))
    second, third = (measurer.seen[len(configs) + i * len(near) :][: len(near)] for i in range(2))
    assert set(second) == set(third) == near and second != third
    assert measurer.hopeless[len(configs) :] == [None] * 2 * len(near)  # read to the end
    table = load_table(path)
    for config in configs:
        once = MadeUp().measure("", config).cost
        times = 3 if config in near else 1
        assert len(table.entry(config).readings) == times
        assert table.cost(config) == pytest.approx(once * (1.02 if times == 3 else 1.01))


def test_interrupted_rounds_go_on_where_they_stopped(tmp_path: Path) -> None:
    path, configs = tmp_path / "t.jsonl", choose(paper_space(), {}, 40, 0)
    whole = MadeUp()
    built = build_table(recorder(tmp_path / "whole.jsonl", whole), configs, rounds=3)
    assert built.again > 3
    first = MadeUp(life=40 + built.again - 2)
    with pytest.raises(KeyboardInterrupt):
        build_table(recorder(path, first), configs, rounds=3)
    second = MadeUp()
    resumed = build_table(recorder(path, second), configs, rounds=3)
    assert (resumed.served, resumed.measured, resumed.again) == (40, 0, 2)
    assert first.seen + second.seen == whole.seen


def test_an_ordinal_that_was_restricted_has_no_gaps_in_the_table(tmp_path: Path) -> None:
    class Alike(MadeUp):
        def measure(self, *_: object, **__: object) -> Result:
            return Result((1e-3,))

    workload, profile, template = Gemm(64, 64, 64), resolve_target("cpu"), get_template("cpu_tile")
    space = template.space(workload, profile, 1)
    pinned = ["block_m=4", "block_n=1", "block_k=64", "unroll_k=1", 'outer_order=["n","m","k"]']
    chosen = ["micro_m=2,6", "micro_n=16", 'pack_a="none"', 'pack_b="none","whole"']
    configs = choose(space, parse_restrictions(space, [*pinned, *chosen]))
    log = TuningLog(tmp_path / "t.jsonl")
    build_table(
        RecordingMeasurer(log, Alike(), workload, profile, 1, template, space, "table"), configs
    )
    table = load_table(tmp_path / "t.jsonl")
    sizes = {p.name: p.size for p in table.space.parameters}
    assert (sizes["micro_m"], sizes["micro_n"], sizes["pack_b"]) == (2, 1, 2)
    two = next(c for c in table.configs if c["micro_m"] == 2)
    assert two.replace(micro_m=6) in list(table.space.neighbors(two))
    assert set(table.configs) == set(configs)


# -- comparing on a real workload -----------------------------------------------------------------


def test_methods_share_measurements_and_a_second_comparison_needs_none(tmp_path: Path) -> None:
    path, measurer = tmp_path / "c.jsonl", MadeUp()
    entrants, protocol = parse_entrants("random,gbfs,gbfs:paper"), Protocol(25, (0, 1))
    first = run_real("w", paper_space(), recorder(path, measurer, "compare"), entrants, protocol)
    assert len(set(measurer.seen)) == len(measurer.seen) < 6 * 25
    again = MadeUp(life=0)
    second = run_real("w", paper_space(), recorder(path, again, "compare"), entrants, protocol)
    strip = [dataclasses.replace(t, overhead=0.0) for t in first.traces]
    assert [dataclasses.replace(t, overhead=0.0) for t in second.traces] == strip


def test_a_comparison_says_after_each_config_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    shared = recorder(tmp_path / "c.jsonl", MadeUp(), "compare")
    entrants, protocol = parse_entrants("random,gbfs"), Protocol(3, (7,))
    campaign = run_real(
        "w", paper_space(), shared, entrants, protocol, watch=lambda *how_far: told.append(how_far)
    )
    for place, (done, of, text) in enumerate(told):
        run, count = campaign.traces[place // 3], place % 3 + 1
        best = min(step.reading for step in run.steps[:count])
        assert (done, of) == (place // 3, 2)
        expected = f"{run.entrant} seed 7: {count} of at most 3 configs"
        assert text == (expected if best == math.inf else f"{expected}, best {best * 1e3:.4g} ms")
    assert len(told) == 6


def test_an_interrupted_comparison_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    entrants, protocol = parse_entrants("random,gbfs"), Protocol(20, (0, 1))

    def compare(log: str, life: int = 10**9):  # type: ignore[no-untyped-def]
        shared = recorder(tmp_path / log, MadeUp(life), "compare")
        return run_real("w", paper_space(), shared, entrants, protocol).traces

    with pytest.raises(KeyboardInterrupt):
        compare("a.jsonl", 31)
    for resumed, whole in zip(compare("a.jsonl"), compare("b.jsonl"), strict=True):
        assert resumed.steps == whole.steps


def test_on_a_real_workload_costs_are_relative_to_the_baseline(tmp_path: Path) -> None:
    shared = recorder(tmp_path / "c.jsonl", MadeUp(), "compare")
    entrants = parse_entrants("random,gbfs")
    campaign = run_real("w", paper_space(), shared, entrants, Protocol(20, (0, 1, 2)))
    summary = summarise(campaign, ["random"])
    assert summary.problems[0].problem.optimum is None
    final = {
        label: [run.named_after(20) for run in campaign.runs("w", label)]
        for label in ("random", "gbfs")
    }
    assert summary.problems[0].reference == min(min(costs) for costs in final.values())
    (duel,) = summary.problems[0].standings[1].versus
    logs = [math.log(g / r) for g, r in zip(final["gbfs"], final["random"], strict=True)]
    assert duel.cost_ratio is not None
    assert duel.cost_ratio.mean == pytest.approx(math.exp(sum(logs) / 3))


def test_noise_is_for_replay_only(tmp_path: Path) -> None:
    shared = recorder(tmp_path / "c.jsonl", MadeUp(), "compare")
    with pytest.raises(AutotuneError, match="--noise is for --replay"):
        run_real(
            "w", paper_space(), shared, parse_entrants("random"), Protocol(5, (0,), 1, "resample")
        )


# -- tuners of other projects ---------------------------------------------------------------------


def test_another_projects_tuner_is_one_more_column_and_measures_nothing_of_ours(
    tmp_path: Path,
) -> None:
    def other(seed: int) -> Trace:
        return Trace("w", "other", seed, (Step("x", 2.0, 2.0),), 0.1)

    measurer = MadeUp()
    campaign = run_real(
        "w",
        paper_space(),
        recorder(tmp_path / "c.jsonl", measurer, "compare"),
        parse_entrants("random,other"),
        Protocol(5, (0, 1)),
        external={"other": other},
    )
    assert [trace.steps for trace in campaign.runs("w", "other")] == [(Step("x", 2.0, 2.0),)] * 2
    assert len(campaign.runs("w", "random")) == 2


@pytest.mark.slow
def test_metaschedule_runs_verified_and_a_recorded_run_is_not_repeated(tmp_path: Path) -> None:
    workload, log = Gemm(32, 32, 32), external_log(tmp_path / "c.jsonl")
    protocol = Protocol(3, (0,))
    with LocalMeasurer(workload, resolve_target("cpu"), 1) as measurer:
        first = run_metaschedule("w", protocol, measurer, log, 0)
        assert not first.error, first.error
        assert len(first.steps) == 3
        assert min(step.reading for step in first.steps) == first.steps[-1].named < math.inf
        assert len(log.scan().trials) == 3
        assert run_metaschedule("w", protocol, measurer, log, 0) == first
    assert log.path.name == "c.external.jsonl"


@pytest.mark.parametrize(("asked", "limit"), [(None, 120.0), (5.0, 5.0), (300.0, 300.0)])
def test_a_slow_candidate_has_two_minutes_or_what_the_user_gives_it(
    asked: float | None, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the process that searches: a deadline that it misses ends the whole search."""
    given: dict[str, float] = {}

    class Worker:
        def __init__(self, *_: object) -> None: ...

        def request(self, op: str, limits: dict[str, float], **_: object) -> dict[str, object]:
            given.update(limits if op == "tune" else {})
            return {}

        def close(self) -> None: ...

    monkeypatch.setattr("autotune.compare.external.WorkerProcess", Worker)
    options = MeasureOptions(run_timeout=asked)
    with _Tuner(Gemm(32, 32, 32), resolve_target("cpu"), 1, options) as tuner:
        tuner.tune({"trials": 1, "batch": 1, "seed": 0})
    assert given["run"] == limit


def test_a_tuner_that_dies_is_a_failed_run_and_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise WorkerDied("the worker was killed by SIGSEGV", "run")

    monkeypatch.setattr("autotune.compare.external._Tuner.tune", dies)
    log = external_log(tmp_path / "c.jsonl")
    with LocalMeasurer(Gemm(32, 32, 32), resolve_target("cpu"), 1) as measurer:
        trace = run_metaschedule("w", Protocol(3, (4,)), measurer, log, 4)
    assert trace.error == "MetaSchedule: the worker was killed by SIGSEGV"
    assert (trace.seed, trace.steps, log.scan().records) == (4, (), [])
