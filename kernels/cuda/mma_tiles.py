"""The arithmetic of ``mma_sync``: from a config to warps, fragments, chunks and swizzles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cuda.split import Split
from autotune.kernels.cuda.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.workload import Gemm

#: Bytes of an element, of a chunk (one cp.async, one row of an ldmatrix matrix).
BYTES = {"float16": 2, "bfloat16": 2, "int8": 1}
CHUNK = 16
#: What may be done with an operand whose lines start anywhere: read it element by element, or copy
#: it to where cp.async reaches it.
READ, COPY = "read", "copy"
#: Rows and columns of one mma.sync, and its depth in bytes.
MMA_M, MMA_N, MMA_K_BYTES = 16, 8, 32


@dataclass(frozen=True)
class Staged:
    """How a tile of A or B, ``rows x bk``, lies in shared memory and gets there.

    It is kept as it is in global memory: lines along k, or along m or n. A line is cut into chunks
    of 16 bytes; chunk ``c`` of a line is stored at place ``c ^ twist(line)`` of it, so that the
    eight rows that one ldmatrix reads lie in different banks.

    Parameters
    ----------
    along_k
        Whether lines run along k.
    extent, k
        Rows (A) or columns (B) of the whole operand, and its depth.
    rows, bk
        Of the tile.
    size, threads
        Bytes of an element; threads that copy.
    pitch
        Elements from line to line.
    """

    along_k: bool
    extent: int
    k: int
    rows: int
    bk: int
    size: int
    threads: int
    pitch: int

    @property
    def per_chunk(self) -> int:
        """Elements of a chunk."""
        return CHUNK // self.size

    @property
    def run(self) -> int:
        """Elements of a line."""
        return self.bk if self.along_k else self.rows

    @property
    def chunks(self) -> int:
        """Chunks of a line."""
        return self.run // self.per_chunk

    @property
    def items(self) -> int:
        """Chunks of the tile."""
        return self.rows * self.bk // self.per_chunk

    @property
    def slots(self) -> int:
        """Chunks that a thread copies."""
        return -(-self.items // self.threads)

    @property
    def whole_slots(self) -> bool:
        """Whether every thread has a chunk in every slot."""
        return self.items % self.threads == 0

    @property
    def aligned(self) -> bool:
        """Whether every line of the operand starts at a multiple of 16 bytes."""
        return self.pitch % self.per_chunk == 0

    @property
    def whole(self) -> bool:
        """Whether no tile sticks out of the operand."""
        return self.extent % self.rows == 0 and self.k % self.bk == 0

    @property
    def tile(self) -> int:
        """Elements of one stage."""
        return self.rows * self.bk

    def twist(self, line: Any) -> Any:
        """Return what the chunks of a line are exchanged by; ``line`` may be an expression."""
        if self.chunks == 1:
            return 0
        return line // max(1, 8 // self.chunks) % min(8, self.chunks)

    def at(self, line: Any, chunk: Any) -> Any:
        """Return the element, in a stage, where a chunk of a line starts."""
        return line * self.run + (chunk ^ self.twist(line)) * self.per_chunk


@dataclass(frozen=True)
class MmaTiles:
    """One config of ``mma_sync`` applied to one workload."""

    a: Staged
    b: Staged
    warps_m: int
    warps_n: int
    stages: int
    group: int
    out_size: int
    slices: int
    turns: tuple[Turn, ...]
    batch: int = 1
    shared: str = ""

    @classmethod
    def of(cls, workload: Gemm, config: Mapping[str, Any]) -> MmaTiles:
        """Return the tiling that a config describes."""
        c, size = config, BYTES[workload.dtype]
        threads, bk = 32 * c["warps_m"] * c["warps_n"], c["block_k"]

        # ldmatrix transposes 16-bit elements only; other transposes have to come first.
        turns = tuple(
            turn for turn in Turn.needed(workload, size) if turn.across or c["unaligned"] == COPY
        )
        turned = {turn.name: turn for turn in turns}

        def staged(name: str, along_k: bool, extent: int, rows: int) -> Staged:
            pitch = workload.k if along_k else extent
            if name in turned:
                along_k, pitch = turned[name].along_k, turned[name].pitch
            return Staged(along_k, extent, workload.k, rows, bk, size, threads, pitch)

        return cls(
            staged("a", workload.layout[0] == "n", workload.m, c["block_m"]),
            staged("b", workload.layout[1] == "t", workload.n, c["block_n"]),
            c["warps_m"],
            c["warps_n"],
            c["stages"],
            c["group"],
            {"float32": 4, "int32": 4}.get(workload.out_dtype, 2),
            c["split_k"],
            turns,
            workload.batch,
            workload.shared,
        )

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.a.threads

    @property
    def blocks_m(self) -> int:
        """Blocks along M."""
        return -(-self.a.extent // self.a.rows)

    @property
    def blocks_n(self) -> int:
        """Blocks along N."""
        return -(-self.b.extent // self.b.rows)

    @property
    def tiles(self) -> int:
        """Blocks' tiles of all products."""
        return self.batch * self.blocks_m * self.blocks_n

    def product(self, tile: Any) -> Any:
        """Return which product of the batch a tile belongs to."""
        return tile // (self.blocks_m * self.blocks_n) if self.batch > 1 else 0

    def within(self, tile: Any) -> Any:
        """Return the number of a tile in its product."""
        return tile % (self.blocks_m * self.blocks_n) if self.batch > 1 else tile

    @property
    def split(self) -> Split:
        """How the steps of K are shared out: a block is a unit."""
        steps = -(-self.a.k // self.a.bk)
        return Split(self.slices, steps, self.tiles, self.threads, self.accumulators)

    @property
    def mmas_k(self) -> int:
        """Depth of a step in mma.sync."""
        return self.a.bk * self.a.size // MMA_K_BYTES

    @property
    def warp_m(self) -> int:
        """Rows of a warp's tile."""
        return self.a.rows // self.warps_m

    @property
    def warp_n(self) -> int:
        """Columns of a warp's tile."""
        return self.b.rows // self.warps_n

    @property
    def mmas_m(self) -> int:
        """Fragments of A that a warp holds."""
        return self.warp_m // MMA_M

    @property
    def mmas_n(self) -> int:
        """Fragments of B that a warp holds."""
        return self.warp_n // MMA_N

    @property
    def accumulators(self) -> int:
        """Sums that a thread keeps: four a fragment of C."""
        return 4 * self.mmas_m * self.mmas_n

    @property
    def registers(self) -> int:
        """Estimate of the registers of a thread: sums, two sets of fragments, addresses."""
        return self.accumulators + 2 * (4 * self.mmas_m + 2 * self.mmas_n) + 40

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: stages, and a count where K is split."""
        stages = self.stages * (self.a.tile + self.b.tile) * self.a.size
        return stages + (4 if self.slices > 1 else 0)
