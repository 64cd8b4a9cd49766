"""Operators of PyTorch's own fast path, spelt out in operators that the importer knows.

``torch.nn.TransformerEncoderLayer`` in evaluation mode is one operator in a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return ``{operator: function of its arguments}`` for ``run_decompositions``."""
    import torch

    return {torch.ops.aten._transformer_encoder_layer_fwd.default: _encoder_layer}


def _encoder_layer(
    x: Any,
    width: int,
    heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm1_weight: Any,
    norm1_bias: Any,
    norm2_weight: Any,
    norm2_bias: Any,
    ffn1_weight: Any,
    ffn1_bias: Any,
    ffn2_weight: Any,
    ffn2_bias: Any,
    mask: Any = None,
    mask_type: int | None = None,
) -> Any:
    """``aten::_transformer_encoder_layer_fwd`` without a mask; x is (batch, sequence, width)."""
    from torch.nn import functional as F

    if mask is not None:
        raise ValueError(
            "a TransformerEncoderLayer with a mask is not supported on torch's fast path; call"
            " torch.backends.mha.set_fastpath_enabled(False) first"
        )

    def attention(y: Any) -> Any:
        batch, length, _ = y.shape
        qkv = F.linear(y, qkv_weight, qkv_bias)
        q, k, v = qkv.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.permute(0, 2, 1, 3).reshape(batch, length, width)
        return F.linear(out, proj_weight, proj_bias)

    def feed_forward(y: Any) -> Any:
        hidden = F.linear(y, ffn1_weight, ffn1_bias)
        hidden = F.gelu(hidden) if use_gelu else F.relu(hidden)
        return F.linear(hidden, ffn2_weight, ffn2_bias)

    def norm1(y: Any) -> Any:
        return F.layer_norm(y, (width,), norm1_weight, norm1_bias, eps)

    def norm2(y: Any) -> Any:
        return F.layer_norm(y, (width,), norm2_weight, norm2_bias, eps)

    if norm_first:
        x = x + attention(norm1(x))
        return x + feed_forward(norm2(x))
    x = norm1(x + attention(x))
    return norm2(x + feed_forward(x))
