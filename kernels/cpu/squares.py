"""Copies that transpose, in squares of 8 x 8 elements that turn in vector registers.

TVM writes such a copy element by element, or loads vectors and takes them apart. Here a schedule
marks the loop over the squares of a row of them, and :func:`with_squares` puts a call into it: of
``at_transpose8``, in LLVM's language, that loads eight vectors, shuffles them and stores eight.
"""

from __future__ import annotations

from typing import Any

from autotune.kernels.cpu.linked import matched_part

#: Rows and columns of a square. With 32 registers of 16 lanes, squares of 16 x 16 were .98 to 1.03
#: times as fast on a Zen 4; with 16 registers they have no room.
SIDE = 8
#: The annotation of a loop over squares along the source; its value is their elements in all. Where
#: squares do not divide them, the last begins earlier.
MARK = "autotune_squares"
_BYTES = 4


def with_squares(body: Any) -> Any:
    """Return a scheduled statement whose marked loops call for each square.

    In the marked loop is one over eight rows of the source, and in that one over eight columns.
    They copy fp32 from one buffer, contiguous in its last index, to another in which the same holds
    of the other loop.
    """
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def squares(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        squared = _square(loop.body, loop.loop_var, int(loop.annotations[MARK]))
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, squared)

    return structural_map(body, [(tirx.For, squares)])


def _square(rows: Any, number: Any, extent: int) -> Any:
    """Return the block that copies a whole square, in place of the loops over its elements.

    Parameters
    ----------
    rows
        The loop over its rows.
    number
        Of the square, along the source.
    extent
        Elements of the source there.
    """
    from tvm import s_tir, tirx
    from tvm.script import tirx as T
    from tvm_ffi.structural import structural_map

    columns = rows.body
    element = columns.body

    def first(value: Any) -> Any:
        """Return what an expression is at the square's first element."""

        def start(variable: Any) -> Any:
            if variable.same_as(rows.loop_var):
                return tirx.const(0, variable.ty.dtype)
            if not variable.same_as(columns.loop_var):
                return variable
            if extent % SIDE == 0:
                return tirx.const(0, variable.ty.dtype)
            return tirx.min(0, extent - SIDE - SIDE * number)

        return structural_map(value, [(tirx.Var, start)])

    store = element.block.body
    source = matched_part(store.value.source, store.value.indices, (SIDE, SIDE), "square")
    target = matched_part(store.buffer, store.indices, (SIDE, SIDE), "turned")
    arguments = [
        argument
        for part in (source, target)
        for argument in (
            T.address_of(part.buffer[0, 0]),
            part.buffer.strides[0].astype("int64") * _BYTES,
        )
    ]
    block = s_tir.SBlock(
        element.block.iter_vars,
        [source.source],
        [target.source],
        element.block.name_hint,
        tirx.Evaluate(tirx.call_extern("int32", "at_transpose8", *arguments)),
        match_buffers=[source, target],
    )
    values = [first(value) for value in element.iter_values]
    return s_tir.SBlockRealize(values, first(element.predicate), block)
