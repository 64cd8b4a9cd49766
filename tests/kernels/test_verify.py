"""The tolerance accepts every correct kernel and refuses every wrong one."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from autotune.kernels.gemm import activated
from autotune.kernels.verify import (
    EPSILON,
    load_problem,
    make_inputs,
    make_problem,
    mismatch,
    poison,
    reference_result,
    save_problem,
    tolerance,
)
from autotune.workload import DTYPES, EPILOGUES, LAYOUTS, Gemm

#: Deep enough that a running sum in float32 has lost four digits.
DEEP = Gemm(4, 3, 500_000)
SHALLOW = Gemm(16, 12, 128)


def stored_as_nn(workload: Gemm, inputs: list[Any]) -> tuple[Any, Any]:
    a = inputs[0] if workload.layout[0] == "n" else inputs[0].T
    b = inputs[1] if workload.layout[1] == "n" else inputs[1].T
    return a, b


def sequential(a: Any, b: Any) -> Any:
    """Sum in float32 in the order of k, rounding after every step: the least accurate kernel."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    rows, columns = np.ascontiguousarray(a.T), np.ascontiguousarray(b)
    for row, column in zip(rows, columns, strict=True):
        total += np.outer(row, column)
    return total


@pytest.mark.parametrize("workload", [SHALLOW, DEEP], ids=["K=128", "K=500000"])
def test_a_correct_float32_sum_passes_in_any_order(workload: Gemm) -> None:
    problem = make_problem(workload)
    assert mismatch(workload, sequential(problem.a, problem.b), problem.reference) is None
    assert mismatch(workload, problem.a @ problem.b, problem.reference) is None
    backwards = sequential(problem.a[:, ::-1], problem.b[::-1])
    assert mismatch(workload, backwards, problem.reference) is None


@pytest.mark.parametrize("workload", [SHALLOW, DEEP], ids=["K=128", "K=500000"])
@pytest.mark.parametrize("skipped", [0, -1])
def test_a_kernel_that_leaves_out_one_k_fails(workload: Gemm, skipped: int) -> None:
    problem = make_problem(workload)
    short = problem.a @ problem.b - np.outer(problem.a[:, skipped], problem.b[skipped])
    message = mismatch(workload, short, problem.reference)
    assert message is not None and "elements are wrong" in message


@pytest.mark.parametrize("seed", range(20))
def test_leaving_out_one_k_is_found_whatever_the_random_inputs(seed: int) -> None:
    problem = make_problem(SHALLOW, seed)
    short = (problem.a[:, :-1] @ problem.b[:-1]).astype(np.float32)
    assert mismatch(SHALLOW, short, problem.reference) is not None


def test_one_nan_fails_and_is_named() -> None:
    problem = make_problem(SHALLOW)
    output = (problem.a @ problem.b).astype(np.float32)
    output[3, 7] = np.nan
    message = mismatch(SHALLOW, output, problem.reference)
    assert message is not None
    assert message.startswith("1 of 192 elements are wrong, first C[3, 7] = nan instead of ")


def test_infinity_fails() -> None:
    problem = make_problem(SHALLOW)
    output = (problem.a @ problem.b).astype(np.float32)
    output[0, 0] = np.inf
    assert mismatch(SHALLOW, output, problem.reference) is not None


@pytest.mark.parametrize(
    "left_out",
    [np.s_[8:], np.s_[:, 6:], np.s_[-1:], np.s_[:, -1:]],
    ids=["half the rows", "half the columns", "tail row", "tail column"],
)
def test_what_a_kernel_does_not_write_fails(left_out: Any) -> None:
    problem = make_problem(SHALLOW)
    output = np.zeros((16, 12), np.float32)
    poison(output)
    correct = (problem.a @ problem.b).astype(np.float32)
    written = np.ones(output.shape, bool)
    written[left_out] = False
    output[written] = correct[written]
    message = mismatch(SHALLOW, output, problem.reference)
    assert message is not None and message.startswith(f"{np.sum(~written)} of 192 ")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.int8])
