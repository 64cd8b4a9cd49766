"""Blocks of k: where the sums of a register tile begin, and where they end.

Between one block of k and the next the sums wait in memory. TVM's schedules would also have them
begin there, as zeros that are written before all, and end there, to be copied out after all. Here
they begin in registers, in the first block of k, and the last one writes the result.
"""

from __future__ import annotations

import math
from typing import Any

from autotune.kernels.cpu.tile_loop import at, changed_loops, firsts, nest, replaced, unmarked

#: The annotation of the loop over a block of k.
MARK = "autotune_k_block"


def with_sums_in_tiles(body: Any, output: str, vectors: bool) -> Any:
    """Return a scheduled statement whose marked loops begin and end the sums of their tiles.

    Parameters
    ----------
    body
        In which the update still has its initialisation.
    output
        Name of the block that makes the result of the sums, in loops of its own.
    vectors
        Whether the lanes of a vector can be written at once: whether all are in the matrix.
    """
    taken: list[Any] = []
    rest = _without(body, output, taken)
    (result,) = taken
    return changed_loops(rest, MARK, lambda loop: _whole(loop, result, vectors))


def _without(body: Any, name: str, taken: list[Any]) -> Any:
    """Return a statement without the loops around a block, which is put into a list."""
    from tvm import s_tir, tirx
    from tvm_ffi.structural import structural_map

    def rest(sequence: Any) -> Any:
        kept = []
        for statement in sequence.seq:
            _, inside = nest(statement)
            if isinstance(inside, s_tir.SBlockRealize) and inside.block.name_hint == name:
                taken.append(inside.block)
            else:
                kept.append(statement)
        if len(kept) == len(sequence.seq):
            return sequence
        return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)

    return structural_map(body, [(tirx.SeqStmt, rest)])


def _whole(loop: Any, result: Any, vectors: bool) -> Any:
    """Return the statements of a tile: zeros if k begins, the loop, the result if k ends."""
    from tvm import tirx

    loops, update = nest(loop)
    over_k, axis = loops[:-3], update.block.iter_vars[2]
    start = at(update.iter_values[2], update, firsts(loops))
    last = int(axis.dom.extent) - math.prod(int(each.extent) for each in over_k)
    zeros = _elements(loops, update, _zeros(update), True)
    results = _elements(loops, update, _results(update, result), vectors)
    return tirx.SeqStmt(
        [
            tirx.IfThenElse(start == 0, zeros, None),
            unmarked(loop, MARK, _updates(loop.body)),
            tirx.IfThenElse(start == last, results, None),
        ]
    )


def _updates(body: Any) -> Any:
    """Return the loops of a tile without the initialisation of their block."""
    from tvm import s_tir
    from tvm_ffi.structural import structural_map

    def update(block: Any) -> Any:
        reads = [*block.writes, *block.reads]
        return s_tir.SBlock(block.iter_vars, reads, block.writes, block.name_hint, block.body)

    return structural_map(body, [(s_tir.SBlock, update)])


def _zeros(update: Any) -> Any:
    """Return the realization, like that of an update, of its initialisation."""
    from tvm import s_tir

    old = update.block
    block = s_tir.SBlock([], [], old.writes, "zeros", old.init)
    return s_tir.SBlockRealize([], update.predicate, block)


def _results(update: Any, result: Any) -> Any:
    """Return the realization, with the axes of an update, of the block that makes the result."""
    from tvm import s_tir, tirx

    axes = zip(result.iter_vars, update.block.iter_vars[:2], strict=True)
    condition, columns = update.predicate, result.iter_vars[1].dom.extent
    if int(columns) < int(update.block.iter_vars[1].dom.extent):  # they are cropped
        condition = tirx.And(condition, update.iter_values[1] < columns)
    block = s_tir.SBlock([], result.reads, result.writes, "results", result.body)
    own = replaced(block, [(axis.var, other.var) for axis, other in axes])
    return s_tir.SBlockRealize([], condition, own)


def _elements(loops: list[Any], update: Any, step: Any, vectors: bool) -> Any:
    """Return loops over the elements of a tile around something to be done with each, once.

    Parameters
    ----------
    loops
        Around an update of an element, of which the last three are over the tile.
    step
        Realization of a block without axes of its own.
    vectors
        Whether the lanes of a vector are one.
    """
    from tvm import tirx

    over_k, tile = loops[:-3], loops[-3:]
    variables = [tirx.Var(loop.loop_var.name, loop.loop_var.ty.dtype) for loop in tile]
    pairs = zip((loop.loop_var for loop in tile), variables, strict=True)
    body = at(step, update, [*firsts(over_k), *pairs])
    serial = tirx.ForKind.SERIAL
    kinds = [serial, serial, tirx.ForKind.VECTORIZED if vectors else serial]
    for loop, variable, kind in reversed(list(zip(tile, variables, kinds, strict=True))):
        body = tirx.For(variable, loop.min, loop.extent, kind, body)
    return body
