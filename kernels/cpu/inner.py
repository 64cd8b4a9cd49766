"""``cpu_inner``: products whose operands are both contiguous along k, as inner products.

A vector runs along k instead of along n: each of ``micro_m x micro_n`` results has sums of its own
in registers, one per lane, which are added up at the end. Nothing is packed, so every element of
the larger operand is read once, in order. That is the way to compute a matrix times a vector, and
products of few rows with a weight that is stored transposed (``x @ w.T``), where copying the weight
into panels costs more than the product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import Template, register
from autotune.kernels.cpu.batched import build_batch, check_batch, default_configs, parallel_knob
from autotune.kernels.cpu.blocks import at_most, block_values
from autotune.kernels.cpu.lanes import lanes_of, widest
from autotune.kernels.cpu.slices import (
    build_sliced,
    sliced_configs,
    slices_constraints,
    slices_knob,
)
from autotune.kernels.cpu.tile_intel import is_intel
from autotune.kernels.gemm import MATMUL_BLOCK, with_epilogue
from autotune.search.parameters import Categorical, Ordinal
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_MICRO = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_VECTORS = (1, 2, 4, 8)
_MOST_IN_A_BLOCK = 128
#: Up to so many rows of A, or columns of C, nothing is packed, where k is long; see `_is_narrow`.
_FEW_ROWS, _FEW_ROWS_INTEL, _FEW_COLUMNS = 32, 64, 12
#: So much of k for each of them: at the end the lanes of all sums are added up.
_DEPTH = 16
#: Rows of the smaller side in a tile, at most.
_ROWS = 4
#: Sums that hide the latency of a fused multiply-add: four cycles, two units.
_SUMS_IN_FLIGHT = 8
#: Blocks of the function: the product as it is returned, and what k has beyond whole steps.
_TOTAL, _TAIL = "total", "tail"


def _halve(width: int) -> str:
    return f"halve_{width}"


def applicable(workload: Gemm) -> bool:
    """Whether both operands of a product are contiguous along k."""
    if workload.prepacked:
        return False
    a_along_k = workload.layout[0] == "n" or workload.m == 1
    b_along_k = workload.layout[1] == "t" or workload.n == 1
    return a_along_k and b_along_k


@register
class CpuInner(Template):
    """Inner products, vectorised along k, nothing packed."""

    name = "cpu_inner"
    version = 3
    kind = "cpu"
    any_batch = True

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """Better than packed tiles where copying the larger operand would cost too much."""
        suited = workload.dtype == "float32" and applicable(workload)
        return 2 if suited and _is_narrow(workload, profile) else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of register tiles, vectors per step and loop orders."""
        if workload.dtype != "float32":
            raise NotApplicable(
                f"template cpu_inner computes float32, not {workload.dtype}; use --template cpu_dot"
            )
        check_batch(self.name, workload)
        if not applicable(workload):
            raise NotApplicable(
                "template cpu_inner needs operands that are contiguous along k: A stored (m, k) and"
                " B stored (n, k), or a vector, and not packed; use --template cpu_tile"
            )
        lanes = _lanes(workload.k, profile)
        steps = tuple(lanes * vectors for vectors in _VECTORS)
        parameters = [
            Ordinal("micro_m", tuple(x for x in _MICRO if x <= workload.m)),
            Ordinal("micro_n", tuple(x for x in _MICRO if x <= workload.n)),
            Ordinal("step_k", tuple(s for s in steps if s <= max(lanes, workload.k))),
            Ordinal("block_m", block_values(workload.m, _MOST_IN_A_BLOCK)),
            Ordinal("block_n", block_values(workload.n, _MOST_IN_A_BLOCK)),
            Categorical("outer_order", ("nm", "mn")),
            parallel_knob(workload, threads),
        ]
        slices = slices_knob(workload, threads)
        constraints = _constraints(workload, lanes, profile.vector_registers)
        plain = ConfigSpace(self.name, parameters, constraints)
        defaults = default_configs(
            workload, threads, lambda each: [default_config(plain, workload, profile, each)]
        )
        constraints += slices_constraints(slices)
        defaults = sliced_configs(workload, defaults, slices, threads)
        return ConfigSpace(self.name, [*parameters, *slices], constraints, defaults)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled module of one config."""
        return build_batch(
            workload,
            config,
            lambda one, c: build_sliced(one, c, lambda w, c: _Schedule(w, dict(c)).module()),
        )


def _is_narrow(workload: Gemm, profile: HardwareProfile) -> bool:
    """Whether sums per lane cost less than a copy of the larger operand or unused lanes do.

    Measured on one thread of a Zen 4 in layout nt, with its 32 registers and as if it had AVX2's
    16, this default against that of `cpu_tile`, over n = 1024 to 4096. Each row of A uses the copy
    of B once more, and adds up the lanes of as many sums: within these limits it is .97 to 3.2
    times as fast here (four rows with a k of 64 .7 and .87), with twice as many rows .64 to 1.05.
    Fewer columns of C than a vector has lanes leave lanes of `cpu_tile` unused: 4 columns are 1.7
    to 3.6 times as fast here with k from 64 on, 16 are .3 to .93 times. On an Emerald Rapids 40 to
    64 rows, with n and k of 512 to 4096, are .97 to 1.29 times as fast here.
    """
    lanes = widest(profile)
    rows = _FEW_ROWS_INTEL if is_intel(profile) else _FEW_ROWS
    few = rows if workload.m <= workload.n else min(_FEW_COLUMNS, lanes)
    return min(workload.m, workload.n) <= max(2, min(few, workload.k // _DEPTH))


def _lanes(k: int, profile: HardwareProfile) -> int:
    """Return the lanes of the widest vector, a power of two, that k fills."""
    lanes = widest(profile)
    while lanes > k:
        lanes //= 2
    return lanes


def default_config(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> Config:
    """Return the config used when nothing was tuned.

    The smaller side is cut into the fewest tiles of at most four rows, as equal as can be: 9 in
    threes, not in fours of which three compute nothing. Of the larger, a tile takes as many as
    registers allow, from three, which fill 16 registers beside four, to six. Against a vector it
    takes eight where they stream from memory, and four, in steps twice as long, where they come
    from a cache: rows a power of two apart share its sets.
    """
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    narrow, wide = sorted(("m", "n"), key=lambda axis: getattr(workload, axis))
    rows = getattr(workload, narrow)
    fewest = -(-rows // _ROWS)
    micro = {narrow: at_most(values[f"micro_{narrow}"], -(-rows // fewest))}
    room = max(3, (profile.vector_registers - 2) // (micro[narrow] + 1))
    cached = 4 * workload.k * getattr(workload, wide) <= profile.l3_bytes
    aim = 6 if micro[narrow] > 1 else 4 if cached else 8
    micro[wide] = at_most(values[f"micro_{wide}"], min(aim, room))
    sums = micro["m"] * micro["n"]
    lanes = values["step_k"][0]
    vectors = max(1, _SUMS_IN_FLIGHT // sums)
    tiles = {axis: -(-getattr(workload, axis) // micro[axis]) for axis in "mn"}
    # All of the smaller side passes over a tile of the larger while that is near.
    limits = {narrow: 2 * tiles[narrow] - 1, wide: max(1, tiles[wide] // (4 * threads))}
    return Config(
        {
            "micro_m": micro["m"],
            "micro_n": micro["n"],
            "step_k": at_most(values["step_k"], vectors * lanes),
            "block_m": at_most(values["block_m"], limits["m"]),
            "block_n": at_most(values["block_n"], limits["n"]),
            # The smaller operand is read again and again, from the nearest cache.
            "outer_order": "nm" if wide == "n" else "mn",
            "parallel": "none" if threads == 1 else "fused",
        }
    )


def _registers(micro_m: int, micro_n: int, vectors: int) -> int:
    """Vector registers of a tile: its sums, one step of the smaller side, one of the other."""
    return micro_m * micro_n * vectors + min(micro_m, micro_n) + 1


def _constraints(workload: Gemm, lanes: int, registers: int) -> list[Constraint]:
    def fits(c: Any) -> bool:
        return _registers(c["micro_m"], c["micro_n"], c["step_k"] // lanes) <= registers

    def blocks_fit(c: Any) -> bool:
        tiles_m = -(-workload.m // c["micro_m"])
        tiles_n = -(-workload.n // c["micro_n"])
        return bool(c["block_m"] < 2 * tiles_m and c["block_n"] < 2 * tiles_n)

    return [
        Constraint("sums and operands of a tile fit the vector registers", fits),
        Constraint("blocks are not larger than the matrix", blocks_fit),
    ]


def _prim_func(workload: Gemm, step: int, micro_m: int, micro_n: int) -> Any:
    """Return ``main(A, B[, bias][, residual], C)`` with sums per lane of ``step`` elements of k.

    Rows and columns that only fill a tile read the last valid one: their sums are never used, and
    no load needs a predicate.
    """
    from tvm import te, tirx

    a = te.placeholder(workload.a_shape, workload.dtype, name="A")
    b = te.placeholder(workload.b_shape, workload.dtype, name="B")
    m, n = workload.m, workload.n
    whole, rest = divmod(workload.k, step)

    def row_of_a(i: Any, k: Any) -> Any:
        i = i if m % micro_m == 0 else tirx.min(i, m - 1)
        return a[i, k] if workload.layout[0] == "n" else a[k, 0]

    def row_of_b(j: Any, k: Any) -> Any:
        j = j if n % micro_n == 0 else tirx.min(j, n - 1)
        return b[j, k] if workload.layout[1] == "t" else b[k, 0]

    padded = (-(-m // micro_m) * micro_m, -(-n // micro_n) * micro_n)
    block = te.reduce_axis((0, whole), "kb")
    sums = te.compute(
        (*padded, step),
        lambda i, j, lane: te.sum(
            row_of_a(i, block * step + lane) * row_of_b(j, block * step + lane), axis=block
        ),
        name=MATMUL_BLOCK,
    )
    for width in reversed(_halves(step)):
        sums = _halved(sums, padded, width)
    if not rest:
        total = te.compute((m, n), lambda i, j: sums[i, j, 0], name=_TOTAL)
        return with_epilogue(workload, [a, b], total)
    last = te.reduce_axis((0, rest), "kt")
    tail = te.compute(
        padded,
        lambda i, j: te.sum(
            row_of_a(i, whole * step + last) * row_of_b(j, whole * step + last), axis=last
        ),
        name=_TAIL,
    )
    total = te.compute((m, n), lambda i, j: sums[i, j, 0] + tail[i, j], name=_TOTAL)
    return with_epilogue(workload, [a, b], total)


def _halved(sums: Any, shape: tuple[int, int], width: int) -> Any:
    """Add the upper half of the lanes to the lower: fewer roundings than one after the other."""
    from tvm import te

    return te.compute(
        (*shape, width),
        lambda i, j, lane: sums[i, j, lane] + sums[i, j, lane + width],
        name=_halve(width),
    )


class _Schedule:
    """Applies one config to the inner-product form."""

    def __init__(self, workload: Gemm, c: dict[str, Any]) -> None:
        import tvm
        from tvm.s_tir import Schedule

        self.c, self.step = c, c["step_k"]
        self.lanes = lanes_of(self.step)
        func = _prim_func(workload, self.step, c["micro_m"], c["micro_n"])
        self.sch = Schedule(tvm.IRModule({"main": func}))
        self.has_tail = workload.k % self.step != 0

    def module(self) -> Any:
        sch = self.sch
        output = self._fold_epilogue()
        tile = self._tile(output)
        # The consumers first: each producer then finds the loops that it is wanted in.
        producers = [_halve(width) for width in _halves(self.step)] + [MATMUL_BLOCK]
        if self.has_tail:
            producers.insert(0, _TAIL)
        for name in producers:
            sch.compute_at(sch.get_sblock(name), tile, preserve_unit_loops=True)
        if self.has_tail:
            self._sum_up_tail()
        for width in _halves(self.step):
            self._unroll_copy(sch.get_sblock(_halve(width)), width)
        self._multiply()
        return sch.mod

    def _fold_epilogue(self) -> Any:
        """Inline all blocks after the sums into the last."""
        sch = self.sch
        block = sch.get_sblock(_TOTAL)
        while consumers := sch.get_consumers(block):
            sch.compute_inline(block)
            block = consumers[0]
        return block

    def _tile(self, output: Any) -> Any:
        """Tile the output; return the loop whose body is one tile."""
        c, sch = self.c, self.sch
        i, j = sch.get_loops(output)
        i, row = sch.split(i, [None, c["micro_m"]])
        j, column = sch.split(j, [None, c["micro_n"]])
        m_outer, m_inner = sch.split(i, [None, c["block_m"]])
        n_outer, n_inner = sch.split(j, [None, c["block_n"]])
        outer = {"m": m_outer, "n": n_outer}
        inner = {"m": m_inner, "n": n_inner}
        first, second = c["outer_order"]
        sch.reorder(outer[first], outer[second], inner[first], inner[second], row, column)
        if c["parallel"] == "fused":
            sch.parallel(sch.fuse(outer[first], outer[second]))
        elif c["parallel"] == "outer":
            sch.parallel(outer[first])
        sch.unroll(row)
        sch.unroll(column)
        return inner[second]

    def _multiply(self) -> None:
        """Sums of a tile in registers while k runs past."""
        sch = self.sch
        block = sch.get_sblock(MATMUL_BLOCK)
        *_, row, column, lane, k = sch.get_loops(block)
        vector, lane = sch.split(lane, [None, self.lanes])
        sch.reorder(k, vector, row, column, lane)
        if self.lanes > 1:
            sch.vectorize(lane)
        for loop in (vector, row, column):
            sch.unroll(loop)
        sch.decompose_reduction(block, k)

    def _unroll_copy(self, block: Any, width: int) -> None:
        sch = self.sch
        *_, row, column, lane = sch.get_loops(block)
        vector, lane = sch.split(lane, [None, min(width, self.lanes)])
        if width > 1:
            sch.vectorize(lane)
        for loop in (row, column, vector):
            sch.unroll(loop)

    def _sum_up_tail(self) -> None:
        sch = self.sch
        *_, row, column, k = sch.get_loops(sch.get_sblock(_TAIL))
        sch.reorder(k, row, column)
        sch.decompose_reduction(sch.get_sblock(_TAIL), k)


def _halves(step: int) -> list[int]:
    """Widths of the additions, last first: 1, 2, 4, ... step / 2."""
    widths = []
    width = 1
    while width < step:
        widths.append(width)
        width *= 2
    return widths
