"""Operands that the tensor cores cannot take as they lie: a copy of them that they can.

wgmma and ldmatrix transpose 16-bit elements only, and TMA wants lines that start at multiples of 16
bytes. An operand of 8-bit or tf32 elements that does not have its lines along k, or has them at odd
places, is first copied to scratch memory with lines along k, each padded with zeros to a multiple
of 16 bytes. The copy is a launch of its own in each call, and its time and traffic count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: What lines of an operand are padded to, bytes of a word, words of a line of a tile.
_ALIGNMENT, _WORD, WORDS = 16, 4, 32
THREADS = 256


@dataclass(frozen=True)
class Turn:
    """The copy of one operand, ``batch`` matrices of ``extent x k``.

    Tiles are ``lines`` rows (of the operand as it is multiplied) by as many k: a warp reads and
    writes lines of 128 bytes.

    Parameters
    ----------
    name
        ``a`` or ``b``.
    across
        Whether lines run along m or n before, so that the copy is a transpose.
    extent, k, batch
        Rows of A or columns of B; depth; products.
    size
        Bytes of an element: 1 or 4.
    """

    name: str
    across: bool
    extent: int
    k: int
    batch: int
    size: int

    @classmethod
    def needed(cls, workload: Gemm, size: int) -> tuple[Turn, ...]:
        """Return the copies that a workload of elements of that size needs, A's first."""
        if size == 2:
            return ()
        w = workload
        found = (
            cls("a", w.layout[0] == "t", w.m, w.k, w.batch, size),
            cls("b", w.layout[1] == "n", w.n, w.k, w.batch, size),
        )
        return tuple(t for t in found if t.across or t.pitch != t.k)

    @property
    def pitch(self) -> int:
        """Elements from one line of the copy to the next."""
        unit = _ALIGNMENT // self.size
        return -(-self.k // unit) * unit

    @property
    def elements(self) -> int:
        """Elements of the copy."""
        return self.batch * self.extent * self.pitch

    @property
    def moved_bytes(self) -> int:
        """Bytes that are read and written."""
        return (self.batch * self.extent * self.k + self.elements) * self.size

    @property
    def width(self) -> int:
        """Elements of a word."""
        return _WORD // self.size

    @property
    def lines(self) -> int:
        """Rows of a tile, and its depth: as many as a line of 128 bytes has elements."""
        return WORDS * self.width

    @property
    def tiles_k(self) -> int:
        """Tiles along k, the padding included."""
        return -(-self.pitch // self.lines)

    @property
    def tiles(self) -> int:
        """Tiles of one matrix."""
        return -(-self.extent // self.lines) * self.tiles_k

    @property
    def whole_words(self) -> bool:
        """Whether lines of the operand start at words and end with one."""
        return (self.extent if self.across else self.k) % self.width == 0
