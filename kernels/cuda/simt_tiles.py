"""The arithmetic of ``simt``: from a config to extents, vector widths and amounts of work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cuda.split import Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.workload import Gemm

_FLOAT = 4
#: Widest vector of a load or store, in floats: 16 bytes.
_WIDEST = 4


@dataclass(frozen=True)
class Side:
    """How one of M and N is cut: ``blocks`` of ``vthreads x threads x inner``.

    Element ``i`` of virtual thread ``v`` of thread ``t`` is ``(v * threads + t) * inner + i``.
    """

    extent: int
    vthreads: int
    threads: int
    inner: int

    @property
    def block(self) -> int:
        """Rows or columns of one block's tile."""
        return self.vthreads * self.threads * self.inner

    @property
    def blocks(self) -> int:
        """Blocks that hold at least one element."""
        return -(-self.extent // self.block)

    @property
    def per_thread(self) -> int:
        """Rows or columns of one thread."""
        return self.vthreads * self.inner


@dataclass(frozen=True)
class Operand:
    """How the threads of a block bring a tile of A or B, ``rows x bk``, into shared memory.

    Parameters
    ----------
    along_k
        Whether the operand is contiguous in memory along k, so that storing it transposes it.
    extent, rows, bk
        Rows (A) or columns (B) of the whole operand and of the tile, and its depth.
    width
        Elements of one load; they never straddle the end of the operand.
    threads, pad
        Threads that load; elements added to each row of the tile in shared memory.
    """

    along_k: bool
    extent: int
    rows: int
    bk: int
    width: int
    threads: int
    pad: int

    @property
    def items(self) -> int:
        """Vectors of the tile."""
        return self.rows * self.bk // self.width

    @property
    def vectors(self) -> int:
        """Vectors of one contiguous run of the tile."""
        return (self.bk if self.along_k else self.rows) // self.width

    @property
    def slots(self) -> int:
        """Vectors of one thread."""
        return -(-self.items // self.threads)

    @property
    def whole_slots(self) -> bool:
        """Whether every thread has a vector in every slot."""
        return self.items % self.threads == 0

    @property
    def whole_rows(self) -> bool:
        """Whether no tile sticks out of the operand's rows."""
        return self.extent % self.rows == 0

    @property
    def stride(self) -> int:
        """Elements from one k to the next in shared memory."""
        return self.rows + self.pad

    @property
    def tile(self) -> int:
        """Elements of one buffer in shared memory, a multiple of 16 bytes."""
        return -(-self.bk * self.stride // _WIDEST) * _WIDEST

    @property
    def store_conflicts(self) -> int:
        """How many passes a warp's store of one element a thread takes: its worst bank conflict."""
        if not self.along_k:
            return 1
        banks: dict[int, set[int]] = {}
        for lane in range(min(32, self.items)):
            row, k = lane // self.vectors, lane % self.vectors * self.width
            address = k * self.stride + row
            banks.setdefault(address % 32, set()).add(address)
        return max(len(addresses) for addresses in banks.values())


@dataclass(frozen=True)
class Tiles:
    """One config of ``simt`` applied to one workload."""

    m: Side
    n: Side
    a: Operand
    b: Operand
    k: int
    bk: int
    unroll: int
    stages: int
    out_width: int
    slices: int
    batch: int = 1

    @classmethod
    def of(cls, workload: Gemm, config: Mapping[str, Any]) -> Tiles:
        """Return the tiling that a config describes; any vertex of the space will do."""
        c = config
        m, n = Side(workload.m, *c["tile_m"][1:]), Side(workload.n, *c["tile_n"][1:])
        bk, threads = c["tile_k"][1], m.threads * n.threads

        def operand(side: Side, along_k: bool) -> Operand:
            run, line = (bk, workload.k) if along_k else (side.block, side.extent)
            width = math.gcd(c["vector"], run, line)
            return Operand(along_k, side.extent, side.block, bk, width, threads, c["pad"])

        return cls(
            m,
            n,
            operand(m, workload.layout[0] == "n"),
            operand(n, workload.layout[1] == "t"),
            workload.k,
            bk,
            math.gcd(c["unroll"], bk),
            c["stages"],
            math.gcd(c["vector"], n.inner, n.extent),
            c["split_k"],
            workload.batch,
        )

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.m.threads * self.n.threads

    @property
    def tiles(self) -> int:
        """Blocks' tiles of all products."""
        return self.batch * self.m.blocks * self.n.blocks

    def product(self, tile: Any) -> Any:
        """Return which product of the batch a tile belongs to."""
        return tile // (self.m.blocks * self.n.blocks) if self.batch > 1 else 0

    def within(self, tile: Any) -> Any:
        """Return the number of a tile in its product."""
        return tile % (self.m.blocks * self.n.blocks) if self.batch > 1 else tile

    @property
    def split(self) -> Split:
        """How the steps of K are shared out: a block is a unit."""
        steps = -(-self.k // self.bk)
        return Split(self.slices, steps, self.tiles, self.threads, self.accumulators)

    @property
    def whole_k(self) -> bool:
        """Whether the last step is a whole one."""
        return self.k % self.bk == 0

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: tiles, and a count where K is split."""
        tiles = self.stages * (self.a.tile + self.b.tile) * _FLOAT
        return tiles + (4 if self.slices > 1 else 0)

    @property
    def accumulators(self) -> int:
        """Sums that a thread keeps in registers."""
        return self.m.per_thread * self.n.per_thread

    @property
    def registers(self) -> int:
        """Estimate of the registers of a thread: sums, fragments, loads in flight, addresses."""
        fragments = self.m.per_thread + self.n.per_thread
        in_flight = self.a.slots * self.a.width + self.b.slots * self.b.width
        addresses = 24
        live = fragments + in_flight if self.stages == 2 else max(fragments, in_flight)
        return self.accumulators + live + addresses

    @staticmethod
    def fragment_width(inner: int) -> int:
        """Return how many neighbouring elements a thread reads from shared memory at once."""
        return math.gcd(inner, _WIDEST)
