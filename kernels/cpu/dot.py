"""``cpu_dot``: bf16, fp16 and int8 products on the CPU's own multiply-accumulate instructions.

Which instruction is used follows from the CPU's feature flags: the table is
:mod:`autotune.hw_profiles.instructions`. Sums are fp32 for bf16 and fp16, and exact int32 for int8.
The loop nest is that of BLIS (Van Zee and van de Geijn, TOMS 2015); operands are packed as 32-bit
words of consecutive k (pairs of bf16, quads of int8, single fp32 numbers), which is what these
instructions multiply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.hw_profiles.amx import request_amx
from autotune.hw_profiles.instructions import describe, instruction
from autotune.kernels.base import Template, register
from autotune.kernels.cpu.batched import check_batch
from autotune.kernels.cpu.dot_nest import DotNest
from autotune.kernels.cpu.dot_space import DotSpace
from autotune.kernels.cpu.dot_whole import packed_shape
from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_MAX_ELEMENTS = 2**31 - 1
#: Sums and outputs that there is code for, by input type.
_TYPES = {
    "bfloat16": ("float32", ("bfloat16", "float32")),
    "float16": ("float32", ("float16", "float32")),
    "int8": ("int32", ("int32",)),
}


class DotTemplate(Template):
    """What templates on these instructions have in common."""

    kind = "cpu"

    def prepare(self, config: Config) -> None:
        """Ask for the use of AMX where the kernel uses it."""
        if instruction(str(config["inner"])).tiles:
            request_amx()

    def notes(self, workload: Gemm, profile: HardwareProfile) -> str:
        """Say which instruction the kernels use, and which better one this CPU lacks."""
        return describe(workload.dtype, profile)


@register
class CpuDot(DotTemplate):
    """Packed, register-blocked GEMM on dot-product instructions or AMX tiles."""

    name = "cpu_dot"
    version = 4

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """The usual choice for everything narrower than fp32."""
        return 1 if workload.dtype in _TYPES else 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of instructions, tilings, loop orders and packings."""
        check(self.name, workload, profile)
        return DotSpace(workload, profile, threads).space(self.name)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the module of one config."""
        return DotNest(workload, config).module()

    def packed_shape(self, workload: Gemm, config: Config) -> tuple[int, ...]:
        """Return the shape of all panels, in elements of B's type."""
        return packed_shape(DotNest(workload, config))


def check(name: str, workload: Gemm, profile: HardwareProfile) -> None:
    """Raise NotApplicable where a template has no code for the workload or CPU."""
    w = workload
    check_batch(name, w)
    if w.dtype not in _TYPES:
        raise NotApplicable(
            f"template {name} computes bfloat16, float16 and int8, not {w.dtype}; use"
            " --template cpu_tile"
        )
    acc, outs = _TYPES[w.dtype]
    if w.acc_dtype != acc or w.out_dtype not in outs:
        raise NotApplicable(
            f"template {name} sums {w.dtype} in {acc} and returns {' or '.join(outs)}, not"
            f" {w.out_dtype} from sums in {w.acc_dtype}; no --template does"
        )
    if w.dtype == "int8" and w.activation not in ("", "relu"):
        raise NotApplicable(
            f"template {name} returns int32 sums for int8, of which {w.activation} makes no sense;"
            " use --epilogue none, or a --template of your own that scales them"
        )
    if w.dtype == "float16" and profile.isa == "x86_64" and "f16c" not in profile.features:
        raise NotApplicable(
            f"template {name} converts float16 with F16C, which this CPU does not have; use"
            " --dtype float32 with --template cpu_tile"
        )
    if max(w.m * w.k, w.k * w.n, w.m * w.n) > _MAX_ELEMENTS:
        raise NotApplicable(
            f"template {name} counts elements in 32 bits; {w.key} has a matrix of more, so cut it"
            " into products of their own (no --template takes it whole)"
        )
