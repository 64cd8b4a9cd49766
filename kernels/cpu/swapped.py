"""``cpu_swapped``: few rows of A by a B that is stored transposed, computed as the transpose of C.

``C^T = B^T A^T``: rows of B, which are contiguous along k, take the place of A's rows in the
register tiles of ``cpu_tile``, and are read where they are; A^T takes the place of B, and is packed
in panels. So it is the small operand that is copied, not the weight of a layer (``x @ w.T``), whose
copy costs as much as some dozens of rows of the product. The sums of a tile turn in registers, in
squares of 8 x 8, when they are written.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import Template, register
from autotune.kernels.cpu import squares
from autotune.kernels.cpu.batched import build_batch, check_batch, default_configs, parallel_knob
from autotune.kernels.cpu.blocks import at_most, block_values
from autotune.kernels.cpu.lanes import widest
from autotune.kernels.cpu.product import COPY_OUT, placed, product_stage
from autotune.kernels.cpu.schedule import TileSchedule
from autotune.kernels.cpu.swapped_defaults import likely_configs, pays
from autotune.kernels.cpu.tile_model import MAX_UNROLLED, fits_registers
from autotune.kernels.gemm import with_epilogue
from autotune.search.parameters import Categorical, Ordinal
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: Columns of C in a register tile; eights turn in registers.
_COLUMNS = (1, 2, 4, 8, 16, 24)
_VECTORS = (1, 2, 3, 4, 6, 8)
_MOST_IN_A_BLOCK = 256
_PREFETCH = (0, 8, 32)


@register
class CpuSwapped(Template):
    """Tiles of C^T, with fp32 accumulation; rows of B in place, A^T in panels."""

    name = "cpu_swapped"
    version = 1
    kind = "cpu"
    any_batch = True

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """Before the other two where it pays."""
        return 3 if _applicable(workload) and pays(workload, profile) else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tilings; ``micro_n`` and ``block_n`` are of columns of C."""
        if not _applicable(workload):
            raise NotApplicable(
                "template cpu_swapped computes float32 products by a B that is stored transposed,"
                f" not prepacked; got {workload.key}; use --template cpu_tile"
            )
        check_batch(self.name, workload)
        lanes = widest(profile)
        rows = tuple(v * lanes for v in _VECTORS if v == 1 or (v - 1) * lanes < workload.m)
        columns = tuple(c for c in _COLUMNS if c <= workload.n)
        eights = at_most(columns, squares.SIDE)
        parameters = [
            Ordinal("micro_n", columns),
            Ordinal("micro_m", rows),
            Ordinal("block_n", _blocks(-(-workload.n // eights), threads)),
            Ordinal("block_m", _blocks(-(-workload.m // rows[0]), 1)),
            Ordinal("unroll_k", tuple(u for u in (1, 2, 4, 8) if workload.k % u == 0)),
            Ordinal("prefetch_a", _PREFETCH),
            Categorical("inner_order", ("nm", "mn")),
            Categorical("pack_a", ("whole", "block")),
            parallel_knob(workload, threads),
        ]
        constraints = _constraints(workload, lanes, profile.vector_registers)
        plain = ConfigSpace(self.name, parameters, constraints)
        defaults = default_configs(
            workload, threads, lambda each: likely_configs(plain, workload, profile, each)
        )
        return ConfigSpace(self.name, parameters, constraints, defaults)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled module of one config."""
        return build_batch(workload, config, lambda one, c: _Schedule(one, c).module())


def _applicable(workload: Gemm) -> bool:
    """Whether it is a float32 product with rows of B along k, not packed beforehand."""
    w = workload
    return w.dtype == "float32" and w.layout[1] == "t" and not w.prepacked


def _blocks(tiles: int, threads: int) -> tuple[int, ...]:
    """Return the usual values, and what gives each thread one block."""
    return tuple(sorted({*block_values(tiles, _MOST_IN_A_BLOCK), -(-tiles // threads)}))


def _constraints(workload: Gemm, lanes: int, registers: int) -> list[Constraint]:
    def fits(c: Any) -> bool:
        return fits_registers(c["micro_n"], c["micro_m"] // lanes, registers)

    def stays_small(c: Any) -> bool:
        return bool(c["micro_n"] * (c["micro_m"] // lanes) * c["unroll_k"] <= MAX_UNROLLED)

    def blocks_fit(c: Any) -> bool:
        tiles_m, tiles_n = -(-workload.m // c["micro_m"]), -(-workload.n // c["micro_n"])
        return bool(c["block_m"] < 2 * tiles_m and c["block_n"] < 2 * tiles_n)

    return [
        Constraint("sums and one row of the panel fit the vector registers", fits),
        Constraint("the unrolled body stays small", stays_small),
        Constraint("blocks are not larger than the matrix", blocks_fit),
    ]


def swapped(workload: Gemm) -> Gemm:
    """Return the plain product ``B^T A^T``, whose m is the n of a workload."""
    layout = "".join("n" if each == "t" else "t" for each in reversed(workload.layout))
    shared = {"a": "b", "b": "a"}.get(workload.shared, "")
    plain = dataclasses.replace(workload, epilogue="none", scale=1.0)
    return dataclasses.replace(plain, m=workload.n, n=workload.m, layout=layout, shared=shared)


class _Schedule(TileSchedule):
    """The schedule of ``cpu_tile`` for the swapped product, whose tiles are turned at their end."""

    def __init__(self, workload: Gemm, config: Config) -> None:
        self.original = workload
        c: dict[str, Any] = dict(config)
        other = {"m": "n", "n": "m"}
        sizes = {
            f"{x}_{axis}": c[f"{x}_{other[axis]}"] for x in ("micro", "block") for axis in other
        }
        changes = {
            **sizes,
            "block_k": workload.k,
            "unroll_k": c["unroll_k"],
            "prefetch_b": c["prefetch_a"],
            "outer_order": ("m", "n", "k"),
            "inner_order": "".join(other[axis] for axis in c["inner_order"]),
            "pack_a": "none",
            "pack_b": c["pack_a"],
            "tail": "predicate",
            "parallel": c["parallel"],
        }
        super().__init__(swapped(workload), Config(changes))

    def _prim_func(self) -> Any:
        """Return ``main(A, B[, bias][, residual], C)``, in which the sums are turned first."""
        from tvm import te

        edges = self.edges
        (b, a), sums = product_stage(self.workload, edges, ("B", "A"))
        height, width = edges.c_shape
        turned = te.compute((width, height), lambda i, j: sums[j, i], name=COPY_OUT)
        return with_epilogue(self.original, [a, b], turned, (width, height), self._where)

    def _where(self, i: Any, j: Any) -> tuple[Any, Any]:
        """Return the row and the column of C of an element that is written."""
        column, row = self.edges.place(j, i)
        return row, column

    def _placed(self, main: Any) -> Any:
        return placed(main, self.original.c_shape, self._where)

    def _fold_epilogue(self) -> None:
        """Inline every block of the epilogue but the last; the one that turns the sums stays."""
        self.turned = self.output
        if blocks := self.sch.get_consumers(self.output):
            (self.output,) = blocks
            super()._fold_epilogue()

    def _place_output(self) -> None:
        """Turn a tile when its sums are complete, then write it."""
        sch, loop = self.sch, self.inner[self.c["inner_order"][-1]]
        sch.reverse_compute_at(self.turned, loop)
        *_, row, column = sch.get_loops(self.turned)
        rows, columns = min(self.original.m, self.c["micro_n"]), self.c["micro_m"]
        if rows >= squares.SIDE and columns % squares.SIDE == 0:
            row, row_lane = sch.split(row, [None, squares.SIDE])
            column, column_lane = sch.split(column, [None, squares.SIDE])
            sch.reorder(column, row, column_lane, row_lane)
            sch.annotate(row, squares.MARK, rows)
        if self.output is self.turned:
            return
        sch.reverse_compute_at(self.output, loop)
        if columns > 1:
            self._vectorize(self.output)
