"""``simt``: fp32 products on CUDA cores, without tf32.

The space is that of the graph-search paper (arXiv 1909.10616, section 5): M and N are factorized
into four parts (blocks, virtual threads, threads, elements), K into two (steps, depth of a step),
with knobs for unrolling, double buffering, vector width, padding of shared memory and split K.

Extents that do not factor well are rounded up before they are factorized, to a multiple of 128 or
to a power of two below it; extents of the paper are their own. The first part is nominal: as many
blocks are launched as hold an element, and what sticks out of the matrix is left out by predicates.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import register
from autotune.kernels.cuda.model import CudaTemplate, Work, check_peaks, estimate
from autotune.kernels.cuda.simt_tiles import Tiles
from autotune.kernels.cuda.split import slices_for, slices_to_try
from autotune.search.parameters import Categorical, Factorization, Ordinal, Parameter
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_ROUND = 128
_ROUND_K = 16
_UNROLLS = (1, 2, 4, 8, 16, 32)
#: Multiply-adds in the unrolled body; beyond it the instruction cache and the compiler suffer.
_MAX_UNROLLED = 4096
#: Rows and columns of a tile that is large enough to be fast.
_LARGEST = 128
#: Loads that a thread has in flight; more are never worth their registers.
_MAX_SLOTS = 32
_MAX_ELEMENTS = 2**31
_FLOAT = 4


@register
class Simt(CudaTemplate):
    """Tiled fp32 GEMM out of shared memory."""

    name = "simt"
    version = 2

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """The one for float32, which must not become tf32 unasked."""
        return 1 if workload.dtype == "float32" else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of tilings; see the module docstring."""
        check_simt(self.name, workload, profile)
        return make_space(self.name, workload, profile, _knobs(workload, profile))

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the module of one config; ``main`` is a ``tirx`` function."""
        import tvm

        from autotune.kernels.cuda.simt_kernel import simt_prim_func

        tiles = Tiles.of(workload, {**PAPER_KNOBS, **config})
        return tvm.IRModule({"main": simt_prim_func(workload, tiles)})

    def work(self, workload: Gemm, config: Mapping[str, Any]) -> Work:
        """Return what the kernel of a config does."""
        return work_of(workload, _tiles(workload, config))


@register
class SimtPaper(Simt):
    """The three factorizations alone: for comparing search methods as the paper does."""

    name = "simt_paper"
    version = 1

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """By name only."""
        return 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the product of the factorizations of m (4 parts), k (2) and n (4)."""
        check_simt(self.name, workload, profile)
        return make_space(self.name, workload, profile, [])


#: What ``simt_paper`` fixes. An ``unroll`` that does not divide the depth is lowered to what does.
PAPER_KNOBS: dict[str, Any] = {"unroll": 8, "stages": 2, "vector": 4, "pad": 4, "split_k": 1}


