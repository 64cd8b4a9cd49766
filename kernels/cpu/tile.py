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
from autotune.kernels.cpu.batched import build_batch, check_batch, default_configs, parallel_knob
from autotune.kernels.cpu.blocks import block_values
from autotune.kernels.cpu.lanes import widest
from autotune.kernels.cpu.product import panels_shape
from autotune.kernels.cpu.schedule import TileSchedule
from autotune.kernels.cpu.slices import (
    build_sliced,
    sliced_configs,
    slices_constraints,
    slices_knob,
    whole_blocks,
)
from autotune.kernels.cpu.tile_defaults import likely_configs
from autotune.kernels.cpu.tile_model import MAX_UNROLLED, fits_registers
from autotune.search.parameters import Categorical, Ordinal, Permutation
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_MICRO_M = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28)
_MICRO_N_VECTORS = (1, 2, 3, 4, 6, 8)
_PACK_B = ("none", "panel", "block", "whole")
#: Rows of B that are asked for ahead of the multiplications: a few where they lie far apart.
_PREFETCH_B = (0, 8, 32)
_MOST_IN_A_BLOCK = 256
#: Padding whole blocks may add at most this share of useless work.
_MAX_PAD_WASTE = 0.25


@register
class CpuTile(Template):
    """BLIS-like tiled and packed GEMM with fp32 accumulation."""

    name = "cpu_tile"
    version = 7
    kind = "cpu"
    any_rows = True
    any_batch = True

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """The one for all float32 products, unless another knows better."""
        return 1 if workload.dtype == "float32" else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tilings, loop orders and packings; see the module docstring."""
        if workload.dtype != "float32":
            raise NotApplicable(
                f"template cpu_tile computes float32, not {workload.dtype}; use --template cpu_dot"
            )
        check_batch(self.name, workload)
        lanes = widest(profile)
        parameters = [
            Ordinal("micro_m", tuple(x for x in _MICRO_M if x <= workload.m)),
            Ordinal("micro_n", _micro_n_values(workload.n, lanes)),
            Ordinal("block_m", block_values(workload.m, _MOST_IN_A_BLOCK)),
            Ordinal(
                "block_n",
                block_values(math.ceil(workload.n / min(lanes, workload.n)), _MOST_IN_A_BLOCK),
            ),
            Ordinal("block_k", _block_k_values(workload.k)),
            Ordinal("unroll_k", (1, 2, 4, 8)),
            Ordinal("prefetch_b", _PREFETCH_B),
            Permutation("outer_order", ("n", "m", "k")),
            Categorical("inner_order", ("nm", "mn")),
            Categorical("pack_a", ("none", "block", "whole")),
            Categorical("pack_b", ("whole",) if workload.prepacked else _PACK_B),
            Categorical("tail", ("predicate", "pad")),
            parallel_knob(workload, threads),
        ]
        slices = slices_knob(workload, threads)
        constraints = _constraints(workload, lanes, profile.vector_registers)
        plain = ConfigSpace(self.name, parameters, constraints)
        constraints += [*slices_constraints(slices), *whole_blocks(workload, slices)]
        defaults = default_configs(
            workload, threads, lambda each: likely_configs(plain, workload, profile, each)
        )
        defaults = sliced_configs(workload, defaults, slices, threads)
        return ConfigSpace(self.name, [*parameters, *slices], constraints, defaults)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled module of one config."""
        return build_batch(
            workload,
            config,
            lambda one, c: build_sliced(one, c, lambda w, c: TileSchedule(w, c).module()),
        )

    def packed_shape(self, workload: Gemm, config: Config) -> tuple[int, ...]:
        """Return (panels, k, columns of a panel)."""
        micro_n = config["micro_n"]
        assert isinstance(micro_n, int)
        return panels_shape(workload, micro_n)


def padded(extent: int, multiple: int) -> int:
    """Return ``extent`` rounded up to a multiple."""
    return -(-extent // multiple) * multiple


def _micro_n_values(n: int, lanes: int) -> tuple[int, ...]:
    """Whole vectors; narrower ones only where n itself is narrower than one vector."""
    narrow = [v for v in (1, 2, 4, 8) if v < lanes and n < lanes]
    wide = [v * lanes for v in _MICRO_N_VECTORS if v == 1 or (v - 1) * lanes < n]
    return tuple(narrow + wide)


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

    def fits(c: Any) -> bool:
        return fits_registers(c["micro_m"], vectors(c), registers)

    def stays_small(c: Any) -> bool:
        return bool(c["micro_m"] * vectors(c) * c["unroll_k"] <= MAX_UNROLLED)

    def unroll_divides(c: Any) -> bool:
        return bool(c["block_k"] % c["unroll_k"] == 0)

    def blocks_fit(c: Any) -> bool:
        mt, nt = tiles(c)
        return bool(c["block_m"] < 2 * mt and c["block_n"] < 2 * nt)

    def k_in_place(c: Any) -> bool:
        return bool(c["block_k"] != k or c["outer_order"][-1] == "k")

    def b_has_rows(c: Any) -> bool:
        return c["pack_b"] != "none" or (workload.layout[1] == "n" and n >= c["micro_n"])

    def panel_reused(c: Any) -> bool:
        return bool(c["pack_b"] != "panel" or c["inner_order"] == "nm")

    def tail_matters(c: Any) -> bool:
        mt, nt = tiles(c)
        work = padded(mt, c["block_m"]) * padded(nt, c["block_n"])
        return c["tail"] == "predicate" or mt * nt < work <= (1 + _MAX_PAD_WASTE) * mt * nt

    return [
        Constraint("accumulators and one row of B fit the vector registers", fits),
        Constraint("the unrolled body stays small", stays_small),
        Constraint("unroll_k divides block_k", unroll_divides),
        Constraint("blocks are not larger than the matrix", blocks_fit),
        # Unblocked, the place of k changes nothing: one of the equal configs is enough.
        Constraint("an unblocked k comes last", k_in_place),
        Constraint("B is packed if it is stored transposed or narrower than a tile", b_has_rows),
        Constraint("a panel of B is packed outside the loop over rows", panel_reused),
        Constraint("padded tails are used where blocks stick out, and not by much", tail_matters),
    ]
