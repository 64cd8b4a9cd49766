"""Converters for TVM's importer of exported PyTorch programs, where the stock ones do not serve.

The stock importer (TVM 0.27) multiplies fp16 and bf16 into float32 and then fails to add a bias,
splits attention with copies, refuses a bf16 layer norm, knows no grouped queries, and takes batch
norm's momentum for its epsilon. Here a
product keeps the type of its operands; how it accumulates is decided where it is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_NARROW = ("float16", "bfloat16")


def converters() -> dict[str, Callable[[Any, Any], Any]]:
    """Return ``{operator: converter(node, importer)}`` for ``from_exported_program``."""
    return {
        "linear.default": _linear,
        "matmul.default": _matmul,
        "mm.default": _matmul,
        "bmm.default": _matmul,
        "addmm.default": _addmm,
        "baddbmm.default": _addmm,
        "_int_mm.default": _int_mm,
        "scaled_dot_product_attention.default": _attention,
        "layer_norm.default": _layer_norm,
        "rms_norm.default": _rms_norm,
        "batch_norm.default": _batch_norm,
        "conv2d.default": _convolution,
        "numpy_T.default": _reversed_axes,
        "pow.Tensor_Scalar": _power,
        "rsqrt.default": _rsqrt,
    }


def _argument(node: Any, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _value(importer: Any, argument: Any) -> Any:
    """Return the Relax variable of an FX node, None for None."""
    return None if argument is None else importer.env[argument]


def _linear(node: Any, importer: Any) -> Any:
    from tvm.relax import op

    emit = importer.block_builder.emit
    x, weight = importer.env[node.args[0]], importer.env[node.args[1]]
    bias = _value(importer, _argument(node, 2, "bias"))
    product = emit(op.matmul(x, emit(op.permute_dims(weight))))
    return product if bias is None else emit(op.add(product, bias))


def _matmul(node: Any, importer: Any) -> Any:
    from tvm.relax import op

    x, y = importer.env[node.args[0]], importer.env[node.args[1]]
    return importer.block_builder.emit(op.matmul(x, y))


def _int_mm(node: Any, importer: Any) -> Any:
    from tvm.relax import op

    x, y = importer.env[node.args[0]], importer.env[node.args[1]]
    return importer.block_builder.emit(op.matmul(x, y, out_dtype="int32"))


def _addmm(node: Any, importer: Any) -> Any:
    """``beta * c + alpha * x @ y``."""
    from tvm.relax import op

    emit = importer.block_builder.emit
    c, x, y = (importer.env[argument] for argument in node.args[:3])
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    product = _scaled(importer, emit(op.matmul(x, y)), alpha)
    return product if beta == 0 else emit(op.add(product, _scaled(importer, c, beta)))


def _scaled(importer: Any, value: Any, factor: float) -> Any:
    from tvm import relax

    if factor == 1:
        return value
    constant = relax.const(factor, _dtype(value))
    return importer.block_builder.emit(relax.op.multiply(value, constant))


def _attention(node: Any, importer: Any) -> Any:
    """``softmax(scale * q k' + mask) v`` over the last two axes, as two batched products.

    Queries of a group share a key head: they are folded into the rows of its product, so that keys
    and values are never repeated.
    """
    from tvm.relax import op

    emit = importer.block_builder.emit
    q, k, v = (importer.env[argument] for argument in node.args[:3])
    mask = _value(importer, _argument(node, 3, "attn_mask"))
    if _argument(node, 4, "dropout_p", 0.0):
        raise ValueError("attention with dropout: call model.eval() before exporting")
    causal = _argument(node, 5, "is_causal", False)
    scale = _argument(node, 6, "scale") or node.kwargs.get("scale")
    *lead, rows, depth = _shape(q)
    keys = _shape(k)[-2]
    grouped = len(lead) > 1 and _shape(k)[-3] != lead[-1]
    query = emit(op.reshape(q, [*_shape(k)[:-2], -1, depth])) if grouped else q
    swap = [*range(len(_shape(k)) - 2), len(_shape(k)) - 1, len(_shape(k)) - 2]
    scores = emit(op.matmul(query, emit(op.permute_dims(k, swap))))
    scores = _scaled(importer, scores, scale if scale is not None else 1 / math.sqrt(int(depth)))
    if grouped:
        scores = emit(op.reshape(scores, [*lead, rows, keys]))
    scores = _masked(importer, scores, mask, causal, rows, keys)
    weights = _softmax(importer, scores)
    if grouped:
        weights = emit(op.reshape(weights, [*_shape(k)[:-2], -1, keys]))
    out = emit(op.matmul(weights, v))
    return emit(op.reshape(out, [*lead, rows, _shape(v)[-1]])) if grouped else out


def _masked(importer: Any, scores: Any, mask: Any, causal: bool, rows: Any, keys: Any) -> Any:
    import numpy as np
    from tvm import relax

    emit, dtype = importer.block_builder.emit, _dtype(scores)
    if causal:
        if not all(hasattr(extent, "value") for extent in (rows, keys)):
            raise ValueError("causal attention over a dynamic sequence length is not supported")
        lower = np.tril(np.ones((int(rows), int(keys)), dtype=bool))
        values = np.where(lower, 0.0, -np.inf).astype("float32")
        constant = relax.const(values, "float32")
        if dtype != "float32":
            constant = emit(relax.op.astype(constant, dtype))
        return emit(relax.op.add(scores, constant))
    if mask is None:
        return scores
    if _dtype(mask) == "bool":
        zero, low = relax.const(0.0, dtype), relax.const(-math.inf, dtype)
        mask = emit(relax.op.where(mask, zero, low))
    return emit(relax.op.add(scores, mask))


def _softmax(importer: Any, scores: Any) -> Any:
    return _in_float32(importer, scores, lambda x: _nn().softmax(x, axis=-1))


def _layer_norm(node: Any, importer: Any) -> Any:
    """Layer norm, computed in float32 for narrow types as torch does."""
    x, shape = importer.env[node.args[0]], node.args[1]
    gamma = _value(importer, _argument(node, 2, "weight"))
    beta = _value(importer, _argument(node, 3, "bias"))
    epsilon = _argument(node, 4, "eps", 1e-5)
    gamma, beta = _ones_or(importer, gamma, shape, 1.0), _ones_or(importer, beta, shape, 0.0)
    axes = list(range(-len(shape), 0))
    return _in_float32(
        importer, x, lambda y, g, b: _nn().layer_norm(y, g, b, axes, epsilon), gamma, beta
    )


def _rms_norm(node: Any, importer: Any) -> Any:
    import torch

    x, shape = importer.env[node.args[0]], node.args[1]
    weight = _ones_or(importer, _value(importer, _argument(node, 2, "weight")), shape, 1.0)
    epsilon = _argument(node, 3, "eps")
    if epsilon is None:
        epsilon = torch.finfo(getattr(torch, _dtype(x))).eps
    axes = list(range(-len(shape), 0))
    return _in_float32(importer, x, lambda y, w: _nn().rms_norm(y, w, axes, epsilon), weight)


def _batch_norm(node: Any, importer: Any) -> Any:
    """``batch_norm(x, weight, bias, mean, variance, training, momentum, eps)`` over axis 1."""
    from tvm.relax import op

    x, (_, weight, bias, mean, variance) = importer.env[node.args[0]], node.args[:5]
    if _argument(node, 5, "training") or mean is None:
        raise ValueError("batch norm in training mode: call model.eval() before exporting")
    channels = [_shape(x)[1]]
    weight = _ones_or(importer, _value(importer, weight), channels, 1.0)
    bias = _ones_or(importer, _value(importer, bias), channels, 0.0)
    statistics = (importer.env[mean], importer.env[variance])
    epsilon = _argument(node, 7, "eps", 1e-5)

    def normalised(*operands: Any) -> Any:
        result = op.nn.batch_norm(*operands, axis=1, epsilon=epsilon, training=False)
        return importer.block_builder.emit(result)[0]

    return _in_float32(importer, x, normalised, weight, bias, *statistics)


def _convolution(node: Any, importer: Any) -> Any:
    """``conv2d(x, weight, bias, stride, padding, dilation, groups)``, summed in float32."""
    from tvm.relax import op

    emit = importer.block_builder.emit
    x, weight = importer.env[node.args[0]], importer.env[node.args[1]]
    bias = _value(importer, _argument(node, 2, "bias"))
    strides, padding, dilation = (
        _argument(node, position, name, default)
        for position, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    groups = _argument(node, 6, "groups", 1)

    def convolved(y: Any, w: Any, *added: Any) -> Any:
        product = op.nn.conv2d(y, w, _pair(strides), _pair(padding), _pair(dilation), groups)
        if not added:
            return product
        shaped = op.reshape(added[0], [1, _shape(w)[0], 1, 1])
        return op.add(emit(product), emit(shaped))

    return _in_float32(importer, x, convolved, weight, *([] if bias is None else [bias]))


def _pair(value: Any) -> list[int]:
    return (
        [value, value]
        if isinstance(value, int)
        else [int(item) for item in value] * (1 if len(value) == 2 else 2)
    )


def _reversed_axes(node: Any, importer: Any) -> Any:
    from tvm.relax import op

    return importer.block_builder.emit(op.permute_dims(importer.env[node.args[0]]))


def _power(node: Any, importer: Any) -> Any:
    """A power by a number; TVM has none of bf16."""
    from tvm import relax

    x, exponent = importer.env[node.args[0]], node.args[1]
    if exponent == 2:
        return importer.block_builder.emit(relax.op.multiply(x, x))
    if not _dtype(x).startswith(("float", "bfloat")):
        constant = relax.const(exponent, _dtype(x))
        return importer.block_builder.emit(relax.op.power(x, constant))
    return _in_float32(importer, x, lambda y: relax.op.power(y, relax.const(exponent, _dtype(y))))


def _rsqrt(node: Any, importer: Any) -> Any:
    from tvm.relax import op

    return _in_float32(importer, importer.env[node.args[0]], op.rsqrt)


def _ones_or(importer: Any, value: Any, shape: Any, fill: float) -> Any:
    import numpy as np
    from tvm import relax

    if value is not None:
        return value
    return relax.const(np.full([int(extent) for extent in shape], fill, "float32"), "float32")


def _in_float32(importer: Any, x: Any, function: Callable[..., Any], *others: Any) -> Any:
    """Apply a function, in float32 where types are narrower, and return to the type of ``x``."""
    from tvm.relax import op

    emit, dtype = importer.block_builder.emit, _dtype(x)

    def widened(value: Any) -> Any:
        return emit(op.astype(value, "float32")) if _dtype(value) in _NARROW else value

    result = emit(function(widened(x), *(widened(other) for other in others)))
    return emit(op.astype(result, dtype)) if dtype in _NARROW else result


def _nn() -> Any:
    from tvm.relax import op

    return op.nn


def _shape(value: Any) -> list[Any]:
    return list(value.ty.shape)


def _dtype(value: Any) -> str:
    return str(value.ty.dtype)
