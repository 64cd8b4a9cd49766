"""Runs a CUDA kernel's source on the CPU: numerics, tails and barriers without a GPU.

The source that would go to nvcc is compiled by the host's C++ compiler against stand-ins for CUDA's
headers, and inline PTX (mma.sync, ldmatrix, cp.async) is replaced by what the PTX manual says that
it does. The threads of a block are fibers that take turns. Running them forward, backward and
shuffled shows a missing barrier as another result; blocks run one after the other, forward or
backward; asynchronous copies are made as late as their wait allows, or at once; arrays end at pages
that cannot be touched, so that a load beyond them is a crash; the output is poisoned. What Hopper
adds (TMA, mbarriers, wgmma, clusters) is in emulated_hopper.h.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from autotune.kernels.cuda.source import KernelSource, Launch
from autotune.kernels.cuda.tensor_map import TensorMap
from autotune.kernels.verify import Problem, mismatch, numpy_dtype
from autotune.workload import Gemm

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")
ORDERS = (0, 1, 2)


def build(text: str, launch: Launch, folder: Path) -> Path:
    """Compile one of a text's kernels for the CPU.

    Only the kernel itself is taken: what TVM puts before it (headers, wrappers of one instruction
    each) is what the emulator provides.
    """
    assert launch.grid[1:] == launch.block[1:] == (1, 1)
    assert COMPILER is not None
    (kernel,) = (
        'extern "C" __global__' + part
        for part in text.split('extern "C" __global__')[1:]
        if re.search(rf"\b{launch.name}\([^)]*\) {{", part)
    )
    # The emulator has a pool for each block of a cluster.
    kernel = re.sub(r"extern __shared__ [^;]*pool_buf_ptr\[\];", "", kernel)
    code = folder / f"{launch.name}.cpp"
    lines = [
        f"#define GRID_X {launch.grid[0]}u",
        f"#define BLOCK_X {launch.block[0]}",
        f"#define CLUSTER {launch.cluster}",
        f"#define SHARED_BYTES {launch.shared_bytes}",
        '#include "emulated_cuda.h"',
        *_hopper(launch, kernel),
        kernel,
        f"#define LAUNCH(a) {launch.name}({', '.join(_arguments(launch, kernel))})",
        '#include "emulator_main.h"',
    ]
    code.write_text("\n".join([*lines, ""]), "utf-8")
    program = folder / launch.name
    done = subprocess.run(
        [COMPILER, "-std=c++17", "-O1", "-w", "-fno-strict-aliasing", f"-I{HERE / 'include'}",
         "-o", str(program), str(code)],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def _arguments(launch: Launch, kernel: str) -> list[str]:
    """Return what the kernel is called with, out of the arguments ``a`` of ``main``."""
    types = kernel.split(f"{launch.name}(", 1)[1].split(")", 1)[0].split(",")
    called = []
    for kind, parameter in zip(types, launch.parameters, strict=True):
        if isinstance(parameter, TensorMap):
            p = parameter
            lists = ", ".join(
                f"{{{', '.join(map(str, x))}}}" for x in (p.extents, p.strides, p.box)
            )
            called.append(f"tensor_map(a[{p.argument}], {p.data_type}, {lists}, {p.swizzle})")
        else:
            called.append(f"reinterpret_cast<{kind.rsplit('*', 1)[0].strip()}*>(a[{parameter}])")
    return called


_WGMMA = re.compile(
    r"tvm_builtin_ptx_wgmma_\w+?_ss_mma_async_sync_aligned_m64n(\d+)k(\d+)_(f32|s32)_(\w+?)_\w+?"
    r"((?:_\d)*)\("
)
_SETMAXNREG = re.compile(r"tvm_builtin_ptx_setmaxnreg_(inc|dec)_sync_aligned_u32_(\d+)\(")
_TYPES = {
    "f16": "half",
    "bf16": "nv_bfloat16",
    "s8": "signed char",
    "e4m3": "__nv_fp8_e4m3",
    "tf32": "tf32",
}


def _hopper(launch: Launch, kernel: str) -> list[str]:
    """Return the stand-ins for Hopper's instructions whose names hold numbers."""
    if not any(isinstance(p, TensorMap) for p in launch.parameters):
        return []
    lines = ["#define HOPPER", '#include "emulated_hopper.h"']
    for found in {m[0]: m for m in _SETMAXNREG.finditer(kernel)}.values():
        up = "true" if found[1] == "inc" else "false"
        lines.append(f"static void {found[0]}) {{ set_registers({up}, {found[2]}); }}")
    for found in {m[0]: m for m in _WGMMA.finditer(kernel)}.values():
        columns, depth, sums, kind, flags = found.groups()
        scales = flags.strip("_").split("_") if flags else []
        assert scales[:2] in ([], ["1", "1"]), "neither operand is negated"
        across = [*scales[2:], "0", "0"][:2]
        register, value = ("float", "float") if sums == "f32" else ("uint32_t", "int")
        names = [f"d{i}" for i in range(int(columns) // 2)]
        lines.append(
            f"static void {found[0]}{', '.join(f'{register}& {d}' for d in names)},"
            f" uint64_t a, uint64_t b, uint32_t scale) {{ {register}* d[] = {{"
            f"{', '.join(f'&{d}' for d in names)}}}; wgmma<{_TYPES[kind]}, {register}, {value},"
            f" {columns}, {depth}, {across[0]}, {across[1]}>(d, a, b, scale); }}"
        )
    return lines


def broken(source: KernelSource, wanted: str, instead: str) -> KernelSource:
    """Return a source whose last kernel has something else in the place of a pattern."""
    head, kernel = source.text.rsplit('extern "C"', 1)
    changed, count = re.subn(wanted, instead, kernel)
    assert count >= 1, f"no {wanted} in the kernel"
    return dataclasses.replace(source, text=f'{head}extern "C"{changed}')


def run(program: Path, order: int, files: list[Path]) -> None:
    """Run a kernel on its arguments, which are files that it may change."""
    done = subprocess.run([program, str(order), *files], capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"


class Memory:
    """The arguments of ``main`` as files: inputs, output, scratch memory that starts as zeros."""

    def __init__(
        self, workload: Gemm, inputs: list[Any], scratch: tuple[int, ...], folder: Path
    ) -> None:
        self.dtype, self.shape = numpy_dtype(workload.out_dtype), workload.c_shape
        arrays = [np.ascontiguousarray(array).tobytes() for array in inputs]
        contents = [*arrays, b"", *(bytes(size) for size in scratch)]
        self.files = [folder / f"argument{i}" for i in range(len(contents))]
        self.out = self.files[len(arrays)]
        for file, content in zip(self.files, contents, strict=True):
            file.write_bytes(content)

    def call(self, programs: list[Path], order: int) -> Any:
        """Run the kernels of one call; returns C."""
        self.out.write_bytes(b"\xff" * math.prod(self.shape) * self.dtype.itemsize)
        for program in programs:
            run(program, order, self.files)
        return np.frombuffer(self.out.read_bytes(), self.dtype).reshape(self.shape)


def check(
    source: KernelSource, workload: Gemm, problem: Problem, folder: Path, orders: Any = ORDERS
) -> str | None:
    """Return what is wrong with a kernel, or None.

    What has scratch memory is called twice: the second call finds what the first one left there,
    and has to give the same bits.
    """
    programs = [build(source.text, launch, folder) for launch in source.launches]
    for order in orders:
        memory = Memory(workload, problem.inputs, source.scratch, folder)
        outputs = [memory.call(programs, order) for _ in range(2 if source.scratch else 1)]
        for output in outputs:
            wrong = mismatch(workload, output, problem.reference)
            if wrong:
                return f"order {order}: {wrong}"
        if outputs[0].tobytes() != outputs[-1].tobytes():
            return f"order {order}: the second call gives other bits than the first"
    return None
