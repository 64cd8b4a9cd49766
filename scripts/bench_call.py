"""Measure what a call of a kernel costs, in microseconds: TVM's own, ours with all checks, torch's.

The product is so small (by default 4 x 16 x 16, some 20 ns) that what is measured is the call. All
rows take turns for some rounds; a figure is the lowest of its rounds' means.

With --alignment it measures instead, in GFLOP/s, what it costs that kernels take arrays at any
address: the kernel as it was measured, the one that is handed out, and that on unaligned arrays.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autotune import Gemm, load_kernel, load_library
from autotune.call import aligned_empty
from autotune.hw_profiles import resolve_target, tvm_target
from autotune.identity import target_json, target_key
from autotune.kernels.base import choose_template
from autotune.kernels.compiling import compile_module
from autotune.log import TuningLog, run_header, trial_record
from autotune.trial import Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="4,16,16", help="m,n,k (default: 4,16,16)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20000, help="calls per round")
    parser.add_argument("--alignment", action="store_true", help="measure alignment instead")
    arguments = parser.parse_args()
    if arguments.alignment:
        alignment([(64, 64, 64), (256, 256, 256), (512, 512, 512), (128, 3072, 768)])
        return
    m, n, k = (int(extent) for extent in arguments.shape.split(","))
    with TemporaryDirectory() as folder:
        rows = calls(Gemm(m, n, k), Path(folder))
        best = measure(rows, arguments.rounds, arguments.calls)
    for name, seconds in best.items():
        print(f"| {name} | {seconds * 1e6:.2f} |")


def calls(workload: Gemm, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is called, by what it is; the operands are the same memory everywhere."""
    import torch
    import tvm_ffi

    os.environ["TVM_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    log = log_default(workload, folder / "tuned.jsonl")
    kernel = load_kernel(log, workload, threads=1)
    kernel.export(folder / "gemm.so")
    exported = load_library(folder / "gemm.so")
    a, b = torch.randn(workload.a_shape), torch.randn(workload.b_shape)
    c = torch.empty(workload.m, workload.n)
    x, y, z = a.numpy(), b.numpy(), c.numpy()
    s, t, u = (tvm_ffi.from_dlpack(tensor) for tensor in (a, b, c))
    function = kernel.function
    return {
        "TVM's function, TVM tensors, no checks of ours": lambda: function(s, t, u),
        "TVM's function, torch tensors, no checks of ours": lambda: function(a, b, c),
        "TVM's function, numpy arrays, no checks of ours": lambda: function(x, y, z),
        "`kernel(a, b, out=c)`, torch": lambda: kernel(a, b, out=c),
        "`kernel(a, b, out=c)`, numpy": lambda: kernel(x, y, out=z),
        "`kernel(a, b)`, torch, a new tensor": lambda: kernel(a, b),
        "`kernel(a, b)`, numpy, a new array": lambda: kernel(x, y),
        "`kernel(a, b, out=c)` of an exported library, torch": lambda: exported(a, b, out=c),
        "`torch.matmul(a, b, out=c)`": lambda: torch.matmul(a, b, out=c),
    }


def log_default(workload: Gemm, path: Path) -> Path:
    """Write a log that names the default config; what it computes fast is not the question."""
    profile = resolve_target("cpu")
    template = choose_template("auto", workload, profile)
    config = template.space(workload, profile, 1).defaults[0]
    header = run_header(
        workload,
        target=target_json(profile, 1),
        target_key=target_key(profile, 1),
        template={"name": template.name, "version": template.version},
    )
    place = {"batch": 0, "asked": 1, "ask": 0, "tell": 0}
    TuningLog(path).append([trial_record(header, 0, config.to_json(), Result((1.0,)), **place)])
    return path


def alignment(shapes: list[tuple[int, int, int]]) -> None:
    """Print GFLOP/s on one thread of default configs; all of a row take turns, lowest times."""
    os.environ["TVM_NUM_THREADS"] = "1"
    import tvm

    from autotune.kernels.alignment import for_any_alignment

    profile = resolve_target("cpu")
    target = tvm.target.Target(tvm_target(profile, 1))
    print("| m, n, k | aligned, as measured | aligned | 4 bytes off |\n|---|---|---|---|")
    for shape in shapes:
        workload = Gemm(*shape)
        template = choose_template("auto", workload, profile)
        config = template.space(workload, profile, 1).defaults[0]
        strict, free = (
            compile_module(change(template.build(workload, config)), target)["main"]
            for change in (lambda module: module, for_any_alignment)
        )
        on, off = operands(workload, 0), operands(workload, 4)
        calls = {"strict": (strict, on), "free": (free, on), "off": (free, off)}
        best = dict.fromkeys(calls, float("inf"))
        count = max(1, round(2e8 / workload.flops))
        for _ in range(50):
            for name, (function, arguments) in calls.items():
                start = time.perf_counter()
                for _ in range(count):
                    function(*arguments)
                best[name] = min(best[name], (time.perf_counter() - start) / count)
        rates = " | ".join(f"{workload.flops / seconds / 1e9:.0f}" for seconds in best.values())
        print(f"| {workload.m}, {workload.n}, {workload.k} | {rates} |", flush=True)


def operands(workload: Gemm, offset: int) -> list[Any]:
    """Return A, B and C so many bytes after a cache line."""
    import numpy as np

    arrays = []
    for shape in (workload.a_shape, workload.b_shape, (workload.m, workload.n)):
        memory = aligned_empty((shape[0] * shape[1] + 16,), "float32")
        memory[...] = np.random.default_rng(0).random(memory.shape, np.float32)
        first = offset // 4
        arrays.append(memory[first : first + shape[0] * shape[1]].reshape(shape))
    return arrays


def measure(rows: dict[str, Callable[[], Any]], rounds: int, count: int) -> dict[str, float]:
    """Return seconds per call by row, the loop's own cost subtracted."""
    best = dict.fromkeys(["nothing", *rows], float("inf"))
    for _ in range(rounds):
        for name, call in {"nothing": lambda: None, **rows}.items():
            start = time.perf_counter()
            for _ in range(count):
                call()
            best[name] = min(best[name], (time.perf_counter() - start) / count)
    nothing = best.pop("nothing")
    return {name: seconds - nothing for name, seconds in best.items()}


if __name__ == "__main__":
    main()
