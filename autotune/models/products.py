"""Contractions as products of matrices: which axes are rows, columns, depth and batch.

The result is read as ``out[batch, rows, columns]``. Axes that only one operand has may also come
before all others: then the other operand is the same for every product of the batch, as the weight
of a 1x1 convolution is for all images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.models.contractions import Contraction, Factor
from autotune.models.expressions import extents


class Unfit(Exception):
    """Says why a product is not a workload."""


@dataclass(frozen=True)
class Operand:
    """An operand as it is stored.

    Parameters
    ----------
    source
        A Relax expression.
    transposed
        Whether the axes that are summed over come first in A, or last in B.
    order
        In which order its dimensions have to be copied first; empty where its stored form serves.
    """

    source: Any
    transposed: bool
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """A contraction as a product of matrices; the axes of each kind in their order.

    Parameters
    ----------
    shared
        ``"a"`` or ``"b"`` if that operand is the same for the whole batch, else empty.
    """

    a: Operand
    b: Operand
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    depth: tuple[int, ...]
    shared: str

    @property
    def layout(self) -> str:
        """The layouts of A and B, as in :class:`~autotune.workload.Gemm`."""
        return "".join("t" if operand.transposed else "n" for operand in (self.a, self.b))


@dataclass(frozen=True)
class _Split:
    """The kinds of the result's axes; ``swapped`` if its rows are those of the second operand."""

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    swapped: bool
    shared: str


def product_of(variants: Sequence[Contraction]) -> Product:
    """Return a contraction of two operands as a product of matrices.

    Parameters
    ----------
    variants
        The same values with operands that were transposed or broadcast before, or as they were
        before that; the first that needs no copy is taken.

    Raises
    ------
    Unfit
        If there is none.
    """
    for variant in variants:
        _check(variant)
        for split in _splits(variant):
            found = _stored(variant, split)
            if found is not None:
                return found
    for variant in reversed(variants):
        for split in _splits(variant):
            if split.rows and split.columns:
                return _copied(variant, split)
    a, b = (extents(factor.source) for factor in variants[-1].factors)
    raise Unfit(f"the results of a product of shapes {a} and {b} are not matrices side by side")


def _check(contraction: Contraction) -> None:
    first, second = (set(factor.used) for factor in contraction.factors)
    if not contraction.summed <= first & second:
        raise Unfit("it sums over an axis that only one operand has")


def is_matrix_product(contraction: Contraction) -> bool:
    """Whether an axis of the result is not that of all operands: more than products of vectors."""
    used = [set(factor.used) for factor in contraction.factors]
    kept = set(contraction.kept)
    return bool(contraction.summed) and any(kept - axes for axes in used)


def _splits(contraction: Contraction) -> Iterator[_Split]:
    """Yield the ways to cut the result's axes into batch, rows and columns, least batch first."""
    first, second = (set(factor.used) for factor in contraction.factors)
    kept = contraction.kept
    for count in range(len(kept) + 1):
        batch, rest = tuple(kept[:count]), kept[count:]
        owners = {(axis in first, axis in second) for axis in batch}
        if len(owners) > 1:
            return
        if any(axis in first and axis in second for axis in rest):
            continue
        runs = [(own, tuple(axes)) for own, axes in itertools.groupby(rest, lambda a: a in first)]
        if len(runs) > 2:
            continue
        swapped = len(runs) == 2 and not runs[0][0]
        sides = dict(runs)
        mine, other = sides.get(True, ()), sides.get(False, ())
        rows, columns = (other, mine) if swapped else (mine, other)
        lacking = "" if owners <= {(True, True)} else "first" if owners == {(False, True)} else "b"
        shared = {"": "", "first": "a", "b": "b"}[lacking]
        if shared and swapped:
            shared = "b" if shared == "a" else "a"
        yield _Split(batch, rows, columns, swapped, shared)


def _factors(contraction: Contraction, split: _Split) -> tuple[Factor, Factor]:
    first, second = contraction.factors
    return (second, first) if split.swapped else (first, second)


def _stored(contraction: Contraction, split: _Split) -> Product | None:
    """Return the product whose operands are read as they are stored, None if they cannot be."""
    a, b = _factors(contraction, split)
    count = len(contraction.summed)
    of_a = () if split.shared == "a" else split.batch
    of_b = () if split.shared == "b" else split.batch
    for a_transposed in _likely(a, contraction, (False, True)):
        before = len(of_a) + (0 if a_transposed else len(split.rows))
        depth = tuple(a.used[before : before + count])
        if set(depth) != contraction.summed:
            continue
        wanted = (*depth, *split.rows) if a_transposed else (*split.rows, *depth)
        if tuple(a.used) != (*of_a, *wanted):
            continue
        for b_transposed in _likely(b, contraction, (True, False)):
            ordered = (*split.columns, *depth) if b_transposed else (*depth, *split.columns)
            if tuple(b.used) == (*of_b, *ordered):
                operands = Operand(a.source, a_transposed), Operand(b.source, b_transposed)
                return _product(operands, split, depth)
    return None


def _likely(factor: Factor, contraction: Contraction, last: tuple[bool, bool]) -> list[bool]:
    """Return both layouts, first that in which the stored last dimension is of the right kind.

    It decides for vectors, which are both.
    """
    summed_last = bool(factor.axes) and factor.axes[-1] in contraction.summed
    return list(last if summed_last else last[::-1])


def _copied(contraction: Contraction, split: _Split) -> Product:
    """Return the product whose operands are copied into order where they are not in it."""
    a, b = _factors(contraction, split)
    depth = tuple(axis for axis in a.used if axis in contraction.summed)
    of_a = () if split.shared == "a" else split.batch
    of_b = () if split.shared == "b" else split.batch
    operands = (
        _ordered(a, of_a, split.rows, depth, (False, True)),
        _ordered(b, of_b, split.columns, depth, (True, False)),
    )
    return _product(operands, split, depth)


def _ordered(
    factor: Factor,
    batch: tuple[int, ...],
    own: tuple[int, ...],
    depth: tuple[int, ...],
    transposed: tuple[bool, bool],
) -> Operand:
    """Return an operand, copied with the axes that are summed over last if it has to be."""
    last, first = transposed
    if tuple(factor.used) == (*batch, *own, *depth):
        return Operand(factor.source, last)
    if tuple(factor.used) == (*batch, *depth, *own):
        return Operand(factor.source, first)
    units = [place for place, axis in enumerate(factor.axes) if axis is None]
    order = [factor.axes.index(axis) for axis in (*batch, *own, *depth)]
    return Operand(factor.source, last, (*units, *order))


def _product(operands: tuple[Operand, Operand], split: _Split, depth: tuple[int, ...]) -> Product:
    return Product(*operands, split.batch, split.rows, split.columns, depth, split.shared)
