"""What every searcher promises, checked for each one in the registry and each of its presets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import AutotuneError, InvalidConfig
from autotune.search import (
    SEARCHERS,
    Categorical,
    Config,
    ConfigSpace,
    Constraint,
    Factorization,
    Ordinal,
    Searcher,
    create_searcher,
)
from autotune.search.resume import Batch, resume
from autotune.search.rounds import Rounds
from autotune.trial import FailureKind, Result

MEMBERS = [(name, preset) for name, cls in SEARCHERS.items() for preset in cls.presets]
#: Faithful presets that end before every legal config was visited.
ENDS_EARLY = {("gbfs", "paper")}
#: Methods without chance: every seed gives the same sequence.
SEEDLESS = {"grid"}

each = pytest.mark.parametrize(("name", "preset"), MEMBERS)


def islands() -> ConfigSpace:
    """60 configs, 36 of them legal, in regions that no legal step connects."""
    parameters = [Factorization("m", 8, 3), Ordinal("u", (0, 16, 64)), Categorical("p", ("a", "b"))]
    apart = Constraint("the middle part is 1 or 8", lambda c: c["m"][1] in (1, 8))  # type: ignore[index]
    edges = Constraint("no middle unroll", lambda c: c["u"] != 16 or c["m"][1] == 8)  # type: ignore[index]
    return ConfigSpace("islands", parameters, [apart, edges])


def gemm(extent: int = 512) -> ConfigSpace:
    """A tiling space with a static limit, like those that are really searched."""
    parameters = [
        Factorization("m", extent, 4),
        Factorization("n", extent, 4),
        Factorization("k", extent, 2),
        Ordinal("unroll", (0, 16, 64, 256)),
    ]
    fits = Constraint("the tile fits", lambda c: c["m"][3] * c["n"][3] <= 256)  # type: ignore[index]
    default = Config(
        {"m": (extent, 1, 1, 1), "n": (extent, 1, 1, 1), "k": (extent, 1), "unroll": 0}
    )
    return ConfigSpace("gemm", parameters, [fits], [default])


def outcome(space: ConfigSpace, config: Config) -> Result:
    """A made-up measurement: rugged, with one failure in seven, and illegal where illegal."""
    broken = space.violated(config)
    if broken is not None:
        return Result.failed(FailureKind.ILLEGAL, broken)
    roll = zlib.crc32(config.key.encode())
    if roll % 7 == 0:
        return Result.failed(FailureKind.RUN_ERROR, "made up")
    return Result((1e-3 * (1.0 + sum(space.encode(config)) + roll % 100 / 100.0),))


def make(name: str, preset: str, space: ConfigSpace, seed: int = 0, **more: Any) -> Searcher:
    return create_searcher(name, space, seed, preset, **more)


def drive(
    searcher: Searcher,
    budget: int,
    batch: int,
    measure: Callable[[ConfigSpace, Config], Result] = outcome,
) -> list[Config]:
    """Run as a tuner would, and return every config in the order of asking."""
    asked: list[Config] = []
    while len(asked) < budget and not searcher.exhausted:
        configs = searcher.ask(min(batch, budget - len(asked)))
        asked += configs
        for config in configs:
            searcher.tell(config, measure(searcher.space, config))
    return asked


@each
@pytest.mark.parametrize("seed", [0, 1])
def test_never_asks_for_a_measured_or_pending_config_whatever_the_order(
    name: str, preset: str, seed: int
) -> None:
    space, rng = gemm(), random.Random(seed)
    searcher = make(name, preset, space, seed)
    asked: list[Config] = []
    waiting: list[Config] = []
    lost = 0
    for _ in range(60):
        for config in searcher.ask(rng.randint(1, 6)):
            assert config in space
            assert config not in searcher.results
            assert config not in asked
            asked.append(config)
            waiting.append(config)
        assert set(waiting) <= set(searcher.pending)
        rng.shuffle(waiting)
        for _ in range(rng.randint(0, len(waiting))):
            config = waiting.pop()
            if lost < 3 and rng.random() < 0.02:
                lost += 1  # its result never comes
            else:
                searcher.tell(config, outcome(space, config))
        if rng.random() < 0.2:  # a result that nobody asked for
            stranger = space.sample(rng)
            if stranger not in waiting:
                searcher.tell(stranger, outcome(space, stranger))
    assert len(asked) >= 20 or lost
    assert not searcher.exhausted


@each
def test_only_the_first_result_of_a_config_counts(name: str, preset: str) -> None:
    space = gemm()
    searcher, twin = make(name, preset, space), make(name, preset, space)
    for _ in range(6):
        configs = searcher.ask(4)
        assert configs == twin.ask(4)
        for config in configs:
            for target in (searcher, twin):
                target.tell(config, outcome(space, config))
            searcher.tell(config, Result((1e-9,)))
    assert searcher.duplicates == len(searcher.results) > 0
    assert searcher.best == twin.best
    assert dict(searcher.results) == dict(twin.results)


@each
def test_results_nobody_asked_for_are_used_and_never_asked_for(name: str, preset: str) -> None:
    space = islands()
    searcher = make(name, preset, space)
    told = [config for config in space if space.is_legal(config)][::2]
    for config in told:
        searcher.tell(config, outcome(space, config))
    assert searcher.best is not None
    assert not set(told) & set(drive(searcher, 100, 3))


@each
def test_all_failing_is_survived(name: str, preset: str) -> None:
    kinds = list(FailureKind)

    def fail(space: ConfigSpace, config: Config) -> Result:
        return Result.failed(kinds[zlib.crc32(config.key.encode()) % len(kinds)], "made up")

    searcher = make(name, preset, gemm())
    asked = drive(searcher, 60, 5, fail)
    assert searcher.best is None
    assert len(asked) == len(searcher.results) >= 1
    assert len(asked) == 60 or searcher.exhausted


@each
def test_a_space_of_one_config_is_measured_once(name: str, preset: str) -> None:
    space = ConfigSpace("point", [Factorization("m", 1, 3)])
    searcher = make(name, preset, space)
    assert not searcher.exhausted
    assert searcher.ask(4) == [space.origin()]
    assert searcher.ask(4) == []
    assert not searcher.exhausted  # its result may still come
    searcher.tell(space.origin(), Result((1.0,)))
    assert searcher.exhausted
    assert searcher.ask(1) == []
    assert searcher.best == (space.origin(), 1.0)


@each
def test_a_space_without_legal_configs_ends(name: str, preset: str) -> None:
    never = Constraint("never", lambda c: False)
    searcher = make(name, preset, ConfigSpace("none", [Factorization("m", 8, 2)], [never]))
    asked = drive(searcher, 50, 3)
    assert searcher.exhausted
    assert asked == [] or not searcher.filters_illegal


@each
@pytest.mark.parametrize("extent", [197, 8457])
def test_odd_and_prime_extents_can_be_searched(name: str, preset: str, extent: int) -> None:
    space = gemm(extent)
    asked = drive(make(name, preset, space), 40, 4)
    assert len(set(asked)) == len(asked) > 5


@each
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_small_space_is_exhausted_visiting_each_legal_config_once(
    name: str, preset: str, batch: int
) -> None:
    space = islands()
    searcher = make(name, preset, space, seed=batch)
    asked = drive(searcher, 10 * space.size, batch)
    legal = {config for config in space if space.is_legal(config)}
    assert searcher.exhausted
    assert len(set(asked)) == len(asked)
    if (name, preset) not in ENDS_EARLY:
        assert {config for config in asked if space.is_legal(config)} == legal
    assert searcher.ask(5) == []


@each
@pytest.mark.parametrize("batch", [1, 7])
def test_proposals_add_up_to_the_budget(name: str, preset: str, batch: int) -> None:
    searcher = make(name, preset, gemm())
    asked = drive(searcher, 50, batch)
    assert len(asked) == len(set(asked)) == len(searcher.results) == 50


@each
def test_illegal_configs_are_proposed_only_by_presets_that_say_so(name: str, preset: str) -> None:
    searcher = make(name, preset, islands())
    illegal = [c for c in drive(searcher, 40, 4) if not searcher.space.is_legal(c)]
    assert not illegal or not searcher.filters_illegal


@each
def test_starts_come_first_and_history_never(name: str, preset: str) -> None:
    space, rng = gemm(), random.Random(9)
    known, *start = (space.sample(rng) for _ in range(4))
    illegal = space.origin().replace(m=(1, 1, 1, 512))
    illegal = illegal.replace(n=(1, 1, 1, 512))
    searcher = make(name, preset, space, start=[known, start[0], illegal, *start])
    searcher.warm_start([(known, Result((1e-9,)))])
    expected = [start[0], illegal, *start[1:]]
    if searcher.filters_illegal:
        expected.remove(illegal)
    first = searcher.ask(2) + searcher.ask(len(expected) - 2)
    assert first == expected
    assert searcher.best == (known, 1e-9)
    for config in first:
        searcher.tell(config, outcome(space, config))
    assert known not in drive(searcher, 40, 4)
    with pytest.raises(RuntimeError, match="before the first ask"):
        searcher.warm_start([])


@each
def test_history_reaches_the_method(name: str, preset: str) -> None:
    space = islands()
    searcher = make(name, preset, space)
    searcher.warm_start((config, outcome(space, config)) for config in space)
    assert searcher.exhausted
    assert searcher.ask(3) == []


@each
def test_best_is_the_cheapest_ok_result(name: str, preset: str) -> None:
    searcher = make(name, preset, gemm(), seed=4)
    drive(searcher, 50, 5)
    cheapest = min(result.cost for result in searcher.results.values())
    assert math.isfinite(cheapest)
    assert searcher.best is not None
    assert searcher.best[1] == cheapest == searcher.results[searcher.best[0]].cost
    before = searcher.best
    searcher.tell(searcher.ask(1)[0], Result((cheapest,)))
    assert searcher.best == before  # the first of equals stays


@each
def test_foreign_configs_and_bad_counts_are_refused(name: str, preset: str) -> None:
    searcher = make(name, preset, gemm())
    for n in (0, -1):
        with pytest.raises(ValueError):
            searcher.ask(n)
    foreign = Config({"m": (3, 1, 1, 1)})
    with pytest.raises(InvalidConfig):
        searcher.tell(foreign, Result((1.0,)))
    with pytest.raises(InvalidConfig):
        make(name, preset, gemm(), start=[foreign])
    assert not searcher.results


@each
def test_the_same_seed_gives_the_same_sequence_and_another_seed_another(
    name: str, preset: str
) -> None:
    one, two, other = (drive(make(name, preset, gemm(), seed), 40, 3) for seed in (5, 5, 6))
    assert one == two
    assert (one == other) == (name in SEEDLESS)


def digest() -> str:
    """One line that depends on everything each searcher asks for."""
    keys = [c.key for name, preset in MEMBERS for c in drive(make(name, preset, gemm()), 40, 3)]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def test_the_sequence_is_the_same_in_every_process() -> None:
    code = "import test_searcher_contract as t; print(t.digest())"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    expected = digest()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr


Event = tuple[str, Any]


def recorded_run(name: str, preset: str) -> tuple[list[tuple[int, list[Config]]], list[Config]]:
    """Ask in batches of changing size; return the batches and the configs in tell order."""
    space, rng = gemm(), random.Random(11)
    searcher = make(name, preset, space, seed=3, start=[space.sample(rng)])
    batches, tells = [], []
    for _ in range(9):
        n = rng.randint(1, 6)
        configs = searcher.ask(n)
        batches.append((n, configs))
        shuffled = rng.sample(configs, len(configs))
        for config in shuffled:
            searcher.tell(config, outcome(space, config))
        tells += shuffled
    return batches, tells


@each
def test_a_run_killed_anywhere_resumes_with_the_identical_sequence(name: str, preset: str) -> None:
    batches, tells = recorded_run(name, preset)
    start = batches[0][1][:1]
    assert len(tells) >= 20
    for killed in range(len(tells) + 1):
        told = {config: place for place, config in enumerate(tells[:killed])}
        records = []
        for n, configs in batches:
            lines = [
                (i, told[c], c, outcome(gemm(), c)) for i, c in enumerate(configs) if c in told
            ]
            if not lines:
                break  # nothing of this batch, nor of those after it, is in the log
            records.append((n, sorted(lines, key=lambda line: line[2].key)))
        searcher = make(name, preset, gemm(), seed=3, start=start)
        missing = resume(Rounds(searcher), records)
        last = batches[len(records) - 1][1] if records else []
        assert missing == [config for config in last if config not in told]
        for config in tells[killed : killed + len(missing)]:
            searcher.tell(config, outcome(gemm(), config))
        for n, configs in batches[len(records) :]:
            assert searcher.ask(n) == configs
            for config in sorted(configs, key=tells.index):
                searcher.tell(config, outcome(gemm(), config))


def run_ahead(rounds: Rounds, told: int) -> list[Batch]:
    """Measure so many configs, asked for one batch ahead; return what a log would hold of it."""
    records: list[Batch] = []
    while told > 0 and (configs := rounds.next(3)):
        results = [(i, i, c, outcome(gemm(), c)) for i, c in enumerate(configs[:told])]
        for _, _, config, result in results:
            rounds.searcher.tell(config, result)
        records.append((3, results))
        told -= len(results)
    return records


@each
def test_a_run_that_asks_ahead_resumes_with_the_identical_sequence(name: str, preset: str) -> None:
    whole = run_ahead(Rounds(make(name, preset, gemm(), seed=3), ahead=1), 24)
    assert sum(len(results) for _, results in whole) >= 20
    for killed in (1, 3, 7, 12):
        records = run_ahead(Rounds(make(name, preset, gemm(), seed=3), ahead=1), killed)
        rounds = Rounds(make(name, preset, gemm(), seed=3), ahead=1)
        missing = resume(rounds, records)
        for config in missing:
            rounds.searcher.tell(config, outcome(gemm(), config))
        rest = run_ahead(rounds, 24 - killed - len(missing))
        assert [*records[:-1], *rest] == [*whole[: len(records) - 1], *whole[len(records) :]]


@each
def test_what_is_asked_for_ahead_is_never_asked_for_twice_nor_lost(name: str, preset: str) -> None:
    rounds = Rounds(make(name, preset, gemm(), seed=3), ahead=2)
    seen: list[Config] = []
    for _ in range(8):
        configs = rounds.next(3)
        seen += configs
        assert set(rounds.searcher.pending) == {*configs, *rounds.following}
        for config in configs:
            rounds.searcher.tell(config, outcome(gemm(), config))
    assert len(set(seen)) == len(seen) >= 15


@each
@pytest.mark.parametrize("damage", ["place", "config", "beyond"])
def test_a_log_of_another_run_is_refused(name: str, preset: str, damage: str) -> None:
    batches, _ = recorded_run(name, preset)
    n, configs = next((n, configs) for n, configs in batches if configs)
    stranger = gemm().sample(random.Random(77))
    place, config = {
        "place": (0, configs[-1] if len(configs) > 1 else stranger),
        "config": (0, stranger),
        "beyond": (len(configs), configs[0]),
    }[damage]
    searcher = make(name, preset, gemm(), seed=3, start=configs[:1])
    with pytest.raises(AutotuneError, match="does not match this search"):
        resume(Rounds(searcher), [(n, [(place, 0, config, outcome(gemm(), config))])])


@each
def test_a_description_is_json_and_rebuilds_the_searcher(name: str, preset: str) -> None:
    searcher = make(name, preset, gemm(), seed=8)
    data = json.loads(json.dumps(searcher.describe()))
    assert (data["name"], data["preset"], data["seed"]) == (name, preset, 8)
    again = create_searcher(data["name"], gemm(), data["seed"], data["preset"], **data["options"])
    assert drive(again, 30, 3) == drive(searcher, 30, 3)


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_default_preset_is_what_a_bare_searcher_does(name: str) -> None:
    bare = SEARCHERS[name](gemm(), 2)
    assert drive(bare, 20, 4) == drive(make(name, "default", gemm(), 2), 20, 4)


@pytest.mark.parametrize("name", SEARCHERS)
def test_options_are_documented_and_presets_use_them(name: str) -> None:
    cls = SEARCHERS[name]
    fields = {field.name: field for field in dataclasses.fields(cls.Options)}
    assert cls.name == name
    assert "default" in cls.presets
    for field in fields.values():
        assert field.metadata["help"]
        assert field.default is not dataclasses.MISSING
    for preset in cls.presets.values():
        assert preset.keys() <= fields.keys()
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls.Options(**preset).anything = 1


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(AutotuneError, match=r"'magic'.*random.*gbfs"):
        create_searcher("magic", gemm(), 0)
    with pytest.raises(AutotuneError, match=r"'fast'.*default.*paper"):
        create_searcher("gbfs", gemm(), 0, preset="fast")
    with pytest.raises(AutotuneError, match=r"'width'.*rho \(neighbours drawn"):
        create_searcher("gbfs", gemm(), 0, width=3)
    with pytest.raises(AutotuneError, match=r"'width'.*there is none"):
        create_searcher("random", gemm(), 0, width=3)
    for value in ("5", 5.0, True):
        with pytest.raises(AutotuneError, match="'rho'.*int"):
            create_searcher("gbfs", gemm(), 0, rho=value)
    with pytest.raises(AutotuneError, match="rho must be at least 1"):
        create_searcher("gbfs", gemm(), 0, rho=0)
