"""Models with a dynamic number of rows, and torch.compile."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from model_samples import SMALL, Function

import autotune
from autotune.models.dynamic import RANGES
from autotune.models.torch_backend import autotune_backend

ROWS = (1, 2, 7, 16, 17, 33, 64, 65, 128, 131)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_compiled_model_serves_all_numbers_of_rows(threads: int) -> None:
    model, _ = SMALL["mlp"]()
    rows = torch.export.Dim("rows", min=1, max=4096)
    ours = autotune.compile(
        model, (torch.randn(8, 33),), threads=threads, dynamic_shapes=({0: rows},)
    )
    assert ours.coverage.missed == ()
    assert len(ours.coverage.rows) == 2 * len(RANGES)
    for count in ROWS:
        x = torch.randn(count, 33)
        with torch.no_grad():
            assert torch.allclose(ours(x), model(x), atol=1e-5)


def test_a_dynamic_batch_of_sequences_is_flattened_into_rows() -> None:
    layer = torch.nn.Linear(24, 10).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    ours = autotune.compile(
        layer, (torch.randn(2, 5, 24),), threads=1, dynamic_shapes=({0: batch},)
    )
    for count in (1, 3, 9):
        x = torch.randn(count, 5, 24)
        with torch.no_grad():
            assert torch.allclose(ours(x), layer(x), atol=1e-5)


def test_weights_that_are_inputs_serve_all_numbers_of_rows_too() -> None:
    rows = torch.export.Dim("rows", min=1, max=4096)
    w = torch.randn(24, 10)
    ours = autotune.compile(
        Function(torch.matmul).eval(),
        (torch.randn(8, 24), w),
        threads=1,
        dynamic_shapes=(({0: rows}, None),),
    )
    for count in (1, 8, 40, 200):
        x = torch.randn(count, 24)
        assert torch.allclose(ours(x, w), x @ w, atol=1e-5)


def attention(q: Any, k: Any, v: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("threads", [1, 2])
def test_attention_over_a_dynamic_sequence_has_a_schedule_of_its_own(threads: int) -> None:
    length = torch.export.Dim("length", min=1, max=512)
    inputs = tuple(torch.randn(2, 3, 9, 20) for _ in range(3))
    ours = autotune.compile(
        Function(attention).eval(),
        inputs,
        threads=threads,
        dynamic_shapes=(({2: length},) * 3,),
    )
    assert list(ours.coverage.rules.values()).count("product") == 2
    assert ["default schedule of products" in reason for _, reason in ours.coverage.missed] == [
        True,
        True,
    ]
    for count in (1, 2, 8, 31, 32, 33, 67):
        q, k, v = (torch.randn(2, 3, count, 20) for _ in range(3))
        assert torch.allclose(ours(q, k, v), attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_dynamic_batch_of_attention_is_one_kernel(threads: int) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = tuple(torch.randn(2, 3, 9, 20) for _ in range(3))
    ours = autotune.compile(
        Function(attention).eval(), inputs, threads=threads, dynamic_shapes=(({0: batch},) * 3,)
    )
    assert (len(ours.coverage.rows), ours.coverage.missed) == (2, ())
    for count in (1, 2, 5):
        q, k, v = (torch.randn(count, 3, 9, 20) for _ in range(3))
        assert torch.allclose(ours(q, k, v), attention(q, k, v), atol=1e-5)


def test_a_dynamic_batch_of_images_is_one_kernel() -> None:
    model = torch.nn.Conv2d(8, 12, 1).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    ours = autotune.compile(
        model, (torch.randn(2, 8, 7, 9),), threads=1, dynamic_shapes=({0: batch},)
    )
    assert (len(ours.coverage.rows), ours.coverage.missed) == (1, ())
    for count in (1, 2, 5):
        x = torch.randn(count, 8, 7, 9)
        with torch.no_grad():
            assert torch.allclose(ours(x), model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (lambda x, w: x @ w, ((2, {0: "n"}), (2, {1: "n"}))),  # all columns and rows
        (lambda x, w: torch.relu(x @ w.T), ((2, {0: "n"}), (2, {0: "n"}))),
        (lambda x, w: x.T @ w + 1.0, ((2, {0: "n", 1: "n"}), (2, {0: "n"}))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_extent_may_be_dynamic(function: Any, dynamic: Any, dtype: torch.dtype) -> None:
    size = torch.export.Dim("n", min=1, max=512)

    def inputs(count: int) -> list[torch.Tensor]:
        return [
            torch.randn([count if axis in axes else 21 for axis in range(rank)]).to(dtype)
            for rank, axes in dynamic
        ]

    shapes = tuple(dict.fromkeys(axes, size) for _, axes in dynamic)
    ours = autotune.compile(
        Function(function).eval(), inputs(24), threads=1, dynamic_shapes=(shapes,)
    )
    assert "product" in ours.coverage.rules.values()
    bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    for count in (1, 7, 32, 45):
        x, w = inputs(count)
        expected = function(x.double(), w.double())
        difference = (ours(x, w).double() - expected).abs().max()
        assert difference <= bound * expected.abs().max()


# -- torch.compile --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def through_dynamo(model: Any, **options: Any) -> Any:
    return torch.compile(model, backend=autotune_backend, options={"threads": 1, **options})


@pytest.mark.parametrize("name", ["mlp", "bert_layer", "llama_block"])
def test_the_backend_computes_what_torch_computes(name: str) -> None:
    model, inputs = SMALL[name]()
    ours = through_dynamo(model)
    with torch.no_grad():
        assert torch.allclose(ours(*inputs), model(*inputs), atol=2e-5)


def test_torch_knows_the_backend_by_name() -> None:
    assert "autotune" in torch._dynamo.list_backends(exclude_tags=())
    model, inputs = SMALL["mlp"]()
    with torch.no_grad():
        ours = torch.compile(model, backend="autotune", options={"threads": 1})
        assert torch.allclose(ours(*inputs), model(*inputs), atol=2e-5)


def test_the_fast_path_of_an_encoder_layer_is_taken_apart() -> None:
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True).eval()
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        assert torch.allclose(through_dynamo(layer)(x), layer(x), atol=2e-5)


def test_weights_that_change_are_packed_anew() -> None:
    model, (x,) = SMALL["mlp"]()
    ours = through_dynamo(model)
    with torch.no_grad():
        before = ours(x)
        model[0].weight.mul_(1.5)
        assert not torch.allclose(model(x), before, atol=1e-3)
        assert torch.allclose(ours(x), model(x), atol=2e-5)


def graphs_through_dynamo(model: Any) -> tuple[Any, list[Any]]:
    """The model on our backend, and the list of graphs that it is compiled to when it is run."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(autotune_backend(graph, inputs, options={"threads": 1}))
        return graphs[-1]

    return torch.compile(model, backend=backend), graphs


