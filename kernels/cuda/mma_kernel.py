# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but the kernel.
"""The kernel of ``mma_sync``. Importing this imports TVM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.epilogue import bias_at, finish
from autotune.kernels.cuda.inline import inline
from autotune.kernels.cuda.split_kernel import leave_and_gather, taken, taking

if TYPE_CHECKING:
    from autotune.kernels.cuda.mma_tiles import MmaTiles
    from autotune.workload import Gemm

_MMA = {
    "float16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "int8": "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
}
_LOAD = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
_LOAD_TRANSPOSED = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"


def mma_prim_func(workload: Gemm, t: MmaTiles) -> Any:
    """Return ``main(A, B[, bias][, residual], C[, scratch])``; see :class:`MmaTiles` for names.

    Tiles of A and B come to shared memory by cp.async, ``t.stages - 1`` steps of K ahead; at each
    step a barrier tells that the tile has come and that the oldest one is free. Warps read
    fragments by ldmatrix, transposing where lines run along m or n, and multiply by mma.sync.
    Chunks beyond the matrix are filled with zeros by cp.async itself; operands whose lines do not
    start at 16 bytes are copied element by element instead, unless they have been turned. Products
    of a batch lie one after the other: their lines are counted through. Scratch memory is that of
    turned operands, and of sums where K is split.
    """
    M, N, K = workload.m, workload.n, workload.k
    A, B = t.a, t.b
    dtype = workload.dtype
    integer = dtype == "int8"
    sums = "uint32" if integer else "float32"
    c_shape = workload.c_shape
    ahead = t.stages - 1
    mma = _MMA[dtype]
    a_load = _LOAD if A.along_k else _LOAD_TRANSPOSED
    b_load = _LOAD if B.along_k else _LOAD_TRANSPOSED
    pairs = N % 2 == 0
    turned = {turn.name: turn for turn in t.turns}

    def stored(name, shape):
        """Lines of one product, and (lines, elements) of the whole operand as it is multiplied."""
        if name in turned:
            return turned[name].rows, (turned[name].batch * turned[name].rows, turned[name].pitch)
        return shape[-2], (math.prod(shape[:-1]), shape[-1])

    a_lines, a_shape = stored("a", workload.a_shape)
    b_lines, b_shape = stored("b", workload.b_shape)
    split = t.split
    leave, gather = leave_and_gather(split, sums)

    @inline
    def copy_chunk(shared, source, o, line0, at, row, k):
        """One chunk of an aligned operand, zeros where the matrix has ended."""
        if o.whole:
            if o.along_k:
                T.ptx["cp.async.cg.shared.global"](
                    shared.ptr_to([at]), source.ptr_to([line0 + row, k]), 16
                )
            else:
                T.ptx["cp.async.cg.shared.global"](
                    shared.ptr_to([at]), source.ptr_to([line0 + k, row]), 16
                )
        else:
            inside: T.let = (row < o.extent) & (k < K)
            r: T.let = T.Select(inside, row, 0)
            d: T.let = T.Select(inside, k, 0)
            size: T.let = T.Select(inside, T.uint32(16), T.uint32(0))
            if o.along_k:
                T.ptx["cp.async.cg.shared.global"](
                    shared.ptr_to([at]), source.ptr_to([line0 + r, d]), 16, size
                )
            else:
                T.ptx["cp.async.cg.shared.global"](
                    shared.ptr_to([at]), source.ptr_to([line0 + d, r]), 16, size
                )

    @inline
    def copy_elements(shared, source, line_buffer, o, line0, at, row, k):
        """One chunk of an operand whose lines start anywhere."""
        for e in T.unroll(o.per_chunk):
            if o.along_k:
                if (row < o.extent) & (k + e < K):
                    line_buffer[e] = source[line0 + row, k + e]
                else:
                    line_buffer[e] = T.Cast(dtype, 0)
            else:
                if (row + e < o.extent) & (k < K):
                    line_buffer[e] = source[line0 + k, row + e]
                else:
                    line_buffer[e] = T.Cast(dtype, 0)
        for e in T.vectorized(o.per_chunk):
            shared[at + e] = line_buffer[e]

    @inline
    def fetch(shared, source, line_buffer, o, line0, step, first, start, tx):
        """Start to copy the tile of one step, counted from ``first`` on, into its stage.

        ``line0`` is the product's first line.
        """
        for s in T.unroll(o.slots):
            item: T.let = s * t.threads + tx
            if T.bool(o.whole_slots) | (item < o.items):
                line: T.let = item // o.chunks
                chunk: T.let = item % o.chunks
                at: T.let = step % t.stages * o.tile + o.at(line, chunk)
                if o.along_k:
                    if o.aligned:
                        copy_chunk(
                            shared,
                            source,
                            o,
                            line0,
                            at,
                            start + line,
                            (first + step) * o.bk + chunk * o.per_chunk,
                        )
                    else:
                        copy_elements(
                            shared,
                            source,
                            line_buffer,
                            o,
                            line0,
                            at,
                            start + line,
                            (first + step) * o.bk + chunk * o.per_chunk,
                        )
                else:
                    if o.aligned:
                        copy_chunk(
                            shared,
                            source,
                            o,
                            line0,
                            at,
                            start + chunk * o.per_chunk,
                            (first + step) * o.bk + line,
                        )
                    else:
                        copy_elements(
                            shared,
                            source,
                            line_buffer,
                            o,
                            line0,
                            at,
                            start + chunk * o.per_chunk,
                            (first + step) * o.bk + line,
                        )

    @inline
    def fragments(part, shared, o, load, stage, depth, row, lane, low, high, i):
        """Four 8 x 8 matrices: of the lane's matrix number ``low`` picks the rows, ``high`` k.

        For A the matrices go down the rows first, for B along k first, as mma.sync wants them.
        """
        if o.along_k:
            T.ptx[load](
                part[4 * i],
                part[4 * i + 1],
                part[4 * i + 2],
                part[4 * i + 3],
                shared.ptr_to([stage * o.tile + o.at(row + lane % 8 + low * 8, 2 * depth + high)]),
            )
        else:
            T.ptx[load](
                part[4 * i],
                part[4 * i + 1],
                part[4 * i + 2],
                part[4 * i + 3],
                shared.ptr_to(
                    [stage * o.tile + o.at(depth * 16 + lane % 8 + high * 8, row // 8 + low)]
                ),
            )

    @inline
    def multiply(sum_, a_part, b_part, a_shared, b_shared, stage, wm, wn, lane):
        """One step of K out of shared memory."""
        first: T.let = lane // 8 % 2
        second: T.let = lane // 16
        for depth in T.unroll(t.mmas_k):
            for i in T.unroll(t.mmas_m):
                fragments(
                    a_part,
                    a_shared,
                    A,
                    a_load,
                    stage,
                    depth,
                    wm * t.warp_m + i * 16,
                    lane,
                    first,
                    second,
                    i,
                )
            for j in T.unroll(t.mmas_n // 2):
                fragments(
                    b_part,
                    b_shared,
                    B,
                    b_load,
                    stage,
                    depth,
                    wn * t.warp_n + j * 16,
                    lane,
                    second,
                    first,
                    j,
                )
            for i in T.unroll(t.mmas_m):
                for j in T.unroll(t.mmas_n):
                    c: T.let = (i * t.mmas_n + j) * 4
                    T.ptx[mma](
                        sum_[c],
                        sum_[c + 1],
                        sum_[c + 2],
                        sum_[c + 3],
                        a_part[4 * i],
                        a_part[4 * i + 1],
                        a_part[4 * i + 2],
                        a_part[4 * i + 3],
                        b_part[2 * j],
                        b_part[2 * j + 1],
                        sum_[c],
                        sum_[c + 1],
                        sum_[c + 2],
                        sum_[c + 3],
                    )

    @inline
    def read_pair(more, residual, line, column):
        """Two elements of the residual, as far as there are so many."""
        if pairs:
            if T.bool(N % B.rows == 0) | (column < N):
                for x in T.vectorized(2):
                    more[x] = residual[line, column + x]
        else:
            for x in T.unroll(2):
                if T.bool(N % B.rows == 0) | (column + x < N):
                    more[x] = residual[line, column + x]

    @inline
    def store(target, bias, residual, sum_, out, product, row0, column0, lane):
        """Epilogue in registers, then pairs of C, each whole or left out."""
        if workload.has_residual:
            more = T.alloc_buffer((2,), workload.out_dtype, scope="local")
        for i in T.unroll(t.mmas_m):
            for lower in T.unroll(2):
                row: T.let = row0 + i * 16 + lower * 8 + lane // 4
                line = T.meta_var(product * M + row)
                if T.bool(M % A.rows == 0) | (row < M):
                    for j in T.unroll(t.mmas_n):
                        column: T.let = column0 + j * 8 + lane % 4 * 2
                        if workload.has_residual:
                            read_pair(more, residual, line, column)
                        for x in T.unroll(2):
                            if T.bool(N % B.rows == 0) | (column + x < N):
                                value: T.let = sum_[(i * t.mmas_n + j) * 4 + lower * 2 + x]
                                out[x] = finish(
                                    workload,
                                    T.reinterpret("int32", value) if integer else value,
                                    bias_at(workload, bias, row, column + x),
                                    more[x] if workload.has_residual else None,
                                )
                                if not pairs:
                                    target[line, column + x] = out[x]
                        if pairs:  # noqa: SIM102 (settled while parsing; the other is the kernel's)
                            if T.bool(N % B.rows == 0) | (column < N):
                                for x in T.vectorized(2):
                                    target[line, column + x] = out[x]

    @inline
    def body(a, b, bias, residual, c, partials, counters):
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})
        block = T.cta_id([t.tiles * split.slices])
        tx = T.thread_id([t.threads])
        pool = T.SMEMPool()
        a_shared = pool.alloc((t.stages * A.tile,), dtype, align=128)
        b_shared = pool.alloc((t.stages * B.tile,), dtype, align=128)
        if split.slices > 1:
            arrived = pool.alloc((1,), "int32", align=4)
        pool.commit()
        sum_ = T.alloc_buffer((t.accumulators,), sums, scope="local")
        a_part = T.alloc_buffer((4 * t.mmas_m,), "uint32", scope="local")
        b_part = T.alloc_buffer((2 * t.mmas_n,), "uint32", scope="local")
        line_buffer = T.alloc_buffer((A.per_chunk,), dtype, scope="local")
        out = T.alloc_buffer((2,), workload.out_dtype, scope="local")
        # Blocks go down t.group rows of blocks before they go to the next column: what runs at a
        # time then shares rows of A and columns of B in L2.
        tile = T.meta_var(split.part(block)[0])
        part = T.meta_var(split.part(block)[1])
        first = T.meta_var(split.first(part))
        steps = T.meta_var(split.count(part))
        product = T.meta_var(t.product(tile))
        a0 = T.meta_var(0 if t.shared == "a" else product * a_lines)
        b0 = T.meta_var(0 if t.shared == "b" else product * b_lines)
        a_all = T.decl_buffer(a_shape, dtype, data=a.data)
        b_all = T.decl_buffer(b_shape, dtype, data=b.data)
        c_all = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=c.data)
        if workload.has_residual:
            added = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=residual.data)
        band: T.let = t.within(tile) // (t.group * t.blocks_n)
        high: T.let = T.min(t.group, t.blocks_m - band * t.group)
        m0: T.let = (band * t.group + t.within(tile) % (t.group * t.blocks_n) % high) * A.rows
        n0: T.let = t.within(tile) % (t.group * t.blocks_n) // high * B.rows
        lane: T.let = tx % 32
        wm: T.let = tx // 32 // t.warps_n
        wn: T.let = tx // 32 % t.warps_n
        for i in T.unroll(t.accumulators):
            sum_[i] = T.Cast(sums, 0)
        for step in T.unroll(ahead):
            if step < steps:
                fetch(a_shared, a_all, line_buffer, A, a0, step, first, m0, tx)
                fetch(b_shared, b_all, line_buffer, B, b0, step, first, n0, tx)
            T.ptx["cp.async.commit_group"]()
        for step in T.serial(steps, unroll=False):
            T.ptx["cp.async.wait_group"](ahead - 1)
            T.cuda.cta_sync()
            if step + ahead < steps:
                fetch(a_shared, a_all, line_buffer, A, a0, step + ahead, first, m0, tx)
                fetch(b_shared, b_all, line_buffer, B, b0, step + ahead, first, n0, tx)
            T.ptx["cp.async.commit_group"]()
            multiply(sum_, a_part, b_part, a_shared, b_shared, step % t.stages, wm, wn, lane)
        if split.slices > 1:
            vector = T.alloc_buffer((split.width,), sums, scope="local")
            leave(sum_, partials, counters, arrived, 0, tile, part, tx, None)
            if arrived[0] == split.slices - 1:
                gather(sum_, vector, partials, counters, tile, tx)
                store(
                    c_all,
                    bias,
                    added if workload.has_residual else None,
                    sum_,
                    out,
                    product,
                    m0 + wm * t.warp_m,
                    n0 + wn * t.warp_n,
                    lane,
                )
        else:
            store(
                c_all,
                bias,
                added if workload.has_residual else None,
                sum_,
                out,
                product,
                m0 + wm * t.warp_m,
                n0 + wn * t.warp_n,
                lane,
            )

    @T.prim_func
    def main(
        a_ptr: T.handle, b_ptr: T.handle, bias_ptr: T.handle, residual_ptr: T.handle,
        c_ptr: T.handle, a_turned_ptr: T.handle, b_turned_ptr: T.handle, partials_ptr: T.handle,
        counters_ptr: T.handle,
    ):  # fmt: skip
        a = T.match_buffer(a_ptr, workload.a_shape, dtype, align=16)
        b = T.match_buffer(b_ptr, workload.b_shape, dtype, align=16)
        bias = T.match_buffer(bias_ptr, workload.bias_shape, workload.out_dtype, align=16)
        residual = T.match_buffer(residual_ptr, c_shape, workload.out_dtype, align=16)
        c = T.match_buffer(c_ptr, c_shape, workload.out_dtype, align=16)
        a_turned = T.match_buffer(a_turned_ptr, a_shape, dtype, align=16)
        b_turned = T.match_buffer(b_turned_ptr, b_shape, dtype, align=16)
        partials = T.match_buffer(partials_ptr, (split.partial_sums,), sums, align=16)
        counters = T.match_buffer(counters_ptr, (split.units,), "int32", align=16)
        body(
            a_turned if "a" in turned else a,
            b_turned if "b" in turned else b,
            bias,
            residual,
            c,
            partials,
            counters,
        )

    return taking(main, taken(workload, split, turned))
