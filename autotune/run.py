"""What a tuning run is asked for, what it tells while it goes on, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from autotune.errors import AutotuneError
from autotune.kernels.base import AUTO, choose_template
from autotune.log import Candidate
from autotune.measure.final import COMPARED, FinalOptions
from autotune.search.space import Config
from autotune.trial import Result

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.tune import Session
    from autotune.workload import Gemm


@dataclass(frozen=True)
class TuneRequest:
    """What to tune, how, and for how long.

    Parameters
    ----------
    workload, profile, threads
        What to compute, on what hardware, with how many threads.
    template
        Name of the template, or "auto" for the one that suits the workload, whose name is then
        found here.
    searcher, preset, seed, searcher_options
        The search method and its settings.
    trials, seconds
        Budgets; the search ends with whichever is spent first. None for no limit. Both count what
        earlier invocations of the same run have spent.
    batch, ahead
        Configs per ask, and how many batches the searcher is asked for beyond the one that is
        measured: they are built meanwhile, and it does not know the results of that one.
    final
        Extent of the final re-measurement.
    plugins
        Modules with templates of the user's own.
    cache
        "hot" or "cold", as in :class:`autotune.measure.MeasureOptions`.
    """

    workload: Gemm
    profile: HardwareProfile
    threads: int
    template: str = AUTO
    searcher: str = "auto"
    preset: str = "default"
    seed: int = 0
    searcher_options: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = 200
    seconds: float | None = None
    batch: int = 1
    ahead: int = 0
    final: FinalOptions = field(default_factory=FinalOptions)
    plugins: tuple[str, ...] = ()
    cache: str = "hot"

    def __post_init__(self) -> None:
        chosen = choose_template(self.template, self.workload, self.profile, self.plugins)
        object.__setattr__(self, "template", chosen.name)
        if self.trials is None and self.seconds is None:
            raise AutotuneError("give a budget: a number of trials, seconds, or both")
        if self.trials is not None and self.trials < 1:
            raise AutotuneError(f"the number of trials must be at least 1, got {self.trials}")
        if self.seconds is not None and not self.seconds > 0:
            raise AutotuneError(f"the time budget must be positive, got {self.seconds} seconds")
        if self.ahead < 0:
            raise AutotuneError(f"ahead counts batches and cannot be negative, got {self.ahead}")


@dataclass(frozen=True)
class Trial:
    """One finished trial, as observers see it.

    ``origin`` is "measured", "resumed" (from this run's own records), "shared" (another run's
    record of the same config) or "twins" (a config of this run has the same machine code).
    """

    number: int
    config: Config
    result: Result
    origin: str
    best_cost: float


class Observer(Protocol):
    """Told what happens; every method may do nothing."""

    def started(self, session: Session) -> None:
        """Before the first trial; resumed trials have not been replayed yet."""

    def ready(self, roofline_gflops: float) -> None:
        """When measuring is about to begin; not called if every trial comes from the log."""

    def trial(self, trial: Trial) -> None:
        """After each trial, resumed ones included."""

    def final(self, done: int, rounds: int) -> None:
        """Before each round of the final re-measurement."""


@dataclass
class Report:
    """What came of a run.

    ``best`` is the config with the lowest reading of the search, ``winner`` the one that the final
    re-measurement named. Costs are in seconds, rates in GFLOP/s.
    """

    request: TuneRequest
    run: str
    log_path: str | None
    trials: int = 0
    measured: int = 0
    resumed: int = 0
    shared: int = 0
    twins: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    search_seconds: float = 0.0
    interrupted: bool = False
    exhausted: bool = False
    best: Config | None = None
    best_cost: float = float("inf")
    winner: Config | None = None
    winner_cost: float = float("inf")
    speedups: dict[str, float] = field(default_factory=dict)
    peak_gflops: float | None = None
    roofline_gflops: float | None = None
    contenders: list[Candidate] = field(default_factory=list)
    final_from_log: bool = False

    def gflops(self, cost: float) -> float:
        """Convert seconds per call to GFLOP/s."""
        return self.request.workload.flops / cost / 1e9

    def to_json(self) -> dict[str, Any]:
        """Return everything a program may want, as plain JSON."""
        request, winner = self.request, self.winner if self.winner is not None else self.best
        cost = self.winner_cost if self.winner is not None else self.best_cost
        return {
            "workload": request.workload.to_json(),
            "hardware": request.profile.name,
            "threads": request.threads,
            "template": request.template,
            "searcher": request.searcher,
            "preset": request.preset,
            "seed": request.seed,
            "run": self.run,
            "log": self.log_path,
            "trials": {
                "total": self.trials,
                "measured": self.measured,
                "resumed": self.resumed,
                "shared": self.shared,
                "twins": self.twins,
                "failures": dict(self.failures),
            },
            "search_seconds": round(self.search_seconds, 3),
            "interrupted": self.interrupted,
            "exhausted": self.exhausted,
            "confirmed": self.winner is not None,
            "config": None if winner is None else winner.to_json(),
            "seconds": None if winner is None else cost,
            "gflops": None if winner is None else self.gflops(cost),
            **{f"speedup_over_{name}": self.speedups.get(name) for name in COMPARED},
            "measured_peak_gflops": self.peak_gflops,
            "roofline_gflops": self.roofline_gflops,
            "candidates": [
                {
                    "label": c.label,
                    "config": c.config,
                    "costs": list(c.costs),
                    "verdict": c.verdict,
                }
                for c in self.contenders
            ],
        }
