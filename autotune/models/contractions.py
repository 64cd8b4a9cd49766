"""Products by the structure of their indices: what a function sums, over which axes of what.

A :class:`Contraction` says ``out[i, j, ...] = sum over k, ... of first[...] * second[...]``, where
each dimension of an operand is one axis. Matrix products, ``einsum``, transposes, broadcasts and
sums all are contractions, of one operand or two, and one put into another is one again. So a sum of
products is found however it was spelt, once the loops of each operator are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.models.defaults_combiner import combiner_of
from autotune.models.defaults_ir import Nest, collect, number_of, read_nests, tensor_load

_fresh = itertools.count()


class NotAContraction(Exception):
    """A function computes a product, but not of whole axes; the message says why."""


@dataclass(frozen=True)
class Factor:
    """One operand of a contraction.

    Parameters
    ----------
    source
        What is read: in a function, the position of its parameter.
    axes
        The axis of each dimension; None for a dimension of 1.
    """

    source: Any
    axes: tuple[int | None, ...]

    @property
    def used(self) -> list[int]:
        """The axes in the order in which the operand is stored."""
        return [axis for axis in self.axes if axis is not None]


@dataclass(frozen=True)
class Contraction:
    """``out[axes] = sum over the summed axes of the product of all factors``.

    Parameters
    ----------
    out
        The axis of each dimension of the result; None for a dimension of 1.
    summed
        Axes that are summed over.
    factors
        The operands.
    """

    out: tuple[int | None, ...]
    summed: frozenset[int]
    factors: tuple[Factor, ...]

    def with_operand(self, place: int, inner: Contraction) -> Contraction | None:
        """Return this contraction with what computes one operand put in its place.

        None if the two are not one: a sum that others multiply is computed first.
        """
        factor = self.factors[place]
        alone = len(self.factors) == 1 and not self.summed and len(factor.used) == len(self.kept)
        if inner.summed and not alone:
            return None
        names: dict[int | None, int | None] = dict(zip(inner.out, factor.axes, strict=True))
        names.update({axis: next(_fresh) for axis in inner.summed})
        operands = [
            Factor(f.source, tuple(names[axis] if axis is not None else None for axis in f.axes))
            for f in inner.factors
        ]
        factors = (*self.factors[:place], *operands, *self.factors[place + 1 :])
        summed = self.summed | {names[axis] for axis in inner.summed}
        return Contraction(self.out, frozenset(summed), factors)  # type: ignore[arg-type]

    @property
    def kept(self) -> list[int]:
        """The axes of the result in order."""
        return [axis for axis in self.out if axis is not None]

    def of(self, sources: Sequence[Any]) -> Contraction:
        """Return it with new axes, and with the parameters replaced by what is passed for them."""
        axes = {axis for f in self.factors for axis in f.used} | set(self.kept)
        names: dict[int | None, int | None] = {axis: next(_fresh) for axis in axes}
        names[None] = None
        factors = tuple(
            Factor(sources[f.source], tuple(names[axis] for axis in f.axes)) for f in self.factors
        )
        summed = frozenset(names[axis] for axis in self.summed)
        return Contraction(tuple(names[a] for a in self.out), summed, factors)  # type: ignore[arg-type]


def contraction_of(func: Any) -> Contraction | None:
    """Return what a ``PrimFunc`` computes, its last parameter being the result.

    None if it has nothing to do with products.

    Raises
    ------
    NotAContraction
        If there is a matrix product in it, but it is not all that the function computes, or its
        operands are not read along their axes.
    """
    read = read_nests(func)
    if read is None:
        return None
    nests, _ = read
    try:
        known: dict[Any, Contraction] = {}
        for nest in nests:
            known[nest.target] = _inlined(_nest_contraction(nest), known)
        result = known[func.params[-1]]
        places = {parameter: place for place, parameter in enumerate(func.params[:-1])}
        factors = tuple(replace(f, source=places[f.source]) for f in result.factors)
        return replace(result, factors=factors)
    except (_Unreadable, KeyError) as error:
        products = [nest for nest in nests if _is_matrix_product(nest)]
        if not products:
            return None
        reason = str(error) if isinstance(error, _Unreadable) else "it has several results"
        raise NotAContraction(
            f"the loops of {nests[-1].name} are more than a product: {reason}"
        ) from (None)


class _Unreadable(Exception):
    """Says what makes a nest no contraction."""


def _inlined(contraction: Contraction, known: Mapping[Any, Contraction]) -> Contraction:
    """Return a contraction with the intermediate results that it reads put in."""
    place = 0
    while place < len(contraction.factors):
        inner = known.get(contraction.factors[place].source)
        if inner is None:
            place += 1
            continue
        merged = contraction.with_operand(place, inner)
        if merged is None:
            raise _Unreadable("it multiplies what another product yields")
        contraction = merged
    return contraction


def _nest_contraction(nest: Nest) -> Contraction:
    """Return the contraction of one nest, its factors' sources being buffers."""
    from tvm import tirx

    if not nest.is_store:
        raise _Unreadable("a block of several statements")
    value = nest.body.value
    if nest.reduce:
        combiner = combiner_of(nest)
        if combiner is None or combiner.node is not tirx.Add:
            raise _Unreadable("it reduces otherwise than by a sum")
        value = combiner.term
    axes = {axis.var: (next(_fresh), axis.extent) for axis in (*nest.spatial, *nest.reduce)}
    factors = tuple(
        Factor(load.source, _axes(load.source, load.indices, axes))
        for load in _factors(value, str(nest.body.buffer.dtype))
    )
    out = _axes(nest.body.buffer, nest.body.indices, axes)
    summed = frozenset(axes[axis.var][0] for axis in nest.reduce)
    read = {axis for factor in factors for axis in factor.used}
    if any(axis is not None and axis not in read for axis in out) or not summed <= read:
        raise _Unreadable("an axis of the result that no operand has")
    return Contraction(out, summed, factors)


