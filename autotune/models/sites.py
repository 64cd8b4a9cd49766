"""Find the products of a Relax function, with what can be computed while their results are stored.

A *site* is a matrix product and the chain of operations after it that a kernel can take over: a
scale factor, a bias per column, an activation, the sum with a residual. Sites are found on Relax
operators before they are lowered, where a transposed operand still is a ``permute_dims`` and a
bias still is a vector; the key of what was found is that of a :class:`~autotune.workload.Gemm`, so
that it does not matter how a model spelt its product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.errors import InvalidWorkload
from autotune.models.expressions import dtype_of, extents, is_constant, operator_name
from autotune.workload import DTYPES, EPILOGUES, Gemm

_ACTIVATIONS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
}
_FOLLOWING = {*_ACTIVATIONS, "relax.multiply", "relax.divide", "relax.add"}

#: Stands in a workload for a number of rows that is only known at run time.
ANY_ROWS = 128


@dataclass(frozen=True)
class Site:
    """One product of a function.

    Parameters
    ----------
    workload
        What is computed. Where the number of rows is only known at run time, ``m`` is
        :data:`ANY_ROWS`, and ``rows`` says what it is.
    a, b, bias, residual
        The operands as Relax expressions, in their stored layouts; leading axes of A and of the
        residual may still have to be flattened.
    result
        The variable that holds the result.
    absorbed
        Variables of the operations before the last that the kernel takes over.
    rows
        The symbolic number of rows, None where it is known.
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
    shorter: Site | None = None

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


@dataclass
class _Chain:
    """A product and what was found to follow it so far."""

    workload: Gemm
    last: Any
    absorbed: list[Any] = field(default_factory=list)
    bias: Any = None
    residual: Any = None

    def site(self, a: Any, b: Any, rows: Any, shorter: Site | None) -> Site:
        """Return the site that ends here."""
        absorbed = tuple(self.absorbed)
        return Site(
            self.workload, a, b, self.bias, self.residual, self.last, absorbed, rows, shorter
        )

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
    """

    def __init__(self, function: Any) -> None:
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
        found = [self._site(var, call) for var, call in self._products()]
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

    def _products(self) -> Iterator[tuple[Any, Any]]:
        for var in self._order:
            if operator_name(self._value[var]) == "relax.matmul":
                yield var, self._value[var]

    # -- the product -----------------------------------------------------------------------------

    def _site(self, var: Any, call: Any) -> Site | None:
        try:
            chain, a, b, rows = self._product(var, call)
        except (InvalidWorkload, _Unfit) as error:
            self.missed.append(Missed(var.name, str(error)))
            return None
        site = chain.site(a, b, rows, None)
        while self._extend(chain):
            self._claimed.add(chain.last)
            site = chain.site(a, b, rows, site)
        return site

    def _product(self, var: Any, call: Any) -> tuple[_Chain, Any, Any, Any]:
        a, a_transposed = self._operand(call.args[0])
        b, b_transposed = self._operand(call.args[1])
        if any(operand.ty.shape is None for operand in call.args):
            raise _Unfit("a product of a tensor whose shape is only known at run time")
        dtype, out_dtype = dtype_of(a), dtype_of(var)
        if dtype_of(b) != dtype or dtype not in DTYPES:
            raise _Unfit(f"a product of {dtype} and {dtype_of(b)}")
        a_shape, b_shape = extents(call.args[0]), extents(call.args[1])
        if len(a_shape) < 2 or len(b_shape) < 2:
            raise _Unfit("a product with a vector")
        *lead, m, k = a_shape
        *b_lead, depth, n = b_shape
        if not isinstance(depth, int) or depth != k:
            raise _Unfit(f"a product over {k} and {depth} elements")
        if all(extent == 1 for extent in b_lead):
            if len(a_shape) > 2 and a_transposed:  # its rows are not one matrix
                a, a_transposed = call.args[0], False
            m, batch = _product_of([*lead, m]), 1
        elif lead == b_lead:
            batch = _fixed("batch", _product_of(lead))
        else:
            raise _Unfit(f"a product of shapes {a_shape} and {b_shape}")
        rows = None if isinstance(m, int) else m
        if rows is not None and (batch > 1 or a_transposed):
            raise _Unfit("a batched or transposed product with a dynamic number of rows")
        workload = Gemm(
            ANY_ROWS if rows is not None else m,
            _fixed("n", n),
            _fixed("k", k),
            layout=("t" if a_transposed else "n") + ("t" if b_transposed else "n"),
            dtype=dtype,
            out_dtype=out_dtype,
            batch=batch,
        )
        return _Chain(workload, var), a, b, rows

    def _operand(self, expr: Any) -> tuple[Any, bool]:
        """Return the stored operand, and whether its last two axes are swapped."""
        from tvm import relax

        value = self._value.get(expr) if isinstance(expr, relax.Var) else None
        if value is not None and operator_name(value) == "relax.permute_dims":
            count = expr.ty.ndim
            axes = value.attrs.axes
            order = list(range(count))[::-1] if axes is None else [int(axis) for axis in axes]
            if order == [*range(count - 2), count - 1, count - 2]:
                return value.args[0], True
        return expr, False

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
        w, shape = chain.workload, extents(other)
        if shape and shape[-1] == w.n and all(extent == 1 for extent in shape[:-1]):
            workload = _with_epilogue(w, "bias")
            return workload is not None and chain.extend(result, workload, bias=other)
        if shape == extents(chain.last):
            workload = _with_epilogue(w, "residual")
            return workload is not None and chain.extend(result, workload, residual=other)
        return False


class _Unfit(Exception):
    """Says why a product is not a workload."""


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


def _product_of(extents: Sequence[Any]) -> Any:
    if all(isinstance(extent, int) for extent in extents):
        return math.prod(extents)
    result: Any = 1
    for extent in extents:
        result = result * extent
    return result


def _fixed(name: str, extent: Any) -> int:
    if not isinstance(extent, int):
        raise _Unfit(f"{name} is only known at run time")
    return extent


def _scalar(expr: Any) -> float | None:
    """Return the value of a constant with one element."""
    if not is_constant(expr):
        return None
    value = expr.value.numpy()
    return float(value.reshape(())) if value.size == 1 else None
