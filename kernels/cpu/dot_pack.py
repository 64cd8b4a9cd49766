"""Packing for ``cpu_dot``: operands as panels of 32-bit words that hold consecutive k.

A panel is as wide as a micro-tile. Its words stand row by row: for each word index along k, one
word for each row of A or column of B. (Panels for AMX hold tile after tile, row by row: of A 16
words of a row in each, of B the words of 16 columns.) What lies beyond the matrix is zero along k,
and along the panel anything that is safe to read, because nothing computed from it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot_store import same
from autotune.kernels.cpu.dot_words import FLIP_SIGNS, WordReader


@dataclass(frozen=True)
class Block:
    """Words of one panel, or of a few side by side, and where they go; all may be expressions.

    Parameters
    ----------
    panel, first
        The first panel, and its first word along k.
    target, base
        Buffer of words, and the offset in it.
    panels, apart
        Panels that are packed at once, and their distance in ``target``.
    """

    panel: Any
    first: Any
    target: Any
    base: Any = 0
    panels: Any = 1
    apart: Any = 0


class Packer:
    """Emits the loops that pack one operand.

    Parameters
    ----------
    reader
        Of that operand.
    tile_rows
        Lay panels out for tiles rather than vectors.
    """

    def __init__(self, reader: WordReader, tile_rows: bool = False) -> None:
        self.reader, self.tile_rows = reader, tile_rows
        self.operand = reader.operand
        self._tiles = reader.instruction.tiles

    def place(self, lane: Any, word: Any) -> Any:
        """Return the offset of a word in its panel."""
        if self.tile_rows:
            return ((word // 16) * self.operand.width + lane) * 16 + word % 16
        if self._tiles:
            tile = word // 16 * (self.operand.width // 16) + lane // 16
            return tile * 256 + word % 16 * 16 + lane % 16
        return word * self.operand.width + lane

    @property
    def side_by_side(self) -> bool:
        """Whether neighbouring panels are best packed at once, so that rows stream past whole.

        So it is for tiles (1.05 to 1.4 times the speed of all of a large bf16 product): a word of
        each of their 16 columns fills a cache line. Narrower ones would be written in parts by
        turns.
        """
        return self._tiles and not self.operand.along_k and not self.tile_rows

    def pack_panels(
        self, panel: Any, panels: Any, first: Any, count: Any, target: Any, size: Any
    ) -> None:
        """Emit the packing of ``panels`` panels from ``panel`` on, ``size`` words for each."""
        from tvm.script import tirx as T

        if self.side_by_side:
            self.pack(Block(panel, first, target, 0, panels, size), count)
            return
        with T.serial(0, panels) as index:
            self.pack(Block(panel + index, first, target, index * size), count)

    def pack(self, block: Block, count: Any) -> None:
        """Emit the packing of ``count`` words along k, padding included."""
        from tvm.script import tirx as T

        full = self.reader.full_words
        if full == self.reader.words:
            self._pack_words(block, count)
            return
        inside = T.bind(T.max(T.int32(0), T.min(count, full - block.first)))
        self._pack_words(block, inside)
        with T.serial(0, count - inside) as rest:
            word = T.bind(inside + rest)
            remainder = self.operand.k % self.reader.group
            if remainder == 0:
                self._pack_row(block, word, 0)
                return
            with T.If(block.first + word == full):
                with T.Then():
                    self._pack_row(block, word, remainder)
                with T.Else():
                    self._pack_row(block, word, 0)

    def _pack_words(self, block: Block, count: Any) -> None:
        """Emit the packing of words that lie inside the matrix along k."""
        from tvm.script import tirx as T

        as_they_are = self.reader.view is not None
        if not as_they_are or not (self.tile_rows or self.operand.width % 16 == 0):
            with T.serial(0, count) as word:
                self._pack_row(block, word, self.reader.group)
            return
        with T.serial(0, count // 16) as sixteen:
            if self.tile_rows:
                self._copy_tile_rows(block, sixteen)
            else:
                self._transpose_all(block, sixteen)
        with T.serial(0, count % 16) as rest:
            word = T.bind(count // 16 * 16 + rest)
            self._pack_row(block, word, self.reader.group)

    def _copy_tile_rows(self, block: Block, sixteen: Any) -> None:
        """Emit the copying of 16 words of each row of a panel."""
        from tvm.script import tirx as T

        width = self.operand.width
        with T.serial(0, width) as lane:
            row = self.reader.stored(self.reader.row(block.panel, lane))
            value = self.reader.view[row, T.ramp(block.first + sixteen * 16, 1, 16)]
            if self.reader.flip:
                value = value ^ same(FLIP_SIGNS, "int32", 16)
            where = T.ramp(block.base + (sixteen * width + lane) * 16, 1, 16)
            T.buffer_store(block.target, value, [where])

    def _transpose_all(self, block: Block, sixteen: Any) -> None:
        """Emit the transposition of 16 words of each column of a panel."""
        from tvm.script import tirx as T

        width = self.operand.width
        self.reader.need(llvm_text.transpose16())
        apart = 256 if self._tiles else 16
        with T.serial(0, width // 16) as part:
            place = block.base + sixteen * 16 * width + part * apart
            self._transpose(block, part, block.first + sixteen * 16, place)

    def _transpose(self, block: Block, part: Any, word: Any, base: Any) -> None:
        """Emit the transposition of 16 words of 16 columns."""
        from tvm.script import tirx as T

        width, extent = self.operand.width, self.operand.extent
        row = block.panel * width + part * 16
        apart = 16 if self._tiles else width
        if extent % 16 == 0 and extent % width == 0:
            self._transpose_whole(block.target, row, word, base, apart)
            return
        with T.If(row + 16 <= extent):
            with T.Then():
                self._transpose_whole(block.target, row, word, base, apart)
            with T.Else(), T.serial(0, 16) as i, T.serial(0, 16) as lane:
                inside = T.min(row + lane, extent - 1)
                value = self.reader.one(inside, word + i, self.reader.group)
                T.buffer_store(block.target, value, [base + i * apart + lane])

    def _transpose_whole(self, target: Any, row: Any, word: Any, base: Any, apart: int) -> None:
        from tvm import tirx
        from tvm.script import tirx as T

        arguments = (
            T.address_of(self.reader.view[self.reader.stored(row), word]),
            T.int64(self.operand.k // self.reader.group * 4),
            T.address_of(target[base]),
            T.int64(4 * apart),
        )
        T.evaluate(tirx.call_extern("int32", "at_transpose", *arguments))
        if self.reader.flip:
            with T.serial(0, 16) as i:
                where = [T.ramp(base + i * apart, 1, 16)]
                T.buffer_store(target, target[where[0]] ^ same(FLIP_SIGNS, "int32", 16), where)

    def _pack_row(self, block: Block, word: Any, valid: int) -> None:
        """Emit one word index of each panel: one word for each of its rows or columns.

        Of the elements of each word, ``valid`` are inside the matrix.
        """
        from tvm.script import tirx as T

        if not isinstance(block.panels, int) or block.panels > 1:
            with T.serial(0, block.panels) as index:
                base = block.base + index * block.apart
                one = Block(block.panel + index, block.first, block.target, base)
                self._pack_row(one, word, valid)
            return
        if self.operand.along_k or self.tile_rows:
            with T.serial(0, self.operand.width) as lane:
                row = self.reader.row(block.panel, lane)
                value = self.reader.one(row, block.first + word, valid)
                T.buffer_store(block.target, value, [block.base + self.place(lane, word)])
            return
        tail = self.operand.extent % self.operand.width
        if not tail:
            self._store_vectors(block, word, valid, None)
            return
        with T.If(block.panel < self.operand.panels - 1):
            with T.Then():
                self._store_vectors(block, word, valid, None)
            with T.Else():
                self._store_vectors(block, word, valid, tail)

    def _store_vectors(self, block: Block, word: Any, valid: int, inside: int | None) -> None:
        """Emit one word index of a panel whose columns are neighbours, ``inside`` of them real."""
        from tvm.script import tirx as T

        width, lane = self.operand.width, 0
        while lane < width:
            lanes = next(x for x in (16, 8, 4, 2, 1) if x <= width - lane)
            index, k = block.panel * width + lane, block.first + word
            if inside is None or inside >= lane + lanes:
                value = self.reader.many(index, k, lanes, valid)
            elif inside <= lane:
                value = self.reader.zero(lanes)
            else:
                value = self.reader.many(index, k, lanes, valid, inside - lane)
            offset = block.base + self.place(lane, word)
            where = T.ramp(offset, 1, lanes) if lanes > 1 else offset
            T.buffer_store(block.target, value, [where])
            lane += lanes
