from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from autotune.errors import AutotuneError
from autotune.log import TuningLog, run_header, trial_record
from autotune.measure.replay import ReplayMeasurer, Table, TableError, load_table, load_tables
from autotune.search import create_searcher
from autotune.search.parameters import Categorical, Factorization, Ordinal
from autotune.search.space import Config, ConfigSpace
from autotune.tables.load import load_trials
from autotune.tables.pack import pack_table
from autotune.tables.table import Entry
from autotune.trial import FailureKind, Result
from autotune.workload import Gemm

TINY = Path(__file__).parent / "assets" / "tiny_cache.json"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def config(tile: int, order: str = "mn", pad: bool = False) -> Config:
    return Config({"tile": tile, "order": order, "pad": pad})


def closed() -> dict[str, Any]:
    """The same table as a closed file."""
    data = json.loads(TINY.read_text().rstrip().removesuffix(",") + "}}")
    assert isinstance(data, dict)
    return data


def saved(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def t4() -> dict[str, Any]:
    """The same readings as results in the T4 format."""
    verdicts = {
        "CompilationFailedConfig": "compile",
        "InvalidConfig": "constraints",
        "RuntimeFailedConfig": "runtime",
    }
    results = []
    for line in closed()["cache"].values():
        results.append(
            {
                "configuration": {name: line[name] for name in ("tile", "order", "pad")},
                "times": {"runtimes": line.get("times", [])},
                "invalidity": verdicts.get(line["time"], "correct"),
                "correctness": 1,
                "measurements": [{"name": "time", "value": line["time"], "unit": "ms"}],
                "objectives": ["time"],
            }
        )
    return {"results": results, "schema_version": "1.0.0"}


# -- what a table says ----------------------------------------------------------------------------


def test_an_open_cache_is_read_with_times_in_seconds() -> None:
    table = load_table(TINY)
    assert (table.name, table.device, table.kernel) == ("tiny_cache", "Made-up GPU", "tiny")
    assert table.lookup(config(4)) == Result((4e-3,))
    assert table.entry(config(4)).readings == (3e-3, 4e-3, 5e-3)
    assert table.optimum == (config(8), 2e-3)
    assert len(table) == 6


def test_the_cost_is_the_files_own_time_not_the_median_of_its_readings() -> None:
    table = load_table(TINY)
    assert table.cost(config(8, "nm")) == 2.5e-3


def test_parameters_are_sorted_lines_of_numbers_and_complete_graphs_of_the_rest() -> None:
    space = load_table(TINY).space
    assert space.parameters == (
        Ordinal("tile", (4, 8, 16)),
        Categorical("order", ("mn", "nm")),
        Categorical("pad", (False, True)),
    )


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        (config(16), FailureKind.COMPILE_ERROR),
        (config(16, "nm"), FailureKind.ILLEGAL),
        (config(8, "nm", True), FailureKind.RUN_ERROR),
    ],
)
def test_recorded_failures_keep_their_kind(of: Config, kind: FailureKind) -> None:
    assert load_table(TINY).lookup(of).failure is kind


def test_what_the_table_lacks_or_calls_invalid_is_illegal_and_nothing_else_is() -> None:
    table = load_table(TINY)
    legal = {c for c in table.space if table.space.is_legal(c)}
    assert legal == set(table.configs)
    assert config(4, "mn", True) not in legal  # missing
    assert config(16, "nm") not in legal  # recorded as invalid
    assert config(16) in legal  # a failure costs a trial


