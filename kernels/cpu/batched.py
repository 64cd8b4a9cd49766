"""A batch of products: the kernel of one of them, in a loop over all.

Every template schedules one product; here its function is put into an outermost loop, and what it
reads and writes gets the number of the product as another, first index; an operand that all share
stays as it is. Whatever the kernel packs, it packs inside this loop, so that the copies of one
product are all that a cache has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.cpu.accesses import with_accesses
from autotune.search.parameters import Categorical

if TYPE_CHECKING:
    from autotune.search.space import Config
    from autotune.workload import Gemm

#: TVM computes the place of an element in 32 bits.
_MAX_ELEMENTS = 2**31 - 1
#: Value of a template's knob ``parallel``: the threads share the products of a batch.
BATCH = "batch"
#: Name of the loop over the batch, and of the block inside.
_LOOP = "batch"


def check_batch(name: str, workload: Gemm) -> None:
    """Raise NotApplicable if a batch cannot be computed this way."""
    w = workload
    if w.batch == 1:
        return
    if w.prepacked and w.shared != "b":
        raise NotApplicable(
            f"template {name} packs one matrix B beforehand, not a batch of {w.batch}; leave out"
            " --prepacked, or compute them one by one (no --template does)"
        )
    if w.batch * max(w.m * w.k, w.k * w.n, w.m * w.n) > _MAX_ELEMENTS:
        raise NotApplicable(
            f"template {name} counts elements in 32 bits; {w.key} has an operand of more, so cut"
            " the batch (no --template takes it whole)"
        )


def parallel_knob(workload: Gemm, threads: int) -> Categorical:
    """Return the knob that says which loops the threads share."""
    if threads == 1:
        return Categorical("parallel", ("none",))
    within = ("fused", "outer", "none")
    return Categorical("parallel", within if workload.batch == 1 else (BATCH, *within))


def default_configs(
    workload: Gemm, threads: int, configs: Callable[[int], Iterable[Config]]
) -> list[Config]:
    """Return the likely configs of a workload.

    Parameters
    ----------
    configs
        Those of one product by so many threads. If there are as many products as threads or more,
        each thread gets products of its own, which costs neither waiting nor sharing.
    """
    if workload.batch == 1 or workload.batch < threads or threads == 1:
        return list(configs(threads))
    return [config.replace(parallel=BATCH) for config in configs(1)]


def build_batch(workload: Gemm, config: Config, build: Callable[[Gemm, Config], Any]) -> Any:
    """Return the module of a workload.

    Parameters
    ----------
    build
        ``(workload, config) -> module`` of one product, scheduled.
    """
    if workload.batch == 1:
        return build(workload, config)
    parallel = config["parallel"] == BATCH
    one = config.replace(parallel="none") if parallel else config
    module = build(workload.one_of_batch, one)
    module["main"] = _repeated(workload, module["main"], parallel)
    return module


def _repeated(workload: Gemm, func: Any, parallel: bool) -> Any:
    from tvm import s_tir, tirx

    ones, root = list(func.params), func.body.block
    same = {"bias", workload.shared}
    own = [*(name not in same for name, _, _ in workload.inputs), True]
    wholes = [
        tirx.decl_buffer([workload.batch, *one.shape], one.dtype, one.name) if repeated else one
        for one, repeated in zip(ones, own, strict=True)
    ]
    pairs = [(one, whole) for one, whole in zip(ones, wholes, strict=True) if one is not whole]
    # A batch that is only known at run time is a variable of 64 bits.
    index = "int32" if isinstance(workload.batch, int) else "int64"
    loop, product = tirx.Var("b", index), tirx.Var("v_b", index)
    parts = [part(whole, product) for _, whole in pairs]
    block = s_tir.SBlock(
        [tirx.IterVar((0, workload.batch), product, tirx.IterVar.DataPar)],
        parts[:-1],
        parts[-1:],
        _LOOP,
        _indexed(root.body, pairs, product),
        alloc_buffers=root.alloc_buffers,
    )
    kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
    body = tirx.For(loop, 0, workload.batch, kind, s_tir.SBlockRealize([loop], True, block))
    everything = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    return tirx.PrimFunc(wholes, everything, func.ret_type, func.attrs)


def part(buffer: Any, number: Any) -> Any:
    """Return the region of one product, or of one of anything that the first index counts."""
    import tvm
    from tvm import tirx

    rest = [tvm.ir.Range(0, extent) for extent in buffer.shape[1:]]
    return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(number, 1), *rest])


def _indexed(body: Any, pairs: list[tuple[Any, Any]], product: Any) -> Any:
    """Return a statement in which each access to the first of a pair is to a part of the second."""

    def place(buffer: Any, indices: list[Any]) -> tuple[Any, list[Any]] | None:
        whole = next((whole for one, whole in pairs if buffer.same_as(one)), None)
        return None if whole is None else (whole, [product, *indices])

    return with_accesses(body, place)
