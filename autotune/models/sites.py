"""Find the products of a Relax function, with what can be computed while their results are stored.

A *site* is a matrix product and the chain of operations after it that a kernel can take over: a
scale factor, a bias per column, an activation, the sum with a residual. Sites are found on Relax
operators before they are lowered, where a transposed operand still is a ``permute_dims`` and a
bias still is a vector; the key of what was found is that of a :class:`~autotune.workload.Gemm`, so
that it does not matter how a model spelt its product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.errors import InvalidWorkload
from autotune.models.bindings import Bindings
from autotune.models.chains import Chain
from autotune.models.contractions import Contraction, Factor, NotAContraction
from autotune.models.expressions import dtype_of, extents, is_constant
from autotune.models.operators import OperatorReader
from autotune.models.products import Operand, Product, Unfit, is_matrix_product, product_of
from autotune.workload import DTYPES, Gemm

#: Stand in a workload for a number of rows, or of products, that is only known at run time.
ANY_ROWS, ANY_BATCH = 128, 16


#: What a product gets that no template takes because its extents are symbolic.
_INSTEAD = "; it gets the default schedule of products"


@dataclass(frozen=True)
class Site:
    """One product of a function.

    Parameters
    ----------
    workload
        What is computed. Where the number of rows is only known at run time, ``m`` is
        :data:`ANY_ROWS`, and ``rows`` says what it is; likewise ``batch`` and :data:`ANY_BATCH`.
    a, b, bias, residual
        The operands as Relax expressions, in their stored layouts; leading axes of A and of the
        residual may still have to be flattened.
    result
        The variable that holds the result.
    absorbed
        Variables of the operations before the last that the kernel takes over.
    rows, batch
        The symbolic number of rows, or of products, None where it is known; never both.
    shorter
        The same product without the last of these operations, for templates that lack it; None
        where there is nothing to leave out.
    """

    workload: Gemm
    a: Any
    b: Any
    bias: Any
    residual: Any
    result: Any
    absorbed: tuple[Any, ...]
    rows: Any = None
    batch: Any = None
    shorter: Site | None = None

    @property
    def shapes(self) -> list[tuple[Any, ...]]:
        """The shapes that a kernel takes and returns, with what is symbolic: inputs, then C."""
        w = self.workload
        if self.rows is not None:
            c, a = (self.rows, w.n), (self.rows, w.k)
            shapes = [a, w.b_shape, *[w.bias_shape] * w.has_bias, *[c] * w.has_residual, c]
            return list(shapes)
        shapes = [*(shape for _, shape, _ in w.inputs), w.c_shape]
        if self.batch is None:
            return shapes
        return [(self.batch, *shape[1:]) if len(shape) == 3 else shape for shape in shapes]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The operands in the kernel's order."""
        return tuple(x for x in (self.a, self.b, self.bias, self.residual) if x is not None)

    def lengths(self) -> Iterator[Site]:
        """Yield the site itself, and then what is left of it with one operation less each time."""
        site: Site | None = self
        while site is not None:
            yield site
            site = site.shorter


@dataclass(frozen=True)
class Missed:
    """A product that no workload describes.

    Parameters
    ----------
    name
        Name of its variable.
    reason
        One line.
    """

    name: str
    reason: str


