"""The product with plain loops that ``cpu_tile`` schedules: copies, padding and cropping included.

Extents are rounded up to whole tiles. Rows of A that only fill a tile repeat its last row, which
needs neither a copy nor a predicate; columns of B that only fill one are zeros in the copy that
packing makes anyway. What they yield is cropped. A prepacked B comes in panels of ``micro_n``
columns, of shape ``(panels, k, micro_n)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.lanes import lanes_of
from autotune.kernels.gemm import MATMUL_BLOCK, with_epilogue

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Names of the blocks that copy A, copy B, and copy the valid part of the product.
COPY_A, COPY_B, CROP = "copy_a", "copy_b", "crop"
#: Name of the function that packs B beforehand.
PACK = "pack"


@dataclass(frozen=True)
class Shape:
    """What a product is rounded up to, and which operands are copied.

    Parameters
    ----------
    multiple_m, multiple_n
        The extents of the product are multiples of these.
    micro_n
        Columns of a panel of a prepacked B.
    copy_a, copy_b
        Whether the function has blocks ``copy_a`` and ``copy_b``, in the stored layouts.
    """

    multiple_m: int
    multiple_n: int
    micro_n: int
    copy_a: bool
    copy_b: bool


def product_prim_func(workload: Gemm, shape: Shape) -> Any:
    """Return ``main(A, B[, bias][, residual], C)``; packed B takes the place of a prepacked B."""
    from tvm import te

    m, n, acc = workload.m, workload.n, workload.acc_dtype
    padded = (_rounded(m, shape.multiple_m), _rounded(n, shape.multiple_n))
    a = te.placeholder(workload.a_shape, workload.dtype, name="A")
    row_of_a = _rows_of_a(workload, a, padded[0], shape.copy_a)
    if workload.prepacked:
        b = te.placeholder(panels_shape(workload, shape.micro_n), workload.dtype, name="packed")
        row_of_b = _rows_of_panels(b, shape.micro_n, padded[1])
    else:
        b = te.placeholder(workload.b_shape, workload.dtype, name="B")
        row_of_b = _rows_of_b(workload, b, padded[1], shape.copy_b)
    k = te.reduce_axis((0, workload.k), "k")
    stage = te.compute(
        padded,
        lambda i, j: te.sum(row_of_a(i, k).astype(acc) * row_of_b(k, j).astype(acc), axis=k),
        name=MATMUL_BLOCK,
    )
    crop = te.compute((m, n), lambda i, j: stage[i, j], name=CROP)
    return with_epilogue(workload, [a, b], crop)


def _rounded(extent: int, multiple: int) -> int:
    return (extent + multiple - 1) // multiple * multiple


def _rows_of_a(workload: Gemm, a: Any, rows: int, copied: bool) -> Any:
    """Return the access ``(i, k) -> element`` to A, or to its copy of so many rows."""
    from tvm import te, tirx

    m, k, transposed = workload.m, workload.k, workload.layout[0] == "t"

    def stored(i: Any, x: Any) -> Any:
        i = i if rows == m else tirx.min(i, m - 1)
        return a[x, i] if transposed else a[i, x]

    if not copied:
        return stored
    if transposed:
        copy = te.compute((k, rows), lambda x, i: stored(i, x), name=COPY_A)
        return lambda i, x: copy[x, i]
    copy = te.compute((rows, k), stored, name=COPY_A)
    return lambda i, x: copy[i, x]


def _rows_of_b(workload: Gemm, b: Any, columns: int, copied: bool) -> Any:
    """Return the access ``(k, j) -> element`` to B, or to its copy of so many columns."""
    from tvm import te, tirx

    n, k, transposed = workload.n, workload.k, workload.layout[1] == "t"

    def stored(x: Any, j: Any) -> Any:
        value = b[j, x] if transposed else b[x, j]
        if columns == n:
            return value
        return tirx.if_then_else(j < n, value, te.const(0, workload.dtype))

    if not copied:
        return stored
    if transposed:
        copy = te.compute((columns, k), lambda j, x: stored(x, j), name=COPY_B)
        return lambda x, j: copy[j, x]
    copy = te.compute((k, columns), stored, name=COPY_B)
    return lambda x, j: copy[x, j]


def _rows_of_panels(packed: Any, micro_n: int, columns: int) -> Any:
    """Return the access ``(k, j) -> element`` to B in panels."""
    from tvm import tirx

    panels = int(packed.shape[0])

    def stored(x: Any, j: Any) -> Any:
        panel = j // micro_n
        if columns > panels * micro_n:  # whole blocks: more panels than there are
            panel = tirx.min(panel, panels - 1)
        return packed[panel, x, j % micro_n]

    return stored


def panels_shape(workload: Gemm, micro_n: int) -> tuple[int, int, int]:
    """Return the shape of a prepacked B: (panels, k, columns of a panel)."""
    return -(-workload.n // micro_n), workload.k, micro_n


def pack_prim_func(workload: Gemm, micro_n: int, parallel: bool) -> Any:
    """Return the scheduled ``pack(B, packed)``."""
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    b = te.placeholder(workload.b_shape, workload.dtype, name="B")
    panels = panels_shape(workload, micro_n)
    row_of_b = _rows_of_b(workload, b, panels[0] * micro_n, copied=False)
    packed = te.compute(
        panels, lambda panel, k, lane: row_of_b(k, panel * micro_n + lane), name=PACK
    )
    func = te.create_prim_func([b, packed]).with_attr("global_symbol", PACK)
    sch = Schedule(tvm.IRModule({PACK: func}))
    sch.work_on(PACK)
    panel, k, lane = sch.get_loops(sch.get_sblock(PACK, PACK))
    if parallel:
        sch.parallel(panel)
    if workload.layout[1] == "t":
        sch.reorder(lane, k)  # read B in order
    elif workload.n % micro_n == 0:
        _, vector = sch.split(lane, [None, lanes_of(micro_n)])
        sch.vectorize(vector)
    return sch.mod[PACK]
