"""Copies that transpose, in squares of 8 x 8 elements that turn in vector registers.

TVM writes such a copy element by element, or loads vectors and takes them apart. Here a schedule
marks the loop over the squares of a row of them, and :func:`with_squares` puts a call into it: of a
function in LLVM's language that loads eight vectors, shuffles them and stores eight.
"""

from __future__ import annotations

from typing import Any

from autotune.kernels.cpu.llvm_text import transpose8

#: Rows and columns of a square. With 32 registers of 16 lanes, squares of 16 x 16 were .98 to 1.03
#: times as fast on a Zen 4; with 16 registers they have no room.
SIDE = 8
#: The annotation of a loop over squares along the source; its value is their elements in all. Where
#: squares do not divide them, the last begins earlier.
MARK = "autotune_squares"
_BYTES = 4


def with_squares(func: Any) -> Any:
    """Return a scheduled function whose marked loops call for each square.

    In the marked loop is one over eight rows of the source, and in that one over eight columns.
    They copy fp32 from one buffer, contiguous in its last index, to another in which the same holds
    of the other loop.
    """
    import tvm
    from tvm import s_tir, tirx
    from tvm_ffi.structural import structural_map

    found = []

    def squares(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        found.append(loop)
        body = _square(loop.body, loop.loop_var, int(loop.annotations[MARK]))
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    body = structural_map(func.body, [(tirx.For, squares)])
    if not found:
        return func
    root = body.block
    text = tvm.ir.StringImm(transpose8())
    linked = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", text, root.body)
    block = s_tir.SBlock([], [], [], root.name_hint, linked, alloc_buffers=root.alloc_buffers)
    whole = s_tir.SBlockRealize([], True, block)
    return tirx.PrimFunc(func.params, whole, func.ret_type, func.attrs)


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
    source = _part(store.value.source, store.value.indices, "square")
    target = _part(store.buffer, store.indices, "turned")
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


def _part(buffer: Any, indices: Any, name: str) -> Any:
    """Return a square of a buffer of two or more dimensions as a buffer of its own.

    Its first index is the second last of the buffer.
    """
    import tvm
    from tvm import s_tir, tirx

    extents = [1] * (len(indices) - 2) + [SIDE, SIDE]
    spans = [
        tvm.ir.Range.from_min_extent(index, extent)
        for index, extent in zip(indices, extents, strict=True)
    ]
    stride = tirx.Var(f"{name}_stride", "int32")
    # Its address is all that is used, and an argument may start anywhere (see kernels.alignment).
    part = tirx.decl_buffer(
        (SIDE, SIDE), buffer.dtype, name, strides=[stride, 1], data_alignment=1, offset_factor=1
    )
    return s_tir.MatchBufferRegion(part, tirx.BufferRegion(buffer, spans))
