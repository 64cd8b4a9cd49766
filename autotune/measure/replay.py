"""A measurer that serves recorded results instead of measuring."""

from __future__ import annotations

import random

from autotune.errors import AutotuneError
from autotune.search.space import Config
from autotune.tables import Table, TableError, load_table, load_tables
from autotune.trial import Result

__all__ = ["NOISES", "ReplayMeasurer", "Table", "TableError", "load_table", "load_tables"]

NOISES = ("none", "resample")


class ReplayMeasurer:
    """Serves a table in the place of :class:`autotune.measure.LocalMeasurer`.

    Parameters
    ----------
    table
        What was measured.
    noise
        "none": each config has the one cost that stands for it in the table. "resample": each
        config is read ``repeats`` times, drawn with replacement from its recorded readings; the
        draws depend on the seed and the config only, not on the order of asking.
    seed, repeats
        For "resample". A config with fewer than two readings is always read the same.

    Raises
    ------
    AutotuneError
        If ``noise`` or ``repeats`` is out of range.
    """

    def __init__(self, table: Table, noise: str = "none", seed: int = 0, repeats: int = 3) -> None:
        if noise not in NOISES:
            raise AutotuneError(f"unknown noise {noise!r}; choose one of {', '.join(NOISES)}")
        if repeats < 1:
            raise AutotuneError(f"repeats must be at least 1, got {repeats}")
        self.table = table
        self.noise = noise
        self.seed = seed
        self.repeats = repeats

    def measure(
        self,
        template: str,
        config: Config,
        hopeless: float | None = None,
        keep: str | None = None,
    ) -> Result:
        """Return the result of a config that the table holds.

        The other arguments are those of ``LocalMeasurer.measure`` and change nothing.

        Raises
        ------
        TableError
            If the table does not hold the config.
        """
        entry = self.table.entry(config)
        if self.noise == "none" or len(entry.readings) < 2:
            return entry.result()
        rng = random.Random(f"{self.seed} {config.key}")
        costs = rng.choices(entry.readings, k=self.repeats)
        return Result(tuple(costs))
