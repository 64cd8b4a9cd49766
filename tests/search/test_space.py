from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter

import networkx
import pytest

from autotune.errors import AutotuneError, InvalidConfig
from autotune.search.parameters import Categorical, Factorization, Ordinal, Permutation
from autotune.search.space import Config, ConfigSpace, Constraint


def paper_space(extent: int) -> ConfigSpace:
    parts = {"m": 4, "k": 2, "n": 4}
    return ConfigSpace("paper", [Factorization(d, extent, p) for d, p in parts.items()])


def small_space(*constraints: Constraint) -> ConfigSpace:
    parameters = [
        Factorization("m", 12, 2),
        Permutation("order", ("m", "n", "k")),
        Ordinal("unroll", (0, 16, 64)),
        Categorical("pack", (False, True)),
    ]
    return ConfigSpace("small", parameters, constraints)


EVEN_TILE = Constraint("the inner tile is even", lambda c: c["m"][1] % 2 == 0)  # type: ignore[index]
NEVER = Constraint("nothing is good enough", lambda c: False)


@pytest.mark.parametrize(
    ("extent", "size"), [(512, 484_000), (1024, 899_756), (2048, 1_589_952), (1, 1)]
)
def test_sizes_of_the_papers_spaces(extent: int, size: int) -> None:
    assert paper_space(extent).size == size


@pytest.mark.parametrize(("extent", "size"), [(197, 4 * 2 * 4), (8457, 16 * 4 * 16)])
def test_odd_extents_have_spaces_too(extent: int, size: int) -> None:
    space = paper_space(extent)  # 197 is prime, 8457 = 3 * 2819
    assert space.size == len(set(space)) == size


def test_iteration_visits_every_vertex_once_from_the_origin() -> None:
    space = small_space()
    configs = list(space)
    assert len(set(configs)) == len(configs) == space.size == 6 * 6 * 3 * 2
    assert configs[0] == space.origin()
    assert all(config in space for config in configs)


def test_iteration_and_neighbors_are_lazy() -> None:
    calls: list[Config] = []

    def count(config: Config) -> bool:
        calls.append(config)
        return True

    order = Permutation("order", tuple(range(20)))
    space = ConfigSpace("huge", [order, order_of("n")], [Constraint("counted", count)])
    assert space.size > 10**30
    assert len(list(itertools.islice(space, 5))) == 5
    next(space.neighbors(space.origin()))
    assert len(calls) == 1


def order_of(name: str) -> Permutation:
    return Permutation(name, tuple("abcdefghijklmnop"))


def brute_force_graph(space: ConfigSpace, legal: bool) -> networkx.Graph:
    """Join configs that differ in one parameter by one of its edges."""
    configs = [c for c in space if not legal or space.is_legal(c)]
    graph = networkx.Graph()
    graph.add_nodes_from(config.key for config in configs)
    parameters = {p.name: p for p in space.parameters}
    for a, b in itertools.combinations(configs, 2):
        differ = [name for name in a if a[name] != b[name]]
        if len(differ) == 1 and b[differ[0]] in parameters[differ[0]].neighbors(a[differ[0]]):
            graph.add_edge(a.key, b.key)
    return graph


@pytest.mark.parametrize("legal", [False, True])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 99])
def test_networkx_view_equals_brute_force(radius: int, legal: bool) -> None:
    space = small_space(EVEN_TILE)
    center = space.sample(random.Random(3))
    whole = brute_force_graph(space, legal)
    view = space.to_networkx(center, radius, legal=legal)
    expected = networkx.ego_graph(whole, center.key, radius=radius)
    assert set(view.nodes) == set(expected.nodes)
    assert {frozenset(e) for e in view.edges} == {frozenset(e) for e in expected.edges}
    assert all(data["config"].key == key for key, data in view.nodes(data=True))
    assert next(iter(view.nodes)) == center.key


def test_legal_neighbors_are_the_legal_ones_among_all() -> None:
    space = small_space(EVEN_TILE)
    center = space.origin().replace(m=(6, 2))
    everyone = list(space.neighbors(center, legal=False))
    assert list(space.neighbors(center)) == [c for c in everyone if space.is_legal(c)]
    assert 0 < len(list(space.neighbors(center))) < len(everyone)


def test_violated_names_the_first_broken_constraint() -> None:
    space = small_space(EVEN_TILE, NEVER)
    assert space.violated(space.origin()) == EVEN_TILE.name
    assert space.violated(space.origin().replace(m=(6, 2))) == NEVER.name
    assert small_space().violated(space.origin()) is None


def test_sampling_is_uniform_over_legal_configs() -> None:
    space = ConfigSpace("s", [Factorization("m", 12, 2), Ordinal("u", (1, 2))], [EVEN_TILE])
    rng = random.Random(5)
    counts = Counter(space.sample(rng) for _ in range(8000))
    assert set(counts) == {config for config in space if space.is_legal(config)}
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 24.32  # 7 degrees, 0.1 %


def test_sampling_finds_a_needle_in_a_small_space() -> None:
    needle = Constraint("both at the end", lambda c: c["a"] == c["b"] == 399)
    ordinals = [Ordinal("a", range(400)), Ordinal("b", range(400))]
    space = ConfigSpace("needle", ordinals, [needle])
    assert space.sample(random.Random(0)) == Config({"a": 399, "b": 399})


