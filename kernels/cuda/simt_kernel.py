# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but the kernel.
"""The kernel of ``simt``. Importing this imports TVM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.epilogue import bias_at, finish
from autotune.kernels.cuda.inline import inline
from autotune.kernels.cuda.split_kernel import leave_and_gather, taken, taking

if TYPE_CHECKING:
    from autotune.kernels.cuda.simt_tiles import Tiles
    from autotune.workload import Gemm


def simt_prim_func(workload: Gemm, t: Tiles) -> Any:
    """Return ``main(A, B[, bias][, residual], C[, scratch])``; see :class:`Tiles` for names.

    A block walks K in steps of ``t.bk``. Each step brings a tile of A and one of B from global
    memory through registers into shared memory, both stored with k as the slower dimension, so that
    a thread reads its rows and columns as vectors. With two buffers the loads of the next step are
    in flight while the present one is multiplied, and one barrier a step is enough. Products of a
    batch lie one after the other: their lines are counted through.
    """
    M, N, K = workload.m, workload.n, workload.k
    A, B = t.a, t.b
    im, vm, im_n, vn = t.m.inner, t.m.vthreads, t.n.inner, t.n.vthreads
    rows, columns = vm * im, vn * im_n
    wa, wb = t.fragment_width(im), t.fragment_width(im_n)
    double = t.stages == 2
    a_shape, b_shape, c_shape = workload.a_shape, workload.b_shape, workload.c_shape
    a_count, b_count = math.prod(a_shape[:-1]), math.prod(b_shape[:-1])
    dtype = workload.dtype
    split = t.split
    leave, gather = leave_and_gather(split, dtype)

    @inline
    def fetch(register, source, o, line0, k0, start, tx):
        """Global memory to registers: one vector a slot, zeros where the matrix has ended.

        ``line0`` is the product's first line.
        """
        for s in T.unroll(o.slots):
            item: T.let = s * t.threads + tx
            if o.along_k:
                row: T.let = item // o.vectors
                k: T.let = item % o.vectors * o.width
                if (
                    (T.bool(o.whole_slots) | (item < o.items))
                    & (T.bool(o.whole_rows) | (start + row < o.extent))
                    & (T.bool(t.whole_k) | (k0 + k < K))
                ):
                    for v in T.vectorized(o.width):
                        register[s * o.width + v] = source[line0 + start + row, k0 + k + v]
                else:
                    for v in T.vectorized(o.width):
                        register[s * o.width + v] = T.float32(0)
            else:
                row2: T.let = item % o.vectors * o.width
                k2: T.let = item // o.vectors
                if (
                    (T.bool(o.whole_slots) | (item < o.items))
                    & (T.bool(o.whole_rows) | (start + row2 < o.extent))
                    & (T.bool(t.whole_k) | (k0 + k2 < K))
                ):
                    for v in T.vectorized(o.width):
                        register[s * o.width + v] = source[line0 + k0 + k2, start + row2 + v]
                else:
                    for v in T.vectorized(o.width):
                        register[s * o.width + v] = T.float32(0)

    @inline
    def put(shared, register, o, buffer, tx):
        """Registers to shared memory, transposing what lies along k."""
        for s in T.unroll(o.slots):
            item: T.let = s * t.threads + tx
            if T.bool(o.whole_slots) | (item < o.items):
                if o.along_k:
                    row: T.let = item // o.vectors
                    k: T.let = item % o.vectors * o.width
                    for v in T.unroll(o.width):
                        shared[buffer * o.tile + (k + v) * o.stride + row] = register[
                            s * o.width + v
                        ]
                else:
                    row2: T.let = item % o.vectors * o.width
                    k2: T.let = item // o.vectors
                    for v in T.vectorized(o.width):
                        shared[buffer * o.tile + k2 * o.stride + row2 + v] = register[
                            s * o.width + v
                        ]

    @inline
    def multiply(sum_, a_part, b_part, a_shared, b_shared, buffer, tm, tn):
        """One step of K out of shared memory."""
        for outer in T.serial(t.bk // t.unroll):
            for inner in T.unroll(t.unroll):
                k: T.let = outer * t.unroll + inner
                for v in T.unroll(vm):
                    for i in T.unroll(im // wa):
                        for x in T.vectorized(wa):
                            a_part[v * im + i * wa + x] = a_shared[
                                buffer * A.tile
                                + k * A.stride
                                + (v * t.m.threads + tm) * im
                                + i * wa
                                + x
                            ]
                for v in T.unroll(vn):
                    for j in T.unroll(im_n // wb):
                        for x in T.vectorized(wb):
                            b_part[v * im_n + j * wb + x] = b_shared[
                                buffer * B.tile
                                + k * B.stride
                                + (v * t.n.threads + tn) * im_n
                                + j * wb
                                + x
                            ]
                for i in T.unroll(rows):
                    for j in T.unroll(columns):
                        sum_[i * columns + j] = sum_[i * columns + j] + a_part[i] * b_part[j]

    @inline
    def store(target, bias, residual, sum_, out, product, m0, n0, tm, tn):
        """Epilogue in registers, then vectors of C, each whole or left out."""
        if workload.has_residual:
            more = T.alloc_buffer((t.out_width,), workload.out_dtype, scope="local")
        for v in T.unroll(vm):
            for i in T.unroll(im):
                row: T.let = m0 + (v * t.m.threads + tm) * im + i
                if T.bool(A.whole_rows) | (row < M):
                    for u in T.unroll(vn):
                        for j in T.unroll(im_n // t.out_width):
                            column: T.let = n0 + (u * t.n.threads + tn) * im_n + j * t.out_width
                            if T.bool(B.whole_rows) | (column < N):
                                if workload.has_residual:
                                    for x in T.vectorized(t.out_width):
                                        more[x] = residual[product * M + row, column + x]
                                for x in T.unroll(t.out_width):
                                    out[x] = finish(
                                        workload,
                                        sum_[
                                            (v * im + i) * columns + u * im_n + j * t.out_width + x
                                        ],
                                        bias_at(workload, bias, row, column + x),
                                        more[x] if workload.has_residual else None,
                                    )
                                for x in T.vectorized(t.out_width):
                                    target[product * M + row, column + x] = out[x]

    @inline
    def body(a, b, bias, residual, c, partials, counters):
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
        block = T.cta_id([t.tiles * split.slices])
        tx = T.thread_id([t.threads])
        pool = T.SMEMPool()
        a_shared = pool.alloc((t.stages * A.tile,), dtype, align=16)
        b_shared = pool.alloc((t.stages * B.tile,), dtype, align=16)
        if split.slices > 1:
            arrived = pool.alloc((1,), "int32", align=4)
        pool.commit()
        sum_ = T.alloc_buffer((rows * columns,), "float32", scope="local")
        a_part = T.alloc_buffer((rows,), dtype, scope="local")
        b_part = T.alloc_buffer((columns,), dtype, scope="local")
        a_next = T.alloc_buffer((A.slots * A.width,), dtype, scope="local")
        b_next = T.alloc_buffer((B.slots * B.width,), dtype, scope="local")
        out = T.alloc_buffer((t.out_width,), workload.out_dtype, scope="local")
        tile = T.meta_var(split.part(block)[0])
        part = T.meta_var(split.part(block)[1])
        first = T.meta_var(split.first(part))
        steps = T.meta_var(split.count(part))
        product = T.meta_var(t.product(tile))
        m0: T.let = t.within(tile) // t.n.blocks * t.m.block
        n0: T.let = t.within(tile) % t.n.blocks * t.n.block
        a0 = T.meta_var(0 if workload.shared == "a" else product * a_shape[-2])
        b0 = T.meta_var(0 if workload.shared == "b" else product * b_shape[-2])
        a_lines = T.decl_buffer((a_count, a_shape[-1]), dtype, data=a.data)
        b_lines = T.decl_buffer((b_count, b_shape[-1]), dtype, data=b.data)
        c_lines = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=c.data)
        if workload.has_residual:
            added = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=residual.data)
        tm: T.let = tx // t.n.threads
        tn: T.let = tx % t.n.threads
        for i in T.unroll(rows * columns):
            sum_[i] = T.float32(0)
        if double:
            fetch(a_next, a_lines, A, a0, first * t.bk, m0, tx)
            fetch(b_next, b_lines, B, b0, first * t.bk, n0, tx)
            put(a_shared, a_next, A, 0, tx)
            put(b_shared, b_next, B, 0, tx)
            T.cuda.cta_sync()
            for step in T.serial(steps):
                if step + 1 < steps:
                    fetch(a_next, a_lines, A, a0, (first + (step + 1)) * t.bk, m0, tx)
                    fetch(b_next, b_lines, B, b0, (first + (step + 1)) * t.bk, n0, tx)
                multiply(sum_, a_part, b_part, a_shared, b_shared, step % 2, tm, tn)
                if step + 1 < steps:
                    put(a_shared, a_next, A, (step + 1) % 2, tx)
                    put(b_shared, b_next, B, (step + 1) % 2, tx)
                T.cuda.cta_sync()
        else:
            for step in T.serial(steps):
                fetch(a_next, a_lines, A, a0, (first + step) * t.bk, m0, tx)
                fetch(b_next, b_lines, B, b0, (first + step) * t.bk, n0, tx)
                T.cuda.cta_sync()
                put(a_shared, a_next, A, 0, tx)
                put(b_shared, b_next, B, 0, tx)
                T.cuda.cta_sync()
                multiply(sum_, a_part, b_part, a_shared, b_shared, 0, tm, tn)
        if split.slices > 1:
            vector = T.alloc_buffer((split.width,), dtype, scope="local")
            leave(sum_, partials, counters, arrived, 0, tile, part, tx, None)
            if arrived[0] == split.slices - 1:
                gather(sum_, vector, partials, counters, tile, tx)
                store(
                    c_lines,
                    bias,
                    added if workload.has_residual else None,
                    sum_,
                    out,
                    product,
                    m0,
                    n0,
                    tm,
                    tn,
                )
        else:
            store(
                c_lines,
                bias,
                added if workload.has_residual else None,
                sum_,
                out,
                product,
                m0,
                n0,
                tm,
                tn,
            )

    @T.prim_func
    def main(
        a_ptr: T.handle, b_ptr: T.handle, bias_ptr: T.handle, residual_ptr: T.handle,
        c_ptr: T.handle, partials_ptr: T.handle, counters_ptr: T.handle,
    ):  # fmt: skip
        a = T.match_buffer(a_ptr, a_shape, dtype, align=16)
        b = T.match_buffer(b_ptr, b_shape, dtype, align=16)
        bias = T.match_buffer(bias_ptr, workload.bias_shape, workload.out_dtype, align=16)
        residual = T.match_buffer(residual_ptr, c_shape, workload.out_dtype, align=16)
        c = T.match_buffer(c_ptr, c_shape, workload.out_dtype, align=16)
        partials = T.match_buffer(partials_ptr, (split.partial_sums,), dtype, align=16)
        counters = T.match_buffer(counters_ptr, (split.units,), "int32", align=16)
        body(a, b, bias, residual, c, partials, counters)

    return taking(main, taken(workload, split))
