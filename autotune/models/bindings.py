"""What a Relax function binds, and who uses it."""

from __future__ import annotations

from typing import Any


class Bindings:
    """The bindings of one function in A-normal form.

    Parameters
    ----------
    function
        A ``relax.Function``.

    Attributes
    ----------
    order
        All bound variables, first to last.
    value
        Variable -> the expression that it stands for.
    uses
        Variable -> the bound variables whose expressions read it, with repetitions.
    results
        Variables that are seen outside of their dataflow block.
    """

    def __init__(self, function: Any) -> None:
        from tvm import relax

        self.order: list[Any] = []
        self.value: dict[Any, Any] = {}
        self.uses: dict[Any, list[Any]] = {}
        self.results: set[Any] = set(_variables(function.body.body))
        for block in function.body.blocks:
            for binding in block.bindings:
                self.value[binding.var] = binding.value
                self.order.append(binding.var)
                for var in _variables(binding.value):
                    self.uses.setdefault(var, []).append(binding.var)
                if not isinstance(block, relax.DataflowBlock) or not isinstance(
                    binding.var, relax.DataflowVar
                ):
                    self.results.add(binding.var)

    def only_user(self, var: Any) -> Any:
        """Return the only variable whose expression reads this one, once; None if there is none."""
        users = self.uses.get(var, [])
        return users[0] if len(users) == 1 and var not in self.results else None


def _variables(expr: Any) -> list[Any]:
    """Return the variables that an expression reads, with repetitions."""
    from tvm import relax

    found: list[Any] = []
    relax.analysis.post_order_visit(
        expr, lambda node: found.append(node) if isinstance(node, relax.Var) else None
    )
    return found
