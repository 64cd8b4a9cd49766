"""Functions with a piece of LLVM code linked in, which their statements can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


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
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        buffers = [T.arg(key, T.buffer(*argument)) for key, argument in arguments.items()]
        imported = tvm.ir.StringImm(text or ";")
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", imported):
            body(*buffers)
    return builder.get()
