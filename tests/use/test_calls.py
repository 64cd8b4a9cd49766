"""A kernel is called with whatever users have: it computes the product, or says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from use_samples import write_log

from autotune import AutotuneError, FallbackWarning, Gemm, Kernel, load_kernel
from autotune.kernels.verify import make_problem, mismatch

WORKLOAD = Gemm(24, 40, 16, epilogue="bias")
PACKED = Gemm(24, 40, 16, prepacked=True)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("use") / "tuned.jsonl", [WORKLOAD, PACKED])


@pytest.fixture(scope="module")
def kernel(log: Path) -> Kernel:
    return load_kernel(log, WORKLOAD, threads=1)


def numpy_inputs() -> list[Any]:
    return make_problem(WORKLOAD).inputs


def torch_inputs() -> list[Any]:
    return [torch.from_numpy(x.copy()) for x in numpy_inputs()]


def right(result: Any, workload: Gemm = WORKLOAD) -> bool:
    return mismatch(workload, np.asarray(result), make_problem(workload).reference) is None


def shifted(array: Any, offset: int) -> Any:
    """A contiguous copy that starts ``offset`` bytes after a cache line."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_torch_in_torch_out_numpy_in_numpy_out(kernel: Kernel) -> None:
    from_torch, from_numpy = kernel(*torch_inputs()), kernel(*numpy_inputs())
    assert type(from_torch) is torch.Tensor and right(from_torch)
    assert type(from_numpy) is np.ndarray and right(from_numpy)
    assert from_torch.dtype == torch.float32 and from_torch.shape == (24, 40)


def test_out_is_filled_and_returned(kernel: Kernel) -> None:
    out = torch.full((24, 40), float("nan"))
    assert kernel(*torch_inputs(), out=out) is out and right(out)
    array = np.full((24, 40), np.nan, np.float32)
    assert kernel(*numpy_inputs(), out=array) is array and right(array)
    mixed = torch.full((24, 40), float("nan"))
    kernel(*numpy_inputs(), out=mixed)
    assert right(mixed)


@pytest.mark.parametrize("offset", [0, 1, 2, 4, 12, 16, 32, 60])
def test_memory_may_start_anywhere(kernel: Kernel, offset: int) -> None:
    inputs = [shifted(x, offset) for x in numpy_inputs()]
    out = shifted(np.full((24, 40), np.nan, np.float32), offset)
    kernel(*inputs, out=out)
    assert right(out)
    if offset % 4 == 0:  # torch wants whole elements
        result = torch.from_numpy(shifted(np.full((24, 40), np.nan, np.float32), offset))
        kernel(*map(torch.from_numpy, inputs), out=result)
        assert right(result)