def _factors(value: Any, result: str) -> list[Any]:
    """Return the loads whose product a value is; casts on the way must lose nothing."""
    from tvm import tirx

    if isinstance(value, tirx.Cast):
        return _factors(value.value, str(value.ty.dtype))
    if isinstance(value, tirx.Mul):
        dtype = str(value.ty.dtype)
        if dtype != result and not dtype.startswith("float"):
            raise _Unreadable(f"its {dtype} products overflow before they are summed in {result}")
        return [*_factors(value.a, dtype), *_factors(value.b, dtype)]
    if not isinstance(value, tensor_load()):
        raise _Unreadable("it sums other terms than products of two operands")
    return [value]


def _axes(
    buffer: Any, indices: Iterable[Any], axes: Mapping[Any, tuple[int, Any]]
) -> tuple[int | None, ...]:
    """Return the axis of each dimension, which must run over all of it."""
    from tvm import sym, tirx

    found: list[int | None] = []
    analyzer = sym.Analyzer()
    for place, size in zip(indices, buffer.shape, strict=True):
        index = analyzer.simplify(place)
        if isinstance(index, tirx.IntImm) and number_of(index) == 0 and number_of(size) == 1:
            found.append(None)
            continue
        axis, extent = axes.get(index, (None, None))
        if axis is None:
            raise _Unreadable("an operand is not read along its axes")
        if not _same(extent, size):
            raise _Unreadable("it reads a part of an operand only")
        if axis in found:
            raise _Unreadable("it reads a diagonal")
        found.append(axis)
    return tuple(found)


def _same(extent: Any, size: Any) -> bool:
    from tvm import sym

    extent, size = number_of(extent), number_of(size)
    if isinstance(extent, int) or isinstance(size, int):
        return bool(isinstance(extent, int) and isinstance(size, int) and extent == size)
    return bool(sym.Analyzer().can_prove_equal(extent, size))


def _is_matrix_product(nest: Nest) -> bool:
    """Whether a nest sums products, among others, whose two sides each lack axes of the other."""
    from tvm import tirx

    combiner = combiner_of(nest)
    if combiner is None or combiner.node is not tirx.Add:
        return False
    spatial = {axis.var for axis in nest.spatial}
    for term in collect(combiner.term, tirx.Mul):
        first, second = (
            {var for load in collect(side, tensor_load()) for var in collect(load, tirx.Var)}
            & spatial
            for side in (term.a, term.b)
        )
        if first - second and second - first:
            return True
    return False
