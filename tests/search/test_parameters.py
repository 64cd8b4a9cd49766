from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import InvalidConfig
from autotune.search.parameters import (
    Categorical,
    Factorization,
    Ordinal,
    Parameter,
    Permutation,
    parameter_from_json,
    prime_factors,
)

#: Upper 0.1 % points of the chi-square distribution, by degrees of freedom.
CHI_SQUARE = {4: 18.47, 5: 20.52, 17: 40.79}

PARAMETERS = [
    Factorization("m", 12, 3),
    Factorization("one", 1, 4),
    Factorization("prime", 197, 2),
    Factorization("whole", 360, 1),
    Permutation("order", ("m", "n", "k")),
    Permutation("single", ("m",)),
    Ordinal("unroll", (0, 16, 64, 256, 1024)),
    Ordinal("tail", ("pad", "predicate")),
    Categorical("pack", (False, True)),
    Categorical("mixed", ("a", 2, 2.5, (1, (2, "x")))),
]
small_factorizations = st.builds(
    Factorization, st.just("f"), st.integers(1, 400), st.integers(1, 4)
)
any_parameter = st.one_of(st.sampled_from(PARAMETERS), small_factorizations)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_size_counts_the_distinct_values_and_the_first_is_the_origin(parameter: Parameter) -> None:
    values = list(parameter.values())
    assert len(values) == len(set(values)) == parameter.size
    assert values[0] == parameter.origin
    assert all(map(parameter.contains, values))


@settings(deadline=None, max_examples=80)
@given(parameter=any_parameter, seed=st.integers(0, 99))
def test_edges_are_symmetric_distinct_and_never_loops(parameter: Parameter, seed: int) -> None:
    value = parameter.sample(random.Random(seed))
    near = parameter.neighbors(value)
    assert len(set(near)) == len(near)
    assert value not in near
    for other in near:
        assert parameter.contains(other)
        assert value in parameter.neighbors(other)
    assert parameter.neighbors(value) == near


@settings(deadline=None, max_examples=80)
@given(parameter=any_parameter, seed=st.integers(0, 99))
def test_json_round_trip_keeps_parameter_and_values(parameter: Parameter, seed: int) -> None:
    text = json.dumps(parameter.to_json())
    again = parameter_from_json(json.loads(text))
    assert again == parameter
    value = parameter.sample(random.Random(seed))
    assert again.value_from_json(json.loads(json.dumps(value))) == value


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_encodings_have_one_length_and_tell_values_apart(parameter: Parameter) -> None:
    codes = [parameter.encode(value) for value in parameter.values()]
    assert len({len(code) for code in codes}) == 1
    assert len(set(codes)) == parameter.size
    assert all(type(x) is float for code in codes for x in code)


def test_encodings_mean_what_they_say() -> None:
    assert Factorization("m", 32, 3).encode((4, 1, 8)) == (2.0, 0.0, 3.0)
    assert Permutation("o", ("m", "n", "k")).encode(("k", "m", "n")) == (1.0, 2.0, 0.0)
    assert Ordinal("u", (0, 16, 64)).encode(64) == (2.0,)
    assert Categorical("c", ("a", "b", "c")).encode("b") == (0.0, 1.0, 0.0)


def test_the_papers_example_has_ten_vertices_and_eighteen_edges() -> None:
    eight = Factorization("c", 8, 3)
    assert eight.size == 10
    assert sum(len(eight.neighbors(value)) for value in eight.values()) == 2 * 18


