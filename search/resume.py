"""Rebuild the state of an interrupted search from its records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from autotune.errors import AutotuneError
from autotune.search.rounds import Rounds
from autotune.search.space import Config
from autotune.trial import Result

#: ``(asked_n, [(ask_index, tell_index, config, result), ...])``: what one call of ``ask(asked_n)``
#: returned, and its results. ``ask_index`` is the place in the list that ask returned,
#: ``tell_index`` any number that orders the tells. Results may be missing.
Batch: TypeAlias = tuple[int, Sequence[tuple[int, int, Config, Result]]]


def resume(rounds: Rounds, batches: Iterable[Batch]) -> list[Config]:
    """Replay recorded batches into a new searcher, through the rounds that will go on asking it.

    The searcher must have been made with the same space, seed, options, starts and history as the
    one that was interrupted, and not have been asked yet. Afterwards it stands where that one did.

    Returns
    -------
    list of Config
        The configs of the last batch that have no result yet, in the order of asking: measure and
        tell these first.

    Raises
    ------
    AutotuneError
        If a record is not what this searcher asks for at that place.
    """
    searcher = rounds.searcher
    missing: list[Config] = []
    for number, (asked, records) in enumerate(batches):
        batch = rounds.next(asked)
        for ask_index, _, config, _ in records:
            if not 0 <= ask_index < len(batch) or batch[ask_index] != config:
                raise AutotuneError(
                    f"the log does not match this search: batch {number}, place {ask_index} holds"
                    f" {config.key}, which {searcher.name!r} with seed {searcher.seed} does not ask"
                    " for there; resume with the same version, searcher, options and seed, or start"
                    " a new run"
                )
        for _, _, config, result in sorted(records, key=lambda record: record[1]):
            searcher.tell(config, result)
        missing = [config for config in batch if config not in searcher.results]
    return missing
