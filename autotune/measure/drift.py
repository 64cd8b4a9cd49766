"""Is the machine as fast as it was? A reference kernel beside every trial says.

A slow phase (another job, a throttled clock, a hypervisor that takes the core) must neither make a
good candidate look bad nor be told to the searcher as a property of the candidate. So a reference
kernel, built once, is read after each trial; if it is off by more than a bound, the trial is timed
again at once. Timed again and not normalised: kernels suffer differently from the same disturbance,
and most disturbances are over soon. If it lasts, the machine has another speed now; after some
trials the reference counts from there, and the interleaved re-measurement at the end, where every
contender meets the same conditions, puts right what was read before.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: The reference may be off its recent median by this factor. On a quiet core, two blocks of 2 ms
#: agreed within 2 %.
DRIFT_BOUND = 1.1
#: Times that one trial is timed again.
_AGAIN = 2
#: Readings that "recent" means, and that are needed before any judgement.
_RECENT, _ENOUGH = 15, 5


@dataclass(frozen=True)
class Steady:
    """Costs of a trial in seconds, the reference beside them, and how often it was timed again."""

    costs: list[float]
    reference: float
    again: int


class Drift:
    """Judges trials by a reference.

    Parameters
    ----------
    read
        Times the reference; returns seconds per call.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def steady(self, costs: list[float], again: Callable[[], list[float]]) -> Steady:
        """Return a trial's costs as read when the reference was least off.

        Parameters
        ----------
        costs, again
            The trial's costs, just read, and a function that reads them again.
        """
        attempts = []
        for number in range(_AGAIN + 1):
            reference = self._read()
            attempts.append((self._off(reference), number, Steady(costs, reference, number)))
            if attempts[-1][0] <= math.log(DRIFT_BOUND) or number == _AGAIN:
                break
            costs = again()
        self._recent.append(reference)
        best = min(attempts)[2]
        return Steady(best.costs, best.reference, len(attempts) - 1)

    def _off(self, reference: float) -> float:
        """Return how far off a reading is, as the absolute logarithm of a factor."""
        if len(self._recent) < _ENOUGH:
            return 0.0
        return abs(math.log(reference / statistics.median(self._recent)))
