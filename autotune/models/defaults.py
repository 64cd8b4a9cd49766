"""Default schedules on a CPU for every function of a model that no tuned template takes.

TVM's own pipeline applies no schedule at all on a CPU: one scalar loop after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.hw_profiles.profile import HardwareProfile
from autotune.models.defaults_conv import (
    conv_body,
    epilogue_of,
    find_conv,
    packed_shape,
    tiling_of,
)
from autotune.models.defaults_elementwise import Context
from autotune.models.defaults_ir import Nest, read_nests, sequence
from autotune.models.defaults_math import vector_math
from autotune.models.defaults_rows import common_rows, inline_producers, one_nest, rows_body

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
        Name of the rule used: ``elementwise``, ``rows``, ``reduction``, ``nests`` or ``plain``.
    """

    func: Any
    rule: str


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
    nests = [_with_vector_math(nest) for nest in read[0]]
    rule, body = _body(nests, read[1], context)
    return Scheduled(func.with_body(_root(body)).with_attr(SCHEDULED, True), rule)


def _root(body: Any) -> Any:
    """Return the body in the block that Relax's passes expect around one."""
    from tvm import s_tir

    return s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))


def _body(nests: list[Nest], intermediates: list[Any], context: Context) -> tuple[str, Any]:
    from tvm import tirx

    if (body := _conv(nests, intermediates, context)) is not None:
        return "conv", body
    if len(nests) > 1:
        rows = common_rows(nests, intermediates)
        if rows:
            return "rows", rows_body(nests, intermediates, rows, context)
    parts = [tirx.AllocBuffer(buffer) for buffer in intermediates]
    parts += [one_nest(nest, context, context.parallel(nest.iterations)) for nest in nests]
    if len(nests) > 1:
        return "nests", sequence(parts)
    return ("reduction" if nests[0].reduce else "elementwise"), sequence(parts)


def _conv(nests: list[Nest], intermediates: list[Any], context: Context) -> Any:
    """Return the body of a function with one convolution, its padding and its epilogue; or None."""
    from tvm import tirx

    found = [conv for conv in map(find_conv, nests) if conv is not None]
    if len(found) != 1:
        return None
    conv = found[0]
    tiling = tiling_of(conv, context)
    possible, epilogue = epilogue_of(conv, nests)
    if tiling is None or not possible:
        return None
    packed = tirx.decl_buffer(packed_shape(conv, tiling), conv.weight.source.dtype, "packed")
    before = nests[: nests.index(conv.nest)]
    sums = conv.nest.body.buffer
    parts = [
        tirx.AllocBuffer(buffer)
        for buffer in intermediates
        if epilogue is None or not buffer.same_as(sums)
    ]
    parts += [one_nest(nest, context, context.parallel(nest.iterations)) for nest in before]
    parts.append(conv_body(conv, tiling, context, epilogue, packed, pack=True))
    return sequence(parts)


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
        """Return the module with all its functions scheduled; the argument is not changed."""
        from tvm import IRModule, tirx

        functions = {}
        for name, func in module.functions_items():
            if isinstance(func, tirx.PrimFunc) and not is_scheduled(func):
                done = schedule_default(func, self.profile, self.threads)
                self.rules[name.name_hint] = done.rule
                func = done.func
            functions[name] = func
        return IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)
