"""What the vendor libraries are asked for, by element type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotune.kernels.verify import load_problem, make_problem, mismatch, save_problem
from autotune.measure.libraries import onednn_call
from autotune.measure.vendor import torch_call, torch_tensor, vendor_call
from autotune.workload import EPILOGUES, LAYOUTS, Gemm


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("epilogue", ["none", "relu", "bias", "bias_relu", "residual"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_torch_computes_what_we_do(dtype: str, epilogue: str, layout: str) -> None:
    workload = Gemm(6, 10, 24, dtype=dtype, epilogue=epilogue, layout=layout)
    problem = make_problem(workload)
    call = vendor_call(workload, [torch_tensor(x) for x in problem.inputs])
    for _ in range(2):  # into the same output again
        output = call().to(torch.float64).numpy()
        assert mismatch(workload, output, problem.reference) is None


def test_onednn_is_not_compared_where_it_returns_other_numbers() -> None:
    for workload in (Gemm(8, 16, 64, dtype="int8"), Gemm(8, 16, 64, dtype="bfloat16",
                                                         out_dtype="float32")):  # fmt: skip
        tensors = [torch_tensor(x) for x in make_problem(workload).inputs]
        with pytest.raises(RuntimeError, match="is not (int32|float32)"):
            onednn_call(workload, tensors)


def test_fp8_is_asked_of_torch_as_it_has_it() -> None:
    workload = Gemm(16, 32, 48, dtype="float8_e4m3fn", layout="nt", epilogue="bias", scale=0.5)
    problem = make_problem(workload)
    try:
        output = vendor_call(workload, [torch_tensor(x) for x in problem.inputs])()
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this torch has no fp8 product on a CPU: {error}")
    assert mismatch(workload, output.to(torch.float64).numpy(), problem.reference) is None


def test_tf32_is_not_compared_on_a_cpu() -> None:
    workload = Gemm(4, 4, 4, dtype="tfloat32")
    tensors = [torch_tensor(x) for x in make_problem(workload).inputs]
    with pytest.raises(TypeError, match="no tf32 on a CPU"):
        vendor_call(workload, tensors)
    assert torch.backends.cuda.matmul.allow_tf32, "it would be asked for on a GPU"
    vendor_call(Gemm(4, 4, 4), tensors)
    assert not torch.backends.cuda.matmul.allow_tf32


DTYPES = ["float32", "bfloat16", "float16", "int8", "float8_e4m3fn", "tfloat32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_problem_reads_back_as_it_was_written(dtype: str, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "problem.npz"
    workload = Gemm(3, 5, 7, dtype=dtype, epilogue="bias")
    problem = make_problem(workload)
    save_problem(path, problem)
    again = load_problem(str(path), workload)
    for before, after in zip(problem.inputs, again.inputs, strict=True):
        assert before.dtype == after.dtype and before.tobytes() == after.tobytes()
    assert (again.reference == problem.reference).all()


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(("batch", "scale"), [(1, 1.0), (1, 0.3), (3, 1.0), (3, 0.3)])
def test_torch_computes_batches_factors_and_every_epilogue(
    batch: int, scale: float, epilogue: str
) -> None:
    for layout in LAYOUTS:
        workload = Gemm(6, 10, 24, layout=layout, epilogue=epilogue, batch=batch, scale=scale)
        problem = make_problem(workload)
        call = torch_call(workload, [torch_tensor(x) for x in problem.inputs])
        for _ in range(2):  # the output of the first call must not enter the second
            assert mismatch(workload, call().numpy(), problem.reference) is None


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Gemm(6, 10, 24, dtype="int8", batch=2), "int8 matrices one by one"),
        (Gemm(6, 10, 24, dtype="int8", epilogue="silu"), "no silu of integers"),
        (Gemm(6, 10, 24, batch=2, prepacked=True), "packs one matrix"),
        (Gemm(6, 10, 24, scale=2.0, prepacked=True), "or a factor"),
    ],
)
def test_torch_says_what_it_does_not_compute(workload: Gemm, says: str) -> None:
    with pytest.raises((TypeError, RuntimeError), match=says):
        torch_call(workload, [torch_tensor(x) for x in make_problem(workload).inputs])


@pytest.mark.parametrize("changes", [{"batch": 2}, {"scale": 0.5}])
def test_onednn_is_out_of_reach_for_batches_and_factors(changes: dict[str, Any]) -> None:
    workload = Gemm(6, 10, 24, **changes)
    with pytest.raises(RuntimeError, match="one product without a factor"):
        onednn_call(workload, [torch_tensor(x) for x in make_problem(workload).inputs])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_libraries_get_operands_aligned_as_ours_are(dtype: str) -> None:
    problem = make_problem(Gemm(6, 10, 24, dtype=dtype))
    for array in problem.inputs:
        memory = np.empty(array.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + 16  # what NumPy aligns to, and no more
        odd = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        odd[...] = array
        tensor = torch_tensor(odd)
        assert tensor.data_ptr() % 64 == 0
        assert torch.equal(tensor, torch_tensor(array))
