"""Search methods over configuration spaces, and the registry that names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.errors import AutotuneError
from autotune.search.auto import Auto
from autotune.search.base import Searcher
from autotune.search.gbfs import GBFS
from autotune.search.graph_bo import GraphBO
from autotune.search.grid import GridSearch
from autotune.search.na2c import NA2C
from autotune.search.opevo import OpEvo
from autotune.search.parameters import Categorical, Factorization, Ordinal, Parameter, Permutation
from autotune.search.portfolio import Portfolio
from autotune.search.random_search import RandomSearch
from autotune.search.resume import resume
from autotune.search.rnn import RnnController
from autotune.search.rounds import Rounds
from autotune.search.space import Config, ConfigSpace, Constraint
from autotune.search.xgb import XGBSearch

__all__ = [
    "SEARCHERS",
    "Categorical",
    "Config",
    "ConfigSpace",
    "Constraint",
    "Factorization",
    "Ordinal",
    "Parameter",
    "Permutation",
    "Rounds",
    "Searcher",
    "create_searcher",
    "resume",
]

#: Every search method by name; tests/search/test_searcher_contract.py runs over all of them.
SEARCHERS: dict[str, type[Searcher]] = {
    cls.name: cls
    for cls in (
        RandomSearch,
        GridSearch,
        GBFS,
        NA2C,
        OpEvo,
        RnnController,
        XGBSearch,
        GraphBO,
        Portfolio,
        Auto,
    )
}


def create_searcher(
    name: str,
    space: ConfigSpace,
    seed: int,
    preset: str = "default",
    start: Sequence[Config] = (),
    **overrides: object,
) -> Searcher:
    """Make a searcher by name.

    Parameters
    ----------
    name, preset
        A key of :data:`SEARCHERS` and one of its ``presets``.
    space, seed, start
        See :class:`~autotune.search.base.Searcher`.
    overrides
        Options that differ from the preset.

    Raises
    ------
    AutotuneError
        For an unknown name, preset or option, or an option out of range; lists what there is.
    """
    if name not in SEARCHERS:
        raise AutotuneError(f"unknown searcher {name!r}; choose one of {', '.join(SEARCHERS)}")
    cls = SEARCHERS[name]
    if preset not in cls.presets:
        raise AutotuneError(
            f"unknown preset {preset!r} of searcher {name!r}; choose one of"
            f" {', '.join(cls.presets)}"
        )
    fields = {field.name: field for field in dataclasses.fields(cls.Options)}
    for option, value in overrides.items():
        if option not in fields:
            known = "; ".join(f"{f.name} ({f.metadata['help']})" for f in fields.values())
            raise AutotuneError(
                f"unknown option {option!r} of searcher {name!r}; there is {known or 'none'}"
            )
        expected = type(fields[option].default)
        if type(value) is not expected and (expected, type(value)) != (float, int):
            raise AutotuneError(
                f"option {option!r} of searcher {name!r} must be of type {expected.__name__},"
                f" got {value!r}"
            )
    try:
        options = cls.Options(**{**cls.presets[preset], **overrides})
    except ValueError as error:
        raise AutotuneError(f"searcher {name!r}: {error}") from None
    searcher = cls(space, seed, start=start, options=options)
    searcher.preset = preset
    return searcher
