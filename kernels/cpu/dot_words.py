"""Reading operands of ``cpu_dot`` as 32-bit words that hold consecutive k, zero beyond the matrix.

A word is what its instructions multiply: two bf16 or fp16, four int8, or one fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.hw_profiles.instructions import DotInstruction
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot_store import same

#: Adding 128 to each of four signed bytes makes them unsigned; it only flips their top bits.
FLIP_SIGNS = -0x7F7F7F80  # 0x80808080 as a signed number


def word_dtype(instruction: DotInstruction) -> str:
    """Return the type of a word."""
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


class WordReader:
    """Emits the reading of one operand as words.

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
    """

    def __init__(
        self,
        operand: Operand,
        instruction: DotInstruction,
        words: int,
        need: Any,
        flip: bool = False,
    ) -> None:
        from tvm.script import tirx as T

        self.operand, self.instruction, self.words = operand, instruction, words
        self.need, self.flip = need, flip
        self.group = instruction.group
        #: Words that lie wholly inside the matrix.
        self.full_words = operand.k // self.group
        self.converts = instruction.operand != operand.dtype
        rows, columns = operand.buffer.shape
        data = operand.buffer.data
        self.raw_dtype = "uint16"
        if operand.dtype == "int8":
            self.raw_dtype = "int8" if self.converts else "uint8"
        self.raw = T.decl_buffer((rows, columns), self.raw_dtype, data=data)
        #: The operand as words, where they stand in memory as they are.
        self.view: Any = None
        if operand.along_k and operand.k % self.group == 0 and not self.converts:
            self.view = T.decl_buffer((rows, operand.k // self.group), "int32", data=data)

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

    def zero(self, lanes: int) -> Any:
        """Return the word, or vector of words, of what lies beyond the matrix."""
        if self.flip:
            return same(FLIP_SIGNS, "int32", lanes)
        return same(0, word_dtype(self.instruction), lanes)

    def stored(self, row: Any) -> Any:
        """Return the row of the buffer that is a row of the operand."""
        return row if isinstance(self.operand.origin, int) else self.operand.origin + row

    def one(self, index: Any, word: Any, valid: int) -> Any:
        """Return the word of one row or column, of which ``valid`` elements are in the matrix."""
        from tvm.script import tirx as T

        if self.view is not None and valid == self.group:
            value = self.view[self.stored(index), word]
            return value ^ T.int32(FLIP_SIGNS) if self.flip else value
        elements = []
        for place in range(valid):
            k = word * self.group + place
            row, column = (index, k) if self.operand.along_k else (k, index)
            elements.append(self.raw[self.stored(row), column])
        return self._joined(elements, 1) if valid else self.zero(1)

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
                where = T.ramp(index, 1, lanes) if lanes > 1 else index
                elements.append(self.raw[k, where])
                continue
            if count == 1:  # the other lanes are never looked at
                elements.append(tirx.Broadcast(self.raw[k, index], lanes))
                continue
            name = self.raw_dtype
            self.need(llvm_text.masked("load", name, lanes))
            address = T.address_of(self.raw[k, index])
            function = llvm_text.masked_name("load", name, lanes)
            elements.append(tirx.call_extern(f"{name}x{lanes}", function, address, T.int32(count)))
        return self._joined(elements, lanes) if valid else self.zero(lanes)

    def row(self, panel: Any, lane: Any) -> Any:
        """Return the row or column of a lane, or the last one if it sticks out."""
        from tvm.script import tirx as T

        index = panel * self.operand.width + lane
        if self.operand.extent % self.operand.width == 0:
            return index
        return T.min(index, self.operand.extent - 1)
