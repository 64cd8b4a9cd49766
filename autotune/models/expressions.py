"""Small questions to Relax expressions."""

from __future__ import annotations

from typing import Any


def operator_name(expr: Any) -> str:
    """Return the name of the Relax operator that an expression calls, "" for anything else."""
    from tvm import ir, relax

    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name)
    return ""


def extents(expr: Any) -> list[Any]:
    """Return the shape of an expression, known extents as integers."""
    return [int(x) if hasattr(x, "value") else x for x in expr.ty.shape]


def dtype_of(expr: Any) -> str:
    """Return the element type of an expression."""
    return str(expr.ty.dtype)


def is_constant(expr: Any) -> bool:
    """Whether an expression is a tensor constant."""
    from tvm import ir

    return isinstance(expr, ir.GenericConst)


def relax_functions(module: Any) -> dict[str, Any]:
    """Return the Relax functions of a module by name."""
    from tvm import relax

    return {
        variable.name_hint: function
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