class Finder:
    """Finds the sites of one Relax function.

    Parameters
    ----------
    function
        A ``relax.Function`` in A-normal form.
    module
        Where the functions are that it calls by ``call_tir``; None if it calls none.
    """

    def __init__(self, function: Any, module: Any = None) -> None:
        self._reader = OperatorReader(module)
        self.missed: list[Missed] = []
        self._bindings = Bindings(function)
        #: Operations that a product has taken over: the sum of two products belongs to one of them.
        self._claimed: set[Any] = set()

    def sites(self) -> list[Site]:
        """Return all sites, in the order of their products."""
        found = [self._site(var) for var in self._bindings.order]
        return [site for site in found if site is not None]

    def _site(self, var: Any) -> Site | None:
        try:
            contraction = self._contraction(var)
            if contraction is None:
                return None
            product = product_of(self._variants(contraction))
            workload, rows, batch = _workload(product, contraction, var)
        except (InvalidWorkload, NotAContraction, Unfit) as error:
            self.missed.append(Missed(var.name, str(error)))
            return None
        a, b = _in_order(product.a), _in_order(product.b)
        chain: Chain | None = Chain(workload, var)
        site = None
        while chain is not None:
            site = Site(
                chain.workload,
                a,
                b,
                chain.bias,
                chain.residual,
                chain.last,
                chain.absorbed,
                rows,
                batch,
                site,
            )
            chain = chain.extended(self._bindings, self._claimed)
            if chain is not None:
                self._claimed.add(chain.last)
        return site

    def _contraction(self, var: Any) -> Contraction | None:
        """Return the product that a variable holds, None for anything else."""
        found = self._reader.contraction(self._bindings.value[var])
        if found is None or not found.summed:
            return None
        while len(found.factors) == 1:  # a sum: of products?
            inner = self._computed(found.factors[0])
            merged = None if inner is None else found.with_operand(0, inner)
            if merged is None:
                return None
            found = merged
        if not is_matrix_product(found):
            return None
        if len(found.factors) != 2:
            raise Unfit(f"a product of {len(found.factors)} operands at once")
        return found

    def _variants(self, contraction: Contraction) -> list[Contraction]:
        """Return the contraction on operands as they were before they were moved, and as they are.

        Those that go back furthest come first.
        """
        choices = [self._sources(contraction.factors[place]) for place in range(2)]
        found = []
        for back in itertools.product(*(range(len(options)) for options in choices)):
            factors = tuple(options[i] for options, i in zip(choices, back, strict=True))
            found.append((sum(back), replace(contraction, factors=factors)))
        found.sort(key=lambda item: -item[0])
        return [variant for _, variant in found]

    def _sources(self, factor: Factor) -> list[Factor]:
        """Return an operand, and what it is a transposed or broadcast form of."""
        found = [factor]
        while (inner := self._computed(found[-1])) is not None and len(inner.factors) == 1:
            names = dict(zip(inner.out, found[-1].axes, strict=True))
            (moved,) = inner.factors
            if inner.summed or dtype_of(moved.source) != dtype_of(factor.source):
                break
            axes = tuple(None if axis is None else names[axis] for axis in moved.axes)
            found.append(Factor(moved.source, axes))
        return found

    def _computed(self, factor: Factor) -> Contraction | None:
        value = self._bindings.value.get(factor.source) if _is_variable(factor.source) else None
        try:
            return None if value is None else self._reader.contraction(value)
        except NotAContraction:
            return None


def _is_variable(expr: Any) -> bool:
    from tvm import relax

    return isinstance(expr, relax.Var)


def _workload(product: Product, contraction: Contraction, result: Any) -> tuple[Gemm, Any, Any]:
    """Return the workload of a product, and its number of rows and its batch if symbolic."""
    a, b = product.a.source, product.b.source
    dtype = dtype_of(a)
    if dtype_of(b) != dtype or dtype not in DTYPES:
        raise Unfit(f"a product of {dtype} and {dtype_of(b)}")
    sizes = _sizes(contraction)
    batch, m, n, k = (
        _times(sizes[axis] for axis in axes)
        for axes in (product.batch, product.rows, product.columns, product.depth)
    )
    rows, products = (None if isinstance(extent, int) else extent for extent in (m, batch))
    if rows is not None and (product.batch or product.a.transposed):
        raise Unfit(f"a batched or transposed product with a dynamic number of rows{_INSTEAD}")
    workload = Gemm(
        ANY_ROWS if rows is not None else m,
        _fixed("n", n),
        _fixed("k", k),
        layout=product.layout,
        dtype=dtype,
        out_dtype=dtype_of(result),
        batch=ANY_BATCH if products is not None else batch,
        shared=product.shared,
    )
    return workload, rows, products


def _sizes(contraction: Contraction) -> dict[int, Any]:
    """Return the extent of every axis."""
    return {
        axis: extent
        for factor in contraction.factors
        for axis, extent in zip(factor.axes, extents(factor.source), strict=True)
        if axis is not None
    }


def _in_order(operand: Operand) -> Any:
    """Return an operand in the order in which a kernel reads it; the copy is not yet emitted."""
    from tvm import relax

    if not operand.order:
        return operand.source
    if is_constant(operand.source):
        values = operand.source.value.numpy().transpose(operand.order)
        return relax.const(np.ascontiguousarray(values), dtype_of(operand.source))
    return relax.op.permute_dims(operand.source, list(operand.order))


def _times(extents: Iterable[Any]) -> Any:
    result: Any = 1
    for extent in extents:
        result = result * extent
    return result


def _fixed(name: str, extent: Any) -> int:
    if not isinstance(extent, int):
        raise Unfit(f"{name} is only known at run time{_INSTEAD}")
    return extent
