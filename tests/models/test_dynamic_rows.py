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
