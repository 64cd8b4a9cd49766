"""Rows of B that are asked for while a register tile multiplies earlier ones.

A tile reads B from the second-level cache or from beyond, row by row. What the hardware fetches
ahead of that leaves it waiting on some CPUs: on an Intel Emerald Rapids asking for rows in time was
1.04 to 1.1 times as fast. A schedule marks the loop whose body is one row of B times a column of A,
and :func:`with_prefetches` puts a call of ``at_fetch``, in LLVM's language, into it for each cache
line of the row.
"""

from __future__ import annotations

from typing import Any

from autotune.kernels.cpu.linked import matched_part

#: The annotation of a loop over k; its value is how many rows ahead.
MARK = "autotune_prefetch"
#: fp32 numbers in a cache line, and the bytes of one.
_LINE, _BYTES = 16, 4


def with_prefetches(body: Any) -> Any:
    """Return a scheduled statement whose marked loops ask for later rows of B.

    In a marked loop is a nest of loops over a register tile, the last two over the vectors of a row
    and their lanes, with an update ``C = C + A * B`` in which the second last index of B is k.
    """
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def fetching(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        both = tirx.SeqStmt([_fetch(loop.body, int(loop.annotations[MARK])), loop.body])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, both)

    return structural_map(body, [(tirx.For, fetching)])


def _fetch(tile: Any, ahead: int) -> Any:
    """Return the block that asks for a row of B.

    Parameters
    ----------
    tile
        The loops over a register tile.
    ahead
        How many rows after the one that the tile multiplies.
    """
    from tvm import s_tir, tirx
    from tvm.script import tirx as T
    from tvm_ffi.structural import structural_map

    loops, inner = [], tile
    while isinstance(inner, tirx.For):
        loops.append(inner)
        inner = inner.body
    vectors, lanes = loops[-2:]
    columns = int(vectors.extent) * int(lanes.extent)
    # C = C + A * B
    b = inner.block.body.value.b.b
    bound = [
        (axis.var, value)
        for axis, value in zip(inner.block.iter_vars, inner.iter_values, strict=True)
    ]

    def first(variable: Any) -> Any:
        """Return a variable's value at the first element of the tile."""
        if any(variable.same_as(loop.loop_var) for loop in loops):
            return tirx.const(0, variable.ty.dtype)
        for axis, value in bound:
            if variable.same_as(axis):
                return structural_map(value, [(tirx.Var, first)])
        return variable

    indices = [structural_map(index, [(tirx.Var, first)]) for index in b.indices]
    row = matched_part(b.source, indices, (1, columns), "row")
    distance = row.buffer.strides[0].astype("int64") * (_BYTES * ahead)
    calls = [
        tirx.Evaluate(
            tirx.call_extern("int32", "at_fetch", T.address_of(row.buffer[0, column]), distance)
        )
        for column in range(0, columns, _LINE)
    ]
    statement = calls[0] if len(calls) == 1 else tirx.SeqStmt(calls)
    block = s_tir.SBlock([], [row.source], [], "fetch_b", statement, match_buffers=[row])
    # Under the condition of the tile itself: one of its own would keep LLVM from taking that out of
    # the loop, and the sums in registers.
    return s_tir.SBlockRealize([], structural_map(inner.predicate, [(tirx.Var, first)]), block)
