"""``mma_sync``: fp16, bf16 and int8 products on the tensor cores of Ampere and later.

Tiles come to shared memory by cp.async several steps ahead, swizzled so that ldmatrix meets no bank
conflict, and are multiplied by mma.sync with fp32 (int8: int32) sums. Any extents: cp.async fills
with zeros what lies outside. Operands whose lines do not start at 16 bytes are copied element by
element, or by a launch of its own first to lines that do (``unaligned``). int8 operands with lines
along m or n are transposed first. On Hopper mma.sync reaches about six tenths of the tensor cores'
rate; the rest takes wgmma, which is another template's business.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import register
from autotune.kernels.cuda.mma_tiles import BYTES, COPY, READ, MmaTiles
from autotune.kernels.cuda.model import CudaTemplate, Work, check_peaks, estimate
from autotune.kernels.cuda.simt import check_indices
from autotune.kernels.cuda.split import slices_for, slices_to_try
from autotune.kernels.cuda.turn import Turn, check_copies, fit_indices
from autotune.search.parameters import Categorical, Ordinal
from autotune.search.space import Config, ConfigSpace, Constraint
from autotune.workload import DTYPES

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_ROWS = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4)
_STAGES = (2, 3, 4, 5)
_GROUPS = (1, 4, 8, 16)
#: Depth of a step in bytes: one to four chunks' worth of an ldmatrix, up to a line of 128 bytes.
_DEPTH_BYTES = (32, 64, 128)
#: Rows and columns of a tile that is large enough to be fast.
_LARGEST = (128, 128)
#: mma.sync in the unrolled body; beyond it the instruction cache and the compiler suffer.
_MAX_UNROLLED = 512
#: Chunks that a thread copies a step.
_MAX_SLOTS = 16


@register
class MmaSync(CudaTemplate):
    """Tiled GEMM by cp.async, ldmatrix and mma.sync."""

    name = "mma_sync"
    version = 3

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """The one for narrow types."""
        return 1 if workload.dtype in BYTES else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tiles, warps, stages, block orders and copies."""
        _check(workload, profile)
        parameters = [
            Ordinal("block_m", _tiles_up_to(workload.m)),
            Ordinal("block_n", _tiles_up_to(workload.n)),
            Ordinal("block_k", tuple(b // BYTES[workload.dtype] for b in _DEPTH_BYTES)),
            Ordinal("warps_m", _WARPS),
            Ordinal("warps_n", _WARPS),
            Ordinal("stages", _STAGES),
            Ordinal("group", _GROUPS),
            Ordinal("split_k", _slices(workload, profile)),
            Categorical("unaligned", _unaligned(workload)),
        ]
        constraints = _constraints(workload, profile)
        space = ConfigSpace(self.name, parameters, constraints)
        default = _default(space, workload, profile)
        return ConfigSpace(self.name, parameters, constraints, [default])

    def constant_layout(self, workload: Gemm) -> str:
        """Return ``"t"`` for types that are multiplied with lines along k only."""
        return workload.layout[1] if BYTES.get(workload.dtype, 2) == 2 else "t"

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the module of one config; ``main`` is a ``tirx`` function."""
        from autotune.kernels.cuda.mma_kernel import mma_prim_func
        from autotune.kernels.cuda.turn_kernel import module_of

        tiles = MmaTiles.of(workload, config)
        return module_of(mma_prim_func(workload, tiles), tiles.turns)

    def work(self, workload: Gemm, config: Mapping[str, Any]) -> Work:
        """Return what the kernel of a config does."""
        return work_of(workload, MmaTiles.of(workload, config))


def _check(workload: Gemm, profile: HardwareProfile) -> None:
    """Raise NotApplicable unless the tensor cores of the device take the workload."""
    if workload.dtype not in BYTES:
        raise NotApplicable(
            f"template mma_sync computes {', '.join(BYTES)}, not {workload.dtype}: fp32 would"
            " become tf32; use --template simt"
        )
    acc = DTYPES[workload.dtype][0]
    if workload.acc_dtype != acc or (workload.dtype == "int8" and workload.out_dtype != "int32"):
        raise NotApplicable(
            f"template mma_sync adds {workload.dtype} up in {acc}, not {workload.acc_dtype}, and"
            f" does not write {workload.out_dtype}"
        )
    if profile.gpu is None or int(profile.arch.removeprefix("sm_").rstrip("a") or 0) < 80:
        raise NotApplicable(
            f"template mma_sync needs cp.async and ldmatrix of Ampere (sm_80) or later;"
            f" {profile.name} is {profile.arch}"
        )
    if workload.dtype == "int8" and workload.activation not in ("", "relu"):
        raise NotApplicable(
            f"template mma_sync has no {workload.activation} of integers; use another --epilogue"
        )
    check_peaks(profile)
    check_indices("mma_sync", workload)
    turns = Turn.needed(workload, BYTES[workload.dtype])
    check_copies("mma_sync", workload, [turn for turn in turns if turn.across])


def _tiles_up_to(extent: int) -> tuple[int, ...]:
    return tuple(r for r in _ROWS if r == _ROWS[0] or r < 2 * extent)


def _slices(workload: Gemm, profile: HardwareProfile) -> tuple[int, ...]:
    assert profile.gpu is not None
    tiles = workload.batch * -(-workload.m // _LARGEST[0]) * -(-workload.n // _LARGEST[1])
    depth = _DEPTH_BYTES[0] // BYTES[workload.dtype]
    return slices_for(tiles, -(-workload.k // depth), profile.gpu)


def _unaligned(workload: Gemm) -> tuple[str, ...]:
    """Return what may be done with lines that start anywhere; one thing where none does."""
    turns = Turn.needed(workload, BYTES[workload.dtype])
    copied = [turn for turn in turns if not turn.across]
    return (READ, COPY) if copied and fit_indices(copied) else (READ,)


def _default(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Config:
    """Return the best of the usual tilings, by the static model."""

    def seconds(config: Config) -> float:
        return estimate(work_of(workload, MmaTiles.of(workload, config)), profile)

    candidates = _candidates(space, workload, profile)
    return min((c for c in candidates if space.is_legal(c)), key=seconds)


def _candidates(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Iterator[Config]:
    assert profile.gpu is not None
    values: dict[str, tuple[Any, ...]] = {p.name: tuple(p.values()) for p in space.parameters}
    for m, n, k, warps, stages in itertools.product(
        values["block_m"],
        values["block_n"],
        values["block_k"][1:],
        ((1, 1), (2, 1), (1, 2), (2, 2), (2, 4)),
        (2, 3, 4),
    ):
        tiles = workload.batch * -(-workload.m // m) * -(-workload.n // n)
        for slices, unaligned in itertools.product(
            slices_to_try(values["split_k"], tiles, profile.gpu), values["unaligned"]
        ):
            yield Config(
                {
                    "block_m": m,
                    "block_n": n,
                    "block_k": k,
                    "warps_m": warps[0],
                    "warps_n": warps[1],
                    "stages": stages,
                    "group": 8 if workload.m > 4 * m else 1,
                    "split_k": slices,
                    "unaligned": unaligned,
                }
            )


def work_of(workload: Gemm, t: MmaTiles) -> Work:
    """Return what a tiling does; see :class:`Work`."""
    warps = t.warps_m * t.warps_n
    loads = t.mmas_k * (t.mmas_m + t.mmas_n / 2)
    mmas = t.mmas_k * t.mmas_m * t.mmas_n
    copies = (t.a.slots + t.b.slots) * (1 if t.a.aligned and t.b.aligned else 2 * t.a.per_chunk)
    step_bytes = (t.a.tile + t.b.tile) * t.a.size
    return Work(
        blocks_m=t.batch * t.blocks_m,
        blocks_n=t.blocks_n,
        threads=t.threads,
        registers=t.registers,
        shared_bytes=t.shared_bytes,
        steps=t.split.most_steps,
        slices=t.slices,
        sum_bytes=4 * t.a.rows * t.b.rows,
        copies=tuple(turn.moved_bytes for turn in t.turns),
        math=workload.dtype,
        multiply_adds=t.a.rows * t.b.rows * t.a.bk,
        instructions=warps * (mmas + 2 * loads + 4 * copies),
        shared_passes=4 * warps * loads + step_bytes / 128,
        # What lies beyond the ends is not read.
        a_bytes=min(t.a.rows, t.a.extent) * t.a.bk * t.a.size,
        b_bytes=min(t.b.rows, t.b.extent) * t.b.bk * t.b.size,
        c_bytes=t.a.rows * t.b.rows * t.out_size * (2 if workload.has_residual else 1),
        independent=4 * t.mmas_m * t.mmas_n,
        # With two stages the next tile is only asked for when the present one has come.
        overlapped=t.stages > 2 and t.a.aligned and t.b.aligned,
        by_mma_sync=True,
        batch=t.batch,
        shared=t.shared,
    )


def _constraints(workload: Gemm, profile: HardwareProfile) -> list[Constraint]:
    gpu = profile.gpu
    assert gpu is not None

    def warps_divide(c: Any) -> bool:
        return bool(
            c["block_m"] % (16 * c["warps_m"]) == 0 and c["block_n"] % (16 * c["warps_n"]) == 0
        )

    def shared_fits(c: Any) -> bool:
        return MmaTiles.of(workload, c).shared_bytes <= gpu.shared_bytes_per_block

    def registers_fit(c: Any) -> bool:
        t = MmaTiles.of(workload, c)
        share = gpu.registers_per_sm // t.threads // 8 * 8
        return t.registers <= min(gpu.max_registers_per_thread, share)

    def body_is_small(c: Any) -> bool:
        t = MmaTiles.of(workload, c)
        return (
            t.mmas_k * t.mmas_m * t.mmas_n <= _MAX_UNROLLED
            and max(t.a.slots, t.b.slots) <= _MAX_SLOTS
        )

    def slices_fit(c: Any) -> bool:
        return MmaTiles.of(workload, c).split.fits(gpu)

    def group_matters(c: Any) -> bool:
        blocks = -(-workload.m // c["block_m"])
        return bool(c["group"] == _GROUPS[0] or c["group"] < 2 * blocks)

    return [
        Constraint("warps cut the block into tiles of 16 rows and columns", warps_divide),
        Constraint("the stages fit shared memory", shared_fits),
        Constraint("sums and fragments fit the registers", registers_fit),
        Constraint("the unrolled body stays small", body_is_small),
        Constraint("every slice of K has a step, and sums wait in L2", slices_fit),
        Constraint("a group is not much higher than the matrix", group_matters),
    ]