def test_draws_of_legal_configs_are_uniform_over_the_table() -> None:
    table, rng = load_table(TINY), random.Random(1)
    drawn = [table.space.sample(rng) for _ in range(600)]
    assert set(drawn) == set(table.configs)
    assert all(drawn.count(c) > 60 for c in table.configs)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda t: t, id="open"),
        pytest.param(lambda t: t.rstrip().removesuffix(","), id="open without comma"),
        pytest.param(lambda t: t.rstrip().removesuffix(",") + "}", id="one brace"),
        pytest.param(lambda t: t.rstrip().removesuffix(",") + "\n}\n}\n", id="closed"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_all_states_of_a_cache_file_read_the_same(
    tmp_path: Path, text: Callable[[str], str], pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(pack(text(TINY.read_text()).encode()))
    assert dict(load_table(path).items()) == dict(load_table(TINY).items())


def test_a_t4_file_reads_like_the_cache_of_the_same_readings(tmp_path: Path) -> None:
    table = load_table(saved(tmp_path / "t4.json", t4()))
    assert [table.entry(c).cost for c in table.configs] == [
        load_table(TINY).entry(c).cost for c in table.configs
    ]
    assert dict(table.items()).keys() == dict(load_table(TINY).items()).keys()
    assert table.lookup(config(16)).failure is FailureKind.COMPILE_ERROR
    assert table.lookup(config(16, "nm")).failure is FailureKind.ILLEGAL


def test_values_that_no_config_has_are_still_vertices(tmp_path: Path) -> None:
    data = closed()
    data["tune_params"]["tile"].append(32)
    table = load_table(saved(tmp_path / "t.json", data))
    assert table.space.size == 16
    assert not table.space.is_legal(config(32))


def test_old_caches_mark_failures_by_a_huge_time(tmp_path: Path) -> None:
    data = closed()
    data["cache"]["4,mn,False"]["time"] = 1e20
    table = load_table(saved(tmp_path / "t.json", data))
    assert table.lookup(config(4)).failure is FailureKind.RUN_ERROR


# -- files that are no tables ---------------------------------------------------------------------


def test_a_file_cut_inside_an_entry_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(TINY.read_text()[:-60])
    with pytest.raises(
        TableError, match=r"cut\.json is not complete JSON \(line 14, .*get it again"
    ):
        load_table(path)


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(TINY.read_bytes())[:-40])
    with pytest.raises(TableError, match="cut short or damaged"):
        load_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "x", "version": 3}', r"no table.*'name', 'version'"),
        (b"[1, 2]", "no table.*list"),
        (b"name,time\n4,5\n", "not complete JSON"),
        (b"\xff\xfe\x00\x80", "not text"),
        (b"  \n", "is empty"),
        (b'{"cache": {}, "tune_params_keys": ["a"]}', "holds no configuration"),
        (b'{"cache": {"4": {"a": 4, "time": 1}}}', "'tune_params_keys' is not a list"),
        (b'{"cache": {"4": 7}, "tune_params_keys": ["a"]}', "entry '4' is not an object"),
        (b'{"cache": {"4": {"a": 4}}, "tune_params_keys": ["a"]}', "no usable times"),
        (b'{"cache": {"4": {"a": 4, "time": -1}}, "tune_params_keys": ["a"]}', "no usable times"),
        (b'{"cache": {"4": {"b": 4, "time": 1}}, "tune_params_keys": ["a"]}', r"see \['a'\]"),
        (b'{"results": [{"time": 3}]}', "result 0 has no 'configuration'"),
        (b"[" * 100_000, "nested too deeply|not complete JSON"),
    ],
)
def test_foreign_files_are_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        load_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot read the table .*gone.json: No such file"):
        load_table(tmp_path / "gone.json")


# -- serving results ------------------------------------------------------------------------------


def test_without_noise_each_config_has_its_one_cost() -> None:
    measurer = ReplayMeasurer(load_table(TINY), seed=3)
    assert measurer.measure("any", config(8, "nm"), hopeless=1.0, keep="x") == Result((2.5e-3,))
    assert measurer.measure("any", config(16)).failure is FailureKind.COMPILE_ERROR


def test_resampling_draws_recorded_readings_whatever_the_order_of_asking() -> None:
    table = load_table(TINY)
    one, two = (ReplayMeasurer(table, "resample", seed=5, repeats=4) for _ in range(2))
    first = [one.measure("", c) for c in table.configs]
    second = [two.measure("", c) for c in reversed(table.configs)]
    assert first == second[::-1]
    for c, result in zip(table.configs, first, strict=True):
        assert len(result.costs) == 4 if result.ok else not result.costs
        assert set(result.costs) <= set(table.entry(c).readings)


def test_another_seed_draws_other_readings() -> None:
    table = load_table(TINY)
    drawn = {
        ReplayMeasurer(table, "resample", seed=s).measure("", config(8)).costs for s in range(9)
    }
    assert len(drawn) > 3


def test_resampled_readings_vary_around_the_truth() -> None:
    table = load_table(TINY)
    costs = [
        ReplayMeasurer(table, "resample", seed=s, repeats=1).measure("", config(4)).cost
        for s in range(300)
    ]
    assert sum(costs) / 300 == pytest.approx(4e-3, rel=0.05)


def test_a_config_that_the_table_lacks_is_refused_with_what_to_do() -> None:
    measurer = ReplayMeasurer(load_table(TINY))
    with pytest.raises(TableError, match=r"no record of .*\"pad\":true.*autotune table build"):
        measurer.measure("", config(4, "mn", True))


