"""Rows of B that are asked for while a register tile multiplies earlier ones.

A tile reads B from the second-level cache or from beyond, row by row. What the hardware fetches
ahead of that leaves it waiting on some CPUs; what asking for rows in time gained on an Intel stands
in :mod:`autotune.kernels.cpu.tile_intel`. A schedule marks the loop whose body is one row of B
times a column of A, and :func:`with_prefetches` puts a call of ``at_fetch``, in LLVM's language,
into it for each cache line of the row.
"""

from __future__ import annotations

from typing import Any

from autotune.kernels.cpu.lanes import LINE_WORDS
from autotune.kernels.cpu.linked import matched_part
from autotune.kernels.cpu.tile_loop import at, changed_loops, firsts, nest, unmarked

#: The annotation of a loop over k; its value is how many rows ahead.
MARK = "autotune_prefetch"
#: Bytes of an fp32 number.
_BYTES = 4


def with_prefetches(body: Any) -> Any:
    """Return a scheduled statement whose marked loops ask for later rows of B.

    They are over k, around a register tile in whose update the second last index of B is k.
    """
    return changed_loops(body, MARK, _fetching)


def _fetching(loop: Any) -> Any:
    """Return a marked loop with calls."""
    from tvm import tirx

    loops, update = nest(loop)
    *over_k, _, _, _ = loops
    fetch = _fetch(update, loops, int(loop.annotations[MARK]))
    body: Any = tirx.SeqStmt([fetch, over_k[-1].body])
    for each in reversed(over_k):
        body = unmarked(each, MARK, body)
    return body


def _fetch(update: Any, loops: list[Any], ahead: int) -> Any:
    """Return the block that asks for a row of B.

    Parameters
    ----------
    update
        Of an element of a register tile.
    loops
        Around it, of which the last three are over the tile.
    ahead
        How many rows after the one that the tile multiplies.
    """
    from tvm import s_tir, tirx
    from tvm.script import tirx as T

    columns = int(loops[-2].extent) * int(loops[-1].extent)
    b = update.block.body.value.b.b  # C = C + A * B
    indices = [at(index, update, firsts(loops[-3:])) for index in b.indices]
    row = matched_part(b.source, indices, (1, columns), "row")
    distance = row.buffer.strides[0].astype("int64") * (_BYTES * ahead)
    calls = [
        tirx.Evaluate(
            tirx.call_extern("int32", "at_fetch", T.address_of(row.buffer[0, column]), distance)
        )
        for column in range(0, columns, LINE_WORDS)
    ]
    statement = calls[0] if len(calls) == 1 else tirx.SeqStmt(calls)
    block = s_tir.SBlock([], [row.source], [], "fetch_b", statement, match_buffers=[row])
    return s_tir.SBlockRealize([], True, block)
