"""Compare search methods with each other on the same measurements."""

from __future__ import annotations

from autotune.compare.campaign import Campaign, run_replay
from autotune.compare.entrants import Entrant, parse_entrants
from autotune.compare.run import Protocol, Trace, run_search
from autotune.compare.summary import Summary, summarise
from autotune.compare.warm import WarmStart

__all__ = [
    "Campaign",
    "Entrant",
    "Protocol",
    "Summary",
    "Trace",
    "WarmStart",
    "parse_entrants",
    "run_replay",
    "run_search",
    "summarise",
]