def test_batch_norm_is_folded_and_its_statistics_may_change() -> None:
    model, (x,) = SMALL["resnet_bottleneck"]()
    ours, graphs = graphs_through_dynamo(model)
    with torch.no_grad():
        assert torch.allclose(ours(x), model(x), atol=2e-5)
        (graph,) = graphs
        assert len(graph._model.inputs) == 1
        assert not any("sqrt" in name or "norm" in name for name in graph._model.coverage.rules)
        norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.running_mean.add_(0.5)
        assert torch.allclose(ours(x), model(x), atol=2e-5)
        compiled = graph._model
        assert len(compiled.inputs) == 2
        norm.running_mean.add_(0.5)
        assert torch.allclose(ours(x), model(x), atol=2e-5)
        assert graph._model is compiled


def test_a_weight_at_the_address_of_another_is_seen() -> None:
    model, (x,) = SMALL["mlp"]()
    ours, graphs = graphs_through_dynamo(model)
    with torch.no_grad():
        ours(x)
        for factor in (2.0, 3.0):
            model[0].weight = torch.nn.Parameter(model[0].weight * factor, False)
            assert torch.allclose(ours(x), model(x), atol=2e-4)


def test_gradients_are_refused() -> None:
    model, (x,) = SMALL["mlp"]()
    with pytest.raises(Exception, match="torch.no_grad"):
        through_dynamo(model)(x)


def test_an_unknown_option_is_refused() -> None:
    model, (x,) = SMALL["mlp"]()
    with torch.no_grad(), pytest.raises(Exception, match="unknown option 'speed'"):
        through_dynamo(model, speed=11)(x)


def test_a_graph_of_dynamic_shape_runs_in_torch_and_says_so() -> None:
    model, _ = SMALL["mlp"]()
    ours = torch.compile(model, backend=autotune_backend, dynamic=True, options={"threads": 1})
    x = torch.randn(5, 33)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ours(x)
    assert torch.allclose(result, model(x), atol=2e-5)
    assert any("dynamic=False" in str(warning.message) for warning in caught)
