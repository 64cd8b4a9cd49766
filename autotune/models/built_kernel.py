"""A template's kernel as functions of a module, and calls of it in a Relax function.

On a CPU a kernel is one function of its operands and C. On a GPU it may need copies of operands
that come before it, and scratch memory; a model's memory is planned by TVM, so that all of these
become tensors of the model: copies are results of functions of their own, sums that wait are a
second result, and counters, which have to be zero before the first call, are a constant, which the
kernel leaves as it found it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cuda.split import COUNTERS
from autotune.models.expressions import dtype_of, extents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: TVM's fusion leaves such a function alone: kOpaque of its operator patterns.
OPAQUE = 8
#: Attribute of the functions of templates, which are lowered in their own way on a GPU.
FROM_TEMPLATE = "autotune.from_template"
_OUTPUT = "c"


@dataclass(frozen=True)
class BuiltKernel:
    """The functions of one config.

    Parameters
    ----------
    name
        Of the function that computes the product.
    function
        That function. It takes its operands, copies and counters first, then C and sums.
    pack
        The function that packs B, None if nothing does.
    copies
        Functions ``copy(operand, copy)`` that come before it.
    outputs
        How many parameters at the end of ``function`` it writes to.
    """

    name: str
    function: Any
    pack: Any = None
    copies: tuple[Any, ...] = ()
    outputs: int = 1

    @classmethod
    def of(cls, name: str, module: Any, packs: bool) -> BuiltKernel:
        """Return that of what a template's ``build`` returned."""
        functions = {variable.name_hint: f for variable, f in module.functions_items()}
        main, pack = functions.pop("main"), functions.pop("pack", None)
        pack = pack if packs else None
        copies = tuple(_named(functions[part], f"{name}_{part}") for part in sorted(functions))
        names = [p.name for p in main.params]
        if _OUTPUT not in names[:-1]:
            return cls(name, _named(main, name), pack, copies)
        filled = {copy.params[-1].name for copy in copies}
        scratch = set(names[names.index(_OUTPUT) + 1 :]) - filled - {COUNTERS}
        return cls(name, _named(_last(main, scratch), name), pack, copies, 1 + len(scratch))

    def call(self, builder: Any, variable: Any, operands: Sequence[Any], out: Any) -> Any:
        """Emit the calls that compute the product.

        Parameters
        ----------
        builder
            The ``relax.BlockBuilder``.
        variable
            The global variable of :attr:`function`.
        operands
            A, B, and bias and residual if there are any, in the shapes that the kernel takes.
        out
            Type of C.

        Returns
        -------
        var
            Holds C.
        """
        from tvm import relax

        inputs = self.function.params[: len(self.function.params) - self.outputs]
        if len(inputs) == len(operands) and self.outputs == 1:
            return builder.emit(relax.call_tir(variable, list(operands), out))
        values = dict(zip((p.name for p in inputs), operands, strict=False))
        types = {p.name: p.ty for p in self.function.params}
        for copy in self.copies:
            source, target = copy.params
            into = builder.add_func(copy, str(copy.attrs["global_symbol"]))
            seen = _seen_as(builder, values[source.name], source.ty)
            made = builder.emit(relax.call_tir(into, [seen], _tensor_type(target.ty)))
            values[target.name] = _seen_as(builder, made, types[target.name])
        if COUNTERS in types:
            values[COUNTERS] = _zeros(types[COUNTERS])
        rest = [_tensor_type(p.ty) for p in self.function.params[len(inputs) + 1 :]]
        arguments = [values[p.name] for p in inputs]
        result = builder.emit(relax.call_tir(variable, arguments, [out, *rest] if rest else out))
        return builder.emit(relax.TupleGetItem(result, 0)) if rest else result


def _named(function: Any, name: str) -> Any:
    function = function.with_attr("global_symbol", name).with_attr(FROM_TEMPLATE, True)
    return function.with_attr("tirx.is_scheduled", True).with_attr("op_pattern", OPAQUE)


def _last(main: Any, scratch: set[str]) -> Any:
    """Return a function whose parameters end with C and those named."""
    from tvm import tirx

    written = [p for p in main.params if p.name == _OUTPUT or p.name in scratch]
    read = [p for p in main.params if p not in written]
    return tirx.PrimFunc([*read, *written], main.body, main.ret_type, main.attrs)


def _tensor_type(buffer: Any) -> Any:
    from tvm import relax

    return relax.TensorType([int(extent) for extent in buffer.shape], str(buffer.dtype))


def _seen_as(builder: Any, value: Any, buffer: Any) -> Any:
    """Return a tensor in the shape and type of a buffer, with the same bytes."""
    from tvm import relax

    shape, dtype = [int(extent) for extent in buffer.shape], str(buffer.dtype)
    if (extents(value), dtype_of(value)) == (shape, dtype):
        return value
    return builder.emit(relax.op.memory.view(value, shape, dtype))


def _zeros(buffer: Any) -> Any:
    import numpy as np
    from tvm import relax

    shape = [int(extent) for extent in buffer.shape]
    return relax.const(np.zeros(shape, str(buffer.dtype)), str(buffer.dtype))


def without_bodies(transformation: Callable[[Any], Any], module: Any) -> Any:
    """Apply passes of Relax, which stop at functions that are not made of blocks.

    Such are those of templates for GPUs. They have no body while the passes run.
    """
    from tvm import IRModule, s_tir, tirx

    ours = {
        variable.name_hint: function
        for variable, function in module.functions_items()
        if FROM_TEMPLATE in (function.attrs or {})
        and not isinstance(function.body, s_tir.SBlockRealize)
    }
    block = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", tirx.Evaluate(0)))

    def replaced(module: Any, functions: Mapping[str, Any]) -> Any:
        changed = {v: functions.get(v.name_hint, f) for v, f in module.functions_items()}
        return IRModule(changed, attrs=module.attrs, global_infos=module.global_infos)

    hidden = {name: function.with_body(block) for name, function in ours.items()}
    return replaced(transformation(replaced(module, hidden)), ours)
