"""One product on the libraries that torch reaches, as a call without arguments.

``torch`` is what a user of torch gets: ``torch.matmul``, which on x86 is MKL for float32.
``onednn`` is oneDNN's product, which torch offers through its linear layer; on a Zen 5 it
is more than twice as fast as MKL, so that no claim should rest on a comparison with MKL alone.
``inductor`` is torch's compiler (:mod:`autotune.measure.inductor`), for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

#: Names of the libraries, the usual one first.
LIBRARIES = ("torch", "onednn")
#: Compiles for the better part of a minute before it can be compared with.
INDUCTOR = "inductor"
#: oneDNN's names of our activations, and of the ways to compute them.
_ONEDNN_ACTIVATIONS = {
    "": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}


def onednn_call(workload: Any, tensors: list[Any]) -> Callable[[], Any]:
    """Return oneDNN's product of the workload, epilogue included, into a new tensor each call.

    Raises
    ------
    RuntimeError
        If this torch has no oneDNN, or oneDNN cannot compute the workload.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this torch was built without oneDNN")
    if workload.out_dtype != workload.dtype:
        # For int8 it would return saturated int8 rather than the sums.
        raise RuntimeError(f"its product of {workload.dtype} is not {workload.out_dtype}")
    if workload.batch > 1 or workload.scale != 1:
        raise RuntimeError("torch reaches its linear layer only, one product without a factor")
    if workload.has_row_bias or (workload.has_residual and workload.activation):
        raise RuntimeError(f"torch reaches its linear layer only, which has no {workload.epilogue}")
    linear = torch.ops.mkldnn._linear_pointwise
    a, weight, bias = _linear_operands(workload, tensors)
    if workload.prepacked:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), workload.m)
    if workload.has_residual:
        residual = tensors[-1]
        return lambda: linear.binary(a, residual, weight, bias, "add")
    activation, algorithm = _ONEDNN_ACTIVATIONS[workload.activation]
    return lambda: linear(a, weight, bias, activation, [], algorithm)


def prepacked_call(workload: Any, tensors: list[Any]) -> Callable[[], Any]:
    """Return MKL's product with a packed weight, or where there is no MKL the plain linear layer.

    Raises
    ------
    RuntimeError
        If the workload has an epilogue that torch would compute in a second pass.
    """
    import torch

    if workload.epilogue not in ("none", "bias") or workload.scale != 1:
        raise RuntimeError("torch has no packed product with this epilogue or a factor")
    if workload.batch > 1:
        raise RuntimeError("torch packs one matrix, not a batch of them")
    a, weight, bias = _linear_operands(workload, tensors)
    weight = weight.contiguous()
    if workload.dtype != "float32" or not torch.backends.mkl.is_available():
        return lambda: torch.nn.functional.linear(a, weight, bias)
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, workload.m)
    return lambda: torch.ops.mkl._mkl_linear(a, packed, weight, bias, workload.m)


def _linear_operands(workload: Any, tensors: list[Any]) -> tuple[Any, Any, Any]:
    """Return A of shape (m, k), B of shape (n, k) as views, and the bias or None."""
    a, b = tensors[:2]
    if workload.layout[0] == "t":
        a = a.T
    if workload.layout[1] == "n":
        b = b.T
    return a, b, tensors[2] if workload.has_bias else None


def activation_function(name: str) -> Callable[[Any], Any]:
    """Return torch's function for an activation, in place where it can."""
    import torch
    from torch.nn import functional

    functions: dict[str, Callable[[Any], Any]] = {
        "": lambda x: x,
        "relu": torch.relu_,
        "gelu": functional.gelu,
        "gelu_tanh": partial(functional.gelu, approximate="tanh"),
        "silu": partial(functional.silu, inplace=True),
    }
    return functions[name]
