"""Runs what was scheduled for a GPU on the CPU, thread after thread.

A schedule keeps what a function computes, in whatever order its loops run: with every loop that is
bound to threads run serially, and every tile in plain memory, LLVM compiles it for the CPU. That
tests schedules, predicates and how a model was cut into functions; what TVM makes of threads
afterwards (barriers, shuffles) it does not. Products of templates, which have no such loops, are
computed by their definition; the emulator in tests/kernels/cuda runs their sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import tvm
import tvm_ffi
from tvm import tirx

from autotune.hw_profiles import detect_cpu, tvm_target
from autotune.kernels.gemm import gemm_prim_func
from autotune.models import pipeline
from autotune.models.backend import Code, CudaBackend


class SerialBackend(CudaBackend):
    """Schedules as for a GPU, and compiles for this CPU."""

    def compile(self, lowered: Any, kernels: Mapping[str, Any]) -> Code:
        functions = dict(lowered.functions_items())
        for variable, function in lowered.functions_items():
            name = variable.name_hint
            if name in kernels:
                functions[variable] = definition(name, kernels[name].workload)
            elif isinstance(function, tirx.PrimFunc):
                functions[variable] = serial(function)
        here = tvm.target.Target(tvm_target(detect_cpu(), 1))
        with here:
            passes = tvm.transform.Sequential(self.finishing_passes())
            module = passes(tvm.IRModule(functions, global_infos=lowered.global_infos))
            executable = tvm.compile(module, here, relax_pipeline=tvm.transform.Sequential([]))
        return Code(executable)


def definition(name: str, workload: Any) -> Any:
    """A product as plain loops."""
    return gemm_prim_func(workload).with_attr("global_symbol", name)


def serial(function: Any) -> Any:
    """A function with its bound loops as loops, and all its buffers in the same kind of memory."""
    plain: dict[Any, Any] = {}

    def loop(node: Any) -> Any:
        kind = tirx.ForKind.SERIAL
        if node.kind == tirx.ForKind.THREAD_BINDING:
            return tirx.For(node.loop_var, node.min, node.extent, kind, node.body)
        return node

    def variable(node: Any) -> Any:
        if not isinstance(node.ty, tirx.BufferType) or node.scope() in ("", "global"):
            return node
        if node not in plain:
            plain[node] = tirx.decl_buffer(node.shape, node.dtype, node.name)
        return plain[node]

    body = tvm_ffi.structural_map(function.body, [(tirx.For, loop), (tirx.Var, variable)])
    return function.with_body(body)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have models for a GPU compiled for the CPU, with the GPU's schedules."""
    monkeypatch.setattr(pipeline, "backend_for", SerialBackend)
