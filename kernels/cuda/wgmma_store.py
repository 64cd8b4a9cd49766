# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but a piece of the kernel.
"""How the kernel of ``wgmma`` stores C. Importing this imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.epilogue import bias_at, finish
from autotune.kernels.cuda.inline import inline
from autotune.kernels.cuda.wgmma_ptx import STORE, STORE_MATRIX
from autotune.kernels.cuda.wgmma_tiles import STORE_BUFFERS, STORE_COLUMNS, WGMMA_M

if TYPE_CHECKING:
    from autotune.kernels.cuda.wgmma_tiles import WgmmaTiles
    from autotune.workload import Gemm


def storing(workload: Gemm, t: WgmmaTiles) -> Any:
    """Return ``store``, an inline function of a consumer's threads, with the epilogue in it."""
    M, N = workload.m, workload.n
    A, B = t.a, t.b
    integer = workload.dtype == "int8"
    batched = t.batch > 1
    store_box = STORE.format(3 if batched else 2)
    pairs = N % 2 == 0
    # Boxes of a tile take buffers in turns, from the first one on: after an odd number of them the
    # next tile's first box goes where the last one was.
    odd = t.wgmmas_m * (B.rows // STORE_COLUMNS) % STORE_BUFFERS != 0

    @inline
    def store_direct(target, bias, residual, sum_, out, product, row0, column0, tx):
        """Epilogue in registers, then pairs of C, each whole or left out."""
        for i in T.unroll(t.wgmmas_m):
            row1: T.let = row0 + i * WGMMA_M + tx // 32 * 16 + tx % 32 // 4
            for j in T.unroll(B.rows // 8):
                column: T.let = column0 + j * 8 + tx % 4 * 2
                for lower in T.unroll(2):
                    row: T.let = row1 + lower * 8
                    line: T.let = product * M + row
                    if T.bool(M % (A.rows * t.cluster_m) == 0) | (row < M):
                        for x in T.unroll(2):
                            if T.bool(N % (B.rows * t.cluster_n) == 0) | (column + x < N):
                                value: T.let = sum_[i * t.sums + j * 4 + lower * 2 + x]
                                out[x] = finish(
                                    workload,
                                    T.reinterpret("int32", value) if integer else value,
                                    bias_at(workload, bias, row, column + x),
                                    residual[line, column + x] if workload.has_residual else None,
                                )
                                if not pairs:
                                    target[line, column + x] = out[x]
                        if pairs:  # noqa: SIM102 (settled while parsing; the other is the kernel's)
                            if T.bool(N % (B.rows * t.cluster_n) == 0) | (column < N):
                                for x in T.vectorized(2):
                                    target[line, column + x] = out[x]

    @inline
    def store_boxes(c_map, bias, residual, sum_, boxes, product, row0, column0, consumer, tx):
        """Epilogue, stmatrix into a swizzled box of 64 x 64, and TMA, which stores what is in C."""
        part = T.alloc_buffer((8,), workload.out_dtype, scope="local")
        words = part.view("uint32")
        for i in T.unroll(t.wgmmas_m):
            for j in T.unroll(B.rows // STORE_COLUMNS):
                box: T.let = (
                    consumer * STORE_BUFFERS + (i * (B.rows // STORE_COLUMNS) + j) % STORE_BUFFERS
                ) * (WGMMA_M * STORE_COLUMNS)
                if tx == 0:  # what was stored out of this buffer has left it
                    if T.bool(odd) & (i + j == 0):
                        T.ptx["cp.async.bulk.wait_group.read"](0)
                    else:
                        T.ptx["cp.async.bulk.wait_group.read"](STORE_BUFFERS - 1)
                T.cuda.warpgroup_sync(consumer + 1)
                for q in T.unroll(STORE_COLUMNS // 16):
                    for e in T.unroll(8):
                        column: T.let = (
                            column0 + j * STORE_COLUMNS + q * 16 + e // 4 * 8 + tx % 4 * 2 + e % 2
                        )
                        # Of what lies outside C anything may be read: it is not stored.
                        row: T.let = (
                            row0 + i * WGMMA_M + tx // 32 * 16 + tx % 32 // 4 + e // 2 % 2 * 8
                        )
                        value: T.let = sum_[i * t.sums + j * 32 + q * 8 + e]
                        part[e] = finish(
                            workload,
                            value,
                            bias_at(workload, bias, T.min(row, M - 1), T.min(column, N - 1)),
                            residual[product * M + T.min(row, M - 1), T.min(column, N - 1)]
                            if workload.has_residual
                            else None,
                        )
                    line: T.let = tx // 32 * 16 + tx % 16
                    piece: T.let = (q * 2 + tx % 32 // 16) ^ (line % 8)
                    T.ptx[STORE_MATRIX](
                        boxes.ptr_to([box + line * STORE_COLUMNS + piece * 8]),
                        words[0],
                        words[1],
                        words[2],
                        words[3],
                    )
                T.ptx.fence.proxy.async_.shared__cta()
                T.cuda.warpgroup_sync(consumer + 1)
                if tx == 0:
                    T.ptx[store_box](
                        T.address_of(c_map),
                        column0 + j * STORE_COLUMNS,
                        row0 + i * WGMMA_M,
                        *([product] if batched else []),
                        boxes.ptr_to([box]),
                    )
                    T.ptx.cp.async_.bulk.commit_group()

    @inline
    def store(
        target, c_map, bias, added, sum_, out, boxes, product, row, column, consumer, tx
    ):  # fmt: skip
        """One consumer's rows of a tile, by the kind of store that the config asks for."""
        if t.tma_store:
            store_boxes(c_map, bias, added, sum_, boxes, product, row, column, consumer, tx)
        else:
            store_direct(target, bias, added, sum_, out, product, row, column, tx)

    return store
