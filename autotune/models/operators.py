"""What one Relax operator, or one ``call_tir``, computes: the contraction of its loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotune.models.contractions import Contraction, NotAContraction, contraction_of
from autotune.models.expressions import operator_name

#: Operators that are nothing but products: one that cannot be read must not be passed over.
PRODUCTS = ("relax.matmul", "relax.einsum", "relax.nn.conv2d")


@dataclass(frozen=True)
class _Loops:
    """The contraction of an operator; None if it has no product, a text if it is not one."""

    contraction: Contraction | str | None


class OperatorReader:
    """Reads operators by the loops that TVM makes of them, each kind of call once.

    Parameters
    ----------
    module
        Where the functions of ``call_tir`` are; None if there are none.
    """

    def __init__(self, module: Any = None) -> None:
        self._module = module
        self._known: dict[Any, _Loops] = {}

    def contraction(self, value: Any) -> Contraction | None:
        """Return what a value computes, with Relax expressions as sources; None if no product.

        Raises
        ------
        NotAContraction
            If there is a matrix product that is not one of whole axes.
        """
        name = operator_name(value)
        if not name:
            return None
        if name == "relax.call_tir":
            func, tensors = self._called(value)
            loops = self._read(func, func)
        else:
            tensors = list(_tensors(value))
            loops = self._operator(value, name, tensors)
        if isinstance(loops.contraction, str):
            if name.startswith("relax.nn.conv"):
                raise NotAContraction("a convolution whose windows overlap, or of groups")
            raise NotAContraction(loops.contraction)
        return None if loops.contraction is None else loops.contraction.of(tensors)

    def _called(self, value: Any) -> tuple[Any, list[Any]]:
        func = None if self._module is None else self._module[value.args[0]]
        return func, list(value.args[1].fields)

    def _read(self, key: Any, func: Any) -> _Loops:
        if key not in self._known:
            self._known[key] = _loops_of(func)
        return self._known[key]

    def _operator(self, value: Any, name: str, tensors: Sequence[Any]) -> _Loops:
        from tvm_ffi import StructuralKey

        alone = _alone(value, tensors)
        if alone is None:
            return _Loops(_unreadable(name))
        key = StructuralKey(alone)
        if key not in self._known:
            func = _legalised(alone)
            self._known[key] = _Loops(_unreadable(name)) if func is None else _loops_of(func)
        return self._known[key]


def _loops_of(func: Any) -> _Loops:
    from tvm import tirx

    if not isinstance(func, tirx.PrimFunc):
        return _Loops(None)
    try:
        return _Loops(contraction_of(func))
    except NotAContraction as error:
        return _Loops(str(error))


def _unreadable(name: str) -> str | None:
    return f"the loops of {name} cannot be read" if name in PRODUCTS else None


def _tensors(value: Any) -> list[Any]:
    """Return the tensors that an operator reads, those of a tuple one by one."""
    from tvm import relax

    found = []
    for argument in value.args:
        fields = argument.fields if isinstance(argument, relax.Tuple) else [argument]
        found += [field for field in fields if isinstance(field.ty, relax.TensorType)]
    return found


def _alone(value: Any, tensors: Sequence[Any]) -> Any:
    """Return a function of one operator, its operands as parameters; None if one has no shape."""
    from tvm import relax

    if any(tensor.ty.shape is None for tensor in tensors):
        return None
    variables = [
        relax.Var(f"x{place}", relax.TensorType(shape, tensor.ty.dtype))
        for place, (tensor, shape) in enumerate(zip(tensors, _shapes(tensors), strict=True))
    ]
    rest = iter(variables)

    def parameter(argument: Any) -> Any:
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([parameter(field) for field in argument.fields])
        return next(rest) if isinstance(argument.ty, relax.TensorType) else argument

    call = relax.Call(value.op, [parameter(a) for a in value.args], value.attrs, value.ty_args)
    builder = relax.BlockBuilder()
    try:
        with builder.function("main", variables):
            with builder.dataflow():
                result = builder.emit_output(call)
            builder.emit_func_output(result)
        return builder.get()["main"]
    except Exception:  # what its shape depends on is not among the operands
        return None


def _shapes(tensors: Sequence[Any]) -> list[list[Any]]:
    """Return the shapes with one variable for each extent that is not known."""
    from tvm import tirx
    from tvm_ffi import StructuralKey

    names: dict[Any, Any] = {}

    def extent(value: Any) -> Any:
        if isinstance(value, tirx.IntImm):
            return value
        return names.setdefault(StructuralKey(value), tirx.Var(f"n{len(names)}", "int64"))

    return [[extent(value) for value in tensor.ty.shape] for tensor in tensors]


def _legalised(function: Any) -> Any:
    """Return the loops that TVM makes of a function of one operator; None if it makes none."""
    import tvm
    from tvm import relax, tirx

    try:
        module = relax.transform.LegalizeOps()(tvm.IRModule({"main": function}))
    except Exception:  # some operators are only lowered by later passes
        return None
    functions = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    calls = [binding.value for block in module["main"].body.blocks for binding in block.bindings]
    plain = len(functions) == 1 and len(calls) == 1
    if not plain or operator_name(calls[0]) != "relax.call_tir":
        return None
    # Arguments in the order of the operands.
    passed = list(calls[0].args[1].fields)
    parameters = list(module["main"].params)
    same = len(passed) == len(parameters) and all(
        a.same_as(p) for a, p in zip(passed, parameters, strict=True)
    )
    return functions[0] if same else None
