# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but the kernel.
"""The kernel of :class:`autotune.kernels.cuda.turn.Turn`. Importing this imports TVM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.inline import inline
from autotune.kernels.cuda.split_kernel import taking
from autotune.kernels.cuda.turn import THREADS, WORDS

if TYPE_CHECKING:
    from autotune.kernels.cuda.turn import Turn

_WARPS = THREADS // 32


def module_of(main: Any, turns: Iterable[Turn]) -> Any:
    """Return the module of a kernel and of the copies that come before it."""
    import tvm

    copies = {f"turn_{t.name}": turn_prim_func(t) for t in turns}
    return tvm.IRModule({"main": main, **copies})


def turn_prim_func(t: Turn) -> Any:
    """Return ``turn(a, a_turned)``, or the same of ``b``.

    A thread transposes squares of ``width x width`` elements in registers and puts their words into
    shared memory, from where warps write whole lines. Word ``q`` of line ``j`` of a tile lies at
    place ``q ^ (j // width)`` of the line, so that neither the words of a column, as they are
    stored, nor those of a line, as they are read, share a bank.
    """
    dtype = {1: "int8", 2: "int16", 4: "int32"}[t.size]
    width, lines = t.width, t.lines
    source_lines, length = t.source_shape

    @inline
    def read(to, at, source, matrix, line, element):
        """One word of the operand; zeros where it has ended."""
        if t.whole_words:
            if (line < source_lines) & (element < length):
                for x in T.vectorized(width):
                    to[at + x] = source[matrix * source_lines + line, element + x]
            else:
                for x in T.vectorized(width):
                    to[at + x] = T.Cast(dtype, 0)
        else:
            for x in T.unroll(width):
                if (line < source_lines) & (element + x < length):
                    to[at + x] = source[matrix * source_lines + line, element + x]
                else:
                    to[at + x] = T.Cast(dtype, 0)

    @inline
    def write(target, matrix, row, element, word, at):
        """One word of the copy, whose lines end with one."""
        if (row < t.rows) & (element < t.pitch):
            for x in T.vectorized(width):
                target[matrix * t.rows + row, element + x] = word[at + x]

    @inline
    def transpose(source, target, matrix, row0, start, warp, lane, shared, square, word):
        for i in T.unroll(WORDS // _WARPS):
            q: T.let = i * _WARPS + warp
            for e in T.unroll(width):
                read(square, e * width, source, matrix, start + q * width + e, row0 + lane * width)
            for f in T.unroll(width):
                for e in T.unroll(width):
                    word[e] = square[e * width + f]
                for e in T.vectorized(width):
                    shared[((lane * width + f) * WORDS + (q ^ lane)) * width + e] = word[e]
        T.cuda.cta_sync()
        for i in T.unroll(lines // _WARPS):
            line: T.let = i * _WARPS + warp
            for e in T.vectorized(width):
                word[e] = shared[(line * WORDS + (lane ^ (line // width))) * width + e]
            write(target, matrix, row0 + line, start + lane * width, word, 0)

    @inline
    def body(source, target):
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
        block = T.cta_id([t.batch * t.tiles])
        tx = T.thread_id([THREADS])
        if t.across:
            pool = T.SMEMPool()
            shared = pool.alloc((lines * WORDS * width,), dtype, align=128)
            pool.commit()
            square = T.alloc_buffer((width * width,), dtype, scope="local")
        word = T.alloc_buffer((width,), dtype, scope="local")
        matrix: T.let = block // t.tiles
        row0: T.let = block % t.tiles // t.tiles_along * lines
        start: T.let = block % t.tiles % t.tiles_along * lines
        warp: T.let = tx // 32
        lane: T.let = tx % 32
        if t.across:
            transpose(source, target, matrix, row0, start, warp, lane, shared, square, word)
        else:
            for i in T.unroll(lines // _WARPS):
                line: T.let = i * _WARPS + warp
                read(word, 0, source, matrix, row0 + line, start + lane * width)
                write(target, matrix, row0 + line, start + lane * width, word, 0)

    # Rows are counted through the batch, so that operands are matrices here.
    source_shape = (t.batch * source_lines, length)
    target_shape = (t.batch * t.rows, t.pitch)

    @T.prim_func
    def turn(
        a_ptr: T.handle, a_turned_ptr: T.handle, b_ptr: T.handle, b_turned_ptr: T.handle
    ):  # fmt: skip
        a = T.match_buffer(a_ptr, source_shape, dtype, align=16)
        a_turned = T.match_buffer(a_turned_ptr, target_shape, dtype, align=16)
        b = T.match_buffer(b_ptr, source_shape, dtype, align=16)
        b_turned = T.match_buffer(b_turned_ptr, target_shape, dtype, align=16)
        body(a if t.name == "a" else b, a_turned if t.name == "a" else b_turned)

    name = f"turn_{t.name}"
    return taking(turn, {t.name, f"{t.name}_turned"}).with_attr("global_symbol", name)
