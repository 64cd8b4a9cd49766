"""Convolutions in NCHW, directly: register tiles of output columns by vectors of output channels.

The weights are packed so that the output channels of a tile lie side by side; each input element
is then one broadcast for all of them, whatever the stride. Sums over a block of input channels,
whose weights stay in the first-level cache, are kept in a buffer of some output rows; the epilogue
runs on the way from there to the output.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_combiner import Combiner, combiner_of
from autotune.models.defaults_elementwise import Context
from autotune.models.defaults_ir import (
    Axis,
    Nest,
    axis_of,
    product,
    substitute,
)

#: Packed weights of a block of input channels: part of a first-level cache of 32 KiB or more.
WEIGHT_BYTES = 20480
#: Partial sums of a block of output rows: part of a second-level cache of 256 KiB or more.
SUM_BYTES = 131072


@dataclass(frozen=True)
class Conv:
    """A convolution found in a nest.

    Parameters
    ----------
    nest, combiner
        Where it was found, and its products.
    batch, rows
        Spatial axes; None where the extent is 1, and rows also in one dimension.
    channels, columns
        Output channels, and positions in a row of the output.
    weight
        The load of the weights, whose first index is the output channel.
    """

    nest: Nest
    combiner: Combiner
    batch: Axis | None
    channels: Axis
    rows: Axis | None
    columns: Axis
    weight: Any

    def on(self, nest: Nest) -> Conv:
        """Return the convolution in the same nest on other buffers."""
        combiner = combiner_of(nest)
        assert combiner is not None
        return dataclasses.replace(self, nest=nest, combiner=combiner)


@dataclass(frozen=True)
class Tiling:
    """Sizes of the blocks of a convolution: see the module's description."""

    lanes: int
    vectors: int
    columns: int
    rows: int
    channels: int

    @property
    def block(self) -> int:
        """Output channels of a tile."""
        return self.lanes * self.vectors


def find_conv(nest: Nest) -> Conv | None:
    """Return the convolution that a nest computes, or None.

    The output is (n, channel, [rows,] columns), the weights are (channel, ...).
    """
    from tvm import tirx

    combiner = combiner_of(nest)
    if combiner is None or combiner.node is not tirx.Add or not isinstance(combiner.term, tirx.Mul):
        return None
    loads = nest.loads
    if len(loads) != 2 or not all(axis.static for axis in nest.reduce):
        return None
    indices = list(nest.body.indices)
    if len(indices) not in (3, 4):
        return None
    axes = [axis_of(index, nest.spatial) for index in indices]
    batch, channels, rows, columns = axes if len(axes) == 4 else [*axes[:2], None, axes[2]]
    if channels is None or columns is None or len([a for a in axes if a]) != len(nest.spatial):
        return None
    if not all(axis.static for axis in nest.spatial if axis is not batch):
        return None
    weights = [load for load in loads if _is_weight(load, channels, nest)]
    if len(weights) != 1:
        return None
    return Conv(nest, combiner, batch, channels, rows, columns, weights[0])


def _is_weight(load: Any, channels: Axis, nest: Nest) -> bool:
    """Whether a load is W[channel, reduce axes...], each index one axis or 0."""
    from tvm import tirx

    first, *rest = load.indices
    if not first.same_as(channels.var) or len(load.indices) not in (3, 4):
        return False
    found = [axis_of(index, nest.reduce) for index in rest]
    zeros = all(
        axis is not None or (isinstance(index, tirx.IntImm) and int(index.value) == 0)
        for axis, index in zip(found, rest, strict=True)
    )
    return zeros and len({axis.var for axis in found if axis}) == len(nest.reduce)


