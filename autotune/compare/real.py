"""Compare methods on a real workload, every method with the same measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from autotune.compare.campaign import Campaign, Problem, Progress, in_order
from autotune.compare.entrants import Entrant, check_entrants
from autotune.compare.run import Protocol, Trace, run_search
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.search.space import Config, ConfigSpace
    from autotune.tables.recording import RecordingMeasurer
    from autotune.trial import Result

#: Runs that are done, all runs, and what the present one has come to.
Watch = Callable[[int, int, str], None]


def run_real(
    name: str,
    space: ConfigSpace,
    recorder: RecordingMeasurer,
    entrants: Sequence[Entrant],
    protocol: Protocol,
    progress: Progress | None = None,
    external: Mapping[str, Callable[[int], Trace]] | None = None,
    watch: Watch | None = None,
) -> Campaign:
    """Compare methods on measurements made now, or found in the recorder's log.

    A config is measured once; whoever proposes it, in whichever run, gets the same result. Run
    again after an interruption, the comparison takes what the log holds and goes on.

    Parameters
    ----------
    external
        Tuners of other projects by name: functions from a seed to a run. They measure their own
        candidates; see :mod:`autotune.compare.external`.
    watch
        Told after each config how far it is: one run can take hours.

    Raises
    ------
    AutotuneError
        For an unknown method, or a protocol that asks for noise: real measurements have their own.
    """
    if protocol.noise != "none":
        raise AutotuneError("--noise is for --replay; real measurements have their own")
    others = external or {}
    check_entrants((e for e in entrants if e.label not in others), space)
    runs = [(seed, entrant) for seed in protocol.seeds for entrant in entrants]
    traces: list[Trace] = []
    for seed, entrant in runs:
        if entrant.label in others:
            trace = others[entrant.label](seed)
        else:
            measure: Callable[[Config], Result] = recorder.measure
            if watch is not None:
                tell = partial(watch, len(traces), len(runs))
                measure = _watched(measure, tell, f"{entrant.label} seed {seed}", protocol.trials)
            trace = run_search(name, entrant, seed, space, measure, recorder.cost, protocol)
        traces.append(trace)
        if progress is not None:
            progress(len(traces), len(runs), trace)
    problem = Problem(name, space.size, meta={"kernel": name})
    return Campaign(protocol, tuple(entrants), (problem,), in_order(traces, [problem], entrants))


def _watched(
    measure: Callable[[Config], Result], tell: Callable[[str], None], run: str, trials: int
) -> Callable[[Config], Result]:
    """Return ``measure``, which then also tells how many configs of a run it was called for."""
    count, best = 0, math.inf

    def measured(config: Config) -> Result:
        nonlocal count, best
        result = measure(config)
        count, best = count + 1, min(best, result.cost)
        found = f", best {best * 1e3:.4g} ms" if best < math.inf else ""
        tell(f"{run}: {count} of at most {trials} configs{found}")
        return result

    return measured
