"""From a model to a Relax module: PyTorch, exported PyTorch programs, and ONNX files."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError
from autotune.models.converters import converters
from autotune.models.decompositions import decompositions

_KNOWN = "a .pt2 file (torch.export.save), an .onnx file, or package.module:function"


class ImportFailed(AutotuneError):
    """The model cannot be brought in; the message says which operator or input is in the way."""


def load_model(name: str) -> Any:
    """Return the Relax module of a model that the command line names.

    Parameters
    ----------
    name
        A ``.pt2`` file, an ``.onnx`` file, or ``package.module:function``, where the function
        returns ``(module, example_inputs)`` or ``(module, example_inputs, dynamic_shapes)``.

    Raises
    ------
    ImportFailed
        If there is no such model, or it cannot be imported.
    """
    if name.endswith(".onnx"):
        return import_onnx(Path(name))
    if name.endswith(".pt2"):
        return import_program(_load_program(Path(name)))
    module, colon, function = name.partition(":")
    if not colon:
        raise ImportFailed(f"cannot tell what model {name!r} is; give {_KNOWN}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ImportFailed(f"cannot import {name}: {error}") from None
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise ImportFailed(f"{name} must return (module, example_inputs[, dynamic_shapes])")
    return import_torch(*made)


def import_torch(model: Any, example_inputs: Sequence[Any], dynamic_shapes: Any = None) -> Any:
    """Return the Relax module of a ``torch.nn.Module``, its weights bound as constants.

    Parameters
    ----------
    model
        In evaluation mode (``model.eval()``).
    example_inputs
        Positional inputs of the shapes and types to compile for.
    dynamic_shapes
        As for ``torch.export.export``.

    Raises
    ------
    ImportFailed
        If torch cannot export it, or TVM knows no such operator.
    """
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        return import_program(model)
    if model.training:
        raise ImportFailed("the model is in training mode; call model.eval() first")
    model, example_inputs = _on_cpu(model, example_inputs)
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, tuple(example_inputs), dynamic_shapes=dynamic_shapes
            )
    except Exception as error:  # torch.export raises many kinds
        raise ImportFailed(f"torch.export cannot capture this model: {_first_line(error)}") from (
            error
        )
    return import_program(program)


def _on_cpu(model: Any, inputs: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """Return a model and inputs in the CPU's memory, where weights become constants."""
    import torch

    if any(tensor.is_cuda for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model).cpu()
    return model, [x.cpu() if isinstance(x, torch.Tensor) else x for x in inputs]


def import_program(program: Any) -> Any:
    """Return the Relax module of an exported program; only unknown operators are decomposed.

    Raises
    ------
    ImportFailed
        If an operator is unknown even after its decomposition.
    """
    from tvm.relax.frontend.torch import from_exported_program

    program = _decompose_unknown(program)
    try:
        return from_exported_program(
            program,
            run_ep_decomposition=False,
            unwrap_unit_return_tuple=True,
            custom_convert_map=converters(),
        )
    except Exception as error:  # the importer asserts, and raises what TVM raises
        raise ImportFailed(f"TVM cannot import this model: {_first_line(error)}") from error


def _decompose_unknown(program: Any) -> Any:
    """Decompose the operators that have no converter, and no others.

    A decomposed linear layer is a view, a product and a view, and its activation can no longer be
    computed while the product is stored.
    """
    import torch

    known = _known_operators()
    for _ in range(3):
        unknown = {
            node.target
            for node in program.graph.nodes
            if node.op == "call_function"
            and isinstance(node.target, torch._ops.OpOverload)
            and node.target.__name__ not in known
        }
        table = {**torch.export.default_decompositions(), **decompositions()}
        decomposed = {target: table[target] for target in unknown if target in table}
        for target in unknown - set(table):
            if target._can_decompose():  # torch defines it by other operators
                decomposed[target] = target.decompose
        if not decomposed:
            break
        program = program.run_decompositions(decomposed)
    return program


def _known_operators() -> set[str]:
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    stock = {
        name for name in ExportedProgramImporter().create_convert_map() if isinstance(name, str)
    }
    return stock | set(converters())


def import_onnx(path: Path) -> Any:
    """Return the Relax module of an ONNX file.

    Raises
    ------
    ImportFailed
        If the file is missing or no ONNX model, if the package ``onnx`` is not installed, or TVM
        knows no such operator.
    """
    if not path.exists():
        raise ImportFailed(f"there is no file {path}")
    try:
        import onnx
    except ImportError:
        raise ImportFailed(
            "reading ONNX files needs the package onnx; pip install 'autotune-gemm[onnx]'"
        ) from None
    from tvm.relax.frontend.onnx import from_onnx

    try:
        model = onnx.load(str(path))
        return from_onnx(model, keep_params_in_input=False)
    except Exception as error:  # protobuf, onnx and TVM raise their own
        raise ImportFailed(f"cannot import {path}: {_first_line(error)}") from error


def _load_program(path: Path) -> Any:
    import torch

    if not path.exists():
        raise ImportFailed(f"there is no file {path}")
    try:
        return torch.export.load(path)
    except Exception as error:  # zip, pickle and torch raise their own
        raise ImportFailed(f"{path} is not an exported program: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
