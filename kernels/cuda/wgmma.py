"""``wgmma``: fp16, bf16, fp8, int8 and tf32 products at the full rate of Hopper's tensor cores.

One warpgroup lets TMA bring tiles of A and B to a ring of stages in shared memory; one to three
others multiply them by wgmma, straight out of shared memory, with sums in registers. Blocks of a
cluster share what they load, and stay for several tiles of C. Any extents and layouts: operands
that do not lie as wgmma and TMA take them are copied first, which for small products costs more
than it gains, so that ``mma_sync`` takes those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import register
from autotune.kernels.cuda.mma import MmaSync
from autotune.kernels.cuda.model import CudaTemplate, Work, check_peaks, estimate
from autotune.kernels.cuda.simt import check_indices
from autotune.kernels.cuda.split import slices_for, slices_to_try
from autotune.kernels.cuda.turn import Turn, check_copies
from autotune.kernels.cuda.wgmma_tiles import BYTES, LINE, OUT_BYTES, STORE_COLUMNS, WgmmaTiles
from autotune.search.parameters import Categorical, Ordinal
from autotune.search.space import Config, ConfigSpace, Constraint
from autotune.workload import DTYPES

if TYPE_CHECKING:
    from autotune.hw_profiles import GpuLimits, HardwareProfile
    from autotune.workload import Gemm

_ARCH = "sm_90"
_OURS_ALONE = ("float8_e4m3fn", "tfloat32")
_ROWS = (64, 128, 192, 256)
_COLUMNS = (16, 32, 64, 96, 128, 160, 192, 256)
#: TVM knows the integer wgmma up to this many columns.
_MOST_INTEGER_COLUMNS = 224
#: Depth of a step in bytes: one or two chunks of 128.
_DEPTH_BYTES = (128, 256)
_CONSUMERS = (1, 2, 3)
_STAGES = (2, 3, 4, 5, 6, 7, 8)
_CLUSTER = (1, 2, 4)
_GROUPS = (1, 2, 4, 8, 16)
#: Blocks of a cluster: more leave SMs idle, because a cluster lies within one GPC (16 or 18 SMs).
_MOST_CLUSTER = 4
#: Registers of a consumer besides its sums, with a bias or an activation and without, and what
#: ptxas wants for one wgmma besides its sums.
_OTHER_REGISTERS, _OTHER_REGISTERS_PLAIN = 56, 32
_INSTRUCTION_REGISTERS = 26
#: Rows and columns of a tile that reaches the full rate.
_LARGEST = (128, 256)
#: A box of TMA has at most so many lines.
_MOST_LINES = 256
#: wgmma in the unrolled body.
_MAX_UNROLLED = 64


@register
class Wgmma(CudaTemplate):
    """Persistent, warp-specialised GEMM by TMA and wgmma."""

    name = "wgmma"
    version = 2

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """Above ``mma_sync`` wherever it applies.

        Of types that no other template has, it also takes what it cannot compute: it says why.
        """
        try:
            _check(workload, profile)
        except NotApplicable:
            return 2 if profile.arch == _ARCH and workload.dtype in _OURS_ALONE else 0
        return 2 if _pays(workload, profile) else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tiles, warpgroups, stages, clusters and orders of tiles."""
        gpu = _check(workload, profile)
        size = BYTES[workload.dtype]
        most = 256 if workload.dtype != "int8" else _MOST_INTEGER_COLUMNS
        # Lines along n are cut into chunks of 128 bytes.
        unit = 1 if workload.layout[1] == "t" or size != 2 else LINE // size
        columns = tuple(c for c in _COLUMNS if c <= most and c % unit == 0)
        parameters = [
            Ordinal("block_m", _up_to(_ROWS, workload.m)),
            Ordinal("block_n", _up_to(columns, workload.n)),
            Ordinal("block_k", tuple(b // size for b in _DEPTH_BYTES)),
            Ordinal("consumers", _CONSUMERS),
            Ordinal("stages", _STAGES),
            Ordinal("cluster_m", _CLUSTER),
            Ordinal("cluster_n", _CLUSTER),
            Ordinal("group", _GROUPS),
            # The launch is part of the kernel: persistent blocks know how many there are. Clusters
            # of four do not fill GPCs of 18 SMs, so that fewer blocks can end sooner.
            Ordinal("sms", tuple(sorted({max(4, gpu.sms // 16 * 16), gpu.sms}))),
            Ordinal("resident", (1, 2)),
            Ordinal("split_k", _slices(workload, gpu)),
            Categorical("store", ("tma", "direct") if _stores_by_tma(workload) else ("direct",)),
        ]
        constraints = _constraints(workload, gpu)
        space = ConfigSpace(self.name, parameters, constraints)
        default = _default(space, workload, profile)
        return ConfigSpace(self.name, parameters, constraints, [default])

    def constant_layout(self, workload: Gemm) -> str:
        """Return ``"t"`` for types that are multiplied with lines along k only."""
        return workload.layout[1] if BYTES.get(workload.dtype, 2) == 2 else "t"

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the module of one config; ``main`` is a ``tirx`` function."""
        from autotune.kernels.cuda.turn_kernel import module_of
        from autotune.kernels.cuda.wgmma_kernel import wgmma_prim_func

        tiles = WgmmaTiles.of(workload, config)
        return module_of(wgmma_prim_func(workload, tiles), tiles.turns)

    def work(self, workload: Gemm, config: Mapping[str, Any]) -> Work:
        """Return what the kernel of a config does."""
        return work_of(workload, WgmmaTiles.of(workload, config))


def _check(workload: Gemm, profile: HardwareProfile) -> GpuLimits:
    """Return the device's limits; raises NotApplicable unless it takes the workload."""
    if workload.dtype not in BYTES:
        raise NotApplicable(
            f"template wgmma computes {', '.join(BYTES)}, not {workload.dtype}: fp32 would become"
            " tf32; use --template simt, or --dtype tfloat32"
        )
    if profile.gpu is None or profile.arch != _ARCH:
        raise NotApplicable(
            f"template wgmma needs the instructions of Hopper ({_ARCH}a); {profile.name} is"
            f" {profile.arch}; use --template mma_sync"
        )
    acc, integer = DTYPES[workload.dtype][0], workload.dtype == "int8"
    if workload.acc_dtype != acc or integer != (workload.out_dtype == "int32"):
        raise NotApplicable(
            f"template wgmma adds {workload.dtype} up in {acc}, not {workload.acc_dtype}, and does"
            f" not write {workload.out_dtype}"
        )
    if integer and workload.activation not in ("", "relu"):
        raise NotApplicable(
            f"template wgmma has no {workload.activation} of integers; use another --epilogue"
        )
    check_peaks(profile)
    check_indices("wgmma", workload)
    check_copies("wgmma", workload, Turn.needed(workload, BYTES[workload.dtype]))
    return profile.gpu


def _pays(workload: Gemm, profile: HardwareProfile) -> bool:
    """Whether copies of operands that ``mma_sync`` reads where they are cost less than it does."""
    if all(turn.across for turn in Turn.needed(workload, BYTES[workload.dtype])):
        return True
    try:
        seconds = [
            estimate(template.work(workload, default), profile)
            for template in (Wgmma(), MmaSync())
            for default in template.space(workload, profile, 1).defaults
        ]
    except NotApplicable:  # mma_sync has no such type
        return True
    return seconds[0] <= seconds[1]


def _stores_by_tma(workload: Gemm) -> bool:
    """Whether C can be stored by TMA: stmatrix takes 16-bit elements, TMA lines of 16 bytes."""
    size = OUT_BYTES[workload.out_dtype]
    return size == 2 and workload.n * size % 16 == 0


def _slices(workload: Gemm, gpu: GpuLimits) -> tuple[int, ...]:
    tiles = workload.batch * -(-workload.m // _LARGEST[0]) * -(-workload.n // _LARGEST[1])
    depth = _DEPTH_BYTES[0] // BYTES[workload.dtype]
    return slices_for(tiles, -(-workload.k // depth), gpu)


def _up_to(extents: tuple[int, ...], extent: int) -> tuple[int, ...]:
    return tuple(e for e in extents if e == extents[0] or e < 2 * extent)


def _default(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Config:
    """Return the best of the usual tilings, by the static model; of equals, the first."""
    legal = [c for c in _candidates(space, workload, profile) if space.is_legal(c)]
    return min(
        legal, key=lambda c: estimate(work_of(workload, WgmmaTiles.of(workload, c)), profile)
    )


def _candidates(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Iterator[Config]:
    """Yield the tilings that CUTLASS and DeepGEMM ship, with as many stages as fit or eight."""
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    assert profile.gpu is not None
    few = {
        (m, n): slices_to_try(
            values["split_k"],
            workload.batch * -(-workload.m // m) * -(-workload.n // n),
            profile.gpu,
        )
        for m, n in itertools.product(values["block_m"], values["block_n"])
    }
    for (m, n), consumers, cluster, slices in (
        (tile, consumers, cluster, slices)
        for tile, consumers, cluster in itertools.product(few, (2, 1), ((2, 1), (1, 2), (1, 1)))
        for slices in few[tile]
    ):
        for stages in (8, 7, 6, 5, 4, 3, 2):
            config = Config(
                {
                    "block_m": m,
                    "block_n": n,
                    "block_k": values["block_k"][0],
                    "consumers": consumers,
                    "stages": stages,
                    "cluster_m": cluster[0],
                    "cluster_n": cluster[1],
                    "group": 8,
                    "sms": values["sms"][-1],
                    "resident": 1,
                    "split_k": slices,
                    "store": values["store"][0],
                }
            )
            config = config if space.is_legal(config) else config.replace(group=1)
            config = config if space.is_legal(config) else config.replace(store="direct")
            if space.is_legal(config):
                yield config
                break


def work_of(workload: Gemm, t: WgmmaTiles) -> Work:
    """Return what a tiling does; see :class:`Work`."""
    wgmmas = t.consumers * t.wgmmas_m * t.wgmmas_k
    # Both operands come from shared memory each time: 64 rows of A, all columns of B.
    operand_bytes = wgmmas * (64 + t.b.rows) * 32
    return Work(
        blocks_m=t.batch * t.tiles_m * t.cluster_m,
        blocks_n=t.tiles_n * t.cluster_n,
        threads=t.threads,
        registers=t.launch_registers,
        shared_bytes=t.shared_bytes,
        steps=t.split.most_steps,
        math=workload.dtype,
        multiply_adds=t.a.rows * t.b.rows * t.a.bk,
        instructions=4 * (3 * wgmmas + 30 * t.consumers) + 60,
        shared_passes=(operand_bytes + t.stage_bytes) / 128,
        # What lies beyond the ends is not read.
        a_bytes=min(t.a.rows, t.a.extent) * t.a.bk * t.a.size,
        b_bytes=min(t.b.rows, t.b.extent) * t.b.bk * t.b.size,
        c_bytes=t.a.rows * t.b.rows * t.out_size * (2 if workload.has_residual else 1),
        independent=t.accumulators,
        overlapped=True,
        ahead=t.stages - 1,
        a_sharers=t.a.parts,
        b_sharers=t.b.parts,
        most_resident=t.resident,
        slices=t.slices,
        sum_bytes=4 * t.a.rows * t.b.rows,
        copies=tuple(turn.moved_bytes for turn in t.turns),
        batch=t.batch,
        shared=t.shared,
    )


def _constraints(workload: Gemm, gpu: GpuLimits) -> list[Constraint]:
    others = _OTHER_REGISTERS_PLAIN if workload.epilogue == "none" else _OTHER_REGISTERS

    def tiles(c: Any) -> WgmmaTiles:
        return WgmmaTiles.of(workload, c)

    def consumers_divide(c: Any) -> bool:
        return bool(c["block_m"] % (64 * c["consumers"]) == 0)

    def cluster_is_small(c: Any) -> bool:
        t = tiles(c)
        return (
            t.cluster <= _MOST_CLUSTER
            and (t.cluster_m == 1 or workload.m > t.a.rows * t.cluster_m // 2)
            and (t.cluster_n == 1 or workload.n > t.b.rows * t.cluster_n // 2)
        )

    def parts_are_whole(c: Any) -> bool:
        t = tiles(c)
        return all(o.lines % (8 * o.parts) == 0 and o.part <= _MOST_LINES for o in (t.a, t.b))

    def shared_fits(c: Any) -> bool:
        t = tiles(c)
        return (
            t.shared_bytes <= gpu.shared_bytes_per_block
            and t.resident * (t.shared_bytes + 1024) <= gpu.shared_bytes_per_sm
        )

    def registers_fit(c: Any) -> bool:
        t = tiles(c)
        return (
            t.sums + _INSTRUCTION_REGISTERS <= t.launch_registers
            and t.accumulators + others <= t.consumer_registers
            and t.launch_registers <= t.consumer_registers
        )

    def threads_fit(c: Any) -> bool:
        t = tiles(c)
        return (
            t.threads <= gpu.max_threads_per_block
            and t.resident * t.threads <= gpu.max_threads_per_sm
        )

    def slices_fit(c: Any) -> bool:
        return tiles(c).split.fits(gpu)

    def boxes_fit(c: Any) -> bool:
        return bool(c["store"] == "direct" or c["block_n"] % STORE_COLUMNS == 0)

    def body_is_small(c: Any) -> bool:
        t = tiles(c)
        return t.wgmmas_m * t.wgmmas_k <= _MAX_UNROLLED

    def group_matters(c: Any) -> bool:
        return bool(c["group"] == _GROUPS[0] or c["group"] < 2 * tiles(c).tiles_m)

    def launch_matters(c: Any) -> bool:
        return bool(c["sms"] == gpu.sms or c["cluster_m"] * c["cluster_n"] > 2)

    return [
        Constraint("consumers cut the block into tiles of 64 rows", consumers_divide),
        Constraint("a cluster has at most four blocks, and most of it lies in C", cluster_is_small),
        Constraint("each block of a cluster loads whole groups of eight lines", parts_are_whole),
        Constraint("the stages fit shared memory", shared_fits),
        Constraint("sums and one instruction's operands fit the registers", registers_fit),
        Constraint("the warpgroups fit a block and an SM", threads_fit),
        Constraint("boxes of 64 columns cut the block, where TMA stores", boxes_fit),
        Constraint("every slice of K has a step, and sums wait in L2", slices_fit),
        Constraint("the unrolled body stays small", body_is_small),
        Constraint("a group is not much higher than the matrix", group_matters),
        Constraint("SMs are left out for clusters of four only", launch_matters),
    ]
