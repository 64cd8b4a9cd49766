"""Default schedules on a CPU for every function of a model that no tuned template takes.

TVM's own pipeline applies no schedule at all on a CPU: one scalar loop after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.hw_profiles.profile import HardwareProfile
from autotune.models.defaults_addresses import flat_buffers
from autotune.models.defaults_constants import PackedWeight, pack_constants
from autotune.models.defaults_conv import find_conv, packed_buffer, tiling_of
from autotune.models.defaults_conv_loops import conv_body
from autotune.models.defaults_elementwise import Context
from autotune.models.defaults_ir import Nest, read_nests, sequence
from autotune.models.defaults_math import vector_math
from autotune.models.defaults_product import MatrixProduct, find_product, product_body
from autotune.models.defaults_rows import (
    common_rows,
    fold_epilogues,
    inline_producers,
    one_nest,
    rows_body,
)

#: Marks a function that needs no schedule any more; TVM's own passes use and respect it.
SCHEDULED = "tirx.is_scheduled"


@dataclass(frozen=True)
class Scheduled:
    """A function with its schedule.

    Parameters
    ----------
    func
        The ``PrimFunc``, with the attribute ``tirx.is_scheduled``.
    rule
        Name of the rule used: ``elementwise``, ``rows``, ``reduction``, ``product``, ``conv``,
        ``nests`` or ``plain``.
    packed
        For a convolution, the form that takes its weights packed.
    """

    func: Any
    rule: str
    packed: PackedWeight | None = None


def is_scheduled(func: Any) -> bool:
    """Whether a ``PrimFunc`` has its schedule."""
    return bool(func.attrs and func.attrs.get(SCHEDULED, False))


def schedule_default(func: Any, profile: HardwareProfile, threads: int) -> Scheduled:
    """Return a function with loops that a CPU runs well.

    Parameters
    ----------
    func
        A ``tvm.tirx.PrimFunc`` as Relax legalises and fuses it: plain loops around blocks. One that
        has another form is left as it is, and the rule is then ``plain``.
    profile
        The CPU; its vector width and number of registers are used.
    threads
        Threads that large loops are split over; 1 leaves all loops serial.
    """
    context = Context(
        simd_bits=profile.simd_bits or 128,
        registers=profile.vector_registers or 16,
        threads=threads,
    )
    read = read_nests(inline_producers(func))
    if read is None:
        return Scheduled(func.with_attr(SCHEDULED, True), "plain")
    nests, intermediates = fold_epilogues([_with_vector_math(nest) for nest in read[0]], read[1])
    scheduled = _conv(func, nests, intermediates, context)
    if scheduled is not None:
        return scheduled
    found = [find_product(nest) for nest in nests]
    if any(found):
        return Scheduled(
            _finished(func, _products(found, nests, intermediates, context)), "product"
        )
    rule, body = _body(nests, intermediates, context)
    return Scheduled(_finished(func, body), rule)


def _finished(func: Any, body: Any, params: list[Any] | None = None) -> Any:
    """Return the function with a new body, in the root block that Relax's passes expect.

    TVM assumes that arguments start at a multiple of 64 bytes, and crashes on views of tensors that
    do not. Declared so, the vector loads work on any address, and cost the same on aligned ones.
    """
    import tvm_ffi
    from tvm import DataType, s_tir, tirx

    anywhere = {
        param: tirx.decl_buffer(
            param.shape,
            param.dtype,
            param.name,
            data_alignment=max(1, DataType(str(param.dtype)).bits // 8),
        )
        for param in params or func.params
        if isinstance(param.ty, tirx.BufferType)
    }
    body = tvm_ffi.structural_map(body, (tirx.Var, lambda var: anywhere.get(var, var)))
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    unaligned = [anywhere.get(param, param) for param in params or func.params]
    done = tirx.PrimFunc(unaligned, root, func.ret_type, func.attrs)
    return done.with_attr(SCHEDULED, True)


def _body(nests: list[Nest], intermediates: list[Any], context: Context) -> tuple[str, Any]:
    from tvm import tirx

    if len(nests) > 1:
        rows = common_rows(nests)
        if rows:
            return "rows", rows_body(nests, intermediates, rows, context)
    nests, intermediates = flat_buffers(nests, intermediates)
    parts = [tirx.AllocBuffer(buffer) for buffer in intermediates]
    parts += [one_nest(nest, context, context.parallel(nest.iterations)) for nest in nests]
    if len(nests) > 1:
        return "nests", sequence(parts)
    return ("reduction" if nests[0].reduce else "elementwise"), sequence(parts)


def _products(
    found: list[MatrixProduct | None], nests: list[Nest], intermediates: list[Any], context: Context
) -> Any:
    """Return loops for nests of which some are matrix products."""
    from tvm import tirx

    nests, intermediates = flat_buffers(nests, intermediates)
    parts = [tirx.AllocBuffer(buffer) for buffer in intermediates]
    for matrices, nest in zip(found, nests, strict=True):
        if matrices is not None:
            parts.append(product_body(matrices, nest, context))
        else:
            parts.append(one_nest(nest, context, context.parallel(nest.iterations)))
    return sequence(parts)


def _conv(
    func: Any, nests: list[Nest], intermediates: list[Any], context: Context
) -> Scheduled | None:
    """Schedule a function with one convolution, its padding and its epilogue; None for others."""
    found = [(place, conv) for place, nest in enumerate(nests) if (conv := find_conv(nest))]
    if len(found) != 1:
        return None
    place, conv = found[0]
    weight = [i for i, p in enumerate(func.params) if p.same_as(conv.weight.source)]
    tiling = tiling_of(conv, context)
    if tiling is None or not weight:
        return None
    packed = packed_buffer(conv, tiling)
    nests, intermediates = flat_buffers(nests, intermediates)
    conv = conv.on(nests[place])

    def body(pack: bool) -> Any:
        from tvm import tirx

        parts = [tirx.AllocBuffer(buffer) for buffer in intermediates]
        for index, nest in enumerate(nests):
            if index == place:
                parts.append(conv_body(conv, tiling, context, packed, pack))
            else:
                parts.append(one_nest(nest, context, context.parallel(nest.iterations)))
        return sequence(parts)

    params = [packed if i in weight else param for i, param in enumerate(func.params)]
    form = PackedWeight(_finished(func, body(pack=False), params), weight[0], tiling.block)
    return Scheduled(_finished(func, body(pack=True)), "conv", form)


def _with_vector_math(nest: Nest) -> Nest:
    from tvm import tirx

    if not nest.is_store:
        return nest
    body = nest.body
    value = vector_math(body.value)
    return Nest(
        nest.name,
        nest.spatial,
        nest.reduce,
        nest.init,
        tirx.BufferStore(body.buffer, value, body.indices),
    )


class DefaultSchedules:
    """A pass over a module that gives every unscheduled ``PrimFunc`` its default schedule.

    It belongs after fusion and before ``CallTIRRewrite``; Relax's ``RewriteDataflowReshape``, which
    turns a reshape into a view, recognises it only in functions that have no schedule yet.

    Parameters
    ----------
    profile, threads
        As for :func:`schedule_default`.

    Attributes
    ----------
    rules
        The rule used for each function that this object has scheduled, by function name.
    """

    def __init__(self, profile: HardwareProfile, threads: int) -> None:
        self.profile = profile
        self.threads = threads
        self.rules: dict[str, str] = {}

    def __call__(self, module: Any) -> Any:
        """Return the module with all its functions scheduled; the argument is not changed.

        Constant weights of convolutions are packed on the way.
        """
        from tvm import IRModule, tirx

        functions = dict(module.functions_items())
        packed = {}
        for name, func in module.functions_items():
            if not isinstance(func, tirx.PrimFunc) or is_scheduled(func):
                continue
            done = schedule_default(func, self.profile, self.threads)
            self.rules[name.name_hint] = done.rule
            functions[name] = done.func
            if done.packed is not None:
                packed[name.name_hint] = done.packed
        scheduled = IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)
        return pack_constants(scheduled, packed) if packed else scheduled
