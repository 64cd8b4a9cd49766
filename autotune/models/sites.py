"""Find the products of a Relax function, with what can be computed while their results are stored.

A *site* is a matrix product and the chain of operations after it that a kernel can take over: a
scale factor, a bias per column, an activation, the sum with a residual. Sites are found on Relax
operators before they are lowered, where a transposed operand still is a ``permute_dims`` and a
bias still is a vector; the key of what was found is that of a :class:`~autotune.workload.Gemm`, so
that it does not matter how a model spelt its product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autotune.errors import InvalidWorkload
from autotune.models.contractions import Contraction, Factor, NotAContraction
from autotune.models.expressions import dtype_of, extents, is_constant, operator_name
from autotune.models.operators import OperatorReader
from autotune.models.products import Operand, Product, Unfit, is_matrix_product, product_of
from autotune.workload import DTYPES, EPILOGUES, Gemm

_ACTIVATIONS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
}
_FOLLOWING = {*_ACTIVATIONS, "relax.multiply", "relax.divide", "relax.add"}

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

    @property
    def shapes(self) -> list[tuple[Any, ...]]:
        """The shapes that a kernel takes and returns, with what is symbolic: inputs, then C."""
        w = self.workload
        if self.rows is not None:
            c, a = (self.rows, w.n), (self.rows, w.k)
            shapes = [a, w.b_shape, *[(w.n,)] * w.has_bias, *[c] * w.has_residual, c]
            return list(shapes)
        shapes = [*(shape for _, shape, _ in w.inputs), w.c_shape]
        if self.batch is None:
            return shapes
        return [(self.batch, *shape[1:]) if len(shape) == 3 else shape for shape in shapes]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The operands in the kernel's order."""
        return tuple(x for x in (self.a, self.b, self.bias, self.residual) if x is not None)


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


@dataclass
class _Chain:
    """A product and what was found to follow it so far."""

    workload: Gemm
    last: Any
    absorbed: list[Any] = field(default_factory=list)
    bias: Any = None
    residual: Any = None

    def extend(self, result: Any, workload: Gemm, **operands: Any) -> bool:
        self.absorbed.append(self.last)
        self.last, self.workload = result, workload
        for name, value in operands.items():
            setattr(self, name, value)
        return True


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
        self._value: dict[Any, Any] = {}
        self._uses: dict[Any, list[Any]] = {}
        self._order: list[Any] = []
        self._results: set[Any] = set()
        #: Operations that a product has taken over: the sum of two products belongs to one of them.
        self._claimed: set[Any] = set()
        self._read(function)

    def sites(self) -> list[Site]:
        """Return all sites, in the order of their products."""
        found = [self._site(var) for var in self._order]
        return [site for site in found if site is not None]

    # -- reading the function --------------------------------------------------------------------

    def _read(self, function: Any) -> None:
        from tvm import relax

        body = function.body
        self._results.update(_variables(body.body))
        for block in body.blocks:
            for binding in block.bindings:
                value = binding.value
                self._value[binding.var] = value
                self._order.append(binding.var)
                for var in _variables(value):
                    self._uses.setdefault(var, []).append(binding.var)
                if not isinstance(block, relax.DataflowBlock) or not isinstance(
                    binding.var, relax.DataflowVar
                ):
                    self._results.add(binding.var)

    # -- the product -----------------------------------------------------------------------------

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
        chain = _Chain(workload, var)
        while self._extend(chain):
            self._claimed.add(chain.last)
        return Site(
            chain.workload,
            _in_order(product.a),
            _in_order(product.b),
            chain.bias,
            chain.residual,
            chain.last,
            tuple(chain.absorbed),
            rows,
            batch,
        )

    def _contraction(self, var: Any) -> Contraction | None:
        """Return the product that a variable holds, None for anything else."""
        found = self._reader.contraction(self._value[var])
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
        from tvm import relax

        value = self._value.get(factor.source) if isinstance(factor.source, relax.Var) else None
        try:
            return None if value is None else self._reader.contraction(value)
        except NotAContraction:
            return None

    # -- what follows it -------------------------------------------------------------------------

    def _extend(self, chain: _Chain) -> bool:
        """Take the only operation that uses the result so far into the chain, if a kernel can."""
        users = self._uses.get(chain.last, [])
        if len(users) != 1 or chain.last in self._results:
            return False
        result = users[0]
        value = self._value[result]
        name = operator_name(value)
        if name not in _FOLLOWING or result in self._claimed:
            return False
        if _shape_and_type(result) != _shape_and_type(chain.last):
            return False
        if name in _ACTIVATIONS:
            return self._activate(chain, result, _ACTIVATIONS[name])
        if name in ("relax.multiply", "relax.divide"):
            return self._scale(chain, result, value, name == "relax.divide")
        return self._add(chain, result, value)

    def _activate(self, chain: _Chain, result: Any, activation: str) -> bool:
        workload = _with_epilogue(chain.workload, activation)
        return workload is not None and chain.extend(result, workload)

    def _scale(self, chain: _Chain, result: Any, value: Any, divided: bool) -> bool:
        left, right = value.args
        other = right if left is chain.last or left.same_as(chain.last) else left
        factor = _scalar(other)
        w = chain.workload
        if factor is None or w.epilogue != "none" or not w.dtype.startswith(("float", "bfloat")):
            return False
        if divided and (factor == 0 or other is not right):
            return False
        try:
            scaled = replace(w, scale=w.scale / factor if divided else w.scale * factor)
        except (InvalidWorkload, TypeError):
            return False
        return chain.extend(result, scaled)

    def _add(self, chain: _Chain, result: Any, value: Any) -> bool:
        left, right = value.args
        other = right if left.same_as(chain.last) else left
        if other.same_as(chain.last) or dtype_of(other) != chain.workload.out_dtype:
            return False
        w, shape, whole = chain.workload, extents(other), extents(chain.last)
        columns = list(itertools.dropwhile(lambda extent: extent == 1, shape))
        of_columns = columns == whole[len(whole) - len(columns) :]
        if (
            shape
            and of_columns
            and all(isinstance(extent, int) for extent in columns)
            and math.prod(columns) == w.n
        ):
            workload = _with_epilogue(w, "bias")
            return workload is not None and chain.extend(result, workload, bias=other)
        if shape == whole:
            workload = _with_epilogue(w, "residual")
            return workload is not None and chain.extend(result, workload, residual=other)
        return False


def _with_epilogue(workload: Gemm, step: str) -> Gemm | None:
    """Return the workload with one more step after it, None if no kernel has that."""
    before = "" if workload.epilogue == "none" else workload.epilogue + "_"
    if before + step not in EPILOGUES:
        return None
    return replace(workload, epilogue=before + step)


def _variables(expr: Any) -> list[Any]:
    """Return the variables that an expression reads, with repetitions."""
    from tvm import relax

    found: list[Any] = []
    relax.analysis.post_order_visit(
        expr, lambda node: found.append(node) if isinstance(node, relax.Var) else None
    )
    return found


def _shape_and_type(expr: Any) -> tuple[str, str]:
    return str(expr.ty.shape), dtype_of(expr)


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


def _scalar(expr: Any) -> float | None:
    """Return the value of a constant with one element."""
    if not is_constant(expr):
        return None
    value = expr.value.numpy()
    return float(value.reshape(())) if value.size == 1 else None