def tiling_of(conv: Conv, context: Context) -> Tiling | None:
    """Return the sizes to use; None where the output channels do not fill a vector."""
    dtype = str(conv.nest.body.buffer.dtype)
    lanes = context.lanes(dtype)
    extent = conv.channels.extent
    while lanes > 4 and (extent % lanes or not _one_group(conv, lanes)):
        lanes //= 2
    if extent % lanes or not _one_group(conv, lanes):
        return None
    # Half the registers for sums: enough to hide the latency of additions, and with more of them
    # LLVM, which loads operands ahead, runs out of registers. Two vectors, unless rows are short.
    sums = max(4, context.registers // 2)
    wanted = 2 if 2 * conv.columns.extent >= sums // 2 else 4
    vectors = next(v for v in (wanted, 3, 2, 1) if _one_group(conv, lanes * v))
    columns = _even(conv.columns.extent, max(1, sums // vectors))
    element = context.simd_bits // 8 // context.lanes(dtype)
    kernel = product(conv.nest.reduce[1:])
    channels = max(1, WEIGHT_BYTES // (kernel * lanes * vectors * element))
    rows = max(1, SUM_BYTES // (conv.columns.extent * lanes * vectors * element))
    return Tiling(
        lanes,
        vectors,
        columns,
        _even(conv.rows.extent, rows) if conv.rows else 1,
        _even(conv.nest.reduce[0].extent, channels),
    )


def _even(extent: int, most: int) -> int:
    """Return the size of equal pieces of at most ``most``; the last may be smaller."""
    return -(-extent // -(-extent // most))


def _one_group(conv: Conv, block: int) -> bool:
    """Whether so many output channels read the same input channels."""
    from tvm import ir, sym, tirx

    if conv.channels.extent % block:
        return False
    other = next(load for load in conv.nest.loads if not load.same_as(conv.weight))
    analyzer = sym.Analyzer()
    dtype = conv.channels.var.ty.dtype
    first, lane = tirx.Var("first", dtype), tirx.Var("lane", dtype)
    analyzer.bind(first, ir.Range(0, conv.channels.extent // block))
    analyzer.bind(lane, ir.Range(0, block))
    for axis in (*conv.nest.spatial, *conv.nest.reduce):
        analyzer.bind(axis.var, ir.Range(0, axis.extent))
    start = first * block
    return all(
        analyzer.can_prove_equal(
            substitute(index, {conv.channels.var: start + lane}),
            substitute(index, {conv.channels.var: start}),
        )
        for index in other.indices
    )


def packed_buffer(conv: Conv, tiling: Tiling) -> Any:
    """Return a buffer for packed weights: (block, reduce axes..., channel in block)."""
    from tvm import tirx

    reduce = [axis.extent for axis in weight_axes(conv)]
    shape = [conv.channels.extent // tiling.block, *reduce, tiling.block]
    sizes = [tirx.const(extent, "int64") for extent in shape]
    return tirx.decl_buffer(sizes, conv.weight.source.dtype, "packed")


def weight_axes(conv: Conv) -> list[Axis]:
    """Return the axes of the sum that tell one weight of an output channel from another."""
    found = [axis_of(index, conv.nest.reduce) for index in conv.weight.indices]
    return [axis for axis in found if axis is not None and axis.extent > 1]


def pack_nest(conv: Conv, tiling: Tiling, packed: Any) -> Nest:
    """Return the nest that packs the weights."""
    from tvm import tirx

    dtype = conv.channels.var.ty.dtype
    blocks = Axis(tirx.Var("block", dtype), conv.channels.extent // tiling.block)
    lane = Axis(tirx.Var("channel", dtype), tiling.block)
    axes = weight_axes(conv)
    value = substitute(conv.weight, {conv.channels.var: blocks.var * tiling.block + lane.var})
    indices = [blocks.var, *(axis.var for axis in axes), lane.var]
    spatial = tuple(axis for axis in (blocks, *axes, lane) if axis.extent > 1)
    units = {
        axis.var: tirx.const(0, dtype)
        for axis in (blocks, *conv.nest.reduce, lane)
        if axis.extent == 1
    }
    store = substitute(tirx.BufferStore(packed, value, indices), units)
    return Nest("pack", spatial, (), None, store)
