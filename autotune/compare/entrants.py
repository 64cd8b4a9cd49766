"""Who takes part in a comparison: search methods with a preset and options."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import AutotuneError
from autotune.search import SEARCHERS, create_searcher
from autotune.search.base import Searcher
from autotune.search.space import ConfigSpace

#: Arguments of create_searcher that are no options.
_TAKEN = ("name", "space", "seed", "preset", "start")


@dataclass(frozen=True)
class Entrant:
    """One search method as it takes part.

    Parameters
    ----------
    name, preset, options
        What :func:`autotune.search.create_searcher` takes.
    """

    name: str
    preset: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The text that :func:`parse_entrants` reads; the preset only if it is not the default."""
        preset = "" if self.preset == "default" else f":{self.preset}"
        return f"{self.name}{preset}" + "".join(
            f"+{name}={json.dumps(value)}" for name, value in self.options.items()
        )

    def create(self, space: ConfigSpace, seed: int) -> Searcher:
        """Make the searcher, with the space's defaults as starts unless a preset says otherwise.

        Raises
        ------
        AutotuneError
            For an unknown name, preset or option.
        """
        start = space.defaults if self.preset == "default" else ()
        return create_searcher(
            self.name, space, seed, preset=self.preset, start=start, **self.options
        )


def check_entrants(entrants: Iterable[Entrant], space: ConfigSpace) -> None:
    """Find unknown names and options before anything is run; raises AutotuneError for them."""
    for entrant in entrants:
        try:
            entrant.create(space, 0)
        except AutotuneError:
            raise
        except Exception:  # a bug of one method: its runs will say so, and the others go on
            continue


def parse_entrants(text: str) -> list[Entrant]:
    """Read ``name[:preset][+option=value...]``, separated by commas; ``all`` is every searcher.

    Raises
    ------
    AutotuneError
        If a searcher is named twice, or the text cannot be read.
    """
    entrants: list[Entrant] = []
    for part in text.split(","):
        if part.strip() == "all":
            entrants += [Entrant(name) for name in SEARCHERS]
        else:
            entrants.append(_parse(part.strip()))
    labels = [entrant.label for entrant in entrants]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise AutotuneError(f"the searcher {twice!r} is named twice; name each once")
    return entrants


def _parse(text: str) -> Entrant:
    head, *settings = text.split("+")
    name, _, preset = head.partition(":")
    if not name:
        raise AutotuneError(f"cannot read {text!r} as a searcher; write name or name:preset")
    options: dict[str, Any] = {}
    for setting in settings:
        option, separator, value = setting.partition("=")
        if not separator or not option or option in _TAKEN:
            raise AutotuneError(
                f"cannot read {setting!r} as an option of {name!r}; write name=value"
            )
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
    return Entrant(name, preset or "default", options)
