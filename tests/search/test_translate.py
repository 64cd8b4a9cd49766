"""Results of other spaces become results of this one, or a clear message."""

from __future__ import annotations

import pytest

from autotune.errors import AutotuneError
from autotune.search import Categorical, Config, ConfigSpace, Constraint, Factorization, Ordinal
from autotune.search.translate import translate
from autotune.trial import FailureKind, Result

CRASH = Result.failed(FailureKind.CRASHED, "signal 11")


def space(extent: int = 96, legal: int = 1 << 30) -> ConfigSpace:
    return ConfigSpace(
        "small",
        [
            Factorization("m", extent, 3),
            Ordinal("unroll", (1, 4, 16, 64)),
            Categorical("pack", ("none", "a", "b")),
        ],
        [Constraint("the inner tile fits", lambda config: config["m"][2] <= legal)],  # type: ignore[index]
    )


def config(m: tuple[int, ...], unroll: int = 4, pack: str = "a") -> dict[str, object]:
    return {"m": list(m), "unroll": unroll, "pack": pack}


def test_configs_of_the_same_space_are_taken_as_they_are() -> None:
    results = [(config((2, 6, 8)), Result((1.0,))), (config((96, 1, 1)), CRASH)]
    found = translate(space(), results)
    assert (found.exact, found.moved, found.dropped) == (2, 0, 0)
    assert found.pairs[0] == (Config({"m": (2, 6, 8), "unroll": 4, "pack": "a"}), Result((1.0,)))
    assert found.pairs[1][1] == CRASH


def test_an_illegal_config_that_exists_here_still_tells_of_its_neighbours() -> None:
    found = translate(space(legal=4), [(config((2, 6, 8)), Result((1.0,)))])
    assert (found.exact, found.moved) == (1, 0)


@pytest.mark.parametrize(
    ("extent", "theirs", "ours"),
    [
        (96, (4, 8, 16), (1, 6, 16)),  # of 512: inner parts first, the outermost takes the rest
        (512, (2, 6, 8), (8, 8, 8)),  # of 96
        (97, (2, 6, 8), (97, 1, 1)),  # a prime has two divisors, and 1 is nearer
        (6, (2, 6, 8), (1, 1, 6)),
    ],
)
def test_factorizations_move_to_the_nearest(
    extent: int, theirs: tuple[int, ...], ours: tuple[int, ...]
) -> None:
    found = translate(space(extent), [(config(theirs), Result((1.0,)))])
    assert (found.exact, found.moved, found.dropped) == (0, 1, 0)
    assert found.pairs[0][0]["m"] == ours


@pytest.mark.parametrize(("theirs", "ours"), [(2, 1), (12, 16), (1000, 64), (0, 1)])
def test_ordinals_move_to_the_nearest_ratio(theirs: int, ours: int) -> None:
    found = translate(space(), [(config((96, 1, 1), unroll=theirs), Result((1.0,)))])
    assert found.pairs[0][0]["unroll"] == ours


def test_what_moves_ends_at_a_legal_config() -> None:
    narrow = space(96, legal=4)
    found = translate(narrow, [(config((1, 16, 5)), Result((1.0,)))])  # 6 is illegal
    assert found.moved == 1 and narrow.is_legal(found.pairs[0][0])


def test_of_results_that_meet_the_exact_and_then_the_fastest_stays() -> None:
    exact = (config((2, 6, 8), unroll=16), Result((3.0,)))
    near = (config((2, 6, 8), unroll=12), Result((1.0,)))
    far = (config((2, 6, 8), unroll=20), Result((2.0,)))
    for order in ([exact, near, far], [far, near, exact]):
        found = translate(space(), order)
        assert [result.cost for _, result in found.pairs] == [3.0]
        assert (found.exact, found.moved, found.dropped) == (1, 0, 2)
    assert [r.cost for _, r in translate(space(), [far, near]).pairs] == [1.0]


def test_what_has_no_counterpart_is_left_out_and_counted() -> None:
    results = [
        (config((2, 6, 8)), Result((1.0,))),
        (config((2, 6, 8), pack="c"), Result((1.0,))),  # no such way to pack
        (config((2, 48)), Result((1.0,))),  # two parts
        (config((2, 6, 8), unroll=1), Result.failed(FailureKind.ILLEGAL, "never run")),
    ]
    found = translate(space(), results)
    assert (found.exact, found.moved, found.dropped) == (1, 0, 3)
    assert str(found) == ("1 results fit as they are, 0 moved to the nearest config, 3 left out")


def test_a_parameter_that_the_source_lacks_gets_its_first_value() -> None:
    found = translate(space(), [({"m": [2, 6, 8]}, Result((1.0,)))])
    assert found.moved == 1
    assert found.pairs[0][0] == Config({"m": (2, 6, 8), "unroll": 1, "pack": "none"})


def test_only_the_fastest_are_taken_if_so_wanted() -> None:
    results = [(config((96, 1, 1), unroll=u), Result((float(u),))) for u in (64, 4, 16, 1)]
    results.append((config((2, 6, 8)), CRASH))
    found = translate(space(), results, best=2)
    assert sorted(result.cost for _, result in found.pairs) == [1.0, 4.0]


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ([], "no result"),
        ([(config((96, 1, 1)), CRASH)], "failures"),
        ([({"block": 3}, Result((1.0,)))], "they have block, the space has m, pack, unroll"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(
    results: list[tuple[dict[str, object], Result]], text: str
) -> None:
    with pytest.raises(AutotuneError, match=text):
        translate(space(), results)


def test_a_source_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(AutotuneError, match="none of its"):
        translate(space(), [(config((2, 48)), Result((1.0,)))])
