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
from autotune.kernels.gemm import gemm_prim_func, with_epilogue
from autotune.models import pipeline
from autotune.models.backend import Code, CudaBackend
from autotune.models.built_kernel import FROM_TEMPLATE


class SerialBackend(CudaBackend):
    """Schedules as for a GPU, and compiles for this CPU."""

    def compile(self, lowered: Any, kernels: Mapping[str, Any]) -> Code:
        functions = dict(lowered.functions_items())
        for variable, function in lowered.functions_items():
            name = variable.name_hint
            if name in kernels:
                functions[variable] = definition(function, kernels[name].workload)
            elif FROM_TEMPLATE in (function.attrs or {}):
                functions[variable] = copy(function)
            elif isinstance(function, tirx.PrimFunc):
                functions[variable] = serial(function)
        here = tvm.target.Target(tvm_target(detect_cpu(), 1))
        with here:
            passes = tvm.transform.Sequential(self.finishing_passes())
            module = passes(tvm.IRModule(functions, global_infos=lowered.global_infos))
            executable = tvm.compile(module, here, relax_pipeline=tvm.transform.Sequential([]))
        return Code(executable)


def definition(kernel: Any, workload: Any) -> Any:
    """A product as plain loops that takes what a kernel takes, and reads its copies of operands."""
    w, given = workload, {p.name: p for p in kernel.params}
    if not given.keys() & {"a_turned", "b_turned"}:
        plain = gemm_prim_func(w)
        names = [name for name, _, _ in w.inputs]
    else:
        assert w.batch == 1
        names = [f"{x}_turned" if f"{x}_turned" in given else x for x in ("a", "b")]
        operands = [_placeholder(given[name]) for name in names]
        a, b = (
            _along_k(x, extent, w.k, "turned" not in name and layout != by_k)
            for x, name, extent, layout, by_k in zip(
                operands, names, (w.m, w.n), w.layout, "nt", strict=True
            )
        )
        k = tvm.te.reduce_axis((0, w.k), "k")
        acc = w.acc_dtype
        product = tvm.te.compute(
            (w.m, w.n), lambda i, j: tvm.te.sum(a(i, k).astype(acc) * b(j, k).astype(acc), axis=k)
        )
        plain = with_epilogue(w, operands, product)
        names += [name for name, _, _ in w.inputs[2:]]
    own = dict(zip([*names, "c"], plain.params, strict=True))
    parameters = [own[p.name] if p.name in own else _buffer(p) for p in kernel.params]
    whole = tirx.PrimFunc(parameters, plain.body, plain.ret_type, plain.attrs)
    return whole.with_attr("global_symbol", kernel.attrs["global_symbol"])


def _along_k(x: Any, extent: int, k: int, across: bool) -> Any:
    """Return a function of a row of A, or a column of B, and of the place along k."""
    if len(x.shape) == 1:
        assert int(x.shape[0]) == extent * k, "lines of the copy are padded"
        return lambda i, j: x[i * k + j]
    return lambda i, j: x[j, i] if across else x[i, j]


def copy(function: Any) -> Any:
    """The copy of a matrix, transposed where the shapes say so, as plain loops."""
    source, target = (_buffer(p) for p in function.params)
    across = list(source.shape) != list(target.shape)
    read = _placeholder(function.params[0])
    moved = tvm.te.compute(target.shape, lambda i, k: read[k, i] if across else read[i, k])
    plain = tvm.te.create_prim_func([read, moved])
    return plain.with_attr("global_symbol", function.attrs["global_symbol"])


def _placeholder(parameter: Any) -> Any:
    return tvm.te.placeholder(parameter.ty.shape, parameter.ty.dtype, name=parameter.name)


def _buffer(parameter: Any) -> Any:
    return tirx.decl_buffer(parameter.ty.shape, parameter.ty.dtype, parameter.name)


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
