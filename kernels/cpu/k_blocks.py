"""Blocks of k: where the sums of a register tile begin, and where they end.

Between one block of k and the next the sums wait in memory. TVM's schedules would also have them
begin there, as zeros that are written before all, and end there, to be copied out after all. Here
they begin in registers, in the first block of k, and the last one writes the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from autotune.kernels.cpu.tile_loop import at, changed_loops, firsts, nest, unmarked

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
    over_k, tile = loops[:-3], loops[-3:]
    k, axis = update.iter_values[2], update.block.iter_vars[2]
    start = at(k, update, firsts(loops))
    last = int(axis.dom.extent) - math.prod(int(each.extent) for each in over_k)

    def zeros(places: list[tuple[Any, Any]]) -> Any:
        block = update.block
        return _opaque("zeros", block.init, [], block.writes, update.predicate, update, places)

    def results(places: list[tuple[Any, Any]]) -> Any:
        inside = update.predicate
        for axis, own, value in zip(
            result.iter_vars, update.block.iter_vars, update.iter_values, strict=False
        ):
            if int(axis.dom.extent) < int(own.dom.extent):  # columns that are cropped
                inside = tirx.And(inside, value < axis.dom.extent)
        here = zip((axis.var for axis in result.iter_vars), update.iter_values, strict=False)
        found = [(axis, at(value, update, places)) for axis, value in here]
        return _opaque(
            "results", result.body, result.reads, result.writes, inside, update, [*places, *found]
        )

    first_of_k = [*firsts(over_k)]
    return tirx.SeqStmt(
        [
            tirx.IfThenElse(start == 0, _elements(tile, first_of_k, True, zeros), None),
            unmarked(loop, MARK, _updates(loop.body)),
            tirx.IfThenElse(start == last, _elements(tile, first_of_k, vectors, results), None),
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


def _elements(
    tile: list[Any],
    places: list[tuple[Any, Any]],
    vectors: bool,
    statement: Callable[[list[tuple[Any, Any]]], Any],
) -> Any:
    """Return loops like those of a tile around a statement.

    Parameters
    ----------
    places
        What other loops are at, for :func:`at`.
    vectors
        Whether the lanes of a vector are one.
    statement
        Makes it of the places.
    """
    from tvm import tirx

    variables = [tirx.Var(loop.loop_var.name, loop.loop_var.ty.dtype) for loop in tile]
    pairs = zip((loop.loop_var for loop in tile), variables, strict=True)
    body = statement([*places, *pairs])
    serial = tirx.ForKind.SERIAL
    kinds = [serial, serial, tirx.ForKind.VECTORIZED if vectors else serial]
    for loop, variable, kind in reversed(list(zip(tile, variables, kinds, strict=True))):
        body = tirx.For(variable, loop.min, loop.extent, kind, body)
    return body


def _opaque(
    name: str,
    body: Any,
    reads: Any,
    writes: Any,
    condition: Any,
    update: Any,
    places: list[tuple[Any, Any]],
) -> Any:
    """Return a block without axes that does at given places what an update's block does."""
    import tvm
    from tvm import s_tir, tirx

    def here(value: Any) -> Any:
        return at(value, update, places)

    def regions(old: Any) -> list[Any]:
        return [
            tirx.BufferRegion(
                each.source,
                [tvm.ir.Range.from_min_extent(here(s.min), s.extent) for s in each.region],
            )
            for each in old
        ]

    block = s_tir.SBlock([], regions(reads), regions(writes), name, here(body))
    return s_tir.SBlockRealize([], here(condition), block)
