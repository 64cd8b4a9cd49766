# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but pieces of kernels.
"""What kernels of split K do with their sums; see :mod:`autotune.kernels.cuda.split`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.inline import inline

if TYPE_CHECKING:
    from autotune.kernels.cuda.split import Split
    from autotune.workload import Gemm


def leave_and_gather(s: Split, dtype: str) -> tuple[Any, Any]:
    """Return ``leave`` and ``gather``, inline functions of the threads of one unit.

    ``leave(sums, partials, counters, arrived, mark, unit, part, tx, group)`` stores a slice's sums
    and counts it; ``arrived[mark]``, in shared memory, is then how many had come before. ``group``
    is the named barrier of the unit's warpgroup, or None where it is the block. Whoever was last
    calls ``gather(sums, vector, partials, counters, unit, tx)``, which fills ``sums`` with those of
    the tile; ``vector`` holds ``s.width`` elements.
    """
    vectors = s.sums // s.width

    @inline
    def meet(group):
        if group is None:
            T.cuda.cta_sync()
        else:
            T.cuda.warpgroup_sync(group)

    @inline
    def leave(sums, partials, counters, arrived, mark, unit, part, tx, group):
        for i in T.unroll(vectors):
            for x in T.vectorized(s.width):
                partials[s.place(unit, part, i, tx) + x] = sums[i * s.width + x]
        # Release: the sums of all threads are there before the count. Each thread has a fence of
        # its own because the compiler may move memory accesses across a named barrier.
        T.cuda.thread_fence()
        meet(group)
        if tx == 0:
            arrived[mark] = T.cuda.atomic_add(counters.ptr_to([unit]), T.int32(1))
            T.cuda.thread_fence()
        meet(group)
        # Acquire: what is read from here on is not older than the count.
        T.cuda.thread_fence()

    @inline
    def gather(sums, vector, partials, counters, unit, tx):
        if tx == 0:
            counters[unit] = 0
        for i in T.unroll(s.sums):
            sums[i] = T.Cast(dtype, 0)
        for part in T.serial(s.slices, unroll=False):
            for i in T.unroll(vectors):
                for x in T.vectorized(s.width):
                    vector[x] = partials[s.place(unit, part, i, tx) + x]
                for x in T.unroll(s.width):
                    sums[i * s.width + x] = sums[i * s.width + x] + vector[x]

    return leave, gather


def taken(workload: Gemm, split: Split, turned: Collection[str] = ()) -> set[str]:
    """Return the names of a kernel's parameters, those of scratch memory included."""
    names = {name for name, _, _ in workload.inputs} | {"c"} | {f"{x}_turned" for x in turned}
    return names | ({"partials", "counters"} if split.slices > 1 else set())


def taking(function: Any, names: set[str]) -> Any:
    """Return a function with only those of its parameters; no other may be used in it.

    TVMScript has no way to leave a parameter out, and a kernel's text for each set of them would be
    the same text many times over.
    """
    import tvm

    parameters = [p for p in function.params if p.name in names]
    return tvm.tirx.PrimFunc(parameters, function.body, function.ret_type, function.attrs)
