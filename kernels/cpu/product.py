"""The product with plain loops that ``cpu_tile`` schedules: copies and edges included.

Extents are rounded up to whole tiles. Where a tile would stick out it begins earlier instead, so
that it ends with the matrix: some rows and columns are then computed twice, with the same result,
and no load or store needs a predicate. Only where n is less than one tile are its columns padded
with zeros, in the copy of B, and the product cropped. A prepacked B comes in panels of ``micro_n``
columns, of shape ``(panels, k, micro_n)``, of which the last begins earlier too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.kernels.cpu.accesses import with_accesses
from autotune.kernels.cpu.lanes import lanes_of
from autotune.kernels.gemm import MATMUL_BLOCK, with_epilogue

if TYPE_CHECKING:
    from autotune.workload import Gemm

#: Names of the blocks that copy A, copy B, and copy the product out.
COPY_A, COPY_B, COPY_OUT = "copy_a", "copy_b", "copy_out"
#: Name of the function that packs B beforehand.
PACK = "pack"


@dataclass(frozen=True)
class Shape:
    """What a product is rounded up to, and which operands are copied.

    Parameters
    ----------
    multiple_m, multiple_n
        The extents of the product are multiples of these.
    micro_m, micro_n
        Rows and columns of a tile.
    copy_a, copy_b
        Whether the function has blocks ``copy_a`` and ``copy_b``, in the stored layouts.
    """

    multiple_m: int
    multiple_n: int
    micro_m: int
    micro_n: int
    copy_a: bool
    copy_b: bool


class Edges:
    """Where the rows and columns of the rounded product are in the matrices."""

    def __init__(self, workload: Gemm, shape: Shape) -> None:
        self.workload, self.shape = workload, shape
        self.rows = _rounded(workload.m, shape.multiple_m)
        self.columns = _rounded(workload.n, shape.multiple_n)
        #: Whether columns are padded with zeros, and cropped.
        self.padded = workload.n < shape.micro_n

    @property
    def c_shape(self) -> tuple[int, int]:
        """Extents of what is written of the product."""
        return self.rows, self.workload.n if self.padded else self.columns

    def place(self, i: Any, j: Any) -> tuple[Any, Any]:
        """Return the row and the column of the matrices of an element of the product."""
        return self.row(i), self.column(j)

    def row(self, i: Any) -> Any:
        """Return the row of the matrices that is a row of the product."""
        return _place(i, self.rows, self.workload.m, self.shape.micro_m)

    def column(self, j: Any) -> Any:
        """Return the column of the matrices that is a column of the product."""
        if self.padded:
            return j
        return _place(j, self.columns, self.workload.n, self.shape.micro_n)


def _place(index: Any, rounded: int, extent: Any, tile: int) -> Any:
    """Let the tiles that would stick out of an extent begin earlier."""
    from tvm import tirx

    if not isinstance(extent, int):
        # Known only at run time, it may be less than one tile: what sticks out repeats the last.
        return tirx.min(index, extent - 1)
    if rounded == extent:
        return index
    first = tirx.min(index // tile * tile, extent - tile)
    return first + index % tile


def product_prim_func(workload: Gemm, edges: Edges) -> Any:
    """Return ``main(A, B[, bias][, residual], C)`` with the extents of ``edges.c_shape``.

    Packed B takes the place of a prepacked B. When it is scheduled, :func:`placed` makes C as large
    as the workload says.
    """
    from tvm import te

    operands, stage = product_stage(workload, edges)
    out = te.compute(edges.c_shape, lambda i, j: stage[i, j], name=COPY_OUT)
    return with_epilogue(workload, operands, out, edges.c_shape, edges.place)


def product_stage(
    workload: Gemm, edges: Edges, names: Sequence[str] = ("A", "B")
) -> tuple[list[Any], Any]:
    """Return A and B, as placeholders of these names, and their product of rounded extents."""
    from tvm import te

    acc, shape = workload.acc_dtype, edges.shape
    a = te.placeholder(workload.a_shape, workload.dtype, name=names[0])
    row_of_a = _rows_of_a(workload, a, edges)
    if workload.prepacked:
        b = te.placeholder(panels_shape(workload, shape.micro_n), workload.dtype, name="packed")
        row_of_b = _rows_of_panels(b, edges)
    else:
        b = te.placeholder(workload.b_shape, workload.dtype, name=names[1])
        row_of_b = _rows_of_b(workload, b, edges)
    k = te.reduce_axis((0, workload.k), "k")
    stage = te.compute(
        (edges.rows, edges.columns),
        lambda i, j: te.sum(row_of_a(i, k).astype(acc) * row_of_b(k, j).astype(acc), axis=k),
        name=MATMUL_BLOCK,
    )
    return [a, b], stage


def placed(func: Any, shape: tuple[Any, ...], place: Callable[..., Sequence[Any]]) -> Any:
    """Return a scheduled product with C of a shape, each element in its place.

    Parameters
    ----------
    place
        From the indices of what is written by the function to those in C.
    """
    from tvm import tirx

    *inputs, rounded = func.params
    out = tirx.decl_buffer(shape, rounded.dtype, rounded.name)

    def access(buffer: Any, indices: list[Any]) -> tuple[Any, list[Any]] | None:
        return (out, list(place(*indices))) if buffer.same_as(rounded) else None

    body = with_accesses(func.body, access)
    return tirx.PrimFunc([*inputs, out], body, func.ret_type, func.attrs)


def _rounded(extent: int, multiple: int) -> int:
    return (extent + multiple - 1) // multiple * multiple


def _rows_of_a(workload: Gemm, a: Any, edges: Edges) -> Any:
    """Return the access ``(i, k) -> element`` to A, or to its copy."""
    from tvm import te

    k, transposed = workload.k, workload.layout[0] == "t"

    def stored(i: Any, x: Any) -> Any:
        return a[x, edges.row(i)] if transposed else a[edges.row(i), x]

    if not edges.shape.copy_a:
        return stored
    if transposed:
        copy = te.compute((k, edges.rows), lambda x, i: stored(i, x), name=COPY_A)
        return lambda i, x: copy[x, i]
    copy = te.compute((edges.rows, k), stored, name=COPY_A)
    return lambda i, x: copy[i, x]


def _stored_b(workload: Gemm, b: Any, edges: Edges) -> Any:
    """Return the access ``(k, j) -> element`` to B where it is."""
    from tvm import te, tirx

    def stored(x: Any, j: Any) -> Any:
        column = edges.column(j)
        value = b[column, x] if workload.layout[1] == "t" else b[x, column]
        if not edges.padded:
            return value
        return tirx.if_then_else(j < workload.n, value, te.const(0, workload.dtype))

    return stored


def _rows_of_b(workload: Gemm, b: Any, edges: Edges) -> Any:
    """Return the access ``(k, j) -> element`` to B, or to its copy."""
    from tvm import te

    k, stored = workload.k, _stored_b(workload, b, edges)
    if not edges.shape.copy_b:
        return stored
    if workload.layout[1] == "t":
        copy = te.compute((edges.columns, k), lambda j, x: stored(x, j), name=COPY_B)
        return lambda x, j: copy[j, x]
    copy = te.compute((k, edges.columns), stored, name=COPY_B)
    return lambda x, j: copy[x, j]


def _rows_of_panels(packed: Any, edges: Edges) -> Any:
    """Return the access ``(k, j) -> element`` to B in panels."""
    from tvm import tirx

    panels, micro_n = int(packed.shape[0]), edges.shape.micro_n

    def stored(x: Any, j: Any) -> Any:
        panel = j // micro_n
        if edges.columns > panels * micro_n:  # whole blocks: more panels than there are
            panel = tirx.min(panel, panels - 1)
        return packed[panel, x, j % micro_n]

    return stored


def panels_shape(workload: Gemm, micro_n: int) -> tuple[int, int, int]:
    """Return the shape of a prepacked B: (panels, k, columns of a panel)."""
    return -(-workload.n // micro_n), workload.k, micro_n


def pack_prim_func(workload: Gemm, edges: Edges, parallel: bool) -> Any:
    """Return the scheduled ``pack(B, packed)``."""
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    b = te.placeholder(workload.b_shape, workload.dtype, name="B")
    micro_n = edges.shape.micro_n
    panels = panels_shape(workload, micro_n)
    row_of_b = _stored_b(workload, b, edges)
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
    elif not edges.padded:
        _, vector = sch.split(lane, [None, lanes_of(micro_n)])
        sch.vectorize(vector)
    return sch.mod[PACK]
