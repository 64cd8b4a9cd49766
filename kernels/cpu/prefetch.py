"""Rows of B that are asked for while a register tile multiplies earlier ones.

A tile reads B from the second-level cache or from beyond, row by row. What the hardware fetches
ahead of that leaves it waiting on some CPUs; what asking for rows in time gained on an Intel stands
in :mod:`autotune.kernels.cpu.tile_intel`. A schedule marks the loop whose body is one row of B
times a column of A, and :func:`with_prefetches` puts a call of ``at_fetch``, in LLVM's language,
into it for each cache line of the row.
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

    In a marked loop, over k, is a nest of loops: perhaps over a few more of k, then over the rows
    of a register tile, the vectors of a row and their lanes, around an update ``C = C + A * B`` in
    which the second last index of B is k.
    """
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def fetching(loop: Any) -> Any:
        return _fetching(loop) if MARK in loop.annotations else loop

    return structural_map(body, [(tirx.For, fetching)])


def _fetching(loop: Any) -> Any:
    """Return a marked loop with calls, under the condition of its tile if there is one.

    Inside the loop that would keep LLVM from holding the sums in registers. It stays there where it
    depends on k: where steps that are written out do not divide k.
    """
    from tvm import s_tir, tirx
    from tvm.tirx.analysis import undefined_vars
    from tvm_ffi.structural import structural_map

    loops, update = _nest(loop)
    ahead = int(loop.annotations[MARK])
    *over_k, _, _, _ = loops
    tile, condition = over_k[-1].body, update.predicate
    used = undefined_vars(condition)
    outside = not any(each.loop_var.same_as(variable) for each in over_k for variable in used)

    def always(realize: Any) -> Any:
        return s_tir.SBlockRealize(realize.iter_values, True, realize.block)

    if outside:
        tile = structural_map(tile, [(s_tir.SBlockRealize, always)])
    body = tirx.SeqStmt([_fetch(update, loops, ahead), tile])
    for each in reversed(over_k):
        body = tirx.For(each.loop_var, each.min, each.extent, each.kind, body)
    return tirx.IfThenElse(condition, body, None) if outside else body


def _nest(loop: Any) -> tuple[list[Any], Any]:
    """Return loops, each the only statement in the one before, and what is in the last."""
    from tvm import tirx

    loops = []
    while isinstance(loop, tirx.For):
        loops.append(loop)
        loop = loop.body
    return loops, loop


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
    from tvm_ffi.structural import structural_map

    tile = [loop.loop_var for loop in loops[-3:]]
    columns = int(loops[-2].extent) * int(loops[-1].extent)
    axes = [axis.var for axis in update.block.iter_vars]

    def first(variable: Any) -> Any:
        """Return what a variable is at the first element of the tile."""
        if any(variable.same_as(each) for each in tile):
            return tirx.const(0, variable.ty.dtype)
        for axis, value in zip(axes, update.iter_values, strict=True):
            if variable.same_as(axis):
                return structural_map(value, [(tirx.Var, first)])
        return variable

    b = update.block.body.value.b.b  # C = C + A * B
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
    return s_tir.SBlockRealize([], True, block)