def test_poison_fills_everything_with_what_no_kernel_returns(dtype: Any) -> None:
    output = np.zeros((3, 5), dtype)
    poison(output)
    if np.issubdtype(dtype, np.integer):
        assert (output == np.iinfo(dtype).min).all()
    else:
        assert np.isnan(output).all()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_rounded_reference_of_every_dtype_passes(dtype: str) -> None:
    workload = Gemm(8, 6, 64, dtype=dtype, epilogue="bias")
    problem = make_problem(workload)
    stored = "float32" if dtype == "tfloat32" else dtype
    assert [x.dtype.name for x in problem.inputs] == [stored, stored, workload.out_dtype]
    rounded = problem.reference.astype(problem.inputs[2].dtype)
    assert mismatch(workload, rounded, problem.reference) is None


def test_int8_products_must_be_exact() -> None:
    workload = Gemm(8, 6, 64, dtype="int8")
    problem = make_problem(workload)
    exact = problem.a.astype(np.int32) @ problem.b.astype(np.int32)
    assert mismatch(workload, exact, problem.reference) is None
    exact[5, 5] += 1
    assert mismatch(workload, exact, problem.reference) is not None


@pytest.mark.parametrize("k", [1, 128, 500_000])
def test_the_tolerance_stays_below_the_product_that_one_k_adds(k: int) -> None:
    absolute, relative = tolerance(Gemm(4, 4, k))
    assert 0 < absolute < 0.25
    assert relative == 2 * EPSILON["float32"]


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_agrees_with_plain_loops(layout: str, epilogue: str) -> None:
    workload = Gemm(5, 4, 3, layout=layout, epilogue=epilogue)
    inputs = make_inputs(workload, seed=7)
    assert [x.shape for x in inputs[:2]] == [workload.a_shape, workload.b_shape]
    a, b = stored_as_nn(workload, inputs)
    expected = np.empty((5, 4))
    for i in range(5):
        for j in range(4):
            x = math.fsum(float(a[i, k]) * float(b[k, j]) for k in range(3))
            if "bias" in epilogue:
                x += float(inputs[2][i, 0] if "rowbias" in epilogue else inputs[2][j])
            if "residual" in epilogue:
                x += float(inputs[-1][i, j])
            if "relu" in epilogue:
                x = max(x, 0.0)
            if epilogue.endswith("gelu"):
                x *= 0.5 * math.erfc(-x / math.sqrt(2.0))
            if "gelu_tanh" in epilogue:
                x *= 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            if "silu" in epilogue:
                x /= 1 + math.exp(-x)
            expected[i, j] = x
    np.testing.assert_allclose(reference_result(workload, inputs), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("epilogue", ["none", "bias_silu", "bias_residual"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_of_a_batch_is_that_of_each_product_scaled(
    layout: str, epilogue: str
) -> None:
    workload = Gemm(5, 4, 3, layout=layout, epilogue=epilogue, batch=3, scale=0.3)
    problem = make_problem(workload)
    assert problem.reference.shape == workload.c_shape
    for index in range(3):
        one = workload.one_of_batch
        bias = [] if problem.bias is None else [problem.bias]
        residual = [] if problem.residual is None else [problem.residual[index]]
        inputs = [problem.a[index], problem.b[index], *bias, *residual]
        again = [np.float64(0.3) * inputs[0].astype(np.float64), inputs[1], *inputs[2:]]
        plain = dataclasses.replace(one, scale=1.0)
        for reference in (reference_result(one, inputs), reference_result(plain, again)):
            np.testing.assert_allclose(problem.reference[index], reference, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_problem_survives_its_file(name: str, tmp_path: Any) -> None:
    workload = Gemm(5, 4, 3, dtype=name, epilogue="bias_residual", batch=2)
    problem = make_problem(workload)
    save_problem(tmp_path / "problem.npz", problem)
    again = load_problem(str(tmp_path / "problem.npz"), workload)
    for before, after in zip(problem.inputs, again.inputs, strict=True):
        assert before.dtype == after.dtype and np.array_equal(before, after)
    assert np.array_equal(problem.reference, again.reference)


@pytest.mark.parametrize("scale", [1e-6, 0.125, 300.0])
@pytest.mark.parametrize("epilogue", ["none", "relu"])
def test_a_factor_moves_the_tolerance_with_the_result(scale: float, epilogue: str) -> None:
    workload = dataclasses.replace(SHALLOW, scale=scale, epilogue=epilogue)
    problem = make_problem(workload)
    product = sequential(problem.a, problem.b)
    short = product - np.outer(problem.a[:, -1], problem.b[-1])
    for result, right in ((product, True), (short, False)):
        scaled = result * np.float32(scale)
        scaled = np.maximum(scaled, 0) if epilogue == "relu" else scaled
        assert (mismatch(workload, scaled, problem.reference) is None) == right


def test_a_wrong_element_of_a_batch_is_named_with_its_product() -> None:
    workload = dataclasses.replace(SHALLOW, batch=2)
    problem = make_problem(workload)
    output = (problem.a @ problem.b).astype(np.float32)
    output[1, 3, 7] += 1
    message = mismatch(workload, output, problem.reference)
    assert message is not None and "first C[1, 3, 7] = " in message


def test_inputs_are_reproducible_and_not_degenerate() -> None:
    first, again, other = (make_inputs(SHALLOW, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.min() >= -1.0 and first.max() < 1.0 and np.all(first != 0.0)


def applied(function: Any, points: Any, host: Any) -> tuple[Any, Any]:
    """Return an expression's values in float32 on the CPU, and its kernel."""
    import tvm
    from tvm import te

    from autotune.hw_profiles import tvm_target

    x = te.placeholder(points.shape, "float32", name="x")
    y = te.compute(points.shape, lambda i: function(x[i], "float32"), name="y")
    target = tvm.target.Target(tvm_target(host, 1))
    kernel = tvm.compile(tvm.IRModule({"main": te.create_prim_func([x, y])}), target=target)
    output = tvm.runtime.tensor(np.full_like(points, np.nan))
    kernel["main"](tvm.runtime.tensor(points), output)
    return output.numpy(), kernel


def test_the_vectorised_erf_keeps_its_documented_bound(host: Any) -> None:
    from autotune.kernels.gemm import _erf

    points = np.concatenate([np.linspace(-6, 6, 200_001), [-1e30, -0.0, 1e-30, 1e30]])
    points = points.astype(np.float32)
    exact = np.array([math.erf(float(point)) for point in points])
    assert np.max(np.abs(applied(_erf, points, host)[0] - exact)) <= 5e-7


@pytest.mark.parametrize(
    ("name", "lowest", "bound"),
    # The argument of exp, -86 for tanh at -10, is rounded three times.
    [("silu", -88.3, 5e-7), ("gelu_tanh", -2.0, 1e-6), ("gelu_tanh", -10.0, 2e-5)],
)
def test_activations_by_exp_are_accurate_and_vectorised(
    name: str, lowest: float, bound: float, host: Any
) -> None:
    points = np.concatenate([np.linspace(lowest, 100, 500_001), [1e-30, -1e-30, -1e-3, 1e30]])
    points = points.astype(np.float32)
    workload = Gemm(1, points.size, 1, epilogue=name)
    one = np.ones((1, 1), np.float32)
    exact = reference_result(workload, [one, points[None]])[0]
    values, kernel = applied(partial(activated, name), points, host)
    assert np.max(np.abs(values / exact - 1)) <= bound
    if host.isa == "x86_64":  # by vectors, and without libm
        assembly = kernel.mod.inspect_source("asm")
        assert "vfmadd" in assembly and not re.search(r"call\w*\s+\w*exp", assembly)


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
def test_activations_by_exp_end_as_torchs_do(name: str, host: Any) -> None:
    import torch
    from torch.nn import functional

    points = np.array([np.inf, -np.inf, np.nan, -88.5, -100, -1e30, 1e38, 0.0, -0.0], np.float32)
    values, _ = applied(partial(activated, name), points, host)
    tensor = torch.from_numpy(points)
    theirs = (
        functional.silu(tensor) if name == "silu" else functional.gelu(tensor, approximate="tanh")
    )
    np.testing.assert_allclose(values, theirs.numpy(), rtol=1e-6, atol=1e-36)
    assert np.array_equal(np.signbit(values[5:]), np.signbit(theirs.numpy()[5:]))


def test_tf32_inputs_are_what_tf32_holds() -> None:
    problem = make_problem(Gemm(40, 30, 20, dtype="tfloat32"))
    for x in (problem.a, problem.b):
        assert not (x.view(np.uint32) & 0x1FFF).any() and np.abs(x).max() <= 1
        assert np.unique(x.view(np.uint32) & 0x2000).size == 2, "ten bits are in use"
