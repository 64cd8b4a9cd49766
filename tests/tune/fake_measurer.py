"""A measurer that only pretends: costs are a function of the config."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from autotune.search.space import Config
from autotune.trial import FailureKind, Result


class Killed(BaseException):
    """What SIGKILL is in these tests: nobody catches it."""


def made_up(config: Config) -> Result:
    """Rugged costs, with one failure in seven; the same in every process."""
    roll = zlib.crc32(config.key.encode())
    if roll % 7 == 0:
        return Result.failed(FailureKind.RUN_ERROR, f"made up {roll % 3}")
    return Result((1e-3 * (1 + roll % 1000 / 100), 1e-3 * (1 + roll % 1000 / 100)))


class FakeMeasurer:
    """Implements what :class:`autotune.tune.Session` needs of a LocalMeasurer.

    ``stop_at`` is the number of the call, from 0, that raises ``stop_with`` instead of answering.
    """

    def __init__(
        self,
        outcome: Callable[[Config], Result] = made_up,
        stop_at: int | None = None,
        stop_with: type[BaseException] = Killed,
    ) -> None:
        self.outcome = outcome
        self.stop_at = stop_at
        self.stop_with = stop_with
        self.measured: list[Config] = []
        self.hopeless: list[float | None] = []
        self.kept: dict[str, Config] = {}
        self.finals = 0
        self.stop_in_final = False
        self.ceilings_asked = 0
        self.begun = 0
        self.prepared: list[list[Config]] = []
        #: Where the searcher thinks while something is measured.
        self.spare_cores: tuple[int, ...] = (min(os.sched_getaffinity(0)),)

    def watch(self, template: str, config: Config) -> None:
        self.watched = config

    def begin(self, builds: int) -> None:
        self.begun = builds

    def prepare(self, template: str, configs: Sequence[Config], beside: bool = False) -> None:
        self.prepared.append(list(configs))

    def ceilings(self) -> tuple[float, float]:
        self.ceilings_asked += 1
        return 200.0, 150.0

    def measure(
        self,
        template: str,
        config: Config,
        hopeless: float | None = None,
        keep: str | None = None,
    ) -> Result:
        if keep is not None:
            self.kept[keep] = config
            return self.outcome(config)
        if len(self.measured) == self.stop_at:
            raise self.stop_with
        self.measured.append(config)
        self.hopeless.append(hopeless)
        return self.outcome(config)

    def is_kept(self, label: str) -> bool:
        return label in self.kept

    def time_kept(self, label: str, seconds: float) -> list[float]:
        if self.stop_in_final:
            raise KeyboardInterrupt
        self.finals += 1
        return [self.outcome(self.kept[label]).cost]

    def vendor_time(self, seconds: float, library: str) -> list[float]:
        return [{"torch": 2e-3, "onednn": 1e-3, "inductor": 4e-3}[library]]

    def peak_gflops(self, seconds: float = 0.1) -> float:
        return 210.0


class Witness:
    """An observer that writes everything down."""

    def __init__(self) -> None:
        self.trials: list[Any] = []
        self.rounds: list[tuple[int, int]] = []
        self.roofline: float | None = None
        self.session: Any = None

    def started(self, session: Any) -> None:
        self.session = session

    def ready(self, roofline_gflops: float) -> None:
        self.roofline = roofline_gflops

    def trial(self, trial: Any) -> None:
        self.trials.append(trial)

    def final(self, done: int, rounds: int) -> None:
        self.rounds.append((done, rounds))
