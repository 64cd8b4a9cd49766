"""Which products are found in a model, as what workloads, and what is left to others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_samples import SMALL, Function, sites_of
from torch.nn import functional as F

from autotune.models.importing import import_torch
from autotune.models.pipeline import simplify
from autotune.models.sites import ANY_ROWS, Finder
from autotune.workload import Gemm

X = torch.randn(5, 12)
W = torch.randn(12, 9)
BIAS = torch.randn(9)
NT = Gemm(5, 9, 12, layout="nt")
ROWS = Gemm(5, 9, 12, epilogue="rowbias")


@pytest.mark.parametrize(
    ("function", "inputs", "expected"),
    [
        (torch.matmul, (X, W), Gemm(5, 9, 12)),
        (lambda x, w: x @ w.T, (X, W.T.contiguous()), Gemm(5, 9, 12, layout="nt")),
        (lambda x, w: x.T @ w, (X.T.contiguous(), W), Gemm(5, 9, 12, layout="tn")),
        (F.linear, (X, W.T.contiguous()), Gemm(5, 9, 12, layout="nt")),
        (F.linear, (X, W.T.contiguous(), BIAS), Gemm(5, 9, 12, layout="nt", epilogue="bias")),
        (lambda b, x, w: torch.addmm(b, x, w), (BIAS, X, W), Gemm(5, 9, 12, epilogue="bias")),
        (lambda x, w: torch.relu(x @ w), (X, W), Gemm(5, 9, 12, epilogue="relu")),
        (lambda x, w, b: F.gelu(x @ w + b), (X, W, BIAS), Gemm(5, 9, 12, epilogue="bias_gelu")),
        (lambda x, w, b: F.silu(b + x @ w), (X, W, BIAS), Gemm(5, 9, 12, epilogue="bias_silu")),
        (lambda x, w, r: r + x @ w, (X, W, X @ W), Gemm(5, 9, 12, epilogue="residual")),
        (
            lambda x, w, b, r: (x @ w + b) + r,
            (X, W, BIAS, X @ W),
            Gemm(5, 9, 12, epilogue="bias_residual"),
        ),
        (lambda x, w: (x @ w) * 0.25, (X, W), Gemm(5, 9, 12, scale=0.25)),
        (lambda x, w: (x @ w) / 4, (X, W), Gemm(5, 9, 12, scale=0.25)),
        (torch.matmul, (torch.randn(2, 3, 12), W), Gemm(6, 9, 12)),
        (torch.bmm, (torch.randn(4, 5, 12), torch.randn(4, 12, 9)), Gemm(5, 9, 12, batch=4)),
        (
            lambda q, k: q @ k.transpose(-1, -2) * 0.5,
            (torch.randn(2, 3, 5, 12), torch.randn(2, 3, 9, 12)),
            Gemm(5, 9, 12, layout="nt", batch=6, scale=0.5),
        ),
        (torch.matmul, (X, torch.randn(12)), Gemm(5, 1, 12, layout="nt")),
        (torch.mv, (X, torch.randn(12)), Gemm(5, 1, 12, layout="nt")),
        (lambda x, w: (x[..., None] * w).sum(1), (X, W), Gemm(5, 9, 12)),
        (
            lambda x, w: F.relu((x[:, None] * w[None]).sum(-1) + BIAS),
            (X, W.T.contiguous()),
            Gemm(5, 9, 12, layout="nt", epilogue="bias_relu"),
        ),
        (
            lambda p, v: (p[..., None] * v).sum(-2),  # pooling by attention
            (torch.randn(4, 12), torch.randn(4, 12, 9)),
            Gemm(1, 9, 12, batch=4),
        ),
        (lambda x, w: torch.einsum("ik,jk->ij", x, w), (X, W.T.contiguous()), NT),
        (lambda x, w: torch.einsum("ik,jk->ji", w, x), (X, W.T.contiguous()), NT),
        (
            lambda q, k: torch.einsum("bhid,bhjd->bhij", q, k) * 0.5,
            (torch.randn(2, 3, 5, 12), torch.randn(2, 3, 9, 12)),
            Gemm(5, 9, 12, layout="nt", batch=6, scale=0.5),
        ),
        (
            lambda q, k: torch.einsum("bihd,bjhd->bhij", q, k),  # copied into order
            (torch.randn(2, 5, 3, 12), torch.randn(2, 9, 3, 12)),
            Gemm(5, 9, 12, layout="nt", batch=6),
        ),
        (
            lambda x, w: torch.tensordot(x, w, dims=2),
            (torch.randn(5, 3, 4), torch.randn(3, 4, 9)),
            Gemm(5, 9, 12),
        ),
        (  # an image's pixels are columns, and its channels rows
            lambda x, w, b: F.relu(F.conv2d(x, w, b)),
            (torch.randn(2, 12, 4, 3), torch.randn(8, 12, 1, 1), torch.randn(8)),
            Gemm(8, 12, 12, batch=2, shared="a", epilogue="rowbias_relu"),
        ),
        (
            lambda x, w, b: F.relu(F.conv2d(x, w, b) + x),
            (torch.randn(1, 12, 4, 3), torch.randn(12, 12, 1, 1), torch.randn(12)),
            Gemm(12, 12, 12, epilogue="rowbias_residual_relu"),
        ),
        (lambda x, w, b: x @ w + b[:, None], (X, W, torch.randn(5)), ROWS),
        (lambda x, w, b: x @ w + b, (torch.randn(9, 12), W, BIAS), Gemm(9, 9, 12, epilogue="bias")),
        (
            lambda x, w, b: x @ w + b[:, None],
            (torch.randn(9, 12), W, BIAS),
            Gemm(9, 9, 12, epilogue="rowbias"),
        ),
        (lambda x, w, b: x @ w + b, (X, W, torch.randn(1)), Gemm(5, 9, 12)),
        (
            lambda c, x, y: torch.baddbmm(c, x, y),
            (torch.randn(4, 5, 9), torch.randn(4, 5, 12), torch.randn(4, 12, 9)),
            Gemm(5, 9, 12, batch=4, epilogue="residual"),
        ),
    ],
)
def test_a_product_is_found_with_all_that_its_kernel_can_take_over(
    function: object, inputs: tuple[torch.Tensor, ...], expected: Gemm
) -> None:
    (site,) = sites_of(function, *inputs)
    assert site.workload.key == expected.key


def test_what_is_used_elsewhere_too_is_not_taken_over() -> None:
    (site,) = sites_of(lambda x, w: ((y := x @ w), torch.relu(y)), X, W)
    assert site.workload.epilogue == "none"
    (site,) = sites_of(lambda x, w: (y := x @ w + BIAS) * torch.sigmoid(y), X, W)
    assert site.workload.epilogue == "bias"


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: torch.relu(x @ w) + 1.0,  # nothing follows an activation
        lambda x, w: torch.relu(x @ w) * 2.0,
    ],
)
def test_only_what_a_kernel_has_is_taken_over(function: object) -> None:
    (site,) = sites_of(function, X, W)
    assert site.workload.epilogue == "relu"


def test_a_factor_after_the_bias_is_not_a_factor_of_the_product() -> None:
    (site,) = sites_of(lambda x, w, b: (x @ w + b) * 3.0, X, W, BIAS)
    assert (site.workload.epilogue, site.workload.scale) == ("bias", 1.0)


def test_a_quotient_is_not_a_factor() -> None:
    (site,) = sites_of(lambda x, w: 4.0 / (x @ w), X, W)
    assert site.workload.scale == 1.0


def test_the_sum_of_two_products_belongs_to_one_of_them() -> None:
    first, second = sites_of(lambda x, w: x @ w + (x * 2) @ w, X, W)
    assert {first.workload.epilogue, second.workload.epilogue} == {"none", "residual"}
    assert first.result is not second.result


def test_a_product_with_itself_as_residual_is_not_one() -> None:
    (site,) = sites_of(lambda x, w: (y := x @ w) + y, X, W)
    assert site.workload.epilogue == "none"


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (
            lambda x, y, z: torch.einsum("ij,jk,kl->il", x, y, z),
            (X, W, W.T.contiguous()),
            "3 operands",
        ),
        (
            lambda x, y: torch.einsum("ik,kj->j", x, y),
            (X, W),
            "only one operand has",
        ),
        (torch.matmul, (torch.randn(4, 1, 5, 12), torch.randn(1, 3, 12, 9)), "shapes"),
        (torch.matmul, (X.double(), W.double()), "float64"),
    ],
)
def test_other_products_are_named_with_the_reason(
    function: object, inputs: tuple[torch.Tensor, ...], reason: str
) -> None:
    finder = Finder(simplify(import_torch(Function(function).eval(), inputs))["main"])
    assert finder.sites() == []
    (missed,) = finder.missed
    assert reason in missed.reason


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x / x.pow(2).sum(-1, keepdim=True),  # a vector with itself
        lambda x, w: (x * x).sum(-1),
        lambda x, w: F.layer_norm(x, (12,)),
        lambda x, w: torch.outer(x[0], x[1]),
        lambda x, w: x.sum(0),
    ],
)
def test_what_is_no_product_of_matrices_is_passed_over(function: object) -> None:
    finder = Finder(simplify(import_torch(Function(function).eval(), (X, W)))["main"])
    assert (finder.sites(), finder.missed) == ([], [])


def test_two_spellings_of_one_product_are_one_workload() -> None:
    spelt = [
        sites_of(lambda x, w, b: F.linear(x, w, b), X, W.T.contiguous(), BIAS),
        sites_of(lambda x, w, b: b + x @ w.T, X, W.T.contiguous(), BIAS),
        sites_of(lambda x, w, b: torch.addmm(b, x, w.T), X, W.T.contiguous(), BIAS),
    ]
    assert len({site.workload.key for (site,) in spelt}) == 1


def test_a_dynamic_number_of_rows_is_kept_as_an_expression() -> None:
    rows = torch.export.Dim("rows", min=1, max=64)
    shapes = (({0: rows}, None),)
    (site,) = sites_of(torch.matmul, X, W, dynamic_shapes=shapes)
    assert site.rows is not None
    assert site.workload.m == ANY_ROWS


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 2),
        ("bert_layer", 6),
        ("vit_block", 7),
        ("llama_block", 9),
        ("resnet_bottleneck", 2),
        ("resnet_downsampling", 3),
        ("resnet_batch", 3),
    ],
)
def test_all_products_of_the_samples_are_found(name: str, count: int) -> None:
    model, inputs = SMALL[name]()
    assert len(sites_of(model, *inputs)) == count


# -- functions of loops, whatever they are called -------------------------------------------------


def finder_of(loops: Any, *inputs: tuple[tuple[int, ...], str]) -> Finder:
    """The finder of ``main(inputs) = loops(inputs)``, called by ``call_tir``."""
    from tvm import relax

    builder = relax.BlockBuilder()
    variables = [
        relax.Var(f"x{i}", relax.TensorType(shape, dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.call_te(loops, *variables))
        builder.emit_func_output(result)
    module = builder.get()
    return Finder(module["main"], module)


def product_loops(a: Any, b: Any, transposed: bool = False, widen: str = "") -> Any:
    from tvm import te

    k = te.reduce_axis((0, a.shape[1]), "k")
    shape = (a.shape[0], b.shape[0])

    def term(i: Any, j: Any) -> Any:
        x, y = a[i, k], b[j, k]
        return te.sum(x.astype(widen) * y.astype(widen) if widen else x * y, axis=k)

    if transposed:
        return te.compute(shape[::-1], lambda j, i: term(i, j))
    return te.compute(shape, term)


def test_loops_that_are_a_product_are_one_whatever_their_name() -> None:
    inputs = ((5, 12), "float32"), ((9, 12), "float32")
    (site,) = finder_of(product_loops, *inputs).sites()
    assert site.workload == NT
    (swapped,) = finder_of(lambda a, b: product_loops(a, b, True), *inputs).sites()
    assert swapped.workload == Gemm(9, 5, 12, layout="nt")
    assert (swapped.a.name, swapped.b.name) == ("x1", "x0")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_operands_may_be_widened_before_they_are_multiplied(dtype: str) -> None:
    wide = "int32" if dtype == "int8" else "float32"
    inputs = ((5, 12), dtype), ((9, 12), dtype)
    (site,) = finder_of(lambda a, b: product_loops(a, b, widen=wide), *inputs).sites()
    assert site.workload == Gemm(5, 9, 12, layout="nt", dtype=dtype, out_dtype=wide)


def strided_loops(a: Any, b: Any) -> Any:
    from tvm import te

    k = te.reduce_axis((0, 6), "k")
    return te.compute((5, 9), lambda i, j: te.sum(a[i, 2 * k] * b[j, k], axis=k))


def partial_loops(a: Any, b: Any) -> Any:
    from tvm import te

    k = te.reduce_axis((0, 6), "k")
    return te.compute((5, 9), lambda i, j: te.sum(a[i, k] * b[j, k], axis=k))


def masked_loops(a: Any, b: Any) -> Any:
    from tvm import te, tirx

    k = te.reduce_axis((0, 12), "k")

    def lower(i: Any, j: Any) -> Any:
        return te.sum(tirx.if_then_else(j <= i, a[i, k] * b[j, k], te.const(0, "float32")), axis=k)

    return te.compute((5, 9), lower)


def overflowing_loops(a: Any, b: Any) -> Any:
    from tvm import te

    k = te.reduce_axis((0, 12), "k")
    return te.compute((5, 9), lambda i, j: te.sum((a[i, k] * b[j, k]).astype("int32"), axis=k))


def followed_loops(a: Any, b: Any) -> Any:
    from tvm import te

    done = product_loops(a, b)
    return te.compute(done.shape, lambda i, j: done[i, j] + te.const(1, "float32"))


@pytest.mark.parametrize(
    ("loops", "dtype", "reason"),
    [
        (strided_loops, "float32", "not read along its axes"),
        (partial_loops, "float32", "a part of an operand"),
        (masked_loops, "float32", "other terms than products"),
        (overflowing_loops, "int8", "overflow"),
        (followed_loops, "float32", "more than a product"),
    ],
)
def test_loops_that_only_resemble_a_product_are_named(loops: Any, dtype: str, reason: str) -> None:
    finder = finder_of(loops, ((5, 12), dtype), ((9, 12), dtype))
    assert finder.sites() == []
    (missed,) = finder.missed
    assert reason in missed.reason
