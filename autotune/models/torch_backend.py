"""``torch.compile(model, backend="autotune")``: TorchDynamo's graphs on tuned kernels.

Found by torch through the entry point group ``torch_dynamo_backends``. For inference only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.errors import AutotuneError

#: Operators of which Python has a form in place, called so with an i before it.
_OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
)
#: Options of ``torch.compile(..., options={...})``.
OPTIONS = ("log", "threads", "target")


def autotune_backend(
    graph: Any, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Compile one graph; returns a function of the graph's inputs.

    Weights become constants, packed once, and so do buffers, such as the statistics of a batch
    norm, which is then folded into the convolution before it. Each call checks that none was
    changed since, and compiles anew if one was; a buffer that was changed is an input from then on.

    Parameters
    ----------
    graph
        A ``torch.fx.GraphModule``.
    example_inputs
        Its inputs, weights included.
    options
        ``log``: path of a tuning log; ``threads`` and ``target``: as for :func:`autotune.compile`.

    Raises
    ------
    AutotuneError
        If gradients are wanted, an option is unknown, or an operator is not supported.
    """
    import torch

    options = dict(options or {})
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise AutotuneError(f"unknown option {unknown[0]!r}; choose of {', '.join(OPTIONS)}")
    wants = [x for x in example_inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    if torch.is_grad_enabled() and wants:
        raise AutotuneError(
            'backend="autotune" is for inference: call the model under torch.no_grad()'
        )
    if not all(isinstance(x, torch.Tensor) for x in example_inputs):
        warnings.warn(
            "a graph with dynamic shapes is run by torch itself; compile with dynamic=False",
            stacklevel=2,
        )
        return graph.forward  # type: ignore[no-any-return]
    return _Graph(graph, example_inputs, options)


class _Graph:
    """One compiled graph and the weights that are in it."""

    def __init__(self, graph: Any, inputs: Sequence[Any], options: Mapping[str, Any]) -> None:
        import torch

        self._graph, self._options = graph, options
        self._parameters = {i for i, x in enumerate(inputs) if isinstance(x, torch.nn.Parameter)}
        kept = not _changes_tensors(graph)
        self._fixed = [
            i for i, x in enumerate(inputs) if i in self._parameters or (kept and _is_buffer(x))
        ]
        self._compile(inputs)

    def __call__(self, *inputs: Any) -> Any:
        if any(
            inputs[i].data_ptr() != pointer or inputs[i]._version != version
            for i, (pointer, version) in zip(self._fixed, self._state, strict=True)
        ):
            self._fixed = [
                i
                for i, (pointer, version) in zip(self._fixed, self._state, strict=True)
                if i in self._parameters
                or (inputs[i].data_ptr(), inputs[i]._version) == (pointer, version)
            ]
            self._compile(inputs)
        result = self._model(*[inputs[i] for i in self._free])
        return result if isinstance(result, tuple) else (result,)

    def _compile(self, inputs: Sequence[Any]) -> None:
        import torch

        from autotune.models.model import compile_model

        self._free = [i for i in range(len(inputs)) if i not in set(self._fixed)]
        self._state = [(inputs[i].data_ptr(), inputs[i]._version) for i in self._fixed]
        # As long as they are kept, no other tensor can have their addresses.
        self._kept = [inputs[i].detach() for i in self._fixed]
        frozen = _frozen(self._graph, {i: inputs[i] for i in self._fixed}, len(inputs))
        free = [_real(inputs[i]) for i in self._free]
        with torch.no_grad():
            self._model = compile_model(frozen.eval(), free, **self._options)


def _is_buffer(tensor: Any) -> bool:
    """Whether TorchDynamo found a tensor in a module, rather than among the arguments."""
    return getattr(tensor, "_dynamo_static_input_type", None) is not None


def _changes_tensors(graph: Any) -> bool:
    """Whether a graph has operations in place, by which it may change buffers of its own."""
    names = [
        getattr(node.target, "__name__", str(node.target))
        for node in graph.graph.nodes
        if node.op in ("call_function", "call_method")
    ]
    return any(
        name == "setitem"
        or name.startswith(("i", "__i"))
        and name.strip("_")[1:] in _OPERATORS
        or (name.endswith("_") and not name.endswith("__"))
        for name in names
    )


def _real(tensor: Any) -> Any:
    """Return a tensor of the same shape and type that can be exported."""
    import torch

    return torch.empty_like(tensor, device="cpu").detach().contiguous().zero_()


def _frozen(graph: Any, weights: Mapping[int, Any], count: int) -> Any:
    """Return a module of a graph whose weights are parameters of its own again."""
    import torch

    class Frozen(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.graph_module = graph
            for i in weights:
                self.register_parameter(f"w{i}", torch.nn.Parameter(weights[i].detach(), False))

        def forward(self, *inputs: Any) -> Any:
            free = iter(inputs)
            arguments = [
                getattr(self, f"w{i}") if i in weights else next(free) for i in range(count)
            ]
            return self.graph_module(*arguments)

    return Frozen()
