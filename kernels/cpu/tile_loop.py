"""The loop over k of a register tile in a scheduled function, found again to be changed.

In it is a nest of loops: perhaps over a few more of k, then over the rows of the tile, the vectors
of a row and their lanes, around an update ``C = C + A * B``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def changed_loops(body: Any, mark: str, change: Callable[[Any], Any]) -> Any:
    """Return a statement with a change of each loop that has an annotation."""
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def changed(loop: Any) -> Any:
        return change(loop) if mark in loop.annotations else loop

    return structural_map(body, [(tirx.For, changed)])


def unmarked(loop: Any, mark: str, body: Any) -> Any:
    """Return a loop over another body, without an annotation."""
    from tvm import tirx

    others = {key: value for key, value in loop.annotations.items() if key != mark}
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, others
    )


def nest(loop: Any) -> tuple[list[Any], Any]:
    """Return loops, each the only statement in the one before, and what is in the last."""
    from tvm import tirx

    loops = []
    while isinstance(loop, tirx.For):
        loops.append(loop)
        loop = loop.body
    return loops, loop


def replaced(value: Any, pairs: Iterable[tuple[Any, Any]]) -> Any:
    """Return an expression or statement with other expressions in the stead of variables."""
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    known = list(pairs)

    def other(variable: Any) -> Any:
        return next((new for old, new in known if variable.same_as(old)), variable)

    return structural_map(value, [(tirx.Var, other)])


def at(value: Any, update: Any, places: Iterable[tuple[Any, Any]]) -> Any:
    """Return what an expression or statement of an update is where loops are at given places.

    Parameters
    ----------
    update
        Its realization: its axes take their values from the loops.
    places
        Variables of loops, and what is put in their stead.
    """
    pairs = list(places)
    axes = zip(update.block.iter_vars, update.iter_values, strict=True)
    return replaced(value, [*pairs, *((axis.var, replaced(x, pairs)) for axis, x in axes)])


def firsts(loops: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return places for :func:`at`: the first step of each loop."""
    from tvm import tirx

    return [(loop.loop_var, tirx.const(0, loop.loop_var.ty.dtype)) for loop in loops]


def condition_outside(loop: Any) -> Any:
    """Return a loop under the condition that its tile is one of the matrix, if it has one.

    Inside the loop that would keep LLVM from holding the sums in registers. It stays there where it
    depends on k: where steps that are written out do not divide k.
    """
    from tvm import s_tir, tirx
    from tvm.tirx.analysis import undefined_vars
    from tvm_ffi.structural import structural_map

    loops, update = nest(loop)
    used = undefined_vars(update.predicate)
    if not used or any(each.loop_var.same_as(v) for each in loops for v in used):
        return loop

    def always(realize: Any) -> Any:
        return s_tir.SBlockRealize(realize.iter_values, True, realize.block)

    return tirx.IfThenElse(
        update.predicate, structural_map(loop, [(s_tir.SBlockRealize, always)]), None
    )
