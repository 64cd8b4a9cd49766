"""Choosing block sizes out of the values that a knob has."""

from __future__ import annotations

from collections.abc import Sequence

#: How much more than in the most even split the busiest thread may have to do.
_UNEVEN = 1.1


def block_values(tiles: int, most: int) -> tuple[int, ...]:
    """Return the powers of two up to a limit that a block of so many tiles can have."""
    powers = (1 << i for i in range(most.bit_length()))
    return tuple(b for b in powers if b == 1 or b < 2 * tiles)


def round_up(value: int, multiple: int) -> int:
    """Return ``value`` rounded up to a multiple."""
    return -(-value // multiple) * multiple


def at_most(values: Sequence[int], limit: int) -> int:
    """Return the largest value up to a limit, or the least of all."""
    return max((v for v in values if v <= limit), default=min(values))


def even_block(values: Sequence[int], tiles: int, limit: int, threads: int) -> int:
    """Return the largest block of tiles up to a limit that keeps all threads about equally busy.

    Parameters
    ----------
    values
        Tiles that a block may have.
    tiles, threads
        What is shared, in runs of consecutive blocks, and by how many.
    """

    def busiest(block: int) -> int:
        blocks = -(-tiles // block)
        return min(tiles, -(-blocks // threads) * block)

    limit = min(limit, 2 * tiles - 1)
    fitting = [b for b in values if b <= limit] or [min(values)]
    even = min(map(busiest, fitting))
    return max(b for b in fitting if busiest(b) <= _UNEVEN * even)
