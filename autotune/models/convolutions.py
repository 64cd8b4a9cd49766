"""Convolutions: batch norm folded into weights, and those without overlap as products.

A 1x1 convolution is a product by its loops, and is found as such once it leaves out no pixels. One
whose windows lie side by side, as in the patch embedding of a vision transformer, is written as the
product of the windows with the weight. The others keep their layout, channels first: turning a
single block of a network round and back costs more than it gains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from autotune.models.expressions import dtype_of, extents, is_constant, operator_name


def simplify_convolutions(module: Any) -> Any:
    """Return the module with its 2-D convolutions in their cheapest form."""
    from tvm import relax

    if not _has_convolution(module):
        return module
    module = _mutated(module, _batch_norm_folder())
    module = fold_constants(relax.transform.DecomposeOpsForInference()(module))
    return _windows_as_products(module)


def _has_convolution(module: Any) -> bool:
    from tvm import relax

    found = False

    def look(node: Any) -> None:
        nonlocal found
        found = found or operator_name(node) == "relax.nn.conv2d"

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, look)
    return found


def _batch_norm_folder() -> Any:
    """Return the mutator that folds batch norms into the convolutions before them.

    TVM's own pass leaves expressions behind that later passes crash on.
    """
    from tvm import relax

    @relax.expr_functor.mutator
    class Folder(relax.PyExprMutator):  # type: ignore[misc]
        def visit_tuple_getitem_(self, item: Any) -> Any:
            item = self.visit_expr_post_order(item)
            norm = self._bound(item.tuple_value)
            if item.index != 0 or operator_name(norm) != "relax.nn.batch_norm":
                return item
            convolution = self._bound(norm.args[0])
            if operator_name(convolution) != "relax.nn.conv2d":
                return item
            constants = [convolution.args[1], *norm.args[1:5]]
            if not all(is_constant(value) for value in constants):
                return item
            weight, gamma, beta, mean, variance = (value.value.numpy() for value in constants)
            if str(convolution.attrs.kernel_layout) != "OIHW" or int(norm.attrs.axis) != 1:
                return item
            factor = gamma / (variance + float(norm.attrs.epsilon)) ** 0.5
            scaled = relax.const(
                _array((weight * factor[:, None, None, None]).astype(weight.dtype))
            )
            shift = (beta - mean * factor).astype(weight.dtype).reshape(1, -1, 1, 1)
            data = convolution.args[0]
            product = self.builder_.emit(
                relax.Call(convolution.op, [data, scaled], convolution.attrs)
            )
            return relax.op.add(product, relax.const(_array(shift)))

        def _bound(self, expr: Any) -> Any:
            return self.lookup_binding(expr) if isinstance(expr, relax.Var) else expr

    return Folder


def fold_constants(module: Any) -> Any:
    """Compute operations on constants that folding and layouts leave behind.

    TVM's FoldConstant compiles each; and it would transpose the weights of linear layers, which a
    kernel packs from their stored layout anyway: two-dimensional transposes stay.
    """
    from tvm import relax

    @relax.expr_functor.mutator
    class Folder(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            compute = _FOLDED.get(operator_name(call))
            values = [self._constant(argument) for argument in _tensor_arguments(call)]
            if compute is None or any(value is None for value in values):
                return call
            result = compute(call, *values)
            return call if result is None else relax.const(result)

        def _constant(self, expr: Any) -> Any:
            if isinstance(expr, relax.Var):
                expr = self.lookup_binding(expr)
            return expr.value.numpy() if is_constant(expr) else None

    return _mutated(module, Folder)


def _tensor_arguments(call: Any) -> list[Any]:
    from tvm import relax

    return [argument for argument in call.args if not isinstance(argument, relax.ShapeExpr)]


def _transposed(call: Any, value: Any) -> Any:
    if value.ndim == 2:
        return None
    axes = call.attrs.axes
    return _array(value.transpose(None if axes is None else [int(axis) for axis in axes]))


def _array(value: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(value)


#: Operator -> function of the call and of its arguments' values.
_FOLDED: dict[str, Callable[..., Any]] = {
    "relax.add": lambda call, x, y: _array(x + y),
    "relax.subtract": lambda call, x, y: _array(x - y),
    "relax.multiply": lambda call, x, y: _array(x * y),
    "relax.divide": lambda call, x, y: _array(x / y),
    "relax.sqrt": lambda call, x: _array(x**0.5),
    "relax.reshape": lambda call, x: _array(x.reshape(extents(call))),
    "relax.expand_dims": lambda call, x: _array(x.reshape(extents(call))),
    "relax.permute_dims": _transposed,
}


def _windows_as_products(module: Any) -> Any:
    """Replace convolutions whose windows do not overlap by ``matmul``."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Rewriter(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if operator_name(call) != "relax.nn.conv2d" or not _is_plain(call):
                return call
            strides = [int(stride) for stride in call.attrs.strides]
            if strides == [1, 1] or not all(isinstance(x, int) for x in extents(call)[1:]):
                return call
            layout, shape = str(call.attrs.kernel_layout), extents(call.args[1])
            kernel = [shape[layout.index(letter)] for letter in "HW"]
            if kernel == [1, 1]:
                return self._sampled(call)
            return self._patches(call) if kernel == strides and _is_nchw(call) else call

        def _sampled(self, call: Any) -> Any:
            """A 1x1 convolution that leaves out no pixels, of the pixels that are not left out."""
            emit, (data, weight) = self.builder_.emit, call.args
            axes = [str(call.attrs.data_layout).index(letter) for letter in "HW"]
            strides = [int(stride) for stride in call.attrs.strides]
            ends = [extents(data)[axis] for axis in axes]
            data = emit(relax.op.strided_slice(data, axes, [0, 0], ends, strides))
            layouts = (call.attrs.data_layout, call.attrs.kernel_layout, call.attrs.out_layout)
            data_layout, kernel_layout, out_layout = (str(layout) for layout in layouts)
            return relax.op.nn.conv2d(
                data,
                weight,
                data_layout=data_layout,
                kernel_layout=kernel_layout,
                out_layout=out_layout,
            )

        def _patches(self, call: Any) -> Any:
            """(windows, in * height * width) times the weight."""
            emit = self.builder_.emit
            data, weight = call.args
            _, channels, height, width = extents(weight)
            batch, out, rows, columns = extents(call)
            wanted = [rows * height, columns * width]
            if extents(data)[2:] != wanted:  # pixels that no window covers
                data = emit(relax.op.strided_slice(data, [2, 3], [0, 0], wanted, [1, 1]))
            windows = [batch, channels, rows, height, columns, width]
            data = emit(relax.op.reshape(data, windows))
            data = emit(relax.op.permute_dims(data, [0, 2, 4, 1, 3, 5]))
            flat = [batch * rows * columns, channels * height * width]
            data = emit(relax.op.reshape(data, flat))
            matrix = emit(relax.op.permute_dims(self._matrix(weight)))
            product = emit(relax.op.matmul(data, matrix))
            product = emit(relax.op.reshape(product, [batch, rows, columns, out]))
            return relax.op.permute_dims(product, [0, 3, 1, 2])

        def _matrix(self, weight: Any) -> Any:
            out, *inner = extents(weight)
            shape = [out, math.prod(inner)]
            if is_constant(weight):
                return relax.const(_array(weight.value.numpy().reshape(shape)))
            return self.builder_.emit(relax.op.reshape(weight, shape))

    return _mutated(module, Rewriter)


def _is_plain(call: Any) -> bool:
    """Whether a convolution has one group, no padding and no holes."""
    attrs = call.attrs
    return (
        int(attrs.groups) == 1
        and not any(int(padding) for padding in attrs.padding)
        and all(int(dilation) == 1 for dilation in attrs.dilation)
        and dtype_of(call) == dtype_of(call.args[0])
        and len(str(attrs.data_layout)) == 4
    )


def _is_nchw(call: Any) -> bool:
    layouts = (str(call.attrs.data_layout), str(call.attrs.kernel_layout))
    return layouts == ("NCHW", "OIHW") and isinstance(extents(call)[0], int)


def _mutated(module: Any, mutator: Any) -> Any:
    """Return the module with every Relax function passed through a mutator."""
    import tvm
    from tvm import relax

    for variable, function in list(module.functions.items()):
        if isinstance(function, relax.Function):
            instance = mutator(module)
            changed = instance.visit_expr(function)
            instance.builder_.update_func(variable, changed)
            module = instance.builder_.get()
    clean = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(clean)(module)
