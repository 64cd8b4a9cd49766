"""How a reduction joins its accumulator with its terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.models.defaults_ir import Nest, tensor_load


@dataclass(frozen=True)
class Combiner:
    """How a reduction joins its accumulator with a term."""

    node: Any
    term: Any
    initial: Any

    def join(self, accumulator: Any, term: Any) -> Any:
        """Return ``accumulator (+, max, ...) term``."""
        return self.node(accumulator, term)


def combiner_of(nest: Nest) -> Combiner | None:
    """Return the combiner of a sum, product, maximum or minimum; None for anything else."""
    from tvm import tirx

    if not (nest.reduce and nest.init is not None and nest.is_store):
        return None
    value = nest.body.value
    if type(value) not in (tirx.Add, tirx.Mul, tirx.Max, tirx.Min):
        return None
    loads = tensor_load()

    if not _is_identity(type(value), nest.init.value):
        return None

    def own(node: Any) -> bool:
        return isinstance(node, loads) and node.source.same_as(nest.body.buffer)

    if own(value.a):
        return Combiner(type(value), value.b, nest.init.value)
    if own(value.b):
        return Combiner(type(value), value.a, nest.init.value)
    return None


def _is_identity(node: Any, value: Any) -> bool:
    """Whether joining with a value changes nothing, so that there may be several accumulators."""
    from tvm import tirx

    if not isinstance(value, (tirx.FloatImm, tirx.IntImm)):
        return False
    dtype = value.ty.dtype
    if node is tirx.Max:
        return bool(value.value <= tirx.min_value(dtype).value)
    if node is tirx.Min:
        return bool(value.value >= tirx.max_value(dtype).value)
    return bool(value.value == (1 if node is tirx.Mul else 0))
