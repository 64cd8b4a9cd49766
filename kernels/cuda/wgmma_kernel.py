# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but the kernel.
"""The kernel of ``wgmma``. Importing this imports TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T

from autotune.kernels.cuda.inline import inline
from autotune.kernels.cuda.split_kernel import leave_and_gather, taken, taking
from autotune.kernels.cuda.wgmma_ptx import (
    LOAD,
    MULTICAST,
    TF32_MAP,
    instruction,
    map_values,
)
from autotune.kernels.cuda.wgmma_store import storing
from autotune.kernels.cuda.wgmma_tiles import (
    ATOM,
    PRODUCER_REGISTERS,
    STORE_COLUMNS,
    WGMMA_M,
)

if TYPE_CHECKING:
    from autotune.kernels.cuda.wgmma_tiles import Staged, WgmmaTiles
    from autotune.workload import Gemm


def wgmma_prim_func(workload: Gemm, t: WgmmaTiles) -> Any:
    """Return ``main(A, B[, bias][, residual], C[, scratch])``; see :class:`WgmmaTiles`.

    Scratch memory is that of turned operands, and of sums where K is split.

    The first warpgroup produces: one of its threads asks TMA for the tiles of one step of K after
    the other, as far ahead as there are stages. Barrier ``full`` of a stage tells the consumers
    that its bytes have come, ``empty`` tells the producers that no warp of the cluster reads it any
    more. The others consume: wgmma adds up their rows of the tile in registers, one step behind the
    release of a stage. Blocks stay for several tiles, and the producer loads those of the next
    while the consumers store the last. What lies outside A and B comes as zeros by TMA, what lies
    outside C is left out.
    """
    M, N = workload.m, workload.n
    A, B = t.a, t.b
    dtype = "float32" if workload.dtype == "tfloat32" else workload.dtype
    out_dtype = workload.out_dtype
    integer = dtype == "int8"
    sums = "uint32" if integer else "float32"
    a_shape, b_shape = workload.a_shape, workload.b_shape
    mma, options = instruction(workload.dtype, t)
    multicast = t.cluster > 1
    # A batch is a third dimension, but of an operand that all products share.
    a_rank, b_rank, c_rank = len(a_shape), len(b_shape), len(workload.c_shape)
    load_box = {rank: LOAD.format(rank) for rank in (2, 3)}
    load_multicast = {rank: MULTICAST.format(rank) for rank in (2, 3)}
    split = t.split
    leave, gather = leave_and_gather(split, sums)
    store = storing(workload, t)
    out_size = t.out_size
    store_elements = max(1, t.store_bytes // out_size)
    turned = {turn.name: turn for turn in t.turns}

    def operand_map(name, shape, o):
        if name in turned:
            shape = (*shape[:-2], turned[name].rows, turned[name].length)
        pitch = turned[name].pitch if name in turned else None
        return map_values(shape, o.size, (o.per_line, o.part), pitch)

    a_values = operand_map("a", a_shape, A)
    b_values = operand_map("b", b_shape, B)
    if workload.dtype == "tfloat32":
        a_values.append(TF32_MAP)
        b_values.append(TF32_MAP)
    c_values = map_values(workload.c_shape, out_size, (STORE_COLUMNS, WGMMA_M))
    # Blocks of a cluster are numbered along N first. Those of a row share A, those of a column B.
    row_mask = (1 << t.cluster_n) - 1
    column_mask = sum(1 << (i * t.cluster_n) for i in range(t.cluster_m))

    @inline
    def load(shared, tensor, rank, full, o: Staged, ring, row, k, product, part, mask):
        """Ask for this block's share of a tile, for every block that needs it."""
        for chunk in T.unroll(o.chunks):
            at: T.let = (ring[0] * o.tile_bytes + o.chunk_at(chunk, part)) // o.size
            if o.parts > 1:
                T.ptx[load_multicast[rank]](
                    shared.ptr_to([at]),
                    T.address_of(tensor),
                    *o.coordinates(row, k, chunk, part),
                    *([product] if rank == 3 else []),
                    full.ptr_to([ring[0]]),
                    T.Cast("uint16", mask),
                )
            else:
                T.ptx[load_box[rank]](
                    shared.ptr_to([at]),
                    T.address_of(tensor),
                    *o.coordinates(row, k, chunk, part),
                    *([product] if rank == 3 else []),
                    full.ptr_to([ring[0]]),
                )

    @inline
    def advance(ring):
        """Go to the next stage; its barriers' parity changes each time round."""
        ring[0] = ring[0] + 1
        if ring[0] == t.stages:
            ring[0] = 0
            ring[1] = ring[1] ^ 1

    @inline
    def release(empty, stage, lane):
        """Tell the producers of the cluster that this warp has read a stage."""
        if multicast:
            if lane < t.cluster:
                remote = T.alloc_local([1], "uint32")
                T.ptx.mapa.shared__cluster.u32(
                    remote[0],
                    T.cuda.cvta_generic_to_shared(empty.ptr_to([stage])),
                    T.Cast("uint32", lane),
                )
                T.ptx.mbarrier.arrive.shared__cluster.b64(remote[0])
        else:
            if lane == 0:
                T.ptx.mbarrier.arrive.shared.b64(empty.ptr_to([stage]), T.uint32(1))

    @inline
    def produce(a_shared, b_shared, a_map, b_map, full, empty, ring, cluster, cm, cn):
        """All tiles of this block, step by step; one thread."""
        for turn in T.serial(t.rounds, unroll=False):
            tile: T.let = turn * t.clusters + cluster
            if tile < t.tiles:
                row: T.let = (t.place(tile, T.min)[0] * t.cluster_m + cm) * A.rows
                column: T.let = (t.place(tile, T.min)[1] * t.cluster_n + cn) * B.rows
                part = T.meta_var(split.part(tile)[1])
                first = T.meta_var(split.first(part))
                for step in T.serial(split.count(part), unroll=False):
                    T.cuda.mbarrier_wait(empty.ptr_to([ring[0]]), ring[1])
                    T.ptx.mbarrier.arrive.expect_tx.shared.b64(
                        full.ptr_to([ring[0]]), T.uint32(t.stage_bytes)
                    )
                    load(
                        a_shared,
                        a_map,
                        a_rank,
                        full,
                        A,
                        ring,
                        row,
                        (first + step) * A.bk,
                        t.product(tile),
                        cn if A.parts > 1 else 0,
                        T.shift_left(T.int32(row_mask), cm * t.cluster_n),
                    )
                    load(
                        b_shared,
                        b_map,
                        b_rank,
                        full,
                        B,
                        ring,
                        column,
                        (first + step) * B.bk,
                        t.product(tile),
                        cm if B.parts > 1 else 0,
                        T.shift_left(T.int32(column_mask), cn),
                    )
                    advance(ring)

    @inline
    def multiply(sum_, descriptors, full, empty, ring, previous, steps, lane):
        """One tile, or a slice of it, with one step's wgmmas in flight."""
        for step in T.serial(steps, unroll=False):
            T.cuda.mbarrier_wait(full.ptr_to([ring[0]]), ring[1])
            T.ptx.wgmma.fence.sync.aligned()
            for depth in T.unroll(t.wgmmas_k):
                for i in T.unroll(t.wgmmas_m):
                    a_at: T.let = ring[0] * A.tile_bytes + A.operand_at(i * WGMMA_M, depth)
                    b_at: T.let = ring[0] * B.tile_bytes + B.operand_at(0, depth)
                    T.ptx[mma](
                        *[sum_[i * t.sums + s] for s in range(t.sums)],
                        descriptors[0] + T.Cast("uint64", a_at // 16),
                        descriptors[1] + T.Cast("uint64", b_at // 16),
                        step + depth > 0,
                        *options,
                    )
            T.ptx.wgmma.commit_group.sync.aligned()
            T.ptx.wgmma.wait_group.sync.aligned(1)
            if step > 0:
                release(empty, previous[0], lane)
            previous[0] = ring[0]
            advance(ring)
        T.ptx.wgmma.wait_group.sync.aligned(0)
        release(empty, previous[0], lane)

    @inline
    def body(a, b, bias, residual, c, partials, counters):
        a_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed("runtime.cuTensorMapEncodeTiled", a_map, dtype, a_rank, a.data, *a_values)
        b_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed("runtime.cuTensorMapEncodeTiled", b_map, dtype, b_rank, b.data, *b_values)
        if t.tma_store:
            c_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
            T.call_packed(
                "runtime.cuTensorMapEncodeTiled", c_map, out_dtype, c_rank, c.data, *c_values
            )
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": t.resident})
        place = T.cta_id_in_cluster([t.cluster])
        block = T.cta_id([t.blocks])
        warpgroup = T.warpgroup_id([1 + t.consumers])
        tx = T.thread_id_in_wg([128])
        pool = T.SMEMPool()
        a_shared = pool.alloc((t.stages * A.tile_bytes // A.size,), dtype, align=ATOM)
        b_shared = pool.alloc((t.stages * B.tile_bytes // B.size,), dtype, align=ATOM)
        if t.tma_store:
            boxes = pool.alloc((t.consumers * store_elements,), workload.out_dtype, align=ATOM)
        full = pool.alloc((t.stages,), "uint64", align=8)
        empty = pool.alloc((t.stages,), "uint64", align=8)
        if split.slices > 1:
            arrived = pool.alloc((t.consumers,), "int32", align=4)
        pool.commit()
        # The products of a batch lie one after the other: their lines are counted through.
        if not t.tma_store:
            target = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=c.data)
        if workload.has_residual:
            added = T.decl_buffer((t.batch * M, N), workload.out_dtype, data=residual.data)
        cluster: T.let = block // t.cluster
        cm: T.let = place // t.cluster_n
        cn: T.let = place % t.cluster_n
        if (warpgroup == 0) & (tx == 0):
            T.ptx.prefetch.tensormap(T.address_of(a_map))
            T.ptx.prefetch.tensormap(T.address_of(b_map))
            for i in T.unroll(t.stages):
                T.ptx.mbarrier.init.shared.b64(full.ptr_to([i]), T.uint32(1))
                T.ptx.mbarrier.init.shared.b64(empty.ptr_to([i]), T.uint32(t.arrivals))
            T.ptx.fence.mbarrier_init.release.cluster()
        if multicast:
            T.cuda.cluster_sync()
        else:
            T.cuda.cta_sync()
        ring = T.alloc_buffer((2,), "int32", scope="local")
        ring[0] = 0
        if warpgroup == 0:
            T.ptx["setmaxnreg.dec.sync.aligned.u32"](PRODUCER_REGISTERS)
            # The stages are free at first, as if the round before had been read.
            ring[1] = 1
            if tx == 0:
                produce(a_shared, b_shared, a_map, b_map, full, empty, ring, cluster, cm, cn)
            T.cuda.warp_sync()
        else:
            T.ptx["setmaxnreg.inc.sync.aligned.u32"](t.consumer_registers)
            ring[1] = 0
            sum_ = T.alloc_buffer((t.accumulators,), sums, scope="local")
            previous = T.alloc_buffer((1,), "int32", scope="local")
            out = T.alloc_buffer((2,), workload.out_dtype, scope="local")
            descriptors = T.alloc_buffer((2,), "uint64", scope="local")
            if split.slices > 1:
                vector = T.alloc_buffer((split.width,), sums, scope="local")
            T.cuda.wgmma.encode_matrix_descriptor(
                T.address_of(descriptors[0]),
                a_shared.ptr_to([A.operand_at((warpgroup - 1) * t.group_rows, 0) // A.size]),
                A.leading_bytes // 16,
                A.stride_bytes // 16,
                3,
            )
            T.cuda.wgmma.encode_matrix_descriptor(
                T.address_of(descriptors[1]),
                b_shared.ptr_to([0]),
                B.leading_bytes // 16,
                B.stride_bytes // 16,
                3,
            )
            for turn in T.serial(t.rounds, unroll=False):
                tile: T.let = turn * t.clusters + cluster
                if tile < t.tiles:
                    row: T.let = (t.place(tile, T.min)[0] * t.cluster_m + cm) * A.rows + (
                        warpgroup - 1
                    ) * t.group_rows
                    column: T.let = (t.place(tile, T.min)[1] * t.cluster_n + cn) * B.rows
                    part = T.meta_var(split.part(tile)[1])
                    unit = T.meta_var(t.unit(tile, place, warpgroup - 1))
                    multiply(
                        sum_, descriptors, full, empty, ring, previous, split.count(part), tx % 32
                    )
                    if split.slices > 1:
                        leave(
                            sum_,
                            partials,
                            counters,
                            arrived,
                            warpgroup - 1,
                            unit,
                            part,
                            tx,
                            warpgroup,
                        )
                    # Whoever was the last of a tile's slices goes on with the sums of all.
                    last = T.meta_var(
                        arrived[warpgroup - 1] == split.slices - 1 if split.slices > 1 else True
                    )
                    if last:
                        if split.slices > 1:
                            gather(sum_, vector, partials, counters, unit, tx)
                        store(
                            target if not t.tma_store else None,
                            c_map if t.tma_store else None,
                            bias,
                            added if workload.has_residual else None,
                            sum_,
                            out,
                            boxes if t.tma_store else None,
                            t.product(tile),
                            row,
                            column,
                            warpgroup - 1,
                            tx,
                        )
            if t.tma_store:  # noqa: SIM102 (settled while parsing; the other is the kernel's)
                if tx == 0:
                    T.ptx["cp.async.bulk.wait_group"](0)
        if multicast:  # others may still write here, or arrive
            T.cuda.cluster_sync()

    c_shape = workload.c_shape
    turned_shape = {x: (turned[x].elements,) if x in turned else (1,) for x in ("a", "b")}

    @T.prim_func
    def main(
        a_ptr: T.handle, b_ptr: T.handle, bias_ptr: T.handle, residual_ptr: T.handle,
        c_ptr: T.handle, a_turned_ptr: T.handle, b_turned_ptr: T.handle, partials_ptr: T.handle,
        counters_ptr: T.handle,
    ):  # fmt: skip
        a = T.match_buffer(a_ptr, a_shape, dtype, align=16)
        b = T.match_buffer(b_ptr, b_shape, dtype, align=16)
        bias = T.match_buffer(bias_ptr, workload.bias_shape, out_dtype, align=16)
        residual = T.match_buffer(residual_ptr, c_shape, out_dtype, align=16)
        c = T.match_buffer(c_ptr, c_shape, out_dtype, align=16)
        a_turned = T.match_buffer(a_turned_ptr, turned_shape["a"], dtype, align=16)
        b_turned = T.match_buffer(b_turned_ptr, turned_shape["b"], dtype, align=16)
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
