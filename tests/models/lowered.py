"""Relax modules as the default schedules get them, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic.pipeline import dataflow_lower_passes, finalize_passes

from autotune.hw_profiles.detect import detect_cpu
from autotune.hw_profiles.target import tvm_target
from autotune.models.defaults import DefaultSchedules, is_scheduled

PROFILE = detect_cpu()


def target(threads: int = 1) -> Any:
    return tvm.target.Target(tvm_target(PROFILE, threads))


def module_of(build: Callable[..., Any], *inputs: tuple[Sequence[Any], str]) -> Any:
    """Return ``main(inputs) = build(inputs)``, legalised and fused; inputs are (shape, dtype)."""
    builder = relax.BlockBuilder()
    variables = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*variables)))
        builder.emit_func_output(result)
    with target():
        passes = [
            relax.backend.DispatchSortScan(),
            relax.transform.CanonicalizeBindings(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
        return tvm.transform.Sequential(passes)(builder.get())


def prim_funcs(module: Any) -> dict[str, Any]:
    return {
        name.name_hint: func
        for name, func in module.functions_items()
        if isinstance(func, tvm.tirx.PrimFunc)
    }


def scheduled(module: Any, threads: int = 1, profile: Any = PROFILE) -> tuple[Any, dict[str, str]]:
    """Return the module with default schedules, and the rules used; nothing is left unscheduled."""
    schedules = DefaultSchedules(profile, threads)
    done = schedules(module)
    assert all(is_scheduled(func) for func in prim_funcs(done).values())
    assert set(schedules.rules) == set(prim_funcs(module))
    return done, schedules.rules


def run(module: Any, arrays: Sequence[Any], threads: int = 1) -> Any:
    """Return what a scheduled module's ``main`` computes from arrays or TVM tensors."""
    where = target(threads)
    with where:
        passes = dataflow_lower_passes(where) + finalize_passes(where)
        module = tvm.transform.Sequential(passes)(module)
    executable = tvm.compile(module, target=where, relax_pipeline=tvm.transform.Sequential([]))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    inputs = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
    result = machine["main"](*inputs)
    return [item.numpy() for item in result] if not hasattr(result, "numpy") else result.numpy()


def random(shape: Sequence[int], seed: int = 0, scale: float = 1.0) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("float32")
