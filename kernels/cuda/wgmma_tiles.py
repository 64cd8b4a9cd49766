"""The arithmetic of ``wgmma``: from a config to boxes, descriptors, tiles and registers.

The kernel, its tests and the static model all take their numbers from here; the methods that take
a tile's or stage's number work on integers and on TVM's expressions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cuda.split import Split
from autotune.kernels.cuda.turn import Turn

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Bytes of an element of each type that is multiplied.
BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1, "tfloat32": 4}
OUT_BYTES = {"float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
#: Width of a line in shared memory, that of the 128-byte swizzle; eight lines repeat the pattern.
LINE = 128
ATOM = 8 * LINE
#: Rows of a wgmma; bytes of its depth; threads that execute one.
WGMMA_M, WGMMA_K_BYTES, WARPGROUP = 64, 32, 128
#: Columns of a box of C that is stored by TMA, and how many boxes a warpgroup writes in turns.
STORE_COLUMNS, STORE_BUFFERS = 64, 2
#: Registers that the producer keeps.
PRODUCER_REGISTERS = 40
_REGISTER_FILE = 65536
#: The highest multiple of 8 that is asked for by setmaxnreg; a thread can have 255.
_MOST_REGISTERS = 240
_BARRIER_BYTES = 8


@dataclass(frozen=True)
class Staged:
    """How a tile of A or B, ``rows x bk``, lies in a stage of shared memory and gets there by TMA.

    It is kept as it is in global memory. Lines run along k ("K-major") or along m or n
    ("MN-major"); a chunk is 128 bytes of each of the tile's lines, and chunks lie one after the
    other. Within a chunk TMA exchanges the eight 16-byte pieces of a line by its number (the
    128-byte swizzle), which wgmma undoes.

    Parameters
    ----------
    along_k
        Whether lines run along k.
    extent, k
        Rows (A) or columns (B) of the whole operand, and its depth.
    rows, bk
        Of the tile.
    size
        Bytes of an element.
    parts
        Blocks of a cluster that need the same tile: each loads as many of its lines for all.
    """

    along_k: bool
    extent: int
    k: int
    rows: int
    bk: int
    size: int
    parts: int

    @property
    def per_line(self) -> int:
        """Elements of a line of a chunk."""
        return LINE // self.size

    @property
    def chunks(self) -> int:
        """Chunks of the tile."""
        return (self.bk if self.along_k else self.rows) // self.per_line

    @property
    def lines(self) -> int:
        """Lines of a chunk."""
        return self.rows if self.along_k else self.bk

    @property
    def part(self) -> int:
        """Lines of one TMA box."""
        return self.lines // self.parts

    @property
    def tile_bytes(self) -> int:
        """Bytes of a stage."""
        return self.rows * self.bk * self.size

    def chunk_at(self, chunk: Any, part: Any) -> Any:
        """Return the byte of the stage where a part of a chunk goes."""
        return (chunk * self.lines + part * self.part) * LINE

    def coordinates(self, row: Any, k: Any, chunk: Any, part: Any) -> tuple[Any, Any]:
        """Return the box's place in global memory, contiguous coordinate first.

        ``row`` and ``k`` are those of the tile.
        """
        along, across = (k, row) if self.along_k else (row, k)
        return along + chunk * self.per_line, across + part * self.part

    def operand_at(self, row: Any, step: Any) -> Any:
        """Return the byte of the stage where wgmma's ``step``-th operand from ``row`` on starts.

        ``row`` is a multiple of 64 (of 8 where lines run along k). Along k an operand is 32 bytes
        of a line: moving on within the swizzle's pattern is allowed, because it is a function of
        the address alone. Across k it is 16 whole lines.
        """
        if self.along_k:
            per_chunk = LINE // WGMMA_K_BYTES
            chunk, within = step // per_chunk, step % per_chunk
            return (chunk * self.lines + row) * LINE + within * WGMMA_K_BYTES
        depth = WGMMA_K_BYTES // self.size
        return (row // self.per_line * self.lines + step * depth) * LINE

    @property
    def leading_bytes(self) -> int:
        """The descriptor's leading offset: between chunks, where an operand has several.

        Where lines run along k an operand lies within one chunk, and the field is not used.
        """
        return 16 if self.along_k else self.lines * LINE

    @property
    def stride_bytes(self) -> int:
        """The descriptor's stride offset: from eight lines to the next eight."""
        return ATOM


