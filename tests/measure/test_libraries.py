"""The vendor libraries: what they compute, and what they say where they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.errors import MeasureError
from autotune.hw_profiles import detect_cpu
from autotune.kernels.verify import make_problem, mismatch
from autotune.measure import LocalMeasurer
from autotune.measure.libraries import LIBRARIES, onednn_call, prepacked_call
from autotune.workload import EPILOGUES, LAYOUTS, Gemm

torch = pytest.importorskip("torch")
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


def tensors_of(workload: Gemm) -> tuple[list[Any], Any]:
    problem = make_problem(workload)
    return [torch.from_numpy(x) for x in problem.inputs], problem.reference


@needs_onednn
@pytest.mark.parametrize("prepacked", [False, True])
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_onednn_computes_every_float32_workload_of_its_layer(
    layout: str, epilogue: str, prepacked: bool
) -> None:
    workload = Gemm(9, 17, 33, layout=layout, epilogue=epilogue, prepacked=prepacked)
    tensors, reference = tensors_of(workload)
    if "rowbias" in epilogue or "residual_relu" in epilogue:
        with pytest.raises(RuntimeError, match=f"linear layer only, which has no {epilogue}"):
            onednn_call(workload, tensors)
        return
    assert mismatch(workload, onednn_call(workload, tensors)().numpy(), reference) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("epilogue", ["none", "bias"])
def test_torchs_packed_product_is_right(layout: str, epilogue: str) -> None:
    workload = Gemm(9, 17, 33, layout=layout, epilogue=epilogue, prepacked=True)
    tensors, reference = tensors_of(workload)
    assert mismatch(workload, prepacked_call(workload, tensors)().numpy(), reference) is None


def test_a_library_that_cannot_says_so_and_the_others_go_on() -> None:
    workload = Gemm(8, 8, 8, epilogue="gelu", prepacked=True)
    with LocalMeasurer(workload, detect_cpu(), 1) as measurer:
        with pytest.raises(MeasureError, match="torch cannot compute this.*epilogue"):
            measurer.vendor_time(0.01, "torch")
        with pytest.raises(MeasureError, match="unknown library 'blas'"):
            measurer.vendor_time(0.01, "blas")
        if torch.backends.mkldnn.is_available():
            assert min(measurer.vendor_time(0.01, "onednn")) > 0
    assert LIBRARIES == ("torch", "onednn")


def test_a_prepacked_b_is_packed_before_the_kernel_is_verified_and_timed() -> None:
    from autotune.kernels.base import get_template

    workload = Gemm(16, 50, 24, layout="nt", epilogue="bias", prepacked=True)
    profile = detect_cpu()
    space = get_template("cpu_tile").space(workload, profile, 1)
    with LocalMeasurer(workload, profile, 1) as measurer:
        result = measurer.measure("cpu_tile", space.defaults[0], keep="default")
        assert result.ok, result.message
        assert min(measurer.time_kept("default", 0.01)) > 0
