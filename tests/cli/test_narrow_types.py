"""bf16, fp16 and int8 from the command line to a call from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import Gemm, load_kernel
from autotune.kernels.verify import make_problem, mismatch
from autotune.log import TuningLog


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_a_narrow_product_is_tuned_logged_and_used(
    dtype: str, spawn: Callable[..., Any], folder: Path
) -> None:
    import torch

    words = ("-m", "33", "-n", "50", "-k", "70", "--threads", "1", "--dtype", dtype)
    done = spawn("gemm", *words, "--epilogue", "bias_relu", "--trials", "3")
    assert done.code == 0, done.err
    assert "template cpu_dot" in done.out
    assert "inner kernel: " in done.out
    assert "0 failed" in done.out and " x torch" in done.out and "measured peak" in done.out
    scan = TuningLog(folder / "tuned.jsonl").scan()
    assert all(trial.result().ok for trial in scan.trials)

    workload = Gemm(33, 50, 70, dtype=dtype, epilogue="bias_relu")
    kernel = load_kernel("tuned.jsonl", workload, threads=1)
    problem = make_problem(workload, seed=5)
    result = kernel(*problem.inputs)
    assert result.dtype.name == workload.out_dtype
    assert mismatch(workload, result, problem.reference) is None

    tensors = [_tensor(x) for x in problem.inputs]
    shifted = [_unaligned(x) for x in tensors]
    for inputs in (tensors, shifted):
        out = torch.empty((33, 50), dtype=getattr(torch, workload.out_dtype))
        kernel(*inputs, out=out)
        found = out.to(torch.float64).numpy()
        assert mismatch(workload, found, problem.reference) is None


def _tensor(array: Any) -> Any:
    from autotune.measure.vendor import torch_tensor

    return torch_tensor(array)


def _unaligned(tensor: Any) -> Any:
    """A contiguous copy that does not start on a cache line."""
    import torch

    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    copy = memory[1:].view(tensor.shape)
    copy.copy_(tensor)
    return copy
