"""The loop nest of ``cpu_dot``, written statement by statement.

Blocks of C are walked in the order of ``outer_order``; inside a block, micro-tile by micro-tile. A
micro-tile stays in registers (or AMX tiles) while its words of A and B run past. Where k is cut
into blocks, sums wait in a scratch buffer between them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.instructions import instruction
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.batched import BATCH
from autotune.kernels.cpu.blocks import round_up
from autotune.kernels.cpu.dot_inner import VectorInner
from autotune.kernels.cpu.dot_pack import Block, Packer
from autotune.kernels.cpu.dot_store import Results
from autotune.kernels.cpu.dot_tiles import TileInner
from autotune.kernels.cpu.dot_whole import pack_function, pack_whole, packed_shape
from autotune.kernels.cpu.dot_words import Operand, WordReader, word_dtype
from autotune.kernels.cpu.lanes import lanes_of
from autotune.kernels.cpu.linked import linked_function
from autotune.kernels.cpu.product import PACK

if TYPE_CHECKING:
    from autotune.search.space import Config
    from autotune.workload import Gemm


class DotNest:
    """Builds the function of one config.

    Parameters
    ----------
    workload, config
        What to compute and how.
    emulate_tiles
        Leave the AMX operations as calls of functions that the process has to provide, so that
        tests can run the rest of the kernel on a CPU without AMX.
    """

    def __init__(self, workload: Gemm, config: Config, emulate_tiles: bool = False) -> None:
        self.workload = workload
        #: What was asked for; a template may compute it by another product.
        self.stated = workload
        self.emulate_tiles = emulate_tiles
        self.c: dict[str, Any] = dict(config)
        c = self.c
        self.instruction = instruction(c["inner"])
        self.mr, self.nr = int(c["micro_m"]), int(c["micro_n"])
        self.lanes = self.instruction.lanes or lanes_of(self.nr)
        self.step = 16 if self.instruction.tiles else int(c["unroll_k"])
        self.words = round_up(-(-workload.k // self.instruction.group), self.step)
        self.block_words = min(self.words, int(c["block_k"]) // self.instruction.group)
        if c["block_k"] == workload.k:
            self.block_words = self.words
        self.tiles = {"m": -(-workload.m // self.mr), "n": -(-workload.n // self.nr)}
        self.block = {"m": int(c["block_m"]), "n": int(c["block_n"])}
        self.outer = {axis: -(-self.tiles[axis] // self.block[axis]) for axis in "mn"}
        self.outer["k"] = -(-self.words // self.block_words)
        self.k_blocked = self.outer["k"] > 1
        #: Words of a panel of B where all panels are packed at once: with B packed beforehand its
        #: column sums stand at the end.
        self.panel_of_b = self.nr * (self.words + (workload.prepacked and self.corrected))
        self.shares_batch = c["parallel"] == BATCH
        self.parallel = c["parallel"] not in ("none", BATCH)
        self.texts: dict[str, None] = {}
        #: Of the operands that are not packed beforehand, and their words, by name.
        self.packers: dict[str, Packer] = {}
        self.packed: dict[str, Any] = {}
        self.sums_of_b: Any = None
        #: Index of the outer block on each axis, as far as the loops are open.
        self.at: dict[str, Any] = {}
        #: Index of the micro-tile in its block.
        self.inside: dict[str, Any] = {}

    @staticmethod
    def allocate(size: int, dtype: str, scope: str = "global") -> Any:
        """Allocate a buffer of which all is there.

        TVM cuts buffers down to what it sees accessed, and what is accessed through an address is
        one element to it: so both ends are written.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        buffer = T.alloc_buffer((size,), dtype, scope=scope)
        for end in sorted({0, size - 1}):
            T.buffer_store(buffer, tirx.const(0, dtype), [end])
        return buffer

    def need(self, text: str) -> None:
        """Link a piece of LLVM code into the kernel."""
        self.texts.setdefault(text)

    # -- the function -----------------------------------------------------------------------------

    def module(self) -> Any:
        """Return the IRModule."""
        import tvm

        writers = {"main": self._function}
        if self.workload.prepacked:
            writers[PACK] = partial(pack_function, self)
        functions = {}
        for name, write in writers.items():
            self.texts.clear()
            # The LLVM code that is linked in stands outside what needs it: write the body twice.
            write("")
            functions[name] = write(llvm_text.join(self.texts))
        return tvm.IRModule(functions)

    def words_of(self, packed: Any) -> Any:
        """Return a packed B as one row of words."""
        from tvm.script import tirx as T

        size = self.tiles["n"] * self.panel_of_b
        return T.decl_buffer((size,), word_dtype(self.instruction), data=packed.data)

    def new_inner(self) -> Any:
        """Return the micro-kernel's writer."""
        return (TileInner if self.instruction.tiles else VectorInner)(self)

    def _function(self, text: str) -> Any:
        w = self.stated
        self.at = {}
        name_of_b, shape_of_b = ("packed", packed_shape(self)) if w.prepacked else ("B", w.b_shape)
        added = {name: (shape, w.out_dtype) for name, shape, _ in w.inputs[2:]}
        arguments = {"A": (w.a_shape, w.dtype), name_of_b: (shape_of_b, w.dtype), **added}
        arguments["C"] = (w.c_shape, w.out_dtype)

        def body(a: Any, b: Any, *rest: Any) -> None:
            *others, out = rest
            self._batch(a, b, out, dict(zip(added, others, strict=True)))

        return linked_function("main", arguments, text, body)

    def _batch(self, a: Any, b: Any, out: Any, added: dict[str, Any]) -> None:
        """Open the loop over a batch, if there is one.

        All its matrices of a kind are one below the other: a single one of more rows.
        """
        from tvm.script import tirx as T

        w = self.stated
        out = self._as_matrix(out)
        a = a if w.shared == "a" else self._as_matrix(a)
        b = b if w.shared == "b" or w.prepacked else self._as_matrix(b)
        if "residual" in added:
            added = {**added, "residual": self._as_matrix(added["residual"])}
        self.results = self._new_results(out, added.get("bias"), added.get("residual"))
        if w.batch == 1:
            self._body(a, b)
            return
        with (T.parallel if self.shares_batch else T.serial)(0, w.batch) as self.product:
            self._body(a, b)

    def _new_results(self, out: Any, bias: Any, residual: Any) -> Results:
        """Return what writes C, given the arguments that it takes."""
        return Results(self, out, bias, residual)

    def _as_matrix(self, buffer: Any) -> Any:
        from tvm.script import tirx as T

        if self.workload.batch == 1:
            return buffer
        batch, rows, columns = buffer.shape
        return T.decl_buffer((batch * rows, columns), buffer.dtype, data=buffer.data)

    def stored_row(self, row: Any) -> Any:
        """Return the row of all Cs that is a row of this product's."""
        return row if self.stated.batch == 1 else self.product * self.stated.m + row

    def first_row(self, tile: Any) -> Any:
        """Return the first row of A of a micro-tile."""
        return tile * self.mr

    def new_packer(self, name: str, buffer: Any, origin: Any = 0) -> Packer:
        """Return what packs ``a`` or ``b``; its rows in the buffer begin at ``origin``."""
        w, ins = self.workload, self.instruction
        if name == "a":
            operand = Operand(buffer, w.dtype, w.m, w.k, w.layout[0] == "n", self.mr, origin)
            flip, tile_rows = ins.unsigned_a, ins.tiles
        else:
            operand = Operand(buffer, w.dtype, w.n, w.k, w.layout[1] == "t", self.nr, origin)
            flip = tile_rows = False
        return Packer(WordReader(operand, ins, self.words, self.need, flip), tile_rows)

    def _origin(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return the row at which an operand of this product begins, of those of a batch."""
        w = self.workload
        return 0 if w.batch == 1 or w.shared == name else self.product * shape[0]

    def _body(self, a: Any, b: Any) -> None:
        w, one = self.workload, self.workload.one_of_batch
        self.packers = {"a": self.new_packer("a", a, self._origin("a", one.a_shape))}
        self.packed, self.sums_of_b = {}, None
        if w.prepacked:
            self.packed["b"] = self.sums_of_b = self.words_of(b)
        else:
            self.packers["b"] = self.new_packer("b", b, self._origin("b", one.b_shape))
        self.inner = self.new_inner()
        self._allocate()
        for name in self._whole():
            pack_whole(self, name)
        self._loops(list(self.c["outer_order"]))

    # -- buffers ----------------------------------------------------------------------------------

    def _allocate(self) -> None:
        """Allocate what is shared by all tasks; what belongs to one is allocated inside."""
        from tvm.script import tirx as T

        for name in self._whole():
            size = self.tiles["m"] * self.mr * self.words
            if name == "b":
                size = self.tiles["n"] * self.panel_of_b
            self.packed[name] = self.allocate(size, word_dtype(self.instruction))
            if name == "b" and self.corrected:
                self.sums_of_b = T.alloc_buffer((self.tiles["n"] * self.nr,), "int32")

    def _whole(self) -> list[str]:
        """Return the operands that the function packs as a whole."""
        here = "a" if self.workload.prepacked else "ab"
        return [name for name in here if self.c[f"pack_{name}"] == "whole"]

    @property
    def corrected(self) -> bool:
        """Whether sums are off by 128 times the column sums of B, found while B is packed."""
        return self.instruction.unsigned_a and self.c["pack_b"] != "none"

    def sums_of_panel(self, panel: Any) -> Any:
        """Return where the column sums of a panel of B are, all of which is packed."""
        if self.workload.prepacked:
            return panel * self.panel_of_b + self.words * self.nr
        return panel * self.nr

    def loop(self, extent: Any, parallel: bool = False) -> Any:
        """Return a loop, shared between threads or not."""
        from tvm.script import tirx as T

        return (T.parallel if parallel else T.serial)(0, extent)

    # -- outer loops ------------------------------------------------------------------------------

    def _loops(self, axes: list[str]) -> None:
        """Open the outer loops, the first or the first two of them shared between threads."""
        from tvm.script import tirx as T

        mode = self.c["parallel"] if self.parallel else "none"
        if mode == "fused" and axes[0] != "k" and axes[1] != "k":
            first, second = axes[:2]
            with T.parallel(0, self.outer[first] * self.outer[second]) as task:
                self.at[first] = T.bind(task // self.outer[second])
                self.at[second] = T.bind(task % self.outer[second])
                self._task(axes[2:])
        elif mode != "none" and axes[0] != "k":
            with T.parallel(0, self.outer[axes[0]]) as task:
                self.at[axes[0]] = task
                self._task(axes[1:])
        else:
            self._task(axes)

    def _task(self, axes: list[str]) -> None:
        self.inner.begin()
        for name, axis in (("a", "m"), ("b", "n")):
            tiles = {"panel": 1, "block": self.block[axis]}.get(self.c[f"pack_{name}"])
            if tiles is not None:
                width = self.packers[name].operand.width
                self._allocate_block(name, tiles * width * self.block_words)
        self.axes_after_k = axes[axes.index("k") + 1 :]
        if not self.k_blocked:  # k is no loop, and its place in the order means nothing
            self.at["k"] = 0
            axes = [axis for axis in axes if axis != "k"]
        self._pack_blocks(None)
        self._open(axes)
        self.inner.end()

    def _allocate_block(self, name: str, size: int) -> None:
        from tvm.script import tirx as T

        self.packed[name] = self.allocate(size, word_dtype(self.instruction))
        if name == "b" and self.corrected:
            self.sums_of_b = T.alloc_buffer((self.block["n"] * self.nr,), "int32")

    def _open(self, axes: list[str]) -> None:
        from tvm.script import tirx as T

        if not axes:
            self._block()
            return
        axis = axes[0]
        if axis == "k" and self.k_blocked:
            tiles = math.prod(self._span(side) for side in "mn")
            acc = self.instruction.acc_dtype
            self.scratch = self.allocate(tiles * self.mr * self.nr, acc)
        if self.outer[axis] == 1:  # no loop at all: what is known now need not be computed
            self.at[axis] = 0
            self._pack_blocks(axis)
            self._open(axes[1:])
            return
        with T.serial(0, self.outer[axis]) as index:
            self.at[axis] = index
            self._pack_blocks(axis)
            self._open(axes[1:])

    def _span(self, axis: str) -> int:
        """Return how many micro-tiles along an axis pass while one block of k is worked on."""
        return self.tiles[axis] if axis in self.axes_after_k else self.block[axis]

    def sums_apart(self) -> int:
        """Return the distance of a micro-tile's sums to those of the next one, while they wait."""
        tiles = self._span("n") if self.c["inner_order"] == "nm" else 1
        return tiles * self.mr * self.nr

    def next_tile(self, tile: dict[str, Any]) -> dict[str, Any]:
        """Return the place of the micro-tile after one, as if the inner loop never ended."""
        return {axis: tile[axis] + (axis == self.c["inner_order"][1]) for axis in "mn"}

    def _pack_blocks(self, opened: str | None) -> None:
        """Pack the blocks of A and B whose place is known since ``opened``; None: from the start.

        That is where the later of their two axes is opened, or where the task begins.
        """
        for name, axis in (("a", "m"), ("b", "n")):
            if self.c[f"pack_{name}"] != "block":
                continue
            known = axis in self.at and "k" in self.at
            if not known or opened not in (None, axis, "k"):
                continue
            packer, count = self.packers[name], self._count()
            size = packer.operand.width * self.block_words
            tiles, panel = self._tiles_here(axis), self.at[axis] * self.block[axis]
            start = self.at["k"] * self.block_words
            packer.pack_panels(panel, tiles, start, count, self.packed[name], size)
            if name == "b" and self.corrected:
                with self.loop(tiles) as tile:
                    self.inner.sum_columns(tile * size, count, tile * self.nr)

    def _count(self) -> Any:
        """Return the words along k of the present block."""
        from tvm.script import tirx as T

        if not self.k_blocked:
            return self.words
        if self.words % self.block_words == 0:
            return self.block_words
        return T.min(self.block_words, self.words - self.at["k"] * self.block_words)

    def _tiles_here(self, axis: str) -> Any:
        """Return the micro-tiles along an axis of the present block."""
        from tvm.script import tirx as T

        tiles, block = self.tiles[axis], self.block[axis]
        if self.outer[axis] == 1:
            return tiles
        return block if tiles % block == 0 else T.min(block, tiles - self.at[axis] * block)

    # -- inside a block ---------------------------------------------------------------------------

    def _block(self) -> None:
        order = self.c["inner_order"]
        outer, inner = (self.loop(self._tiles_here(axis)) for axis in order)
        with outer as first:
            if self.c["pack_a"] == "panel":
                panel, start = self.at["m"] * self.block["m"] + first, self.at["k"]
                block = Block(panel, start * self.block_words, self.packed["a"])
                self.packers["a"].pack(block, self._count())
            with inner as second:
                self._micro({order[0]: first, order[1]: second})

    def _micro(self, inside: dict[str, Any]) -> None:
        """Emit one micro-tile: from its place to the stores of its elements."""
        from tvm.script import tirx as T

        tile = {axis: T.bind(self.at[axis] * self.block[axis] + inside[axis]) for axis in "mn"}
        count, first = T.bind(self._count()), self.at["k"] * self.block_words
        base = {}
        for name, axis, width in (("a", "m", self.mr), ("b", "n", self.nr)):
            where = self.c[f"pack_{name}"]
            if where == "whole":
                panel = self.panel_of_b if name == "b" else width * self.words
                base[name] = tile[axis] * panel + first * width
            elif where == "block":
                base[name] = inside[axis] * (width * self.block_words)
            elif where == "panel":
                base[name] = 0
        place = None
        if self.k_blocked:
            index = {a: tile[a] if a in self.axes_after_k else inside[a] for a in "mn"}
            place = (index["m"] * self._span("n") + index["n"]) * (self.mr * self.nr)
        column = inside["n"] * self.nr
        if self.c["pack_b"] == "whole":
            column = self.sums_of_panel(tile["n"])
        self.inside = inside
        self.inner.run(tile, base, first, count, place, column)