@settings(deadline=None, max_examples=80)
@given(parameter=small_factorizations, seed=st.integers(0, 99))
def test_factorization_degree_and_size_follow_the_exponents(
    parameter: Factorization, seed: int
) -> None:
    value = parameter.sample(random.Random(seed))
    assert isinstance(value, tuple)
    primes = [p for p, _ in prime_factors(parameter.extent)]
    movable = sum(part % prime == 0 for part in value for prime in primes)
    assert len(parameter.neighbors(value)) == movable * (parameter.parts - 1)
    brute = sum(
        math.prod(heads) * last == parameter.extent
        for heads in itertools.product(
            [d for d in range(1, parameter.extent + 1) if parameter.extent % d == 0],
            repeat=parameter.parts - 1,
        )
        for last in [parameter.extent // math.prod(heads)]
    )
    assert parameter.size == brute


def test_an_edge_moves_any_prime_and_keeps_integers() -> None:
    near = Factorization("m", 15, 2).neighbors((15, 1))
    assert near == [(5, 3), (3, 5)]
    assert all(type(part) is int for value in near for part in value)


@pytest.mark.parametrize("extent", [2**31, 2**31 - 1, 2 * 3 * 5 * 7 * 11 * 13 * 17 * 19 * 23])
def test_large_extents_sample_and_move_without_listing(extent: int) -> None:
    parameter = Factorization("m", extent, 4)
    value = parameter.sample(random.Random(0))
    assert parameter.contains(value)
    assert all(map(parameter.contains, parameter.neighbors(value)))
    assert math.prod(e + 1 for _, e in prime_factors(extent)) == Factorization("m", extent, 2).size


@pytest.mark.parametrize(
    "parameter", [PARAMETERS[0], PARAMETERS[4], PARAMETERS[6]], ids=lambda p: p.name
)
def test_sampling_is_uniform(parameter: Parameter) -> None:
    rng, per_value = random.Random(2024), 1000
    counts = Counter(parameter.sample(rng) for _ in range(per_value * parameter.size))
    assert len(counts) == parameter.size
    chi_square = sum((seen - per_value) ** 2 / per_value for seen in counts.values())
    assert chi_square < CHI_SQUARE[parameter.size - 1]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Factorization("m", 8, 2), (4, 4)),
        (Factorization("m", 8, 2), (8,)),
        (Factorization("m", 8, 2), [8, 1]),
        (Factorization("m", 8, 2), (8.0, 1)),
        (Factorization("m", 8, 2), (-8, -1)),
        (Factorization("m", 1, 2), (True, 1)),
        (Ordinal("u", (0, 1)), True),
        (Ordinal("u", (0, 1)), 1.0),
        (Ordinal("u", (0, 1)), [0]),
        (Categorical("p", (False, True)), 1),
        (Permutation("o", ("m", "n")), ("m", "m")),
        (Permutation("o", ("m", "n")), "mn"),
    ],
)
def test_foreign_values_are_refused(parameter: Parameter, value: object) -> None:
    assert not parameter.contains(value)
    with pytest.raises(InvalidConfig, match=parameter.name):
        parameter.neighbors(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [[4, 4], "8", None, {"a": 1}, [[8, 1]], [8.0, 1]])
def test_bad_json_values_are_refused(data: object) -> None:
    with pytest.raises(InvalidConfig):
        Factorization("m", 8, 2).value_from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "spline", "name": "x"},
        {"kind": "factorization", "name": "m", "extent": 8},
        {"kind": "factorization", "name": "m", "extent": 0, "parts": 2},
        {"kind": "ordinal", "name": "u", "values": []},
        {"kind": "ordinal", "name": "u", "values": 3},
    ],
)
def test_bad_json_parameters_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        parameter_from_json(data)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Factorization("m", 0, 2),
        lambda: Factorization("m", 8, 0),
        lambda: Factorization("m", 2**31 + 1, 2),
        lambda: Factorization("m", True, 2),
        lambda: Factorization("", 8, 2),
        lambda: Ordinal("u", ()),
        lambda: Ordinal("u", (1, True)),
        lambda: Categorical("c", ("a", "a")),
        lambda: Categorical("c", (None,)),
        lambda: Categorical("c", (math.nan,)),
        lambda: Permutation("o", ()),
        lambda: Permutation("o", ("m", "m")),
    ],
)
def test_malformed_parameters_cannot_be_made(build: object) -> None:
    with pytest.raises(ValueError):
        build()  # type: ignore[operator]
