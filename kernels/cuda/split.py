"""The arithmetic of split-K: which block takes which steps of K, and where its sums wait.

A product of few tiles and a large K leaves most of a GPU idle. Its tiles are then cut along K into
slices, which blocks compute like tiles of their own. Each leaves its sums in scratch memory; the
last of a tile to arrive adds them all up, in the order of the slices, and goes on as if it had
computed the whole tile. That was chosen above a second kernel, because

* there is still one launch: nothing else has to know (the timed call, CUDA graphs, packed kernels),
  and where the product takes 5 us a second launch would cost one or two of them;
* nobody waits, so that no order of blocks can hang, and persistent blocks need not all be resident;
* the epilogue stays in the registers of the block that has the sums, as without slices.

The sums do not depend on who is last, so that equal inputs give equal bits. The last one also sets
the tile's counter back to zero, and the next launch in the stream finds it so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.hw_profiles import GpuLimits

#: Numbers of slices that are tried.
SLICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: The parameter whose memory has to hold zeros before the first call of a kernel.
COUNTERS = "counters"
#: Bytes of a sum, and of what is loaded or stored at a time.
_SUM_BYTES, _VECTOR_BYTES = 4, 16


@dataclass(frozen=True)
class Split:
    """How the steps of K of a tile are shared out.

    Parameters
    ----------
    slices
        Parts that K is cut into; 1 is a product as it is.
    steps
        Steps of K in all. Slices differ by at most one step.
    units
        Groups of threads that finish together, over all tiles: each has a counter.
    threads, sums
        Threads of a unit, and sums of a thread.
    """

    slices: int
    steps: int
    units: int
    threads: int
    sums: int

    def part(self, number: Any) -> tuple[Any, Any]:
        """Return tile and slice of a number that counts the slices of one tile after the other."""
        if self.slices == 1:
            return number, 0
        return number // self.slices, number % self.slices

    def first(self, part: Any) -> Any:
        """Return the step that a slice starts with."""
        if self.slices == 1:
            return 0
        if self.steps % self.slices == 0:
            return part * (self.steps // self.slices)
        return part * self.steps // self.slices

    def count(self, part: Any) -> Any:
        """Return the steps of a slice."""
        if self.steps % self.slices == 0:
            return self.steps // self.slices
        return self.first(part + 1) - self.first(part)

    @property
    def most_steps(self) -> int:
        """Steps of the longest slice."""
        return -(-self.steps // self.slices)

    @property
    def width(self) -> int:
        """Sums that a thread stores at a time."""
        return math.gcd(self.sums, _VECTOR_BYTES // _SUM_BYTES)

    def place(self, unit: Any, part: Any, vector: Any, thread: Any) -> Any:
        """Return where a thread's vector of sums starts: those of a warp lie side by side."""
        vectors = self.sums // self.width
        return (((unit * self.slices + part) * vectors + vector) * self.threads + thread) * (
            self.width
        )

    @property
    def partial_sums(self) -> int:
        """Sums that wait in scratch memory at most."""
        return self.units * self.slices * self.threads * self.sums if self.slices > 1 else 0

    def fits(self, gpu: GpuLimits) -> bool:
        """Whether every slice has a step, and the sums that wait stay in the L2 cache."""
        return self.slices <= self.steps and self.partial_sums * _SUM_BYTES <= gpu.l2_bytes


def slices_to_try(slices: tuple[int, ...], tiles: int, gpu: GpuLimits) -> tuple[int, ...]:
    """Return those numbers of slices that give no multiprocessor more than two of them."""
    return tuple(s for s in slices if s == 1 or s * tiles <= 2 * gpu.sms)


def slices_for(tiles: int, steps: int, gpu: GpuLimits) -> tuple[int, ...]:
    """Return the numbers of slices worth trying for ``tiles`` of the largest size.

    Where even those give every multiprocessor a tile, slices only add traffic.
    """
    if tiles >= gpu.sms:
        return SLICES[:1]
    return tuple(s for s in SLICES if s == 1 or s <= steps)
