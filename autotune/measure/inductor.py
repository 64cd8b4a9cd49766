"""One product as PyTorch's compiler makes it with ``mode="max-autotune"``.

Where B stays the same, B and the bias are a layer's parameters, and parameters are frozen: the
compiler packs B once and chooses between MKL or oneDNN and a C++ kernel of its own, epilogue fused.
Else B is an argument, for which it calls a library on a CPU and fuses the epilogue behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.measure.libraries import activation_function


def inductor_call(workload: Any, tensors: list[Any]) -> Callable[[], Any]:
    """Return the compiled product of a workload, into a new tensor each call.

    The first call compiles, which takes a C++ compiler on a CPU, Triton on a GPU, and the better
    part of a minute. Call it while gradients are disabled: else nothing is frozen.

    Raises
    ------
    TypeError
        If PyTorch has no such product.
    """
    import torch

    native = {"tfloat32": "float32", "int8": "int32"}.get(workload.dtype, workload.dtype)
    if workload.dtype == "float8_e4m3fn" or workload.out_dtype != native:
        raise TypeError(f"PyTorch has no product of {workload.dtype} to {workload.out_dtype}")
    if workload.dtype == "int8" and workload.batch > 1:
        raise TypeError("PyTorch multiplies int8 matrices one by one only")
    torch.backends.cuda.matmul.allow_tf32 = workload.dtype == "tfloat32"
    torch._dynamo.reset()  # so that this process never meets its limit of recompilations
    a, *others = tensors
    constants = 1 + workload.has_bias if workload.prepacked else 0
    module = _product_module(workload, others[:constants])
    compiled = torch.compile(module, options=compiler_options(frozen=workload.prepacked))
    arguments = [a, *others[constants:]]
    return lambda: compiled(*arguments)


def compiler_options(frozen: bool) -> dict[str, Any]:
    """Return the options by which ``torch.compile`` tries all it can; ``frozen`` is of weights."""
    from torch import _inductor

    return {
        # With CUDA graphs, a GPU would copy the operands in each call.
        **_inductor.list_mode_options("max-autotune-no-cudagraphs"),
        "freezing": frozen,
        "compile_threads": 1,  # else compiling leaves a pool of processes behind
    }


def _product_module(workload: Any, constants: list[Any]) -> Any:
    """Return a module that takes A and what of B and the addends is not among its constants."""
    import torch

    activation = activation_function(workload.activation)
    multiply = torch._int_mm if workload.dtype == "int8" else torch.matmul

    class Product(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.constants = torch.nn.ParameterList(
                torch.nn.Parameter(x, requires_grad=False) for x in constants
            )

        def forward(self, a: Any, *others: Any) -> Any:
            b, *addends = list(self.constants) + list(others)
            if workload.layout[0] == "t":
                a = a.mT
            if workload.layout[1] == "t":
                b = b.mT
            c = multiply(a, b)
            if workload.scale != 1:
                c = c * workload.scale
            for addend in addends:
                c = c + addend
            return activation(c)

    return Product()
