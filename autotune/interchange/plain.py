"""Kernels as traces on the product that TVM itself makes of a model's matmul.

MetaSchedule's database maps a function of TVM's own to the trace of a schedule. Our templates start
from functions of ours, which pad and copy; here they start from TVM's, with copies made by
``cache_read`` and ``cache_write``, and end with the same loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.cpu.schedule import TileSchedule

if TYPE_CHECKING:
    from autotune.search.space import Config
    from autotune.workload import Gemm

#: Epilogues that relax spells as the blocks that we fuse too; its GELU is another function.
_EPILOGUES = ("none", "bias", "relu", "bias_relu")


def relax_module(workload: Gemm) -> Any:
    """Return the relax module ``main(a, b[, bias])`` of a workload, as a model importer makes it.

    Raises
    ------
    NotApplicable
        If relax has no such product, or writes it as several functions.
    """
    from tvm import relax

    if workload.dtype != "float32":
        raise NotApplicable(f"only float32 products are exported, not {workload.dtype}")
    if workload.prepacked:
        raise NotApplicable("TVM's product does not take a prepacked B")
    if workload.batch > 1 or workload.scale != 1:
        raise NotApplicable("batches and scaled products are not exported")
    if workload.layout[0] == "t":
        raise NotApplicable("TVM transposes A in a function of its own")
    if workload.epilogue not in _EPILOGUES:
        raise NotApplicable(f"relax spells the epilogue {workload.epilogue} in another way")

    def variable(name: str, shape: tuple[int, ...]) -> Any:
        return relax.Var(name, relax.TensorType(shape, workload.dtype))

    a, b = variable("a", workload.a_shape), variable("b", workload.b_shape)
    bias = variable("bias", (workload.n,))
    builder = relax.BlockBuilder()
    with builder.function("main", [a, b, *([bias] if workload.has_bias else [])]):
        with builder.dataflow():
            if workload.layout[1] == "t":
                b = builder.emit(relax.op.permute_dims(b))
            value = builder.emit(relax.op.matmul(a, b))
            if workload.has_bias:
                value = builder.emit(relax.op.add(value, bias))
            if workload.epilogue.endswith("relu"):
                value = builder.emit(relax.op.nn.relu(value))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    return builder.get()


def lowered(module: Any) -> Any:
    """Return a relax module with its operators as fused functions, each still with plain loops.

    These are the passes after which MetaSchedule looks functions up, with one more at the front:
    ``FuseTransposeMatmul``, without which a transposed B is copied by a function of its own.
    """
    import tvm
    from tvm.relax import transform

    passes = [
        transform.CanonicalizeBindings(),
        transform.FuseTransposeMatmul(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(module)


def plain_products(workload: Gemm) -> list[Any]:
    """Return the modules ``main(...)`` that stand for a workload in TVM: relax's, and te's.

    They differ in the type of their indices, so a database has an entry for each.
    """
    import tvm

    from autotune.kernels.gemm import gemm_prim_func

    (function,) = (
        f
        for f in lowered(relax_module(workload)).functions.values()
        if hasattr(f, "body") and isinstance(f, tvm.tirx.PrimFunc)
    )
    return [
        tvm.IRModule({"main": f.with_attr("global_symbol", "main")})
        for f in (function, gemm_prim_func(workload))
    ]


def schedule_plain(
    workload: Gemm, template: str, config: Config, module: Any, note: tuple[str, str]
) -> Any:
    """Return the schedule of a config on one of :func:`plain_products`.

    Parameters
    ----------
    note
        Key and text of an annotation that the trace begins with.

    Raises
    ------
    NotApplicable
        If the config's kernel is not a schedule of that function.
    """
    from tvm.s_tir import Schedule

    if template not in ("cpu_tile", "cpu_paper"):
        raise NotApplicable(f"{template} computes by other means than schedules of TVM's product")
    sch = Schedule(module)
    block = sch.get_sblock(_matmul_block(module))
    sch.annotate(block, *note)
    if template == "cpu_paper":
        from autotune.kernels.cpu.paper import apply

        apply(sch, block, config)
        return sch
    return _PlainTile(workload, config, sch, block).scheduled()


def _matmul_block(module: Any) -> str:
    """Return the name of the block that reduces."""
    from tvm.s_tir import Schedule

    scratch = Schedule(module)
    blocks = [scratch.get(block) for block in scratch.get_child_blocks(scratch.get_sblock("root"))]
    (name,) = {
        str(block.name_hint)
        for block in blocks
        if any(int(axis.iter_type) == _REDUCTION for axis in block.iter_vars)
    }
    return name


#: tirx.IterVar's kind of a reduction axis.
_REDUCTION = 2


class _PlainTile(TileSchedule):
    """``cpu_tile`` on a function of TVM's; only where no tile sticks out."""

    #: A trace holds nothing but the primitives of schedules.
    calls = False

    def __init__(self, workload: Gemm, config: Config, sch: Any, block: Any) -> None:
        self.sch, self.matmul = sch, block
        super().__init__(workload, config)

    def _start(self) -> None:
        m, n = self.shape.multiple_m, self.shape.multiple_n
        if self.workload.m % m or self.workload.n % n:
            raise NotApplicable(
                f"its tiles of {m} x {n} do not divide {self.workload.m} x {self.workload.n}, and"
                " TVM's product has no padding"
            )
        sch = self.sch
        self.pack_a = sch.cache_read(self.matmul, 0, "global") if self.shape.copy_a else None
        self.pack_b = sch.cache_read(self.matmul, 1, "global") if self.shape.copy_b else None
        self.output = sch.cache_write(self.matmul, 0, "global")

    def scheduled(self) -> Any:
        """Apply the config and return the schedule."""
        self.module()
        return self.sch
