"""Compare methods on a real workload, every method with the same measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.compare.campaign import Campaign, Problem, Progress, in_order
from autotune.compare.entrants import Entrant, check_entrants
from autotune.compare.run import Protocol, Trace, run_search
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.search.space import ConfigSpace
    from autotune.tables.recording import RecordingMeasurer


def run_real(
    name: str,
    space: ConfigSpace,
    recorder: RecordingMeasurer,
    entrants: Sequence[Entrant],
    protocol: Protocol,
    progress: Progress | None = None,
    external: Mapping[str, Callable[[int], Trace]] | None = None,
) -> Campaign:
    """Compare methods on measurements made now, or found in the recorder's log.

    A config is measured once; whoever proposes it, in whichever run, gets the same result. Run
    again after an interruption, the comparison takes what the log holds and goes on.

    Parameters
    ----------
    external
        Tuners of other projects by name: functions from a seed to a run. They measure their own
        candidates; see :mod:`autotune.compare.external`.

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
    traces = []
    for seed, entrant in runs:
        if entrant.label in others:
            trace = others[entrant.label](seed)
        else:
            trace = run_search(
                name, entrant, seed, space, recorder.measure, recorder.cost, protocol
            )
        traces.append(trace)
        if progress is not None:
            progress(len(traces), len(runs), trace)
    problem = Problem(name, space.size, meta={"kernel": name})
    return Campaign(protocol, tuple(entrants), (problem,), in_order(traces, [problem], entrants))
