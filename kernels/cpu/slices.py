"""Slices of k that the threads share, for products with too few results to share.

The kernel of one slice is put into a parallel loop over all of them, each with sums of its own;
then these are added up, in the order of k, and the epilogue follows. So the result depends on the
number of slices, but not on the threads that run them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.accesses import with_accesses
from autotune.kernels.cpu.batched import part
from autotune.kernels.cpu.lanes import lanes_of
from autotune.kernels.gemm import with_epilogue
from autotune.search.parameters import Ordinal
from autotune.search.space import Config, Constraint

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Name of the knob.
SLICES = "slices_k"
#: With more results than this there is enough to share, and adding up costs more than it gains.
_FEW_RESULTS = 1 << 14
#: A slice of less is over before another thread has woken up.
_LEAST_DEPTH = 512


def slices_knob(workload: Gemm, threads: int) -> list[Ordinal]:
    """Return the knob where slices can pay, else nothing: numbers of slices that divide k."""
    w = workload
    if threads == 1 or w.batch != 1 or w.prepacked or w.m * w.n > _FEW_RESULTS:
        return []
    counts = {threads, *(1 << i for i in range(1, threads.bit_length()))}
    fitting = [s for s in sorted(counts) if w.k % s == 0 and w.k // s >= _LEAST_DEPTH]
    return [Ordinal(SLICES, (1, *fitting))] if fitting else []


def slices_constraints(knobs: list[Ordinal]) -> list[Constraint]:
    """Return the rules of the knob, none where it is not there."""

    def alone(c: Any) -> bool:
        return bool(c[SLICES] == 1 or c["parallel"] == "none")

    return [Constraint("threads share slices of k or of C, not both", alone)] if knobs else []


def whole_blocks(workload: Gemm, knobs: list[Ordinal]) -> list[Constraint]:
    """Return the rule for templates that cut k into blocks."""

    def whole(c: Any) -> bool:
        unblocked = c["block_k"] == workload.k
        return bool(unblocked or workload.k // c[SLICES] % c["block_k"] == 0)

    return [Constraint("a slice of k is whole blocks", whole)] if knobs else []


def sliced_configs(
    workload: Gemm, configs: Iterable[Config], knobs: list[Ordinal], threads: int
) -> list[Config]:
    """Return likely configs, and the best of them in slices: first, where C has too few blocks.

    Parameters
    ----------
    configs
        Likely ones without the knob, best first.
    """
    if not knobs:
        return list(configs)
    plain = [Config({**dict(config), SLICES: 1}) for config in configs]
    best = plain[0]
    most = tuple(knobs[0].values())[-1]
    changes: dict[str, Any] = {SLICES: most, "parallel": "none"}
    if best.get("block_k", workload.k) != workload.k:
        changes |= {"block_k": workload.k, "outer_order": ("n", "m", "k")}
    at = 0 if _blocks(workload, best) < threads else 1
    return [*plain[:at], best.replace(**changes), *plain[at:]]


def _blocks(workload: Gemm, config: Config) -> int:
    """Return how many blocks of C there are to share."""
    c: dict[str, Any] = dict(config)
    tiles_m, tiles_n = -(-workload.m // c["micro_m"]), -(-workload.n // c["micro_n"])
    return int(-(-tiles_m // c["block_m"]) * -(-tiles_n // c["block_n"]))


def build_sliced(workload: Gemm, config: Config, build: Callable[[Gemm, Config], Any]) -> Any:
    """Return the module of a workload.

    Parameters
    ----------
    build
        ``(workload, config) -> module`` of one slice, scheduled.
    """
    values: dict[str, Any] = dict(config)
    slices: int = values.get(SLICES, 1)
    if slices == 1 or not isinstance(workload.m, int):
        return build(workload, config)
    depth = workload.k // slices
    one = dataclasses.replace(
        workload, k=depth, epilogue="none", scale=1.0, out_dtype=workload.acc_dtype
    )
    if values.get("block_k") == workload.k:
        config = config.replace(block_k=depth)
    module = build(one, config)
    module["main"] = _joined(workload, module["main"], slices, depth)
    return module


def _joined(workload: Gemm, func: Any, slices: int, depth: int) -> Any:
    from tvm import s_tir, tirx

    a1, b1, c1 = func.params
    a = tirx.decl_buffer(workload.a_shape, a1.dtype, "A")
    b = tirx.decl_buffer(workload.b_shape, b1.dtype, "B")
    total, sums = _total(workload, slices)
    root, final = func.body.block, total.body.block
    index, number = tirx.Var("s", "int32"), tirx.Var("v_s", "int32")
    first = number * depth

    def place(buffer: Any, at: list[Any]) -> tuple[Any, list[Any]] | None:
        if buffer.same_as(c1):
            return sums, [number, *at]
        if buffer.same_as(a1):
            row, column = at
            return a, [row, column + first] if workload.layout[0] == "n" else [row + first, column]
        if buffer.same_as(b1):
            row, column = at
            return b, [row + first, column] if workload.layout[1] == "n" else [row, column + first]
        return None

    block = s_tir.SBlock(
        [tirx.IterVar((0, slices), number, tirx.IterVar.DataPar)],
        [_slice(a, workload.layout[0] == "n", first, depth),
         _slice(b, workload.layout[1] == "t", first, depth)],
        [part(sums, number)],
        "slice",
        with_accesses(root.body, place),
        alloc_buffers=root.alloc_buffers,
    )  # fmt: skip
    realized = s_tir.SBlockRealize([index], True, block)
    loop = tirx.For(index, 0, slices, tirx.ForKind.PARALLEL, realized)
    body = tirx.SeqStmt([loop, final.body])
    everything = s_tir.SBlock([], [], [], "root", body, alloc_buffers=[sums, *final.alloc_buffers])
    parameters = [a, b, *total.params[1:]]
    whole = s_tir.SBlockRealize([], True, everything)
    return tirx.PrimFunc(parameters, whole, func.ret_type, func.attrs)


def _slice(buffer: Any, along_k: bool, first: Any, depth: int) -> Any:
    """Return the region of an operand that belongs to a slice; ``along_k``: k is its last index."""
    import tvm
    from tvm import tirx

    rows, columns = (tvm.ir.Range(0, extent) for extent in buffer.shape)
    span = tvm.ir.Range.from_min_extent(first, depth)
    return tirx.BufferRegion(buffer, [rows, span] if along_k else [span, columns])


def _total(workload: Gemm, slices: int) -> tuple[Any, Any]:
    """Return the function that adds up sums of shape (slices, m, n), scheduled, and their buffer.

    Its arguments are these, the bias and the residual if there are such, and C.
    """
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    shape = (slices, workload.m, workload.n)
    sums = te.placeholder(shape, workload.acc_dtype, name="sums")

    def total(i: Any, j: Any) -> Any:
        value = sums[0, i, j]
        for s in range(1, slices):
            value = value + sums[s, i, j]
        return value

    stage = te.compute(workload.c_shape, total, name="total")
    sch = Schedule(tvm.IRModule({"main": with_epilogue(workload, [sums], stage)}))
    block = sch.get_sblock("total")
    while consumers := sch.get_consumers(block):
        sch.compute_inline(block)
        block = consumers[0]
    *_, column = sch.get_loops(block)
    lanes = lanes_of(workload.n)
    if lanes > 1:
        _, lane = sch.split(column, [None, lanes])
        sch.vectorize(lane)
    func = sch.mod["main"]
    return func, func.params[0]
