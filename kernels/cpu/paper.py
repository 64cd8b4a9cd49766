"""``cpu_paper``: the configuration space of arXiv 1909.10616 on a CPU.

A config is three factorizations and nothing else: m and n into four parts, k into two. Every vertex
is legal, the untiled start ``(m,1,1,1), (k,1), (n,1,1,1)`` included, so the paper's protocol can be
followed to the letter. The paper's kernels ran on a GPU; here the four levels are parallel tasks,
cache tiles, register tiles and vectors, and nothing is packed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import Template, refuse_batch, register
from autotune.kernels.cpu.lanes import lanes_of
from autotune.kernels.gemm import MATMUL_BLOCK, gemm_prim_func
from autotune.search.parameters import Factorization
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: Largest number of vector operations that the innermost tile is unrolled to.
_MAX_UNROLLED = 64


@register
class CpuPaper(Template):
    """Three factorizations, parts (4, 2, 4), exact sizes."""

    name = "cpu_paper"
    version = 1
    kind = "cpu"

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the product of the factorizations of m (4 parts), k (2) and n (4)."""
        refuse_batch(self.name, workload)
        plain = workload.layout == "nn" and workload.epilogue == "none" and not workload.prepacked
        plain = plain and workload.scale == 1
        if workload.dtype != "float32" or not plain:
            raise NotApplicable(
                "template cpu_paper computes plain float32 products in layout nn, as the paper"
                " does; use --template cpu_tile"
            )
        parameters = [
            Factorization("tile_m", workload.m, 4),
            Factorization("tile_k", workload.k, 2),
            Factorization("tile_n", workload.n, 4),
        ]
        origin = ConfigSpace(self.name, parameters).origin()
        return ConfigSpace(self.name, parameters, defaults=[origin])

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled module of one config."""
        import tvm
        from tvm.s_tir import Schedule

        sch = Schedule(tvm.IRModule({"main": gemm_prim_func(workload)}))
        apply(sch, sch.get_sblock(MATMUL_BLOCK), config)
        return sch.mod


def apply(sch: Any, matmul: Any, config: Config) -> None:
    """Schedule the plain product in the block ``matmul``."""
    i, j, k = sch.get_loops(matmul)
    m = sch.split(i, config["tile_m"])
    n = sch.split(j, config["tile_n"])
    k_outer, k_inner = sch.split(k, config["tile_k"])
    sch.reorder(m[0], n[0], m[1], n[1], k_outer, m[2], n[2], k_inner, m[3], n[3])
    _vectorise(sch, m[3], n[3])
    sch.parallel(sch.fuse(m[0], n[0]))
    sch.decompose_reduction(matmul, k_outer)


def _vectorise(sch: Any, row: Any, column: Any) -> None:
    """Vectorise the innermost loop and unroll the register tile, unless it is far too large."""
    rows, columns = int(sch.get(row).extent), int(sch.get(column).extent)
    lanes = lanes_of(columns)
    if lanes == 1:
        return
    vector, lane = sch.split(column, [None, lanes])
    sch.vectorize(lane)
    if rows * (columns // lanes) <= _MAX_UNROLLED:
        sch.unroll(row)
        sch.unroll(vector)
