"""All panels of an operand of ``cpu_dot`` packed at once, in each call or, of B, beforehand.

One panel stands after the other. Where signed bytes of A are offset, the column sums that correct
for it stand at the end of each panel of a B that was packed beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.instruction_text import TILE_WORDS
from autotune.kernels.cpu.dot_pack import Block, Packer
from autotune.kernels.cpu.linked import linked_function
from autotune.kernels.cpu.product import PACK
from autotune.kernels.verify import numpy_dtype

if TYPE_CHECKING:
    from autotune.kernels.cpu.dot_nest import DotNest


def packed_shape(nest: DotNest) -> tuple[int, ...]:
    """Return the shape of packed B, in elements of B's type.

    That of tiles has more dimensions than that of vectors, so that neither is taken for the other.
    """
    elements = 4 // numpy_dtype(nest.workload.dtype).itemsize
    panels, rows = nest.tiles["n"], nest.panel_of_b // nest.nr
    if not nest.instruction.tiles:
        return panels, rows, nest.nr * elements
    return panels, rows // TILE_WORDS, nest.nr // TILE_WORDS, TILE_WORDS, TILE_WORDS * elements


def pack_function(nest: DotNest, text: str) -> Any:
    """Return ``pack(B, packed)``, with a piece of LLVM code linked in."""
    w = nest.workload.one_of_batch

    def body(b: Any, packed: Any) -> None:
        nest.packers = {"b": nest.new_packer("b", b)}
        nest.inner = nest.new_inner()
        nest.packed = {"b": nest.words_of(packed)}
        nest.sums_of_b = nest.packed["b"]
        pack_whole(nest, "b")

    arguments = {"B": (w.b_shape, w.dtype), "packed": (packed_shape(nest), w.dtype)}
    return linked_function(PACK, arguments, text, body)


def pack_whole(nest: DotNest, name: str) -> None:
    """Emit the packing of all panels of ``a`` or ``b``."""
    packer, target = nest.packers[name], nest.packed[name]
    size = nest.mr * nest.words if name == "a" else nest.panel_of_b
    if packer.side_by_side:
        _pack_side_by_side(nest, packer, target, size)
        return
    with nest.loop(packer.operand.panels, nest.parallel) as panel:
        base = panel * size
        packer.pack(Block(panel, 0, target, base), nest.words)
        if name == "b" and nest.corrected:
            nest.inner.sum_columns(base, nest.words, nest.sums_of_panel(panel))


def _pack_side_by_side(nest: DotNest, packer: Packer, target: Any, size: int) -> None:
    """Pack a few rows of all panels at a time, threads sharing the rows."""
    from tvm.script import tirx as T

    rows = 16 * TILE_WORDS
    with nest.loop(-(-nest.words // rows), nest.parallel) as block:
        first, operand = block * rows, packer.operand
        beside = Block(0, first, target, first * operand.width, operand.panels, size)
        packer.pack(beside, T.min(rows, nest.words - first))
