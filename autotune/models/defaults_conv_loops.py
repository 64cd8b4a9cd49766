"""The loops of a convolution: tiles of sums, block of input channels after block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_conv import Conv, Tiling, pack_nest, weight_axes
from autotune.models.defaults_elementwise import Context, Values, parallel_over, spatial_nest
from autotune.models.defaults_ir import (
    Axis,
    grid,
    loop,
    pieces,
    sequence,
    substitute,
    tensor_load,
)


def conv_body(conv: Conv, tiling: Tiling, context: Context, packed: Any, pack: bool) -> Any:
    """Return statements for a convolution.

    Parameters
    ----------
    packed
        The buffer of packed weights.
    pack
        Whether to allocate and fill it here.
    """
    from tvm import tirx

    parallel = context.parallel(conv.nest.iterations)
    statements = []
    if pack:
        statements.append(tirx.AllocBuffer(packed))
        statements.append(spatial_nest(pack_nest(conv, tiling, packed), context, parallel))
    blocks = Axis(_var("block"), conv.channels.extent // tiling.block)
    for first, number, height in pieces(conv.rows.extent if conv.rows else 1, tiling.rows):
        band = Axis(_var("band"), number)
        work = _Band(conv, tiling, packed, height)
        axes = [*([conv.batch] if conv.batch else []), blocks, band]

        def body(values: Values, work: _Band = work, band: Axis = band, first: int = first) -> Any:
            start = values[band.var] * work.height + first
            batch = {conv.batch.var: values[conv.batch.var]} if conv.batch else {}
            return work.statements(batch, values[blocks.var], start)

        statements.append(parallel_over(axes, parallel, body))
    return sequence(statements)


@dataclass(frozen=True)
class _Band:
    """The work on a block of output channels and a band of output rows."""

    conv: Conv
    tiling: Tiling
    packed: Any
    height: int

    def statements(self, batch: Values, block: Any, first_row: Any) -> Any:
        from tvm import tirx

        conv, tiling = self.conv, self.tiling
        shape = (self.height, conv.columns.extent, tiling.block)
        sums = tirx.decl_buffer(shape, conv.nest.body.buffer.dtype, "sums")
        parts = [tirx.AllocBuffer(sums)]
        outer = conv.nest.reduce[0]
        for start, number, size in pieces(outer.extent, tiling.channels):
            new = 1 if start == 0 else 0
            if new:
                first = (tirx.const(0, "int64"), size)
                parts.append(self._accumulate(batch, block, first_row, sums, first, True))

            def later(piece: Any, start: int = start + new * size, size: int = size) -> Any:
                more = (piece * size + start, size)
                return self._accumulate(batch, block, first_row, sums, more, False)

            if number > new:
                parts.append(loop("piece", number - new, later))
        parts.append(self._output(batch, block, first_row, sums))
        return sequence(parts)

    def _accumulate(
        self,
        batch: Values,
        block: Any,
        first_row: Any,
        sums: Any,
        piece: tuple[Any, int],
        new: bool,
    ) -> Any:
        """Add the products of some input channels to the sums of the band."""

        def row(y: Any) -> Any:
            return sequence(
                loop(
                    "strip",
                    number,
                    lambda s, start=start, width=width: self._tile(  # type: ignore[misc]
                        batch, block, (first_row, y), (s * width + start, width), sums, piece, new
                    ),
                )
                for start, number, width in pieces(self.conv.columns.extent, self.tiling.columns)
            )

        return loop("y", self.height, row)

    def _tile(
        self,
        batch: Values,
        block: Any,
        row: tuple[Any, Any],
        columns: tuple[Any, int],
        sums: Any,
        piece: tuple[Any, int],
        new: bool,
    ) -> Any:
        from tvm import tirx

        conv, tiling = self.conv, self.tiling
        first, width = columns
        total = tirx.decl_buffer((width, tiling.block), sums.dtype, "total", scope="local")
        outer, *inner = conv.nest.reduce
        first_channel, size = piece

        def over(body: Any) -> Any:
            def vector(x: Any, v: Any) -> Any:
                return loop(
                    "lane",
                    tiling.lanes,
                    lambda lane: body(x, v * tiling.lanes + lane),
                    "vectorized",
                )

            return loop(
                "x",
                width,
                lambda x: loop("v", tiling.vectors, lambda v: vector(x, v), "unrolled"),
                "unrolled",
            )

        def start(x: Any, lane: Any) -> Any:
            value = conv.combiner.initial if new else sums[row[1], first + x, lane]
            return tirx.BufferStore(total, value, [x, lane])

        def add(values: Values) -> Any:
            def one(x: Any, lane: Any) -> Any:
                here = {
                    **batch,
                    **values,
                    conv.channels.var: block * tiling.block,
                    conv.columns.var: first + x,
                }
                if conv.rows:
                    here[conv.rows.var] = row[0] + row[1]
                term = substitute(self._term(block, lane), here)
                return tirx.BufferStore(total, conv.combiner.join(total[x, lane], term), [x, lane])

            return over(one)

        channel = Axis(outer.var, size)
        return sequence(
            [
                tirx.AllocBuffer(total),
                over(start),
                grid(
                    [channel, *inner],
                    lambda values: add({**values, outer.var: values[outer.var] + first_channel}),
                ),
                over(
                    lambda x, lane: tirx.BufferStore(
                        sums, total[x, lane], [row[1], first + x, lane]
                    )
                ),
            ]
        )

    def _term(self, block: Any, lane: Any) -> Any:
        """Return the product with its weight taken from the packed ones."""
        import tvm_ffi
        from tvm import tirx

        conv = self.conv
        inner = [axis.var for axis in weight_axes(conv)]

        def load(node: Any) -> Any:
            if not node.source.same_as(conv.weight.source):
                return node
            return tirx.BufferLoad(self.packed, [block, *inner, lane])

        return tvm_ffi.structural_map(conv.combiner.term, (tensor_load(), load))

    def _output(self, batch: Values, block: Any, first_row: Any, sums: Any) -> Any:
        """Return the way from the sums, by channel, to the output, by column."""
        conv, tiling = self.conv, self.tiling

        def body(channel: Any, y: Any, x: Any) -> Any:
            here = {
                **batch,
                conv.channels.var: block * tiling.block + channel,
                conv.columns.var: x,
            }
            if conv.rows:
                here[conv.rows.var] = first_row + y
            return conv.nest.result(sums[y, x, channel], here)

        def line(channel: Any, y: Any) -> Any:
            return loop("x", conv.columns.extent, lambda x: body(channel, y, x))

        return loop("channel", tiling.block, lambda c: loop("y", self.height, lambda y: line(c, y)))


def _var(name: str) -> Any:
    from tvm import tirx

    return tirx.Var(name, "int64")
