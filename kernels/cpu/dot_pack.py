"""Packing for ``cpu_dot``: operands as panels of 32-bit words that hold consecutive k.

A panel is as wide as a micro-tile. Its words stand row by row: for each word index along k, one
word for each row of A or column of B. (Panels for AMX hold tile after tile, row by row: of A 16
words of a row in each, of B the words of 16 columns.) What lies beyond the matrix is zero along k,
and along the panel anything that is safe to read, because nothing computed from it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.hw_profiles.instructions import DotInstruction
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot_store import same

_BITS = {"bfloat16": 16, "float16": 16, "int8": 8}
#: Adding 128 to each of four signed bytes makes them unsigned; it only flips their top bits.
FLIP_SIGNS = -0x7F7F7F80  # 0x80808080 as a signed number


def word_dtype(instruction: DotInstruction) -> str:
    """Return the type of a packed word."""
    return "float32" if instruction.operand == "float32" else "int32"


@dataclass
class Operand:
    """One of the two inputs and how it is cut.

    Parameters
    ----------
    buffer
        The argument, as a 2-D buffer of the workload's dtype.
    dtype
        The workload's dtype.
    extent, k
        Rows of A or columns of B, and depth.
    along_k
        Whether elements that differ by one k are neighbours in memory.
    width
        Rows or columns in a panel.
    origin
        Index of the first row of the buffer that belongs to it, of a batch to this product.
    """

    buffer: Any
    dtype: str
    extent: int
    k: int
    along_k: bool
    width: int
    origin: Any = 0

    @property
    def panels(self) -> int:
        """Number of panels; the last may stick out."""
        return -(-self.extent // self.width)


class Packer:
    """Emits the loops that read one operand as words.

    Parameters
    ----------
    operand, instruction
        What is read, and for whom.
    words
        Words along k, padding included.
    need
        Called with each text of LLVM code that is needed.
    flip
        Offset signed bytes by 128.
    tile_rows
        Lay panels out for tiles rather than vectors.
    """

    def __init__(
        self,
        operand: Operand,
        instruction: DotInstruction,
        words: int,
        need: Any,
        flip: bool = False,
        tile_rows: bool = False,
    ) -> None:
        from tvm.script import tirx as T

        self.operand, self.instruction, self.words = operand, instruction, words
        self.need, self.flip, self.tile_rows = need, flip, tile_rows
        self.group = instruction.group
        #: Words that lie wholly inside the matrix.
        self.full_words = operand.k // self.group
        self.bits = _BITS[operand.dtype]
        self.converts = instruction.operand != operand.dtype
        rows, columns = operand.buffer.shape
        raw = {16: "uint16", 8: "int8" if self.converts else "uint8"}[self.bits]
        data = operand.buffer.data
        self.raw_dtype = raw
        self.raw = T.decl_buffer((rows, columns), raw, data=data)
        self.half = operand.buffer if operand.dtype == "float16" else None
        self.whole_words = operand.k % self.group == 0 and not self.converts
        self.view: Any = None
        if operand.along_k and self.whole_words:
            self.view = T.decl_buffer((rows, operand.k // self.group), "int32", data=data)

    # -- words ------------------------------------------------------------------------------------

    @property
    def word_dtype(self) -> str:
        """Type of a packed word."""
        return word_dtype(self.instruction)

    def _joined(self, elements: list[Any], lanes: int) -> Any:
        """Return the word, or vector of words, made of raw elements in the order of k."""
        from tvm.script import tirx as T

        suffix = f"x{lanes}" if lanes > 1 else ""
        kind = self.instruction.operand
        if kind == "float32":
            if self.operand.dtype == "float16":
                half = T.reinterpret(f"float16{suffix}", elements[0])
                return half.astype(f"float32{suffix}")
            bits = elements[0].astype(f"uint32{suffix}") << same(16, "uint32", lanes)
            return T.reinterpret(f"float32{suffix}", bits)
        if kind == "int32":
            return elements[0].astype(f"int32{suffix}")
        width = 32 // self.group
        word = None
        for place, element in enumerate(elements):
            part = element.astype(f"int32{suffix}")
            if self.converts:  # sign extension has filled the upper half
                part = part & same((1 << width) - 1, "int32", lanes)
            if place:
                part = part << same(place * width, "int32", lanes)
            word = part if word is None else word | part
        assert word is not None
        return word ^ same(FLIP_SIGNS, "int32", lanes) if self.flip else word

    def _zero(self, lanes: int) -> Any:
        if self.flip:
            return same(FLIP_SIGNS, "int32", lanes)
        return same(0, self.word_dtype, lanes)

    def stored(self, row: Any) -> Any:
        """Return the row of the buffer that is a row of the operand."""
        return row if isinstance(self.operand.origin, int) else self.operand.origin + row

    def one(self, index: Any, word: Any, valid: int) -> Any:
        """Return the word of one row or column, of which ``valid`` elements are in the matrix."""
        if self.view is not None and valid == self.group:
            value = self.view[self.stored(index), word]
            from tvm.script import tirx as T

            return value ^ T.int32(FLIP_SIGNS) if self.flip else value
        elements = []
        for place in range(valid):
            k = word * self.group + place
            row, column = (index, k) if self.operand.along_k else (k, index)
            elements.append(self.raw[self.stored(row), column])
        return self._joined(elements, 1) if valid else self._zero(1)

    def many(self, index: Any, word: Any, lanes: int, valid: int, count: int | None = None) -> Any:
        """Return the words of neighbouring rows or columns, where these are contiguous in memory.

        ``count`` of them are inside the matrix; None for all.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        elements = []
        for place in range(valid):
            k = self.stored(word * self.group + place)
            if count is None:
                elements.append(
                    self.raw[k, T.ramp(index, 1, lanes)] if lanes > 1 else self.raw[k, index]
                )
                continue
            if count == 1:  # the other lanes are never looked at
                elements.append(tirx.Broadcast(self.raw[k, index], lanes))
                continue
            name = self.raw_dtype
            self.need(llvm_text.masked("load", name, lanes))
            address = T.address_of(self.raw[k, index])
            function = llvm_text.masked_name("load", name, lanes)
            elements.append(tirx.call_extern(f"{name}x{lanes}", function, address, T.int32(count)))
        return self._joined(elements, lanes) if valid else self._zero(lanes)

    # -- panels -----------------------------------------------------------------------------------

    def place(self, lane: Any, word: Any) -> Any:
        """Return the offset of a word in its panel."""
        if self.tile_rows:
            return ((word // 16) * self.operand.width + lane) * 16 + word % 16
        if self.instruction.tiles:
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
        return self.instruction.tiles and not self.operand.along_k and not self.tile_rows

    def pack_panels(
        self, panel: Any, panels: Any, first: Any, count: Any, target: Any, size: Any
    ) -> None:
        """Emit the packing of ``panels`` panels from ``panel`` on, ``size`` words for each."""
        from tvm.script import tirx as T

        if self.side_by_side:
            self.pack(panel, first, count, target, 0, (panels, size))
            return
        with T.serial(0, panels) as index:
            self.pack(panel + index, first, count, target, index * size)

    def pack(
        self,
        panel: Any,
        first: Any,
        count: Any,
        target: Any,
        base: Any,
        beside: tuple[Any, Any] = (1, 0),
    ) -> None:
        """Emit the packing of ``count`` words from ``first`` on of one panel to ``target[base:]``.

        Parameters
        ----------
        count
            The padded one; this and most others may be expressions.
        beside
            Panels that are packed at once, and their distance in ``target``.
        """
        from tvm.script import tirx as T

        if self.full_words == self.words:
            self._pack_words(panel, first, count, target, base, beside)
            return
        inside = T.bind(T.max(T.int32(0), T.min(count, self.full_words - first)))
        self._pack_words(panel, first, inside, target, base, beside)
        with T.serial(0, count - inside) as rest:
            word = T.bind(inside + rest)
            remainder = self.operand.k % self.group
            if remainder == 0:
                self._pack_row(panel, first, word, target, base, 0, beside)
                return
            with T.If(first + word == self.full_words):
                with T.Then():
                    self._pack_row(panel, first, word, target, base, remainder, beside)
                with T.Else():
                    self._pack_row(panel, first, word, target, base, 0, beside)

    def _pack_words(
        self,
        panel: Any,
        first: Any,
        count: Any,
        target: Any,
        base: Any,
        beside: tuple[Any, Any],
    ) -> None:
        """Emit the packing of words that lie inside the matrix along k."""
        from tvm.script import tirx as T

        width = self.operand.width
        blocks = self.view is not None and (self.tile_rows or width % 16 == 0)
        if not blocks:
            with T.serial(0, count) as word:
                self._pack_row(panel, first, word, target, base, self.group, beside)
            return
        with T.serial(0, count // 16) as block:
            if self.tile_rows:
                with T.serial(0, width) as lane:
                    row = self._row(panel, lane)
                    value = self.view[self.stored(row), T.ramp(first + block * 16, 1, 16)]
                    if self.flip:
                        value = value ^ same(FLIP_SIGNS, "int32", 16)
                    T.buffer_store(
                        target, value, [T.ramp(base + (block * width + lane) * 16, 1, 16)]
                    )
            else:
                self.need(llvm_text.transpose16())
                apart = 256 if self.instruction.tiles else 16
                with T.serial(0, width // 16) as part:
                    place = base + block * 16 * width + part * apart
                    self._transpose(panel, part, first + block * 16, target, place)
        with T.serial(0, count % 16) as rest:
            word = T.bind(count // 16 * 16 + rest)
            self._pack_row(panel, first, word, target, base, self.group, beside)

    def _transpose(self, panel: Any, part: Any, word: Any, target: Any, base: Any) -> None:
        from tvm import tirx
        from tvm.script import tirx as T

        width, extent = self.operand.width, self.operand.extent
        row = panel * width + part * 16
        apart = 16 if self.instruction.tiles else width

        def whole() -> None:
            arguments = (
                T.address_of(self.view[self.stored(row), word]),
                T.int64(self.operand.k // self.group * 4),
                T.address_of(target[base]),
                T.int64(4 * apart),
            )
            T.evaluate(tirx.call_extern("int32", "at_transpose", *arguments))
            if self.flip:
                with T.serial(0, 16) as i:
                    where = [T.ramp(base + i * apart, 1, 16)]
                    T.buffer_store(target, target[where[0]] ^ same(FLIP_SIGNS, "int32", 16), where)

        if extent % 16 == 0 and extent % width == 0:
            whole()
            return
        with T.If(row + 16 <= extent):
            with T.Then():
                whole()
            with T.Else(), T.serial(0, 16) as i, T.serial(0, 16) as lane:
                value = self.one(T.min(row + lane, extent - 1), word + i, self.group)
                T.buffer_store(target, value, [base + i * apart + lane])

    def _row(self, panel: Any, lane: Any) -> Any:
        """Return the row or column of a lane, or the last one if it sticks out."""
        from tvm.script import tirx as T

        index = panel * self.operand.width + lane
        if self.operand.extent % self.operand.width == 0:
            return index
        return T.min(index, self.operand.extent - 1)

    def _pack_row(
        self,
        panel: Any,
        first: Any,
        word: Any,
        target: Any,
        base: Any,
        valid: int,
        beside: tuple[Any, Any],
    ) -> None:
        """Emit one word index of a panel: one word for each of its rows or columns."""
        from tvm.script import tirx as T

        panels, apart = beside
        if not isinstance(panels, int) or panels > 1:
            with T.serial(0, panels) as index:
                place = base + index * apart
                self._pack_row(panel + index, first, word, target, place, valid, (1, 0))
            return
        width = self.operand.width
        contiguous = not self.operand.along_k and not self.tile_rows
        if contiguous:
            tail = self.operand.extent % width
            if not tail:
                self._store_vectors(panel, first, word, target, base, valid, None)
                return
            with T.If(panel < self.operand.panels - 1):
                with T.Then():
                    self._store_vectors(panel, first, word, target, base, valid, None)
                with T.Else():
                    self._store_vectors(panel, first, word, target, base, valid, tail)
            return
        with T.serial(0, width) as lane:
            value = self.one(self._row(panel, lane), first + word, valid)
            T.buffer_store(target, value, [base + self.place(lane, word)])

    def _store_vectors(
        self,
        panel: Any,
        first: Any,
        word: Any,
        target: Any,
        base: Any,
        valid: int,
        inside: int | None,
    ) -> None:
        from tvm.script import tirx as T

        width, lane = self.operand.width, 0
        while lane < width:
            lanes = next(x for x in (16, 8, 4, 2, 1) if x <= width - lane)
            index = panel * width + lane
            if inside is None or inside >= lane + lanes:
                value = self.many(index, first + word, lanes, valid)
            elif inside <= lane:
                value = self._zero(lanes)
            else:
                value = self.many(index, first + word, lanes, valid, inside - lane)
            offset = base + self.place(lane, word)
            where = T.ramp(offset, 1, lanes) if lanes > 1 else offset
            T.buffer_store(target, value, [where])
            lane += lanes
