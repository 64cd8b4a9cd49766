"""How a kernel is timed: warm-up, repeats, and when a candidate has been read often enough.

Noise on a busy machine has one side: what interferes makes a kernel slower, hardly ever faster. Of
1,643 candidates read ten times (512 cubed, one thread, repeats of 10 ms), one in a hundred had a
median of its first two repeats of 3.4 times the median of all ten; the lower of the two lay at most
4 % above it in 99 of 100, and 11 % in 999 of 1,000. So what is far behind is judged by its lowest
repeat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from autotune.measure.protocol import MAX_REPEATS, MIN_REPEAT_SECONDS

#: Candidates whose cost is surely above this many times the best known are not read further. Above
#: 1, because the best is the lowest of many readings and so too low by a few percent.
HOPELESS_MARGIN = 1.03
#: Relative standard deviation of undisturbed repeats: 0.006 in the median of the candidates above,
#: 0.019 in the 95th percentile.
_SPREAD = 0.02
#: One-sided 99 % point of the normal distribution.
_Z = 2.33
#: Above this many times the bound a candidate is not even read repeatedly.
_FAR = 2.7
#: Calls before the first timed one go on for so long: caches, page tables and the core's clock.
_WARM_SECONDS = 0.002

#: ``(number, repeats)`` to seconds per call of so many repeats of so many calls.
Timer = Callable[[int, int], list[float]]


def lower_bound(costs: Sequence[float]) -> float:
    """Return the 99 % lower confidence bound of a candidate's undisturbed cost, in seconds.

    From the lowest repeat, and a spread that does not depend on these few repeats.
    """
    return min(costs) * (1 - _Z * _SPREAD / math.sqrt(len(costs)))


def time_kernel(
    call: Callable[[], float],
    timer: Timer,
    seconds: float,
    hopeless: float | None,
    least: int,
    first: float = float("inf"),
    single: bool = False,
) -> list[float]:
    """Return seconds per call, one entry per repeat.

    Parameters
    ----------
    call, timer
        Run the kernel once and return the seconds that took; run it many times.
    seconds
        Timed seconds, shared by the repeats.
    hopeless
        Reading ends when :func:`lower_bound` of two or more repeats is above so many seconds, and
        before them if two single calls agree that it is far above.
    least
        Fewest repeats otherwise.
    first
        Seconds of an earlier call, the second witness of a hopeless case.
    single
        Whether each repeat is one call, however short, as for cold caches.
    """
    estimate = _warm_up(call)
    witness = min(first, estimate)
    if hopeless is not None and witness > _FAR * hopeless:
        return [witness]
    number = 1 if single else max(1, round(MIN_REPEAT_SECONDS / max(estimate, 1e-7)))
    repeats = min(max(int(seconds / (number * estimate)), least), MAX_REPEATS)
    alone = number == 1
    costs = [estimate] if alone else []
    # Each look costs the timer a call; single calls can be looked at one by one.
    for upto in (*(range(2, repeats) if alone else (2, 4)), repeats):
        if len(costs) < upto <= repeats:
            more = upto - len(costs)
            costs += [call() for _ in range(more)] if alone else timer(number, more)
            if hopeless is not None and len(costs) >= 2 and lower_bound(costs) > hopeless:
                break
    return costs


def _warm_up(call: Callable[[], float]) -> float:
    """Call until the kernel is warm; return the lowest seconds of a call."""
    began = time.perf_counter()
    lowest = call()
    while time.perf_counter() - began < _WARM_SECONDS:
        lowest = min(lowest, call())
    return lowest
