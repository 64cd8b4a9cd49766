"""How long measuring may take, and on what state of the caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.workload import Gemm

CACHES = ("hot", "cold")
#: A kernel that does fewer operations a second than this on one thread is as good as hung.
_SLOWEST_FLOPS = 0.5e9
_SETUP_SECONDS = 120.0
#: What torch's compiler may take to try and choose its kernels.
_COMPILE_SECONDS = 600.0


@dataclass(frozen=True)
class MeasureOptions:
    """How long measuring may take.

    Parameters
    ----------
    seconds
        Timed seconds per trial, shared by its repeats.
    build_timeout
        Seconds for scheduling and compiling one candidate.
    run_timeout
        Seconds for verifying and timing one candidate; by default 10 and what a scalar loop needs.
    ahead
        Whether batches are built ahead by other processes; None where it pays, which is where there
        are two cores or more, and a linker.
    cache
        "hot": kernels are called again and again on the same operands. "cold": twice the size of
        the last-level cache is streamed before each timed call.

    Raises
    ------
    AutotuneError
        If one of them is not positive and finite.
    """

    seconds: float = 0.12
    build_timeout: float = 30.0
    run_timeout: float | None = None
    ahead: bool | None = None
    cache: str = "hot"

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            raise AutotuneError(f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}")
        for name in ("seconds", "build_timeout", "run_timeout"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise AutotuneError(f"{name} must be a positive number of seconds, got {value:g}")

    def limits(self, workload: Gemm) -> dict[str, float]:
        """Return the seconds allowed for each phase of a worker; "" is any that is not named."""
        run = self.run_timeout
        return {
            "": _SETUP_SECONDS,
            "build": self.build_timeout,
            "compile": _COMPILE_SECONDS,
            "run": 10.0 + workload.flops / _SLOWEST_FLOPS if run is None else run,
        }
