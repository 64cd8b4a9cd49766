"""The outcome of measuring one configuration."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class FailureKind(str, enum.Enum):
    """Why a trial has no cost. The values are the words used in the tuning log."""

    ILLEGAL = "illegal"
    SCHEDULE_ERROR = "schedule_error"
    COMPILE_ERROR = "compile_error"
    COMPILE_TIMEOUT = "compile_timeout"
    RUN_ERROR = "run_error"
    RUN_TIMEOUT = "run_timeout"
    CRASHED = "crashed"
    WRONG_RESULT = "wrong_result"
    NOISY = "noisy"


@dataclass(frozen=True)
class Result:
    """Costs of one trial in seconds, or the reason why there are none.

    Parameters
    ----------
    costs
        Seconds per call, one entry per repeat. Empty exactly when ``failure`` is set.
    failure, message
        What went wrong, in one of the known kinds, and a text for the user.
    phases
        Seconds spent per phase of the trial (``build``, ``verify``, ``run``, ...).
    code
        Digest of the machine code, where it is known: configs with one code are one kernel.
    features
        What the compiler said of the kernel, as JSON types (``registers``, ``shared_bytes``, ...).
    """

    costs: tuple[float, ...] = ()
    failure: FailureKind | None = None
    message: str = ""
    phases: Mapping[str, float] = field(default_factory=dict)
    code: str = ""
    features: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.failure is None) == (not self.costs):
            raise ValueError("a result has either costs or a failure")
        # A timer that returned zero, a negative number or NaN must never become "the best".
        if any(not math.isfinite(c) or c <= 0.0 for c in self.costs):
            raise ValueError(f"costs must be positive finite seconds, got {self.costs}")

    @classmethod
    def failed(
        cls, kind: FailureKind, message: str, phases: Mapping[str, float] | None = None
    ) -> Result:
        """Build the result of a trial that has no cost."""
        return cls((), kind, message, phases or {})

    @property
    def ok(self) -> bool:
        """Whether the trial has a cost."""
        return self.failure is None

    @property
    def cost(self) -> float:
        """Median of the costs in seconds; ``inf`` for a failure."""
        return statistics.median(self.costs) if self.costs else math.inf