@pytest.mark.parametrize(
    ("template", "layout"),
    [
        ("cpu_tile", "nn"),
        ("cpu_tile", "nt"),
        ("cpu_tile", "tt"),
        ("cpu_inner", "nt"),
        ("cpu_swapped", "nt"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_operands_in_every_layout_may_start_anywhere(
    template: str, layout: str, batch: int
) -> None:
    workload = Gemm(40, 70, 44, layout=layout, batch=batch)
    with pytest.warns(FallbackWarning):
        kernel = load_kernel(None, workload, template=template, threads=1, fallback="default")
    inputs = [shifted(x, 4) for x in make_problem(workload).inputs]
    assert right(kernel(*inputs), workload)


def test_read_only_inputs_are_read(kernel: Kernel) -> None:
    inputs = numpy_inputs()
    for array in inputs:
        array.flags.writeable = False
    assert right(kernel(*inputs))


def test_weights_that_require_gradients_work_without_recording(kernel: Kernel) -> None:
    a, b, bias = torch_inputs()
    weight = torch.nn.Parameter(b)
    with pytest.raises(AutotuneError, match=r"b requires a gradient.*torch.no_grad"):
        kernel(a, weight, bias)
    with torch.no_grad():
        assert right(kernel(a, weight, bias))
    with torch.inference_mode():
        assert right(kernel(a, b, bias))


def _strided(x: Any) -> Any:
    return torch.stack([x, x], dim=-1)[..., 0]


def _sharing(inputs: list[Any]) -> Any:
    """An output whose first row is the bias."""
    memory = torch.zeros(24 * 40 + 8)
    inputs[2] = memory[:40].copy_(inputs[2])
    return memory[8 : 8 + 24 * 40].view(24, 40)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.__setitem__(0, x[0].double()), "a must have.*float32, not.*float64"),
        (lambda x: x.__setitem__(1, x[1].t()), "b must be a C-contiguous array on the CPU"),
        (lambda x: x.__setitem__(0, _strided(x[0])), "a must be a C-contiguous"),
        (lambda x: x.__setitem__(0, x[0].view(16, 24)), r"a must have shape \(24, 16\)"),
        (lambda x: x.__setitem__(0, x[0].reshape(-1)), r"a must have shape \(24, 16\)"),
        (lambda x: x.__setitem__(0, x[0].to("meta")), "a must be a C-contiguous.* on the CPU"),
        (lambda x: x.__setitem__(0, x[0].to_sparse()), "a must be a C-contiguous"),
        (lambda x: x.__setitem__(2, 1.0), "bias must be a C-contiguous"),
        (lambda x: x.__setitem__(0, None), "a must be a C-contiguous"),
        (lambda x: x.pop(), "takes a, b, bias; got 2"),
        (lambda x: x.append(torch.zeros(24, 41)), r"out must have shape \(24, 40\)"),
        (lambda x: x.append(torch.zeros(24, 40).half()), "out must have.*not.*float16"),
        (lambda x: x.append(torch.zeros(24, 80)[:, ::2]), "out must be a C-contiguous"),
        (lambda x: x.append(torch.zeros(24, 40, requires_grad=True)), "out requires a gradient"),
        (lambda x: x.append(_sharing(x)), "out shares memory with bias"),
        (lambda x: x.append(np.zeros((24, 40))), "out must have.*not.*float64"),
    ],
)
def test_wrong_torch_arguments_are_refused(
    kernel: Kernel, change: Callable[[list[Any]], Any], message: str
) -> None:
    inputs = torch_inputs()
    change(inputs)
    out = inputs.pop() if len(inputs) == 4 else None
    with pytest.raises(AutotuneError, match=message):
        kernel(*inputs, out=out)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.__setitem__(0, x[0].astype(np.float64)), "a must have.*not.*float64"),
        (lambda x: x.__setitem__(0, x[0].astype(">f4")), "a must be a C-contiguous"),
        (lambda x: x.__setitem__(1, np.asfortranarray(x[1])), "b must be .*strides"),
        (lambda x: x.__setitem__(1, x[1][:, ::-1]), "b must be .*strides"),
        (lambda x: x.__setitem__(0, x[0].tolist()), "a must be a C-contiguous"),
        (lambda x: x.append(np.broadcast_to(np.float32(0), (24, 40))), "out must be"),
        (lambda x: x.append(np.zeros((24, 40), np.float32)[::-1]), "out must be"),
        (lambda x: x.append(_read_only()), "out must be .* written to"),
        (lambda x: x.append(_numpy_sharing(x)), "out shares memory with a"),
    ],
)
def test_wrong_numpy_arguments_are_refused(
    kernel: Kernel, change: Callable[[list[Any]], Any], message: str
) -> None:
    inputs = numpy_inputs()
    change(inputs)
    out = inputs.pop() if len(inputs) == 4 else None
    with pytest.raises(AutotuneError, match=message):
        kernel(*inputs, out=out)


def _read_only() -> Any:
    out = np.zeros((24, 40), np.float32)
    out.flags.writeable = False
    return out


def _numpy_sharing(inputs: list[Any]) -> Any:
    memory = np.zeros(24 * 40 + 16, np.float32)
    inputs[0] = memory[-24 * 16 :].reshape(24, 16)
    return memory[: 24 * 40].reshape(24, 40)


def test_packing_keeps_the_kind(log: Path) -> None:
    kernel = load_kernel(log, PACKED, threads=1)
    a, b = make_problem(PACKED).inputs
    packed = kernel.pack(torch.from_numpy(b))
    assert type(packed) is torch.Tensor and type(kernel.pack(b)) is np.ndarray
    assert right(kernel(torch.from_numpy(a), packed), PACKED)
    assert right(kernel(a, kernel.pack(b)), PACKED)
    with pytest.raises(AutotuneError, match="b must have shape"):
        kernel.pack(b.T.copy())
    with pytest.raises(AutotuneError, match="b must have shape"):
        kernel(a, b)


def test_only_prepacked_kernels_pack(kernel: Kernel) -> None:
    with pytest.raises(AutotuneError, match="only prepacked"):
        kernel.pack(numpy_inputs()[1])
