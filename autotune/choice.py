"""Which config of a log a workload is compiled with, and how sure that is."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError, LogError
from autotune.identity import target_json, target_key
from autotune.log import Tier, TuningLog, lookup
from autotune.search.translate import counterpart
from autotune.workload import Gemm

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.base import Template
    from autotune.log import Hit, Record, Scan
    from autotune.search.space import Config, ConfigSpace

EXACT, NEAREST, DEFAULT = "exact", "nearest", "default"
FALLBACKS = (EXACT, NEAREST, DEFAULT)
#: Configs looked at around an illegal one before it is given up.
_LOOKED_AT = 5000


@dataclass(frozen=True)
class Choice:
    """The config to compile a workload with.

    Parameters
    ----------
    template, version, config
        What to build.
    tier
        How the record was matched with the workload; ``DEFAULT`` without a record.
    note
        One line for the user: what was used, what was ignored, and why.
    cost
        Seconds per call that the log has for it; None unless it is an exact match.
    """

    template: str
    version: int
    config: Config
    tier: Tier
    note: str
    cost: float | None = None


def choose_config(
    log: TuningLog | None,
    workload: Gemm,
    profile: HardwareProfile,
    threads: int,
    template: Template,
    cache: str = "hot",
    fallback: str = EXACT,
) -> Choice:
    """Return the config for a workload on this hardware, tuned with this cache.

    Parameters
    ----------
    log
        Where results are looked for; None, which ``fallback`` must allow, for the template's
        default.
    fallback
        ``"exact"``, ``"nearest"`` or ``"default"``; see :func:`autotune.kernel.load_kernel`.

    Raises
    ------
    AutotuneError
        If the log has none; the message says what it has, and how to make one.
    """
    if fallback not in FALLBACKS:
        raise AutotuneError(f"unknown fallback {fallback!r}; choose one of {', '.join(FALLBACKS)}")
    if log is None and fallback != DEFAULT:
        raise AutotuneError(f"name a log, or take fallback={DEFAULT!r}: no log, nothing tuned")
    records = [] if log is None else _scan(log).records
    hit = find_hit(records, workload, profile, threads, template, cache)
    space = template.space(workload, profile, threads)

    def chosen(config: Config, tier: Tier, note: str, cost: float | None = None) -> Choice:
        return Choice(template.name, template.version, config, tier, note, cost)

    if hit.tier is Tier.EXACT and hit.winner is not None:
        config = space.config_from_json(hit.winner.config)
        return chosen(config, Tier.EXACT, hit.note, hit.winner.cost)
    problem = hit.note
    if fallback != EXACT and hit.config is not None:
        fitting, problem = fit(space, hit)
        if fitting is not None:
            return chosen(fitting, hit.tier, problem)
    if fallback == DEFAULT:
        note = f"{Tier.DEFAULT.value} of {template.name}, which nobody measured: {problem}"
        return chosen(space.defaults[0], Tier.DEFAULT, note)
    assert log is not None
    raise AutotuneError(
        f"{log.path} has no result for {workload.key} with {threads} thread(s) on this machine"
        f" ({problem}); run autotune gemm with the same options first"
    )


def tuned_workloads(log: TuningLog, profile: HardwareProfile, threads: int) -> list[Gemm]:
    """Return the workloads with a success on this hardware, in the order of the log.

    Raises
    ------
    AutotuneError
        If there is none.
    """
    key = target_key(profile, threads)
    found = {
        trial.workload_key: trial.workload
        for trial in _scan(log).trials
        if trial.ok and trial.target_key == key
    }
    if not found:
        raise AutotuneError(
            f"{log.path} has no result for {threads} thread(s) on this machine; run autotune gemm"
            " first"
        )
    return [Gemm.from_json(workload) for workload in found.values()]


def _scan(log: TuningLog) -> Scan:
    if not log.path.exists():
        raise LogError(f"there is no log {log.path}; run autotune gemm first, or give --log")
    return log.scan()


def find_hit(
    records: Iterable[Record],
    workload: Gemm,
    profile: HardwareProfile,
    threads: int,
    template: Template,
    cache: str = "hot",
) -> Hit:
    """Ask records for what a template computes a workload with on this hardware."""
    return lookup(
        records,
        workload,
        target_key(profile, threads, cache),
        {"name": template.name, "version": template.version},
        target=target_json(profile, threads, cache),
    )


def fit(space: ConfigSpace, hit: Hit) -> tuple[Config | None, str]:
    """Return the legal config nearest to that of a hit for another workload, and what to say."""
    assert hit.winner is not None
    found = counterpart(space, hit.winner.config)
    if found is None:
        return None, f"{hit.note}, but its config has no counterpart here"
    legal = nearest_legal(space, found[0])
    if legal is None:
        return None, f"{hit.note}, but no legal config is near"
    if legal.to_json() == hit.winner.config:
        return legal, hit.note
    return legal, f"{hit.note}; its config was moved to the nearest legal one here"


def nearest_legal(space: ConfigSpace, config: Config) -> Config | None:
    """Return a legal config few steps from a vertex; None if none is found.

    Best first over the space's edges: of the vertices seen, the one that keeps the most rules, in
    the order of the rules, then the one with the fewest steps, then the first seen. Steps alone
    would find nothing where several rules are broken, each some steps from being kept.
    """
    seen, queue = {config}, [(_broken(space, config), 0, 0, config)]
    while queue:
        broken, steps, _, vertex = heapq.heappop(queue)
        if not broken:
            return vertex
        for neighbor in space.neighbors(vertex, legal=False):
            if neighbor not in seen and len(seen) < _LOOKED_AT:
                seen.add(neighbor)
                heapq.heappush(queue, (_broken(space, neighbor), steps + 1, len(seen), neighbor))
    return None


def _broken(space: ConfigSpace, config: Config) -> int:
    """Return how many rules are left from the first that a vertex breaks; 0 if it is legal."""
    # A rule may rely on those before it.
    return len(list(dropwhile(lambda rule: rule.holds(config), space.constraints)))
