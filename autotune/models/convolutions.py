"""Convolutions: batch norm folded into weights, channels last, those without overlap as products.

With channels last a 1x1 convolution is a product of all pixels with the weight, its bias is a
vector over columns, and pixels of a batch are just more rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.models.expressions import extents, is_constant, operator_name


def simplify_convolutions(module: Any) -> Any:
    """Return the module with its 2-D convolutions in their cheapest form; others are untouched."""
    import tvm
    from tvm import relax

    if not _has_convolution(module):
        return module
    module = _mutated(module, _batch_norm_folder())
    layout = {"relax.nn.conv2d": ["NHWC", "OHWI"]}
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.ConvertLayout(layout),
        relax.transform.DeadCodeElimination(),
        relax.transform.CanonicalizeBindings(),
    ]
    module = fold_constants(tvm.transform.Sequential(passes)(module))
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
    """Replace convolutions whose windows do not overlap, with channels last, by ``matmul``.

    A 1x1 convolution is a product as it stands; its stride skips pixels first. One with a stride as
    wide as its window, as in the patch embedding of a vision transformer, is a product of windows.
    """
    from tvm import relax

    @relax.expr_functor.mutator
    class Rewriter(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if operator_name(call) != "relax.nn.conv2d" or not _is_product(call):
                return call
            data, weight = call.args
            emit = self.builder_.emit
            out, height, width, channels = extents(weight)
            strides = [int(stride) for stride in call.attrs.strides]
            batch, rows, columns, _ = extents(call)
            if [height, width] != [1, 1]:
                windows = [batch, rows, height, columns, width, channels]
                data = self._cut(data, [rows * height, columns * width])
                data = emit(relax.op.reshape(data, windows))
                data = emit(relax.op.permute_dims(data, [0, 1, 3, 2, 4, 5]))
                flat = [batch, rows, columns, height * width * channels]
                data = emit(relax.op.reshape(data, flat))
            elif strides != [1, 1]:
                ends = extents(data)[1:3]
                data = emit(relax.op.strided_slice(data, [1, 2], [0, 0], ends, strides))
            shape = [out, height * width * channels]
            if is_constant(weight):
                matrix = relax.const(_array(weight.value.numpy().reshape(shape)))
            else:
                matrix = emit(relax.op.reshape(weight, shape))
            return relax.op.matmul(data, emit(relax.op.permute_dims(matrix)))

        def _cut(self, data: Any, wanted: list[int]) -> Any:
            """Leave out the pixels that no window covers."""
            if extents(data)[1:3] == wanted:
                return data
            return self.builder_.emit(relax.op.strided_slice(data, [1, 2], [0, 0], wanted, [1, 1]))

    return _mutated(module, Rewriter)


def _is_product(call: Any) -> bool:
    attrs = call.attrs
    kernel = extents(call.args[1])
    return (
        (str(attrs.data_layout), str(attrs.kernel_layout)) == ("NHWC", "OHWI")
        and (kernel[1:3] == [1, 1] or kernel[1:3] == [int(s) for s in attrs.strides])
        and not any(int(dilation) != 1 for dilation in attrs.dilation)
        and all(isinstance(extent, int) for extent in extents(call))
        and int(attrs.groups) == 1
        and not any(int(padding) for padding in attrs.padding)
        and str(call.ty.dtype) == str(call.args[0].ty.dtype)
    )


def _mutated(module: Any, mutator: Any) -> Any:
    """Return the module with every Relax function passed through a mutator."""
    from tvm import relax

    for variable, function in list(module.functions.items()):
        if isinstance(function, relax.Function):
            instance = mutator(module)
            changed = instance.visit_expr(function)
            instance.builder_.update_func(variable, changed)
            module = instance.builder_.get()
    clean = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    import tvm

    return tvm.transform.Sequential(clean)(module)
