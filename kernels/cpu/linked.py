"""Functions with a piece of LLVM code linked in, which their statements can call, and what they
hand to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autotune.kernels.compiling import WRITTEN_OUT


def linked_function(
    name: str,
    arguments: Mapping[str, tuple[tuple[int, ...], str]],
    text: str,
    body: Callable[..., None],
) -> Any:
    """Return a PrimFunc.

    Parameters
    ----------
    name
        Its symbol.
    arguments
        Shape and dtype of each buffer, by name, in order.
    text
        LLVM code; may be empty.
    body
        Emits the statements; called with the buffers, in the same order.
    """
    import tvm
    from tvm import tirx
    from tvm.script import tirx as T
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder.ir import prim_func

    with IRBuilder() as builder, prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, WRITTEN_OUT: True})
        buffers = [T.arg(key, T.buffer(*argument)) for key, argument in arguments.items()]
        imported = tvm.ir.StringImm(text or ";")
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", imported):
            body(*buffers)
    return builder.get()


def with_text(func: Any, body: Any, text: str) -> Any:
    """Return a scheduled function with another body, and LLVM code linked into it.

    Parameters
    ----------
    func
        A PrimFunc whose body is its root block.
    body
        What takes the place of the statement in the root block.
    """
    import tvm
    from tvm import s_tir, tirx

    root = func.body.block
    imported = tvm.ir.StringImm(text)
    linked = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", imported, body)
    block = s_tir.SBlock([], [], [], root.name_hint, linked, alloc_buffers=root.alloc_buffers)
    whole = s_tir.SBlockRealize([], True, block)
    return tirx.PrimFunc(func.params, whole, func.ret_type, func.attrs)


def matched_part(buffer: Any, indices: Any, extents: tuple[int, int], name: str) -> Any:
    """Return a part of a buffer of two or more dimensions as a matrix of its own, for a block.

    Parameters
    ----------
    indices
        Its first element.
    extents
        Along the second last index of the buffer, and along the last.
    """
    import tvm
    from tvm import s_tir, tirx

    spans = [
        tvm.ir.Range.from_min_extent(index, extent)
        for index, extent in zip(indices, (*[1] * (len(indices) - 2), *extents), strict=True)
    ]
    stride = tirx.Var(f"{name}_stride", "int32")
    # Its address is all that is used, and an argument may start anywhere (see kernels.alignment).
    part = tirx.decl_buffer(
        extents, buffer.dtype, name, strides=[stride, 1], data_alignment=1, offset_factor=1
    )
    return s_tir.MatchBufferRegion(part, tirx.BufferRegion(buffer, spans))