def _knobs(workload: Gemm, profile: HardwareProfile) -> list[Parameter]:
    assert profile.gpu is not None
    tiles = workload.batch * -(-workload.m // _LARGEST) * -(-workload.n // _LARGEST)
    return [
        Ordinal("unroll", _UNROLLS),
        Ordinal("stages", (1, 2)),
        Ordinal("vector", (1, 2, 4)),
        Categorical("pad", (0, 4)),
        Ordinal("split_k", slices_for(tiles, workload.k, profile.gpu)),
    ]


def check_simt(name: str, workload: Gemm, profile: HardwareProfile) -> None:
    """Raise NotApplicable unless the workload is one of fp32 with operands of 32-bit extents."""
    if (workload.dtype, workload.acc_dtype, workload.out_dtype) != ("float32",) * 3:
        raise NotApplicable(
            f"template {name} computes float32 with float32 sums, not"
            f" {workload.dtype}/{workload.acc_dtype}/{workload.out_dtype};"
            " use --template mma_sync for narrow types"
        )
    if profile.gpu is None:
        raise NotApplicable(f"template {name} is for GPUs, not for {profile.name}")
    check_peaks(profile)
    check_indices(name, workload)


def check_indices(name: str, workload: Gemm) -> None:
    """Raise NotApplicable for a prepacked B, or for operands that 32 bits cannot index."""
    if workload.prepacked:
        raise NotApplicable(f"template {name} does not take a prepacked B; leave out --prepacked")
    shapes = (workload.a_shape, workload.b_shape, workload.c_shape)
    if max(math.prod(shape) for shape in shapes) >= _MAX_ELEMENTS:
        raise NotApplicable(
            f"template {name} indexes with 32 bits; an operand of {workload.key} has 2^31 elements"
            " or more"
        )


def make_space(
    name: str, workload: Gemm, profile: HardwareProfile, knobs: list[Parameter]
) -> ConfigSpace:
    """Return the space of the factorizations and ``knobs``, with the default in front."""
    parameters: list[Parameter] = [
        Factorization("tile_m", rounded(workload.m, _ROUND), 4),
        Factorization("tile_k", rounded(workload.k, _ROUND_K), 2),
        Factorization("tile_n", rounded(workload.n, _ROUND), 4),
        *knobs,
    ]
    constraints = _constraints(workload, profile)
    space = ConfigSpace(name, parameters, constraints)
    return ConfigSpace(name, parameters, constraints, [default_config(space, workload, profile)])


def rounded(extent: int, multiple: int) -> int:
    """Round up to a multiple, or below it to a power of two."""
    if extent >= multiple:
        return -(-extent // multiple) * multiple
    return 1 << (extent - 1).bit_length()


def default_config(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Config:
    """Return the best of the usual tilings, by the static model.

    The candidates are square-ish tiles of up to 128 by 128 with up to 16 rows and columns a thread,
    in runs of at most four, which is what vectors of shared memory take without conflicts.
    """
    legal = [c for c in _candidates(space, workload, profile) if space.is_legal(c)]
    if not legal:
        return space.origin() if space.is_legal(space.origin()) else _smallest(space)
    return min(legal, key=lambda c: estimate(work_of(workload, _tiles(workload, c)), profile))


def _tiles(workload: Gemm, config: Mapping[str, Any]) -> Tiles:
    return Tiles.of(workload, {**PAPER_KNOBS, **config})


def _candidates(space: ConfigSpace, workload: Gemm, profile: HardwareProfile) -> Iterator[Config]:
    assert profile.gpu is not None
    slices: tuple[Any, ...] = tuple(
        v for p in space.parameters if p.name == "split_k" for v in p.values()
    )
    extents = {p.name: p.extent for p in space.parameters if isinstance(p, Factorization)}
    knobs = {p.name: PAPER_KNOBS[p.name] for p in space.parameters if p.name in PAPER_KNOBS}
    k = extents["tile_k"]
    depths = [d for d in (8, 16) if k % d == 0] or [k]
    cuts_m, cuts_n = (list(_cuts(extents[name])) for name in ("tile_m", "tile_n"))
    for (m, n), depth in itertools.product(itertools.product(cuts_m, cuts_n), depths):
        if 32 <= m[2] * n[2] <= 256 or (m[0] == n[0] == 1 and m[2] * n[2] < 32):
            values = {"tile_m": m, "tile_k": (k // depth, depth), "tile_n": n, **knobs}
            if "unroll" in values:
                values["unroll"] = min(PAPER_KNOBS["unroll"], depth)
            if "vector" in values:
                t = _tiles(workload, values)
                values["vector"] = max(t.a.width, t.b.width, t.out_width)
            yield Config(values)
            for number in slices_to_try(slices, _tiles(workload, values).tiles, profile.gpu)[1:]:
                yield Config({**values, "split_k": number})


def _cuts(extent: int) -> Iterator[tuple[int, int, int, int]]:
    for block in (1, 2, 4, 8, 16, 32, 64, 128):
        for inner, vthreads in ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4)):
            if extent % block == 0 and block % (inner * vthreads) == 0:
                yield extent // block, vthreads, block // (inner * vthreads), inner


def _smallest(space: ConfigSpace) -> Config:
    """Return one thread a block and one element a thread: legal whatever the limits are."""
    values = {p.name: p.origin for p in space.parameters}
    for parameter in space.parameters:
        if isinstance(parameter, Factorization):
            values[parameter.name] = (parameter.extent,) + (1,) * (parameter.parts - 1)
    return Config(values)


def work_of(workload: Gemm, t: Tiles) -> Work:
    """Return what a tiling does, with an operand shared by a batch or none; see :class:`Work`."""
    warps = -(-t.threads // 32)
    reads_a = t.m.per_thread // t.fragment_width(t.m.inner)
    reads_b = t.n.per_thread // t.fragment_width(t.n.inner)
    passes = t.m.vthreads * read_passes(t.m.inner, t.fragment_width(t.m.inner), t.n.threads, False)
    passes += t.n.vthreads * read_passes(t.n.inner, t.fragment_width(t.n.inner), t.n.threads, True)
    stores = warps * (
        t.a.slots * (t.a.width if t.a.along_k else 1) * t.a.store_conflicts
        + t.b.slots * (t.b.width if t.b.along_k else 1) * t.b.store_conflicts
    )
    loads = warps * (t.a.slots + t.b.slots)
    multiplies = warps * t.accumulators * t.bk
    overhead = warps * (t.bk // t.unroll) * 4 + 8 * loads
    return Work(
        blocks_m=t.batch * t.m.blocks,
        blocks_n=t.n.blocks,
        threads=t.threads,
        registers=t.registers,
        shared_bytes=t.shared_bytes,
        steps=t.split.most_steps,
        math="float32",
        multiply_adds=multiplies * 32,
        instructions=multiplies + warps * t.bk * (reads_a + reads_b) + stores + loads + overhead,
        shared_passes=warps * t.bk * passes + stores,
        shared_accesses=warps * t.bk * (reads_a + reads_b) + stores,
        # What lies beyond the ends is not read.
        a_bytes=min(t.a.rows, t.a.extent) * t.bk * _FLOAT,
        b_bytes=min(t.b.rows, t.b.extent) * t.bk * _FLOAT,
        c_bytes=t.m.block * t.n.block * _FLOAT * (2 if workload.has_residual else 1),
        independent=t.accumulators,
        overlapped=t.stages == 2,
        slices=t.slices,
        sum_bytes=t.m.block * t.n.block * _FLOAT,
        batch=t.batch,
        shared=workload.shared,
    )


@functools.lru_cache(maxsize=4096)
def read_passes(inner: int, width: int, fast: int, along_fast: bool) -> int:
    """Return the passes in which a warp reads ``inner`` elements a thread from shared memory.

    A pass takes 32 banks of 4 bytes, and serves 32 / ``width`` threads; of those, threads that read
    the same address share it, and others that meet in a bank take turns.

    Parameters
    ----------
    inner
        Elements that lie side by side; those of the next thread follow.
    width
        Elements of one read, 1, 2 or 4.
    fast
        Threads along the dimension in which threads are counted first.
    along_fast
        Whether threads of different place in that dimension read different elements, or those of
        different place in the other one.
    """
    passes = 0
    for first, group in itertools.product(range(0, inner, width), range(width)):
        banks: dict[int, set[int]] = {}
        for thread in range(group * 32 // width, (group + 1) * 32 // width):
            place = thread % fast if along_fast else thread // fast
            for word in range(place * inner + first, place * inner + first + width):
                banks.setdefault(word % 32, set()).add(word)
        passes += max(len(words) for words in banks.values())
    return passes


def _constraints(workload: Gemm, profile: HardwareProfile) -> list[Constraint]:
    gpu = profile.gpu
    assert gpu is not None

    def tiles(c: Any) -> Tiles:
        return _tiles(workload, c)

    def threads_fit(c: Any) -> bool:
        return bool(c["tile_m"][2] * c["tile_n"][2] <= gpu.max_threads_per_block)

    def unroll_divides(c: Any) -> bool:
        return c.get("unroll") is None or bool(c["tile_k"][1] % c["unroll"] == 0)

    def shared_fits(c: Any) -> bool:
        return tiles(c).shared_bytes <= gpu.shared_bytes_per_block

    def registers_fit(c: Any) -> bool:
        t = tiles(c)
        share = gpu.registers_per_sm // (-(-t.threads // 32) * 32) // 8 * 8
        return t.registers <= min(gpu.max_registers_per_thread, share)

    def body_is_small(c: Any) -> bool:
        t = tiles(c)
        return (
            t.accumulators * t.unroll <= _MAX_UNROLLED and max(t.a.slots, t.b.slots) <= _MAX_SLOTS
        )

    def slices_fit(c: Any) -> bool:
        assert gpu is not None
        return tiles(c).split.fits(gpu)

    def vector_is_used(c: Any) -> bool:
        t = tiles(c)
        return "vector" not in c or c["vector"] == max(t.a.width, t.b.width, t.out_width)

    return [
        Constraint("a block has at most as many threads as the device allows", threads_fit),
        Constraint("unroll divides the depth of a step", unroll_divides),
        Constraint("the tiles fit shared memory", shared_fits),
        Constraint("sums, fragments and loads in flight fit the registers", registers_fit),
        Constraint("the unrolled body stays small", body_is_small),
        Constraint("every slice of K has a step, and sums wait in L2", slices_fit),
        # Where no load or store can be that wide, the kernel is that of a narrower config.
        Constraint("the vector width is used somewhere", vector_is_used),
    ]