@pytest.mark.parametrize(
    "space", [small_space(NEVER), ConfigSpace("p", paper_space(512).parameters, [NEVER])]
)
def test_sampling_says_so_when_nothing_is_legal(space: ConfigSpace) -> None:
    with pytest.raises(AutotuneError, match="nothing is good enough"):
        space.sample(random.Random(0))
    assert space.sample(random.Random(0), legal=False) in space
    assert space.legal_fraction(random.Random(0), 50) == 0.0


def test_legal_fraction_estimates_the_share() -> None:
    # Of the 6 factorizations of 12 in 2 parts, 4 have an even second part.
    assert small_space(EVEN_TILE).legal_fraction(random.Random(0), 4000) == pytest.approx(
        4 / 6, abs=0.03
    )


def test_config_is_immutable_hashable_and_has_a_canonical_key() -> None:
    one = Config({"b": (1, 2), "a": True})
    two = Config({"a": True, "b": (1, 2)})
    assert one == two
    assert hash(one) == hash(two)
    assert one.key == two.key == '{"a":true,"b":[1,2]}'
    assert one != Config({"a": 1, "b": (1, 2)})
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(TypeError):
        one["a"] = False  # type: ignore[index]
    with pytest.raises(AttributeError):
        one.a = False  # type: ignore[attr-defined]


def test_a_config_is_found_again_in_a_process_with_other_hashes() -> None:
    config = Config({"m": (4, 3), "order": "mn"})
    told = {config: 1.0}  # its hash is known by now
    code = (
        "import pickle, sys; told, config = pickle.load(sys.stdin.buffer);"
        " from autotune.search.space import Config;"
        " print(told[config], told[Config(dict(config))])"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps((told, config)),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
        )
        assert done.stdout.split() == [b"1.0", b"1.0"], done.stderr


def test_config_does_not_follow_the_dict_it_was_made_from() -> None:
    source = {"a": 1}
    config = Config(source)
    source["a"] = 2
    assert config["a"] == 1


def test_replace_changes_a_copy() -> None:
    config = Config({"a": 1, "b": 2})
    assert config.replace(b=3) == Config({"a": 1, "b": 3})
    assert config == Config({"a": 1, "b": 2})
    with pytest.raises(InvalidConfig, match="'c'"):
        config.replace(c=1)


def test_json_round_trip_keeps_space_and_configs() -> None:
    plain = small_space()
    default = plain.origin().replace(m=(3, 4))
    space = ConfigSpace("small", plain.parameters, [EVEN_TILE], [default])
    again = ConfigSpace.from_json(json.loads(json.dumps(space.to_json())), [EVEN_TILE])
    assert again.parameters == space.parameters
    assert again.defaults == (default,)
    assert again.name == space.name
    assert again.to_json() == space.to_json()
    for config in itertools.islice(space, 40):
        data = json.loads(json.dumps(config.to_json()))
        assert again.config_from_json(data) == config


def test_what_a_foreign_config_lacks_is_named() -> None:
    space = small_space()
    with pytest.raises(InvalidConfig, match=r"missing \['order', 'pack'\], unknown \['x'\]"):
        space.config_from_json({"m": [12, 1], "unroll": 0, "x": 1})


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"m": [12, 1], "order": ["m", "n", "k"], "unroll": 0},
        {"m": [12, 1], "order": ["m", "n", "k"], "unroll": 0, "pack": False, "x": 1},
        {"m": [12, 2], "order": ["m", "n", "k"], "unroll": 0, "pack": False},
        {"m": [12, 1], "order": ["m", "n", "k"], "unroll": 0, "pack": 0},
        [],
    ],
)
def test_foreign_configs_are_refused(data: object) -> None:
    space = small_space()
    with pytest.raises(InvalidConfig):
        space.config_from_json(data)  # type: ignore[arg-type]
    if isinstance(data, dict):
        config = Config({name: tuple(v) if isinstance(v, list) else v for name, v in data.items()})
        assert config not in space
        with pytest.raises(InvalidConfig):
            space.check(config)
        with pytest.raises(InvalidConfig):
            space.neighbors(config)


@pytest.mark.parametrize(
    "data", [{}, {"name": "x", "parameters": []}, {"name": "x", "parameters": 1}]
)
def test_foreign_spaces_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        ConfigSpace.from_json(data)


def test_malformed_spaces_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        ConfigSpace("empty", [])
    with pytest.raises(ValueError, match="one name"):
        ConfigSpace("twice", [Ordinal("a", (1,)), Factorization("a", 4, 2)])
    plain = small_space()
    with pytest.raises(InvalidConfig, match="inner tile is even"):
        ConfigSpace("s", plain.parameters, [EVEN_TILE], [plain.origin()])
    with pytest.raises(InvalidConfig):
        ConfigSpace("s", plain.parameters, (), [Config({"m": (12, 1)})])


def test_encoding_joins_the_parameters_in_order() -> None:
    space = ConfigSpace("s", [Factorization("m", 8, 2), Categorical("p", ("a", "b"))])
    assert space.encode(Config({"p": "b", "m": (4, 2)})) == [2.0, 1.0, 0.0, 1.0]
