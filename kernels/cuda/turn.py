"""Operands that the tensor cores cannot take as they lie: a copy of them that they can.

wgmma and ldmatrix transpose 16-bit elements only, and TMA and cp.async want lines that start at
multiples of 16 bytes. An operand of 8-bit or tf32 elements that does not have its lines along k is
first copied to scratch memory with lines along k; one whose lines start at odd places, of any type,
is copied as it lies. Lines of a copy are padded with zeros to a multiple of 16 bytes. The copy is a
launch of its own in each call, and its time and traffic count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.errors import NotApplicable

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: An array has fewer elements than that: kernels index with 32 bits.
_MOST_ELEMENTS = 2**31
#: What lines of an operand are padded to, bytes of a word, words of a line of a tile.
_ALIGNMENT, _WORD, WORDS = 16, 4, 32
THREADS = 256


@dataclass(frozen=True)
class Turn:
    """The copy of one operand, ``batch`` matrices of ``rows`` lines with ``length`` elements each.

    Tiles are ``lines`` lines by as many elements: a warp reads and writes lines of 128 bytes.

    Parameters
    ----------
    name
        ``a`` or ``b``.
    across
        Whether lines run the other way before, so that the copy is a transpose.
    along_k
        Whether lines of the copy run along k, and not along m or n.
    rows, length
        Lines of the copy, and elements of one without its padding.
    batch
        Matrices: products, or 1 where all of them share the operand.
    size
        Bytes of an element: 1, 2 or 4.
    """

    name: str
    across: bool
    along_k: bool
    rows: int
    length: int
    batch: int
    size: int

    @classmethod
    def needed(cls, workload: Gemm, size: int) -> tuple[Turn, ...]:
        """Return the copies that a workload of elements of that size needs, A's first."""
        w = workload
        found = []
        for name, along_k, extent in (
            ("a", w.layout[0] == "n", w.m),
            ("b", w.layout[1] == "t", w.n),
        ):
            batch = 1 if w.shared == name else w.batch
            if along_k or size != 2:
                found.append(cls(name, not along_k, True, extent, w.k, batch, size))
            else:
                found.append(cls(name, False, False, w.k, extent, batch, size))
        return tuple(t for t in found if t.across or t.pitch != t.length)

    @property
    def pitch(self) -> int:
        """Elements from one line of the copy to the next."""
        unit = _ALIGNMENT // self.size
        return -(-self.length // unit) * unit

    @property
    def elements(self) -> int:
        """Elements of the copy."""
        return self.batch * self.rows * self.pitch

    @property
    def moved_bytes(self) -> int:
        """Bytes that are read and written."""
        return (self.batch * self.rows * self.length + self.elements) * self.size

    @property
    def width(self) -> int:
        """Elements of a word."""
        return _WORD // self.size

    @property
    def lines(self) -> int:
        """Lines of a tile, and its elements along them: as many as 128 bytes hold."""
        return WORDS * self.width

    @property
    def tiles_along(self) -> int:
        """Tiles along a line, the padding included."""
        return -(-self.pitch // self.lines)

    @property
    def tiles(self) -> int:
        """Tiles of one matrix."""
        return -(-self.rows // self.lines) * self.tiles_along

    @property
    def source_shape(self) -> tuple[int, int]:
        """Lines of one matrix of the operand as it lies, and elements of one."""
        return (self.length, self.rows) if self.across else (self.rows, self.length)

    @property
    def whole_words(self) -> bool:
        """Whether lines of the operand start at words and end with one."""
        return self.source_shape[1] % self.width == 0


def fit_indices(turns: Iterable[Turn]) -> bool:
    """Whether 32 bits index the copies: padding makes short lines up to 16 times as long."""
    return all(turn.elements < _MOST_ELEMENTS for turn in turns)


def check_copies(name: str, workload: Gemm, turns: Iterable[Turn]) -> None:
    """Raise NotApplicable if a template's copies are larger than 32 bits index."""
    if not fit_indices(turns):
        raise NotApplicable(
            f"template {name} indexes with 32 bits; the copy of an operand of {workload.key}, its"
            " lines padded to 16 bytes, has 2^31 elements or more"
        )
