"""Compiles and runs kernels in this process, on at most two threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotune.hw_profiles import HardwareProfile, detect_cpu, tvm_target
from autotune.kernels.base import Template
from autotune.kernels.compiling import compile_module
from autotune.kernels.verify import Problem, mismatch, numpy_dtype, poison
from autotune.search.space import Config
from autotune.workload import Gemm

#: (template, workload, config, problem) -> what is wrong with the kernel, or None.
Check = Callable[[Template, Gemm, Config, Problem], "str | None"]


@pytest.fixture(scope="session")
def host() -> HardwareProfile:
    return detect_cpu()


@pytest.fixture(scope="session")
def check_kernel(host: HardwareProfile) -> Check:
    import numpy as np
    import tvm

    # The thread pool reads this variable once, when the first kernel runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVM_NUM_THREADS", "2")
        tvm.get_global_func("runtime.config_threadpool")(1, 2)
    target = tvm.target.Target(tvm_target(host, 2))

    def check(template: Template, workload: Gemm, config: Config, problem: Problem) -> str | None:
        template.prepare(config)  # as a worker does: a process has to ask for the use of AMX
        kernel = compile_module(template.build(workload, config), target)
        output = np.empty(workload.c_shape, numpy_dtype(workload.out_dtype))
        poison(output)
        arguments: list[Any] = [tvm.runtime.tensor(x) for x in [*problem.inputs, output]]
        with_b = list(arguments)
        if workload.prepacked:
            shape = template.packed_shape(workload, config)
            host = np.empty(shape, numpy_dtype(workload.dtype))
            poison(host)
            packed = tvm.runtime.tensor(host)
            kernel["pack"](arguments[1], packed)
            arguments[1] = packed
        kernel["main"](*arguments)
        for before, after in zip(problem.inputs, with_b, strict=False):
            if not np.array_equal(before, after.numpy()):
                return "the kernel changed an input"
        return mismatch(workload, arguments[-1].numpy(), problem.reference)

    return check
