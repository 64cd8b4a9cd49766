"""Models to try: one block each of well-known networks, with random weights and inputs.

Each function returns ``(module, example_inputs)``, as ``autotune model`` and ``autotune compile``
take them: ``autotune model autotune.models.samples:bert_layer --extract``.
"""

# mypy: disable-error-code="misc"
# torch ships no types that mypy can follow, so that its modules are of type Any.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sample = tuple[nn.Module, tuple[Tensor, ...]]


def _ready(module: nn.Module, *inputs: Tensor) -> Sample:
    return module.eval(), inputs


def mlp(rows: int = 128, width: int = 768, hidden: int = 3072) -> Sample:
    """Two linear layers with a GELU between them."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
    return _ready(layers, torch.randn(rows, width))


class _Attention(nn.Module):
    """Multi-head self-attention, one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, length, width))


class _EncoderLayer(nn.Module):
    """A transformer layer, with norms after the sums (BERT) or before the blocks (ViT)."""

    def __init__(self, width: int, heads: int, hidden: int, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = _Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.norm1(x))
            return x + self.ffn(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.ffn(x))


def bert_layer(length: int = 128, width: int = 768, heads: int = 12, hidden: int = 3072) -> Sample:
    """One layer of BERT-base on a sequence."""
    torch.manual_seed(0)
    layer = _EncoderLayer(width, heads, hidden, norm_first=False)
    return _ready(layer, torch.randn(1, length, width))


class _VitBlock(nn.Module):
    """Patch embedding by a convolution, class token, positions, one layer."""

    def __init__(self, image: int, patch: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + (image // patch) ** 2, width) * 0.02)
        self.layer = _EncoderLayer(width, heads, hidden, norm_first=True)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = self.token.expand(image.shape[0], -1, -1)
        return self.layer(torch.cat([tokens, patches], dim=1) + self.positions)


def vit_block(
    image: int = 224, patch: int = 16, width: int = 768, heads: int = 12, hidden: int = 3072
) -> Sample:
    """The patch embedding and one block of ViT-B/16: 197 rows."""
    torch.manual_seed(0)
    block = _VitBlock(image, patch, width, heads, hidden)
    return _ready(block, torch.randn(1, 3, image, image))


class _RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class _LlamaBlock(nn.Module):
    """RMS norm, rotary positions, grouped queries, SwiGLU; no biases."""

    def __init__(self, length: int, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, self.depth = heads, groups, width // heads
        self.norm1, self.norm2 = _RmsNorm(width), _RmsNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.depth, bias=False)
        self.v = nn.Linear(width, groups * self.depth, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        steps = torch.arange(0, self.depth, 2) / self.depth
        angles = torch.outer(torch.arange(length).float(), 10000.0**-steps)
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, dim=-1))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, dim=-1))

    def _rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def _heads(self, x: Tensor, count: int) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, count, self.depth).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q = self._rotated(self._heads(self.q(y), self.heads))
        k = self._rotated(self._heads(self.k(y), self.groups))
        v = self._heads(self.v(y), self.groups)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(out.transpose(1, 2).reshape(x.shape))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def llama_block(
    length: int = 128, width: int = 1024, heads: int = 16, groups: int = 4, hidden: int = 2816
) -> Sample:
    """One block in the manner of Llama."""
    torch.manual_seed(0)
    block = _LlamaBlock(length, width, heads, groups, hidden)
    return _ready(block, torch.randn(1, length, width))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norms, and a shortcut."""

    def __init__(self, channels: int, middle: int, stride: int) -> None:
        super().__init__()
        wide = 4 * middle
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(channels, middle, 1, bias=False),
                nn.Conv2d(middle, middle, 3, stride, 1, bias=False),
                nn.Conv2d(middle, wide, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in (middle, middle, wide)])
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            if stride > 1 or channels != wide
            else nn.Identity()
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convs[0](x)))
        y = F.relu(self.norms[1](self.convs[1](y)))
        return F.relu(self.norms[2](self.convs[2](y)) + self.shortcut(x))


def resnet_bottleneck(
    size: int = 56, channels: int = 256, middle: int = 64, stride: int = 1, batch: int = 1
) -> Sample:
    """One bottleneck of ResNet-50, by default the second of its first stage."""
    torch.manual_seed(0)
    block = _Bottleneck(channels, middle, stride)
    return _ready(block, torch.randn(batch, channels, size, size))


#: Name -> function, for those who go through all of them.
SAMPLES: dict[str, Callable[..., Sample]] = {
    "mlp": mlp,
    "bert_layer": bert_layer,
    "vit_block": vit_block,
    "llama_block": llama_block,
    "resnet_bottleneck": resnet_bottleneck,
}
