"""Constant weights of a module, packed while it is compiled instead of in every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PackedWeight:
    """Another form of a scheduled function, whose weights come packed.

    Parameters
    ----------
    func
        The function; it differs from the original in the shape of one parameter.
    parameter
        Position of that parameter.
    block
        Output channels that lie side by side.
    """

    func: Any
    parameter: int
    block: int

    def pack(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return weights of shape (channels, ...) in the shape that :attr:`func` takes.

        Axes of extent 1 are dropped; the result is (channels / block, ..., block).
        """
        inner = [extent for extent in weight.shape[1:] if extent > 1]
        blocks = weight.reshape(-1, self.block, *inner)
        return np.ascontiguousarray(np.moveaxis(blocks, 1, -1))


def pack_constants(module: Any, packed: Mapping[str, PackedWeight]) -> Any:
    """Return a module in which the weights that functions of ``packed`` take are packed constants.

    Parameters
    ----------
    module
        Relax functions with ``call_tir``, and the scheduled ``PrimFunc`` they call.
    packed
        By the name of the function. One whose weights are not constant in all its calls stays.
    """
    import tvm_ffi
    from tvm import IRModule, ir, tirx

    models = {
        name: func for name, func in module.functions_items() if not isinstance(func, tirx.PrimFunc)
    }
    usable = _always_constant(models.values(), packed)
    names = {name: _typed_name(name, packed[name].func) for name in usable}
    constants: dict[tuple[Any, int], Any] = {}

    def call(node: Any) -> Any:
        callee = _callee(node)
        if callee not in usable:
            return node
        form, arguments = packed[callee], list(node.args[1].fields)
        constant = arguments[form.parameter]
        key = (constant, form.block)
        if key not in constants:
            constants[key] = _constant(form.pack(constant.value.numpy()))
        arguments[form.parameter] = constants[key]
        operands = [names[callee], _tuple(arguments), *node.args[2:]]
        return type(node)(node.op, operands, node.attrs, node.ty_args, node.span, ret_ty=node.ty)

    functions = {}
    for name, func in module.functions_items():
        if name in models:
            functions[name] = tvm_ffi.structural_map(func, (ir.Call, call)) if usable else func
        elif name.name_hint in usable:
            functions[names[name.name_hint]] = packed[name.name_hint].func
        else:
            functions[name] = func
    return IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def _typed_name(name: str, func: Any) -> Any:
    """Return a global variable for a function, with its type, which Relax checks calls against."""
    from tvm import ir
    from tvm.relax.expr import _update_type

    variable = ir.GlobalVar(name)
    _update_type(variable, func.ty)
    return variable


def _callee(node: Any) -> str:
    """Return the name of the function that a ``call_tir`` calls, or nothing."""
    is_call = getattr(node.op, "name", "") == "relax.call_tir"
    return str(node.args[0].name_hint) if is_call else ""


def _always_constant(models: Any, packed: Mapping[str, PackedWeight]) -> set[str]:
    """Return the functions whose every use is a ``call_tir`` with constant weights."""
    from tvm import ir

    from autotune.models.defaults_ir import collect

    uses: dict[str, int] = {}
    constant: dict[str, int] = {}
    for model in models:
        for variable in collect(model, ir.GlobalVar):
            uses[variable.name_hint] = uses.get(variable.name_hint, 0) + 1
        for node in collect(model, ir.Call):
            form = packed.get(_callee(node))
            if form is not None and _is_constant(node.args[1].fields[form.parameter]):
                constant[_callee(node)] = constant.get(_callee(node), 0) + 1
    return {name for name in packed if uses.get(name) and uses.get(name) == constant.get(name)}


def _is_constant(expression: Any) -> bool:
    from tvm.ir.expr import GenericConst

    return isinstance(expression, GenericConst)


def _constant(array: NDArray[Any]) -> Any:
    from tvm import relax

    return relax.const(array, str(array.dtype))


def _tuple(fields: list[Any]) -> Any:
    from tvm import relax

    return relax.Tuple(fields)
