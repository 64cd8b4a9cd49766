"""How wide a loop of a CPU template is vectorised, and how wide a cache line is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile

#: fp32 lanes of the widest vector; LLVM splits them where registers are narrower.
MAX_LANES = 16
#: Bytes of a cache line, and the 32-bit words in it.
CACHE_LINE, LINE_WORDS = 64, 16


def lanes_of(extent: int) -> int:
    """Return the most lanes, a power of two up to :data:`MAX_LANES`, that divide a loop."""
    return next(lanes for lanes in (MAX_LANES, 8, 4, 2, 1) if extent % lanes == 0)


def widest(profile: HardwareProfile) -> int:
    """Return the fp32 lanes of a CPU's widest vector."""
    return max(1, profile.simd_bits // 32)
