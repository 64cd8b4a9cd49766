"""B packed beforehand for ``cpu_dot``: its shape, and the function that packs it.

All panels as the kernel would pack them in each call, one after the other. Where signed bytes of A
are offset, the column sums that correct for it stand at the end of each panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.instruction_text import TILE_WORDS
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
        nest.pack_whole("b")

    arguments = {"B": (w.b_shape, w.dtype), "packed": (packed_shape(nest), w.dtype)}
    return linked_function(PACK, arguments, text, body)
