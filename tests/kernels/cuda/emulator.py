"""Runs a CUDA kernel's source on the CPU: numerics, tails and barriers without a GPU.

The source that would go to nvcc is compiled by the host's C++ compiler against stand-ins for CUDA's
headers, and inline PTX (mma.sync, ldmatrix, cp.async) is replaced by what the PTX manual says that
it does. The threads of a block are fibers that take turns. Running them forward, backward and
shuffled shows a missing barrier as another result; asynchronous copies are made as late as their
wait allows, or at once; arrays end at pages that cannot be touched, so that a load beyond them is a
crash; the output is poisoned.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from autotune.kernels.cuda.source import KernelSource
from autotune.kernels.verify import Problem, mismatch, numpy_dtype
from autotune.workload import Gemm

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")
ORDERS = (0, 1, 2)


def build(source: KernelSource, folder: Path) -> Path:
    """Compile a kernel for the CPU.

    Only the kernel itself is taken: what TVM puts before it (headers, wrappers of one instruction
    each) is what the emulator provides.
    """
    assert source.grid[1:] == source.block[1:] == (1, 1)
    assert COMPILER is not None
    kernel = source.text[source.text.rindex('extern "C" __global__') :]
    parameters = kernel.split(f"{source.name}(", 1)[1].split(")", 1)[0].split(",")
    arguments = [
        f"reinterpret_cast<{p.rsplit('*', 1)[0].strip()}*>(a[{i}])"
        for i, p in enumerate(parameters)
    ]
    code = folder / "kernel.cpp"
    lines = [
        f"#define GRID_X {source.grid[0]}u",
        f"#define BLOCK_X {source.block[0]}u",
        '#include "emulated_cuda.h"',
        kernel,
        f"#define LAUNCH(a) {source.name}({', '.join(arguments)})",
        '#include "emulator_main.h"',
    ]
    code.write_text("\n".join([*lines, ""]), "utf-8")
    program = folder / "kernel"
    done = subprocess.run(
        [COMPILER, "-std=c++17", "-O1", "-w", "-fno-strict-aliasing", f"-I{HERE / 'include'}",
         "-o", str(program), str(code)],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def run(program: Path, workload: Gemm, inputs: list[Any], order: int) -> Any:
    """Run it on inputs of the workload; returns C."""
    names = []
    for i, array in enumerate(inputs):
        path = program.with_name(f"in{i}")
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        names.append(str(path))
    out = program.with_name("out")
    dtype = numpy_dtype(workload.out_dtype)
    size = workload.m * workload.n * dtype.itemsize
    done = subprocess.run(
        [str(program), str(order), str(out), str(size), *names], capture_output=True, text=True
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return np.frombuffer(out.read_bytes(), dtype).reshape(workload.m, workload.n)


def check(
    source: KernelSource, workload: Gemm, problem: Problem, folder: Path, orders: Any = ORDERS
) -> str | None:
    """Return what is wrong with a kernel, or None."""
    program = build(source, folder)
    for order in orders:
        output = run(program, workload, problem.inputs, order)
        wrong = mismatch(workload, output, problem.reference)
        if wrong:
            return f"order {order}: {wrong}"
    return None