@dataclass(frozen=True)
class WgmmaTiles:
    """One config of ``wgmma`` applied to one workload.

    Parameters
    ----------
    a, b
        The operands.
    consumers
        Warpgroups that multiply; each has ``a.rows / consumers`` rows of the tile.
    stages
        Steps of K that shared memory holds.
    cluster_m, cluster_n
        Blocks of a cluster along M and N; ``a.parts`` is ``cluster_n`` and the other way round.
    group
        Rows of clusters' tiles that are gone down before the next column.
    sms, resident
        Multiprocessors, and blocks that each of them is given.
    tma_store
        Whether C goes to memory by TMA.
    out_size
        Bytes of an element of C.
    batch, shared
        Products, one after the other; ``a`` or ``b`` if that operand is one matrix for all.
    slices
        Parts that K is cut into: they are tiles of their own.
    turns
        Copies of operands that are multiplied in their place.
    """

    a: Staged
    b: Staged
    consumers: int
    stages: int
    cluster_m: int
    cluster_n: int
    group: int
    sms: int
    resident: int
    tma_store: bool
    out_size: int
    batch: int = 1
    slices: int = 1
    turns: tuple[Turn, ...] = ()
    shared: str = ""

    @classmethod
    def of(cls, workload: Gemm, config: Mapping[str, Any]) -> WgmmaTiles:
        """Return the tiling that a config describes."""
        c, size, bk = config, BYTES[workload.dtype], config["block_k"]
        turns = Turn.needed(workload, size)
        turned = {turn.name: turn.along_k for turn in turns}

        def staged(name: str, along_k: bool, extent: int, rows: int, parts: int) -> Staged:
            along_k = turned.get(name, along_k)
            return Staged(along_k, extent, workload.k, rows, bk, size, parts)

        return cls(
            staged("a", workload.layout[0] == "n", workload.m, c["block_m"], c["cluster_n"]),
            staged("b", workload.layout[1] == "t", workload.n, c["block_n"], c["cluster_m"]),
            c["consumers"],
            c["stages"],
            c["cluster_m"],
            c["cluster_n"],
            c["group"],
            c["sms"],
            c["resident"],
            c["store"] == "tma",
            OUT_BYTES[workload.out_dtype],
            workload.batch,
            c["split_k"],
            turns,
            workload.shared,
        )

    # -- blocks and tiles -----------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """Threads of a block: a producing warpgroup and the consumers."""
        return (1 + self.consumers) * WARPGROUP

    @property
    def cluster(self) -> int:
        """Blocks of a cluster."""
        return self.cluster_m * self.cluster_n

    @property
    def tiles_m(self) -> int:
        """Clusters' tiles along M; blocks that stick out of C compute zeros and store nothing."""
        return -(-self.a.extent // (self.a.rows * self.cluster_m))

    @property
    def tiles_n(self) -> int:
        """Clusters' tiles along N."""
        return -(-self.b.extent // (self.b.rows * self.cluster_n))

    @property
    def tiles(self) -> int:
        """Clusters' tiles of all products; slices of a tile count as such."""
        return self.batch * self.tiles_m * self.tiles_n * self.slices

    @property
    def clusters(self) -> int:
        """Clusters that are launched; each takes every ``clusters``-th tile."""
        return max(1, min(self.sms * self.resident // self.cluster, self.tiles))

    @property
    def blocks(self) -> int:
        """Blocks that are launched."""
        return self.clusters * self.cluster

    @property
    def rounds(self) -> int:
        """Tiles that a cluster takes at most."""
        return -(-self.tiles // self.clusters)

    def place(self, tile: Any, minimum: Callable[[Any, Any], Any] = min) -> tuple[Any, Any]:
        """Return row and column, in clusters' tiles, of the tile of that number in its product.

        Tiles go down ``group`` rows before they go to the next column: what runs at a time then
        shares rows of A and columns of B in L2. Slices of a tile come one after the other.
        """
        tile, _ = self.split.part(tile)
        if self.batch > 1:
            tile = tile % (self.tiles_m * self.tiles_n)
        band = tile // (self.group * self.tiles_n)
        within = tile % (self.group * self.tiles_n)
        if self.tiles_m % self.group == 0:
            high: Any = self.group
        else:
            high = minimum(self.group, self.tiles_m - band * self.group)
        return band * self.group + within % high, within // high

    def product(self, tile: Any) -> Any:
        """Return which product of the batch a tile belongs to."""
        tile, _ = self.split.part(tile)
        return tile // (self.tiles_m * self.tiles_n) if self.batch > 1 else 0

    @property
    def split(self) -> Split:
        """How the steps of K are shared out: each block's consumers are units of their own."""
        units = self.batch * self.tiles_m * self.tiles_n * self.cluster * self.consumers
        steps = -(-self.a.k // self.a.bk)
        return Split(self.slices, steps, units, WARPGROUP, self.accumulators)

    def unit(self, tile: Any, block: Any, consumer: Any) -> Any:
        """Return the number of the unit that has a consumer's rows of a block's part of a tile."""
        return (self.split.part(tile)[0] * self.cluster + block) * self.consumers + consumer

    # -- one warpgroup --------------------------------------------------------------------------

    @property
    def group_rows(self) -> int:
        """Rows of a consumer's part of the tile."""
        return self.a.rows // self.consumers

    @property
    def wgmmas_m(self) -> int:
        """Instructions that a consumer needs for its rows."""
        return self.group_rows // WGMMA_M

    @property
    def wgmmas_k(self) -> int:
        """Depth of a step in instructions."""
        return self.a.bk * self.a.size // WGMMA_K_BYTES

    @property
    def sums(self) -> int:
        """Sums that a thread keeps for one wgmma: of two rows of each eight-column piece, two."""
        return WGMMA_M * self.b.rows // WARPGROUP

    @property
    def accumulators(self) -> int:
        """Sums that a thread keeps."""
        return self.wgmmas_m * self.sums

    # -- shared memory, in bytes ----------------------------------------------------------------

    @property
    def stage_bytes(self) -> int:
        """What TMA brings for one step."""
        return self.a.tile_bytes + self.b.tile_bytes

    @property
    def store_bytes(self) -> int:
        """What each consumer has for boxes of C on their way out."""
        return STORE_BUFFERS * WGMMA_M * LINE if self.tma_store else 0

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: stages, boxes of C, two barriers a stage.

        Where K is split, also a count for each consumer.
        """
        buffers = self.stages * self.stage_bytes + self.consumers * self.store_bytes
        counts = 4 * self.consumers if self.slices > 1 else 0
        return buffers + 2 * self.stages * _BARRIER_BYTES + counts

    # -- registers ------------------------------------------------------------------------------

    @property
    def launch_registers(self) -> int:
        """Registers that each thread starts with: what ptxas may use for one."""
        return min(_MOST_REGISTERS, _REGISTER_FILE // (self.resident * self.threads) // 8 * 8)

    @property
    def consumer_registers(self) -> int:
        """Registers of a thread of a consumer, once the producer has given up most of its own."""
        left = self.launch_registers * (1 + self.consumers) - PRODUCER_REGISTERS
        return min(_MOST_REGISTERS, left // self.consumers // 8 * 8)

    @property
    def arrivals(self) -> int:
        """Arrivals that free a stage: one of each consuming warp of the cluster."""
        return self.consumers * 4 * self.cluster
