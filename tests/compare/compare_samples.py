"""A made-up table, and search methods that misbehave, for the tests of comparisons."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.search.base import Searcher
from autotune.search.space import Config
from autotune.trial import Result


def write_table(path: Path, side: int = 8, noise: float = 0.0) -> Path:
    """Write a Kernel Tuner cache of side**2 configs, of which one in seven is missing."""
    rng = random.Random(1)
    cache: dict[str, Any] = {}
    for a in range(side):
        for b in range(side):
            if (a * side + b) % 7 == 3:
                continue
            time = 1.0 + (a - 5) ** 2 + 0.5 * (b - 2) ** 2
            times = [time * (1 + noise * rng.uniform(-1, 1)) for _ in range(9)]
            cache[f"{a},{b}"] = {"a": a, "b": b, "time": time, "times": times}
    data = {
        "device_name": "Made-up",
        "kernel_name": "bowl",
        "tune_params_keys": ["a", "b"],
        "tune_params": {"a": list(range(side)), "b": list(range(side))},
        "cache": cache,
    }
    path.write_text(json.dumps(data))
    return path


def write_runs(path: Path, table: Path, trials: int, seeds: int) -> Path:
    """Write a file of runs that evaluated the configs of a table in its order, from one on."""
    data = json.loads(table.read_text())
    name, keys = table.name.removesuffix(".json"), data["tune_params_keys"]
    configs = [[entry[key] for key in keys] for entry in data["cache"].values()]
    runs = [
        {
            "problem": name,
            "method": "in-order",
            "seed": seed,
            "configs": configs[seed : seed + trials],
            "repeated": 3,
            "overhead_s": 0.5,
        }
        for seed in range(seeds)
    ]
    content = {
        "format": "autotune runs of another tuner, 1",
        "tuner": "other",
        "version": "9.9",
        "trials": trials,
        "problems": {name: {"parameters": keys}},
        "runs": runs,
    }
    path.write_text(json.dumps(content))
    return path


@dataclass(frozen=True)
class BreaksOptions:
    """When to break."""

    after: int = field(default=5, metadata={"help": "results before it raises"})
    on_seed: int = field(default=-1, metadata={"help": "seed on which it raises; -1 for all"})


class Breaks(Searcher):
    """Walks the space in order, and raises after some results."""

    name = "breaks"
    Options = BreaksOptions
    options: BreaksOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.options.after == 0:
            raise ZeroDivisionError("as it was told")

    def _propose(self, n: int) -> list[Config]:
        if self.options.on_seed in (-1, self.seed) and len(self.results) >= self.options.after:
            raise ZeroDivisionError("as it was told")
        fresh = (c for c in self.space if self.space.is_legal(c) and not self._seen(c))
        return [c for c, _ in zip(fresh, range(n), strict=False)]

    def _observe(self, config: Config, result: Result) -> None:
        pass


@dataclass(frozen=True)
class WalkOptions:
    """How to walk."""

    illegal: bool = field(default=False, metadata={"help": "propose illegal configs too"})
    most: int = field(default=1000, metadata={"help": "proposals before it ends"})


class Walk(Searcher):
    """Walks the space in order; the preset "careless" proposes what is illegal as well."""

    name = "walk"
    Options = WalkOptions
    presets = {"default": {}, "careless": {"illegal": True}}
    options: WalkOptions

    @property
    def filters_illegal(self) -> bool:
        return not self.options.illegal

    def _propose(self, n: int) -> list[Config]:
        room = min(n, self.options.most - len(self.results) - len(self.pending))
        fresh = (
            c
            for c in self.space
            if not self._seen(c) and (self.options.illegal or self.space.is_legal(c))
        )
        return [c for c, _ in zip(fresh, range(max(0, room)), strict=False)]

    def _observe(self, config: Config, result: Result) -> None:
        pass
