"""Results of other devices or workloads, given to the methods of a comparison before they begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError
from autotune.search import SEARCHERS
from autotune.search.translate import Translation, translate
from autotune.tables import Table, load_tables

if TYPE_CHECKING:
    from autotune.compare.entrants import Entrant
    from autotune.search.space import ConfigSpace


@dataclass(frozen=True)
class WarmStart:
    """Where the methods get a head start from.

    Parameters
    ----------
    path
        A file for :func:`autotune.tables.load_tables`; each problem of a log is a source.
    best
        Take so many of the fastest configs of each source only.
    """

    path: str
    best: int | None = None

    def read(self) -> list[Table]:
        """Return the sources.

        Raises
        ------
        AutotuneError
            If the file cannot be used, or ``best`` is below 1.
        """
        if self.best is not None and self.best < 1:
            raise AutotuneError(f"--warm-start-best must be at least 1, got {self.best}")
        return load_tables(self.path)

    def check(self, paths: Sequence[str], entrants: Sequence[Entrant]) -> list[str]:
        """Refuse what would be no comparison; return the labels of those that ignore the source.

        Raises
        ------
        AutotuneError
            If the file is one of the searched ones, or no method has a use for it.
        """
        same = [path for path in paths if Path(path).resolve() == Path(self.path).resolve()]
        if same:
            raise AutotuneError(
                f"--warm-start {self.path} is one of the tables that are searched: it would give"
                " the answer away; name another device's or workload's file"
            )
        deaf = [e.label for e in entrants if not _uses_transfer(e)]
        if len(deaf) == len(entrants):
            users = ", ".join(name for name, cls in SEARCHERS.items() if cls.uses_transfer)
            raise AutotuneError(
                f"{', '.join(deaf)} cannot use --warm-start results of another device or workload;"
                f" {users} can"
            )
        return deaf

    def translated(self, tables: Sequence[Table], space: ConfigSpace) -> list[Translation]:
        """Return each source in terms of ``space``; raises AutotuneError for a foreign one."""
        found = []
        for table in tables:
            try:
                found.append(translate(space, table.items(), self.best))
            except AutotuneError as error:
                raise AutotuneError(f"cannot start from {table.name!r}: {error}") from None
        return found


def _uses_transfer(entrant: Entrant) -> bool:
    return entrant.name not in SEARCHERS or SEARCHERS[entrant.name].uses_transfer


def describe(tables: Sequence[Table], found: Sequence[Translation]) -> str:
    """Say in one line what was taken from each source."""
    return "; ".join(
        f"{table.name} ({table.device}): {translation}"
        for table, translation in zip(tables, found, strict=True)
    )
