"""``cpu_tile``: packed, register-blocked GEMM for CPUs.

The loop nest is the one of BLIS (Van Zee and van de Geijn, TOMS 2015): C is cut into micro-tiles of
``micro_m x micro_n`` that live in vector registers while K runs past them; micro-tiles are grouped
into blocks of ``block_m x block_n`` for the caches, K into blocks of ``block_k``. Packing copies A
and B into the order in which the micro-kernel reads them.

Micro-tile sizes are ordinals rather than factors of the extents, because the best ones for a
register file (14 x 32, say) divide few extents. What does not divide is handled at two levels:
inside a micro-tile the operands are padded with zeros while they are packed, and blocks that stick
out are either predicated or padded too, by the knob ``tail``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import Template, register
from autotune.kernels.cpu.product import panels_shape
from autotune.kernels.cpu.schedule import TileSchedule
from autotune.search.parameters import Categorical, Ordinal, Permutation
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_MICRO_M = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28)
_MICRO_N_VECTORS = (1, 2, 3, 4, 6, 8)
_PACK_B = ("none", "panel", "block", "whole")
_BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Fused multiply-adds in the unrolled loop body; beyond it the instruction cache suffers.
_MAX_UNROLLED = 256
#: Padding whole blocks may add at most this share of useless work.
_MAX_PAD_WASTE = 0.25
#: So few rows that the default reads B in place. On a Zen 5 core this was 1.0 to 1.9 times the
#: packed default with m = 8 to 128.
_FEW_ROWS = 128


@register
class CpuTile(Template):
    """BLIS-like tiled and packed GEMM with fp32 accumulation."""

    name = "cpu_tile"
    version = 2
    kind = "cpu"

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """The one for all float32 products, unless another knows better."""
        return 1 if workload.dtype == "float32" else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tilings, loop orders and packings; see the module docstring."""
        if workload.dtype != "float32":
            raise NotApplicable(
                f"template cpu_tile computes float32, not {workload.dtype}; use --template cpu_dot"
            )
        lanes = max(1, profile.simd_bits // 32)
        parameters = [
            Ordinal("micro_m", tuple(x for x in _MICRO_M if x <= workload.m)),
            Ordinal("micro_n", _micro_n_values(workload.n, lanes)),
            Ordinal("block_m", _block_values(workload.m)),
            Ordinal("block_n", _block_values(math.ceil(workload.n / min(lanes, workload.n)))),
            Ordinal("block_k", _block_k_values(workload.k)),
            Ordinal("unroll_k", (1, 2, 4, 8)),
            Permutation("outer_order", ("n", "m", "k")),
            Categorical("inner_order", ("nm", "mn")),
            Categorical("pack_a", ("none", "block", "whole")),
            Categorical("pack_b", ("whole",) if workload.prepacked else _PACK_B),
            Categorical("tail", ("predicate", "pad")),
            Categorical("parallel", ("none",) if threads == 1 else ("fused", "outer", "none")),
        ]
        constraints = _constraints(workload, lanes, profile.vector_registers)
        space = ConfigSpace(self.name, parameters, constraints)
        defaults = [default_config(space, workload, profile, threads)]
        return ConfigSpace(self.name, parameters, constraints, defaults)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled module of one config."""
        return TileSchedule(workload, config).module()

    def packed_shape(self, workload: Gemm, config: Config) -> tuple[int, ...]:
        """Return (panels, k, columns of a panel)."""
        micro_n = config["micro_n"]
        assert isinstance(micro_n, int)
        return panels_shape(workload, micro_n)


def padded(extent: int, multiple: int) -> int:
    """Return ``extent`` rounded up to a multiple."""
    return -(-extent // multiple) * multiple


def default_config(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> Config:
    """Return the config used when nothing was tuned.

    Register blocking after Low et al., "Analytical modeling is enough for high-performance BLIS"
    (TOMS 2016): two vectors wide, as many rows as leave room for the operands; a panel of B stays
    in half of the second-level cache. Few rows do not pay for packing B: see :func:`_few_rows`.
    """
    streamed = _few_rows(space, workload, profile, threads)
    if streamed is not None and not workload.prepacked:
        return streamed
    lanes = max(1, profile.simd_bits // 32)
    rows = 8 if profile.vector_registers >= 32 else 6
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    micro_m = _at_most(values["micro_m"], _balanced(workload.m, rows))
    micro_n = _at_most(values["micro_n"], 2 * lanes)
    panel_bytes = 4 * workload.k * micro_n
    block_n = max(1, profile.l2_bytes // 2 // panel_bytes)
    pack_b = "whole" if workload.m > 4 * micro_m else "block"
    if workload.prepacked:
        pack_b = "whole"
    elif workload.m <= 2 and workload.layout[1] == "n":
        # A matrix-vector product reads B once: copying it first would double the traffic.
        widest = (profile.vector_registers - 1) // (micro_m + 1) * lanes
        fitting = [v for v in values["micro_n"] if workload.n % v == 0 and v <= widest]
        if fitting:
            micro_n, pack_b = max(fitting), "none"
    tiles_m, tiles_n = -(-workload.m // micro_m), -(-workload.n // micro_n)
    return Config(
        {
            "micro_m": micro_m,
            "micro_n": micro_n,
            "block_m": _at_most(values["block_m"], max(1, tiles_m // threads)),
            "block_n": _at_most(values["block_n"], min(block_n, tiles_n, 4)),
            "block_k": workload.k,
            "unroll_k": 1,
            "outer_order": ("n", "m", "k"),
            "inner_order": "nm",
            "pack_a": "none" if workload.layout[0] == "n" else "whole",
            "pack_b": pack_b,
            "tail": "predicate",
            "parallel": "none" if threads == 1 else "fused",
        }
    )


def _few_rows(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> Config | None:
    """Return a default that reads a large B in place, or None where packing it is better.

    Copying B costs about as much as a few dozen rows of products. Instead, strips of B stay in the
    first-level cache while all rows pass over them. The tile is wide, so that each row of B is
    read in long pieces, and its height cuts m with little waste, each tile paying for two rows
    more: those of B that it loads.
    """
    lanes = max(1, profile.simd_bits // 32)
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    small = 4 * workload.k * workload.n <= profile.l2_bytes
    if workload.layout[1] == "t" or not 2 < workload.m <= _FEW_ROWS or small:
        return None
    widths = [v * lanes for v in (4, 3, 2) if workload.n % (v * lanes) == 0]
    if not widths:
        return None
    micro_n = widths[0]
    most = (profile.vector_registers - 1) // (micro_n // lanes) - 1
    heights = [r for r in values["micro_m"] if r <= most]
    if not heights:
        return None
    micro_m = min(heights, key=lambda r: (-(-workload.m // r) * (r + 2), -r))
    strip = max(profile.l1d_bytes, 1 << 15) * 4 // 3
    block_k = _at_most(values["block_k"], strip // (8 * micro_n))
    tiles_m, tiles_n = -(-workload.m // micro_m), workload.n // micro_n
    return Config(
        {
            "micro_m": micro_m,
            "micro_n": micro_n,
            "block_m": min(b for b in values["block_m"] if b >= tiles_m),
            "block_n": _at_most(values["block_n"], min(2, -(-tiles_n // threads))),
            "block_k": block_k,
            "unroll_k": 1,
            "outer_order": ("n", "k", "m") if block_k != workload.k else ("n", "m", "k"),
            "inner_order": "nm",
            "pack_a": "none" if workload.layout[0] == "n" else "whole",
            "pack_b": "none",
            "tail": "predicate",
            "parallel": "none" if threads == 1 else "fused",
        }
    )


def _balanced(extent: int, rows: int) -> int:
    """Return the row count near ``rows`` that cuts ``extent`` with the least waste."""
    if extent <= rows:
        return extent
    return min(range(max(1, rows - 2), rows + 1), key=lambda r: (padded(extent, r), -r))


def _at_most(values: tuple[Any, ...], limit: int) -> int:
    return int(max((v for v in values if v <= limit), default=min(values)))


def _micro_n_values(n: int, lanes: int) -> tuple[int, ...]:
    """Whole vectors; narrower ones only where n itself is narrower than one vector."""
    narrow = [v for v in (1, 2, 4, 8) if v < lanes and n < lanes]
    wide = [v * lanes for v in _MICRO_N_VECTORS if v == 1 or (v - 1) * lanes < n]
    return tuple(narrow + wide)


def _block_values(extent: int) -> tuple[int, ...]:
    return tuple(b for b in _BLOCKS if b == 1 or b < 2 * extent)


def _block_k_values(k: int) -> tuple[int, ...]:
    """Divisors of k, thinned to at most one per half octave; k itself is always there."""
    divisors = {d for i in range(1, math.isqrt(k) + 1) if k % i == 0 for d in (i, k // i)}
    kept: dict[int, int] = {}
    for d in sorted(divisors):
        if 4 <= d < k and k // d <= 4096:
            kept.setdefault(round(2 * math.log2(d)), d)
    return (*sorted(kept.values()), k)


def _constraints(workload: Gemm, lanes: int, registers: int) -> list[Constraint]:
    m, n, k = workload.m, workload.n, workload.k

    def tiles(c: Any) -> tuple[int, int]:
        return -(-m // c["micro_m"]), -(-n // c["micro_n"])

    def vectors(c: Any) -> int:
        return max(1, int(c["micro_n"]) // lanes)

    def fits_registers(c: Any) -> bool:
        return bool((c["micro_m"] + 1) * vectors(c) + 1 <= registers)

    def stays_small(c: Any) -> bool:
        return bool(c["micro_m"] * vectors(c) * c["unroll_k"] <= _MAX_UNROLLED)

    def unroll_divides(c: Any) -> bool:
        return bool(c["block_k"] % c["unroll_k"] == 0)

    def blocks_fit(c: Any) -> bool:
        mt, nt = tiles(c)
        return bool(c["block_m"] < 2 * mt and c["block_n"] < 2 * nt)

    def k_in_place(c: Any) -> bool:
        return bool(c["block_k"] != k or c["outer_order"][-1] == "k")

    def b_has_rows(c: Any) -> bool:
        return c["pack_b"] != "none" or (workload.layout[1] == "n" and n % c["micro_n"] == 0)

    def panel_reused(c: Any) -> bool:
        return bool(c["pack_b"] != "panel" or c["inner_order"] == "nm")

    def tail_matters(c: Any) -> bool:
        mt, nt = tiles(c)
        work = padded(mt, c["block_m"]) * padded(nt, c["block_n"])
        return c["tail"] == "predicate" or mt * nt < work <= (1 + _MAX_PAD_WASTE) * mt * nt

    return [
        Constraint("accumulators and one row of B fit the vector registers", fits_registers),
        Constraint("the unrolled body stays small", stays_small),
        Constraint("unroll_k divides block_k", unroll_divides),
        Constraint("blocks are not larger than the matrix", blocks_fit),
        # Unblocked, the place of k changes nothing: one of the equal configs is enough.
        Constraint("an unblocked k comes last", k_in_place),
        Constraint("B is packed if it is stored transposed or padded", b_has_rows),
        Constraint("a panel of B is packed outside the loop over rows", panel_reused),
        Constraint("padded tails are used where blocks stick out, and not by much", tail_matters),
    ]