def test_unknown_noise_and_no_repeats_are_refused() -> None:
    table = load_table(TINY)
    with pytest.raises(AutotuneError, match="'much'; choose one of none, resample"):
        ReplayMeasurer(table, "much")
    with pytest.raises(AutotuneError, match="repeats must be at least 1"):
        ReplayMeasurer(table, "resample", repeats=0)


def test_a_table_on_which_everything_failed_has_no_optimum(tmp_path: Path) -> None:
    data = closed()
    for line in data["cache"].values():
        line["time"] = "RuntimeFailedConfig"
    table = load_table(saved(tmp_path / "t.json", data))
    with pytest.raises(TableError, match="no configuration .* succeeded"):
        _ = table.optimum


def test_a_search_of_a_table_sees_all_of_it_and_nothing_else() -> None:
    table = load_table(TINY)
    measurer, searcher = ReplayMeasurer(table), create_searcher("random", table.space, 0)
    while configs := searcher.ask(2):
        for c in configs:
            searcher.tell(c, measurer.measure("", c))
    assert set(searcher.results) == set(table.configs)
    assert searcher.best == table.optimum


# -- our own logs ---------------------------------------------------------------------------------


def log_of(
    path: Path,
    results: list[tuple[dict[str, Any], Result, str | None]],
    workload: Gemm | None = None,
    search: dict[str, Any] | None = None,
) -> Path:
    header = run_header(
        workload or Gemm(8, 8, 8),
        target={"kind": "cpu", "name": "Made-up CPU", "threads": 1},
        target_key="made-up threads=1",
        template={"name": "made_up", "version": 1},
        search=search,
    )
    TuningLog(path).append(
        [
            trial_record(header, i, c, r, batch=i, asked=1, ask=0, tell=0, source=source)
            for i, (c, r, source) in enumerate(results)
        ]
    )
    return path


@pytest.mark.parametrize("name", ["auto", "random", "gbfs", "opevo", "portfolio", "xgb"])
def test_a_small_part_of_a_large_space_is_searched_to_its_end(name: str) -> None:
    parameters = [Ordinal(letter, range(20)) for letter in "abcdef"]
    rng = random.Random(3)
    drawn = (Config({p.name: p.sample(rng) for p in parameters}) for _ in range(30))
    entries = {c: Entry.measured([1.0 + sum(int(str(c[p])) for p in c)]) for c in drawn}
    table = Table("part", parameters, entries)
    searcher = create_searcher(name, table.space, 0)
    found = []
    while asked := searcher.ask(1):
        found += asked
        searcher.tell(asked[0], table.lookup(asked[0]))
    assert sorted(c.key for c in found) == sorted(c.key for c in entries)


def test_a_log_pools_the_readings_of_a_config_and_leaves_copies_out(tmp_path: Path) -> None:
    path = log_of(
        tmp_path / "a.jsonl",
        [
            ({"tile": [2, 4]}, Result((1.0, 2.0)), None),
            ({"tile": [2, 4]}, Result((6.0,)), None),
            ({"tile": [2, 4]}, Result((6.0,)), "another/000001"),
            ({"tile": [1, 8]}, Result.failed(FailureKind.CRASHED, "boom"), None),
            ({"tile": [8, 1]}, Result.failed(FailureKind.NOISY, "noisy"), None),
        ],
    )
    table = load_table(path)
    assert table.entry(Config({"tile": (2, 4)})).readings == (1.0, 2.0, 6.0)
    assert table.optimum == (Config({"tile": (2, 4)}), 2.0)
    assert table.lookup(Config({"tile": (1, 8)})) == Result.failed(FailureKind.CRASHED, "boom")
    assert Config({"tile": (8, 1)}) not in table
    assert (table.device, table.kernel) == ("Made-up CPU", Gemm(8, 8, 8).key)


def test_a_packed_table_says_the_same_in_fewer_bytes(tmp_path: Path) -> None:
    space = ConfigSpace("s", [Factorization("tile", 8, 2)])
    results = [
        ({"tile": [2, 4]}, Result.failed(FailureKind.CRASHED, "at first"), None),
        ({"tile": [2, 4]}, Result((1.2345678, 2.0), phases={"build": 1.0}), None),
        ({"tile": [2, 4]}, Result((3.3333333e-5,)), None),
        ({"tile": [4, 2]}, Result((9.0,)), "another/000001"),
        ({"tile": [1, 8]}, Result.failed(FailureKind.CRASHED, "boom"), None),
        ({"tile": [8, 1]}, Result.failed(FailureKind.NOISY, "noisy"), None),
    ]
    log = log_of(tmp_path / "a.jsonl", results, search={"name": "x", "space": space.to_json()})
    packed = tmp_path / "a.jsonl.gz"
    assert pack_table(load_trials(log), packed) == 2
    table, whole = load_table(packed), load_table(log)
    two = Config({"tile": (2, 4)})
    assert table.entry(two).readings == (1.235, 2.0, 3.333e-5)
    assert table.cost(two) == pytest.approx(whole.cost(two), rel=5e-4)
    assert table.lookup(Config({"tile": (1, 8)})) == Result.failed(FailureKind.CRASHED, "boom")
    assert len(table) == 2 and table.space.parameters == whole.space.parameters
    assert (table.device, table.kernel) == (whole.device, whole.kernel)
    first = packed.read_bytes()
    assert pack_table(load_trials(packed), packed) == 2 and packed.read_bytes() == first


