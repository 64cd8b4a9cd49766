"""Models that cannot be brought in, or not wholly: what is said, and what works all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import Function

import autotune
from autotune.errors import AutotuneError
from autotune.models.importing import ImportFailed, import_onnx


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: torch.fft.fft(x), "_fft_r2c"),
        (lambda x: torch.linalg.svdvals(x), "_linalg_svd"),
        (lambda x: x.sum().item() * x if x.sum().item() > 0 else x, "torch.export cannot capture"),
    ],
)
def test_an_operator_that_nobody_knows_is_named(function: Any, said: str) -> None:
    with pytest.raises(ImportFailed, match=said):
        autotune.compile(Function(function).eval(), (torch.randn(4, 4),), threads=1)


def test_attention_with_dropout_and_batch_norm_in_training_are_refused() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout())
    with pytest.raises(ImportFailed, match="training mode"):
        autotune.compile(layer, (torch.randn(2, 4),), threads=1)


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 3, 5, 8)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_right_for_any_number_of_leading_axes(
    shape: tuple[int, ...], causal: bool
) -> None:
    def attention(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    q, k, v = (torch.randn(shape) for _ in range(3))
    ours = autotune.compile(Function(attention).eval(), (q, k, v), threads=1)
    assert len(ours.coverage.rows) == 2
    assert torch.allclose(ours(q, k, v), attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize("boolean", [False, True])
def test_attention_takes_masks_scales_and_grouped_queries(boolean: bool) -> None:
    def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, mask, scale=0.3, enable_gqa=True
        )

    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.randn(5, 7) > -0.5 if boolean else torch.randn(2, 1, 5, 7)
    ours = autotune.compile(Function(attention).eval(), (q, k, v, mask), threads=1)
    assert torch.allclose(ours(q, k, v, mask), attention(q, k, v, mask), atol=1e-5)


# -- ONNX -----------------------------------------------------------------------------------------


def onnx_file(path: Path, operator: str, shape: Any) -> Path:
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    inputs = ["x", "x"] if operator == "MatMul" else ["x"]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", tensor, shape)],
        [helper.make_tensor_value_info("y", tensor, None)],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_input_of_dynamic_rank_is_refused_by_name(tmp_path: Path) -> None:
    module = import_onnx(onnx_file(tmp_path / "rank.onnx", "MatMul", None))
    with pytest.raises(AutotuneError, match="input x has no fixed number of dimensions"):
        autotune.compile(module, threads=1)


def test_an_unknown_onnx_operator_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="Det"):
        import_onnx(onnx_file(tmp_path / "det.onnx", "Det", [4, 4]))


def test_a_product_whose_depth_is_only_known_at_run_time_is_missed_aloud(tmp_path: Path) -> None:
    module = import_onnx(onnx_file(tmp_path / "depth.onnx", "MatMul", ["n", "n"]))
    ours = autotune.compile(module, threads=1)
    ((_, reason),) = ours.coverage.missed
    assert "run time" in reason
    x = torch.randn(6, 6)
    assert torch.allclose(ours(x), x @ x, atol=1e-5)
