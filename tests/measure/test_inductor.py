"""torch's compiler as one more library: what it computes, and what it says where it cannot."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from autotune.errors import MeasureError
from autotune.hw_profiles import detect_cpu
from autotune.kernels.verify import make_problem, mismatch
from autotune.measure import LocalMeasurer
from autotune.measure.inductor import _product_module, inductor_call
from autotune.measure.libraries import INDUCTOR
from autotune.measure.vendor import torch_tensor
from autotune.workload import EPILOGUES, LAYOUTS, Gemm

torch = pytest.importorskip("torch")


def tensors_of(workload: Gemm) -> tuple[list[Any], Any]:
    problem = make_problem(workload)
    return [torch_tensor(x) for x in problem.inputs], problem.reference


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(("batch", "scale"), [(1, 1.0), (1, 0.3), (3, 0.3)])
def test_what_is_compiled_is_the_workload(batch: int, scale: float, epilogue: str) -> None:
    for layout in LAYOUTS:
        workload = Gemm(6, 10, 24, layout=layout, epilogue=epilogue, batch=batch, scale=scale)
        (a, b, *addends), reference = tensors_of(workload)
        for constants in (0, 1, 2):
            others = [b, *addends]
            module = _product_module(workload, others[:constants])
            output = module(a, *others[constants:]).numpy()
            assert mismatch(workload, output, reference) is None


def test_int8_is_compiled_with_exact_sums() -> None:
    workload = Gemm(32, 16, 24, dtype="int8", layout="nt", epilogue="bias_relu")
    tensors, reference = tensors_of(workload)
    output = _product_module(workload, [])(*tensors)
    assert output.dtype == torch.int32
    assert mismatch(workload, output.to(torch.float64).numpy(), reference) is None


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Gemm(8, 16, 64, dtype="float8_e4m3fn", layout="nt"), "float8_e4m3fn to bfloat16"),
        (Gemm(8, 16, 64, dtype="bfloat16", out_dtype="float32"), "bfloat16 to float32"),
        (Gemm(8, 16, 64, dtype="int8", batch=2), "one by one"),
    ],
)
def test_what_torch_has_no_product_of_is_said(workload: Gemm, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        inductor_call(workload, tensors_of(workload)[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("prepacked", [False, True])
def test_it_is_compiled_checked_and_timed_when_it_is_asked_for(prepacked: bool) -> None:
    workload = Gemm(32, 64, 48, layout="nt", epilogue="bias_gelu", prepacked=prepacked)
    with LocalMeasurer(workload, detect_cpu(), 1) as measurer:
        assert min(measurer.vendor_time(0.01, INDUCTOR)) > 0


def test_without_a_compiler_it_says_so_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with LocalMeasurer(Gemm(8, 8, 8, epilogue="relu"), detect_cpu(), 1) as measurer:
        for _ in range(2):
            with pytest.raises(MeasureError, match="inductor cannot compute this.*compiler"):
                measurer.vendor_time(0.01, INDUCTOR)
        assert min(measurer.vendor_time(0.01, "torch")) > 0