def test_a_packed_table_holds_one_problem(tmp_path: Path) -> None:
    one = log_of(tmp_path / "a.jsonl", [({"tile": [2, 4]}, Result((1.0,)), None)])
    trials = load_trials(one)
    other = msgspec.structs.replace(trials[0], target_key="another machine")
    with pytest.raises(TableError, match="one workload, target and template, these trials 2"):
        pack_table([*trials, other], tmp_path / "b.jsonl.gz")
    with pytest.raises(TableError, match="cannot write the table"):
        pack_table(trials, tmp_path / "missing" / "b.jsonl.gz")


def test_a_log_that_carries_its_space_is_searched_in_that_space(tmp_path: Path) -> None:
    space = ConfigSpace("s", [Factorization("tile", 8, 2)])
    results = [({"tile": [2, 4]}, Result((1.0,)), None)]
    path = log_of(tmp_path / "a.jsonl", results, search={"name": "x", "space": space.to_json()})
    assert load_table(path).space.parameters == space.parameters


def test_a_log_without_its_space_gets_one_of_the_values_it_holds(tmp_path: Path) -> None:
    results = [({"u": u, "o": o}, Result((1.0,)), None) for u, o in ((4, "b"), (1, "a"))]
    table = load_table(log_of(tmp_path / "a.jsonl", results))
    assert table.space.parameters == (Categorical("o", ("b", "a")), Ordinal("u", (1, 4)))
    assert len(table) == 2


def test_a_log_of_a_known_template_gets_its_space_on_the_machine_that_wrote_it(
    tmp_path: Path,
) -> None:
    from autotune.hw_profiles import resolve_target
    from autotune.identity import target_key

    profile, workload = resolve_target("cpu"), Gemm(8, 8, 8)
    header = run_header(
        workload,
        target={"kind": "cpu", "threads": 1},
        target_key=target_key(profile, 1),
        template={"name": "cpu_paper", "version": 1},
    )
    plain = {"tile_m": [8, 1, 1, 1], "tile_k": [8, 1], "tile_n": [8, 1, 1, 1]}
    record = trial_record(header, 0, plain, Result((1.0,)), batch=0, asked=1, ask=0, tell=0)
    TuningLog(tmp_path / "a.jsonl").append([record])
    assert load_table(tmp_path / "a.jsonl").space.size == 20 * 4 * 20


def test_a_log_of_several_problems_is_several_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for extent in (8, 16):
        log_of(path, [({"u": extent}, Result((1.0,)), None)], Gemm(extent, 8, 8))
    assert [t.kernel for t in load_tables(path)] == [Gemm(8, 8, 8).key, Gemm(16, 8, 8).key]
    with pytest.raises(TableError, match="holds 2 problems and one is wanted: gemm m=8"):
        load_table(path)


def test_a_gzipped_log_with_a_torn_tail_is_read(tmp_path: Path) -> None:
    plain = log_of(tmp_path / "a.jsonl", [({"u": 1}, Result((1.0,)), None)])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes() + b'{"v":1,"kind":"tri'))
    assert len(load_table(packed)) == 1


# -- the recorded GPU spaces ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "configs", "near", "best"),
    [("gemm_RTX_2080_Ti", 17956, 5, 0.011482779), ("gemm_RTX_3060_laptop", 10000, 2, 0.022619691)],
)
def test_the_recorded_gpu_spaces(name: str, configs: int, near: int, best: float) -> None:
    path = SHARED / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout")
    table: Table = load_table(path)
    costs = [table.cost(c) for c in table.configs]
    assert (len(table), table.space.size) == (configs, 82944)
    assert table.optimum[1] == pytest.approx(best)
    assert sum(best / cost >= 0.99 for cost in costs) == near
    assert all(len(table.entry(c).readings) == 32 for c in table.configs)
