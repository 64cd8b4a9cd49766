"""The schedule of ``cpu_tile``: from knobs to a loop nest, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu import k_blocks, prefetch, squares
from autotune.kernels.cpu.lanes import LINE_WORDS, MAX_LANES, lanes_of
from autotune.kernels.cpu.linked import with_text
from autotune.kernels.cpu.llvm_text import join, prefetches, transpose8
from autotune.kernels.cpu.product import (
    COPY_A,
    COPY_B,
    COPY_OUT,
    PACK,
    Edges,
    Shape,
    pack_prim_func,
    placed,
    product_prim_func,
)
from autotune.kernels.cpu.tile_loop import changed_loops, condition_outside
from autotune.kernels.gemm import MATMUL_BLOCK

if TYPE_CHECKING:
    from autotune.search.space import Config
    from autotune.workload import Gemm


class TileSchedule:
    """Applies one config of ``cpu_tile`` to the plain GEMM."""

    #: Whether the kernel may have what a schedule cannot make.
    calls = True

    def __init__(self, workload: Gemm, config: Config) -> None:
        self.workload = workload
        self.c: dict[str, Any] = dict(config)
        self.shape = self._shape()
        self.edges = Edges(workload, self.shape)
        self._start()
        self.k_blocked = self.c["block_k"] != workload.k
        self.sums_in_tiles = self.k_blocked and self.calls
        # A vector never straddles micro-tiles: 16 lanes, or fewer where the tile is narrower.
        width = self.c["micro_n"]
        self.lanes = lanes_of(width)

    def module(self) -> Any:
        """Return the scheduled IRModule."""
        self._fold_epilogue()
        self._lay_out_operands()
        self._tile()
        self._parallelise()
        self._place_output()
        self._place_packing()
        self._split_off_initialisation()
        module = self.sch.mod
        main = self._changed(module["main"]) if self.calls else module["main"]
        module["main"] = self._placed(main)
        if self.workload.prepacked:
            module[PACK] = pack_prim_func(self.workload, self.edges, self.parallel)
        return module

    def _placed(self, main: Any) -> Any:
        """Return the function with C as large as the workload says."""
        if self.edges.c_shape == self.workload.c_shape:
            return main
        return placed(main, self.workload.c_shape, self.edges.place)

    def _prim_func(self) -> Any:
        return product_prim_func(self.workload, self.edges)

    def _start(self) -> None:
        """Make the schedule, and find its blocks.

        ``pack_a`` and ``pack_b`` are the blocks that copy A and B, or None; ``output`` is what
        follows the product.
        """
        import tvm
        from tvm.s_tir import Schedule

        sch = Schedule(tvm.IRModule({"main": self._prim_func()}))
        self.sch, self.matmul = sch, sch.get_sblock(MATMUL_BLOCK)
        self.output = sch.get_sblock(COPY_OUT)
        self.pack_a = sch.get_sblock(COPY_A) if self.shape.copy_a else None
        self.pack_b = sch.get_sblock(COPY_B) if self.shape.copy_b else None

    def _shape(self) -> Shape:
        """What the product is rounded up to, and which operands are copied."""
        c, w = self.c, self.workload
        whole_blocks = c["tail"] == "pad"
        multiple_m = c["micro_m"] * (c["block_m"] if whole_blocks else 1)
        multiple_n = c["micro_n"] * (c["block_n"] if whole_blocks else 1)
        return Shape(
            multiple_m,
            multiple_n,
            c["micro_m"],
            c["micro_n"],
            copy_a=c["pack_a"] != "none",
            copy_b=not w.prepacked and c["pack_b"] != "none",
        )

    # -- blocks ---------------------------------------------------------------------------------

    def _fold_epilogue(self) -> None:
        """Inline every block after the product but the last, which becomes the copy out."""
        sch = self.sch
        while consumers := sch.get_consumers(self.output):
            sch.compute_inline(self.output)
            self.output = consumers[0]

    def _lay_out_operands(self) -> None:
        """Store packed operands panel by panel: (panel, k, lane of the panel)."""
        mr, nr = self.c["micro_m"], self.c["micro_n"]
        layout_a, layout_b = tuple(self.workload.layout)
        if self.pack_a is not None:
            if layout_a == "n":
                self._lay_out(self.pack_a, lambda i, k: (i // mr, k, i % mr))
            else:
                self._lay_out(self.pack_a, lambda k, i: (i // mr, k, i % mr))
        if self.pack_b is not None:
            if layout_b == "n":
                self._lay_out(self.pack_b, lambda k, j: (j // nr, k, j % nr))
            else:
                self._lay_out(self.pack_b, lambda j, k: (j // nr, k, j % nr))

    def _lay_out(self, block: Any, index_map: Any) -> None:
        self.sch.transform_layout(block, ("write", 0), index_map)

    # -- loops ----------------------------------------------------------------------------------

    def _tile(self) -> None:
        """Split and reorder: outer blocks, micro-tiles of a block, k, micro-tile."""
        c, sch = self.c, self.sch
        i, j, k = sch.get_loops(self.matmul)
        i, row = sch.split(i, [None, c["micro_m"]])
        j, column = sch.split(j, [None, c["micro_n"]])
        vector, lane = sch.split(column, [None, self.lanes])
        # Blocks that stick out become predicates, unless padding has made them divide.
        m_outer, m_inner = sch.split(i, [None, c["block_m"]])
        n_outer, n_inner = sch.split(j, [None, c["block_n"]])
        outer = {"m": m_outer, "n": n_outer}
        if self.k_blocked:
            outer["k"], k = sch.split(k, [None, c["block_k"]])
        unrolled = [row, vector]
        if c["unroll_k"] > 1:
            k, k_unrolled = sch.split(k, [None, c["unroll_k"]])
            unrolled.insert(0, k_unrolled)
        self.outer = {axis: outer[axis] for axis in c["outer_order"] if axis in outer}
        self.inner = {"m": m_inner, "n": n_inner}
        inner = [self.inner[axis] for axis in c["inner_order"]]
        self.k = k
        sch.reorder(*self.outer.values(), *inner, k, *unrolled, lane)
        self.unrolled = unrolled
        if self.calls and c["prefetch_b"]:
            sch.annotate(k, prefetch.MARK, c["prefetch_b"])
        if self.sums_in_tiles:
            sch.annotate(k, k_blocks.MARK, 1)
        sch.vectorize(lane)

    def _parallelise(self) -> None:
        """Share the first run of spatial outer loops between the threads."""
        mode = self.c["parallel"]
        self.parallel = mode != "none"
        if not self.parallel:
            return
        axes = list(self.outer)
        start = 1 if axes[0] == "k" else 0
        run = [axes[start]]
        if mode == "fused" and axes[start + 1 : start + 2] in (["m"], ["n"]):
            run.append(axes[start + 1])
        loop = self.outer[run[0]]
        if len(run) == 2:
            loop = self.sch.fuse(self.outer[run[0]], self.outer[run[1]])
            for axis in run:
                self.outer[axis] = loop
        self.sch.parallel(loop)

    def _split_off_initialisation(self) -> None:
        """Unroll the micro-tile, and zero the sums in loops of their own, or in the tiles."""
        if not self.k_blocked:  # the sums live in registers
            for loop in self.unrolled:
                self.sch.unroll(loop)
            self.sch.decompose_reduction(self.matmul, self.k)
            return
        if not self.sums_in_tiles:
            self._zero_rows(self.sch.decompose_reduction(self.matmul, self.outer["k"]))
        for loop in self.unrolled:
            self.sch.unroll(loop)

    def _zero_rows(self, init: Any) -> None:
        """Zero a block of C row by row.

        In the order of the micro-tiles LLVM unrolls the stores into thousands of small memsets and
        then takes seconds over them.
        """
        axes = list(self.outer)
        after_k = axes[axes.index("k") + 1 :]
        if self.parallel and axes[0] == "k":
            return  # the threads share these loops
        labels = [*after_k, *self.c["inner_order"], "m", "n", "n"]
        loops = list(zip(self.sch.get_loops(init)[-len(labels) :], labels, strict=True))
        rows = [loop for loop, axis in loops if axis == "m"]
        *columns, lane = [loop for loop, axis in loops if axis == "n"]
        self.sch.reorder(*rows, *columns, lane)
        self.sch.fuse(*rows)
        self.sch.fuse(*columns)

    def _innermost_outer(self) -> Any:
        return list(self.outer.values())[-1]

    def _changed(self, func: Any) -> Any:
        """Return the scheduled function with what a schedule cannot make, where loops are marked.

        Calls of LLVM code, and sums that begin and end in their tiles.
        """
        body = squares.with_squares(func.body.block.body)
        for mark in (prefetch.MARK, k_blocks.MARK):
            body = changed_loops(body, mark, condition_outside)
        if self.sums_in_tiles:
            output = self.sch.get(self.output).name_hint
            body = k_blocks.with_sums_in_tiles(body, output, not self.edges.padded)
        body = prefetch.with_prefetches(body)
        if body.same_as(func.body.block.body):
            return func
        return with_text(func, body, join([transpose8(), prefetches()]))

    # -- what moves data ------------------------------------------------------------------------

    def _place_output(self) -> None:
        """Write a tile of C as soon as its sums are complete: just outside the reduction."""
        sch = self.sch
        if not self.k_blocked:
            sch.reverse_compute_at(self.output, self.inner[self.c["inner_order"][-1]])
        elif self.sums_in_tiles:
            return  # it is put into the tiles
        else:
            axes = list(self.outer)
            before = axes.index("k") - 1
            if before >= 0:
                sch.reverse_compute_at(self.output, self.outer[axes[before]])
            elif self.parallel:
                sch.parallel(sch.get_loops(self.output)[0])
        self._vectorize_last(self.output)

    def _place_packing(self) -> None:
        c, workload = self.c, self.workload
        if self.pack_a is not None:
            self._place(self.pack_a, c["pack_a"], self.inner["m"])
            self._shape_copy(self.pack_a, c["pack_a"], c["micro_m"], workload.layout[0] == "t")
            self._share(self.pack_a, c["pack_a"])
        if self.pack_b is not None:
            self._place(self.pack_b, c["pack_b"], self.inner["n"])
            self._shape_copy(self.pack_b, c["pack_b"], c["micro_n"], workload.layout[1] == "n")
            self._share(self.pack_b, c["pack_b"])

    def _place(self, copy: Any, where: str, panel_loop: Any) -> None:
        """Move a packing copy to the loop whose iterations use it."""
        if where == "panel":
            self.sch.compute_at(copy, panel_loop, preserve_unit_loops=True)
        elif where == "block":
            self.sch.compute_at(copy, self._innermost_outer(), preserve_unit_loops=True)

    def _share(self, copy: Any, where: str) -> None:
        """Let all threads make a copy of a whole operand."""
        if self.parallel and where == "whole":
            self.sch.parallel(self.sch.get_loops(copy)[0])

    def _shape_copy(self, copy: Any, where: str, width: int, panel_is_last: bool) -> None:
        """Order the loops of a packing copy and vectorise them where memory allows it.

        The copy's last two loops are the stored dimensions of the operand; ``panel_is_last`` says
        that the source is contiguous along the panel rather than along k.
        """
        sch = self.sch
        *_, first, second = sch.get_loops(copy)
        along, k = (second, first) if panel_is_last else (first, second)
        panel, lane = sch.split(along, [None, width])
        if panel_is_last:
            # A few panels side by side: each row is then read in one piece as long as the block,
            # and each piece of a panel that is written is whole cache lines.
            beside = where == "block" and width % LINE_WORDS == 0
            sch.reorder(*((k, panel) if beside else (panel, k)), lane)
            self._vectorize_last(copy)
        elif self._turns(copy, width, sch.get(k).extent):
            # All of k for eight rows of the source, which a first-level cache always has room for,
            # also where they are a power of two apart: up to 1.3 times as fast as all of a panel
            # for eight columns.
            depth = sch.get(k).extent
            k, k_lane = sch.split(k, [None, squares.SIDE])
            square, lane = sch.split(lane, [None, squares.SIDE])
            sch.reorder(panel, square, k, lane, k_lane)
            sch.annotate(k, squares.MARK, depth)
        elif sch.get(k).extent % MAX_LANES == 0:
            # Contiguous vectors along k are loaded and scattered into the panel.
            k, k_lane = sch.split(k, [None, MAX_LANES])
            sch.reorder(panel, k, lane, k_lane)
            sch.vectorize(k_lane)
        else:
            sch.reorder(panel, k, lane)

    def _turns(self, copy: Any, width: int, depth: Any) -> bool:
        """Whether a copy is cut into squares that lie whole in the matrix."""
        whole = not self.edges.padded if copy is self.pack_b else isinstance(self.workload.m, int)
        return self.calls and whole and width % squares.SIDE == 0 and int(depth) >= squares.SIDE

    def _vectorize_last(self, block: Any) -> None:
        """Vectorise the last loop of a copy as far as it divides.

        A copy with a predicate is left to LLVM, which turns it into masked vector code; a loop that
        TVM vectorises under a predicate falls apart into scalars.
        """
        if not self.edges.padded:
            self._vectorize(block)

    def _vectorize(self, block: Any) -> None:
        """Vectorise the last loop of a copy without a predicate as far as it divides."""
        sch = self.sch
        loop = sch.get_loops(block)[-1]
        if len(sch.get_child_blocks(loop)) > 1:
            return  # the copy of a single element has no loop of its own
        extent = int(sch.get(loop).extent)
        lanes = lanes_of(extent)
        if lanes > 1:
            _, lane = sch.split(loop, [None, lanes])
            sch.vectorize(lane)
