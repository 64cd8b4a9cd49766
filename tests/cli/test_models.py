"""``autotune model`` and ``autotune compile``, as a user calls them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune.hw_profiles import cuda_devices
from autotune.kernels.cuda.compile import find_compiler
from autotune.log import FinalRecord, TuningLog

SOURCE = Path(__file__).with_name("sample_model.py")


@pytest.fixture(autouse=True)
def sample(folder: Path) -> None:
    shutil.copy(SOURCE, folder / "sample.py")


def test_a_model_is_listed_tuned_compiled_and_loaded(
    spawn: Callable[..., Any], folder: Path
) -> None:
    done = spawn("model", "sample:small", "--extract")
    assert done.code == 0, done.err
    assert done.out.count("gemm m=9") == 2
    assert "epilogue=bias_gelu b=prepacked" in done.out

    done = spawn("model", "sample:small", "--tune", "--trials", "6", "--threads", "1")
    assert done.code == 0, done.err
    finals = [r for r in TuningLog(folder / "tuned.jsonl").scan().records
              if isinstance(r, FinalRecord)]  # fmt: skip
    assert len(finals) == 2

    done = spawn("compile", "sample:small", "--threads", "1", "--log", "tuned.jsonl",
                 "-o", "small.so", "--json", "--strict")  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [row["tier"] for row in said["rows"]] == ["exact", "exact"]
    assert said["missed"] == []
    assert all(said["seconds"][row["name"]] > 0.0 for row in said["rows"])

    import sample_model

    model, (x,) = sample_model.small()
    with torch.no_grad():
        assert torch.allclose(autotune.load_model("small.so")(x), model(x), atol=1e-5)


def test_what_the_log_does_not_know_is_said(spawn: Callable[..., Any]) -> None:
    done = spawn("compile", "sample:small", "--threads", "1", "--no-run")
    assert done.code == 0, done.err
    assert done.out.count("default") >= 2
    assert done.out.count("nothing tuned fits") == 2


def test_strict_fails_and_writes_nothing_without_a_result_for_each_product(
    call: Callable[..., Any], folder: Path
) -> None:
    done = call("compile", "sample:small", "--threads", "1", "--strict", "-o", "small.so")
    assert done.code == 1
    assert done.out.count("nothing tuned fits") == 2 and "wrote" not in done.out
    (line,) = done.err.splitlines()
    says = "autotune: 2 products have no result of exactly theirs, the first gemm m=9"
    assert line.startswith(says)
    assert "--tune" in line
    assert not (folder / "small.so").exists()


def test_an_exported_program_is_a_model(spawn: Callable[..., Any], folder: Path) -> None:
    import sample_model

    model, inputs = sample_model.small()
    torch.export.save(torch.export.export(model, inputs), folder / "small.pt2")
    done = spawn("model", "small.pt2", "--extract", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["tasks"]) == 2


def test_an_onnx_file_is_a_model(spawn: Callable[..., Any], folder: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    import numpy as np

    rng = np.random.default_rng(0)
    helper, weights = onnx.helper, rng.uniform(-1, 1, (24, 40)).astype("float32")
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    tensor = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", tensor, [9, 24])],
        [helper.make_tensor_value_info("z", tensor, [9, 40])],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(weights[0], "b"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "small.onnx")
    done = spawn("compile", "small.onnx", "--threads", "1", "-o", "small.so", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert "epilogue=bias_relu" in row["workload"]
    x = rng.uniform(-1, 1, (9, 24)).astype("float32")
    result = autotune.load_model(folder / "small.so")(x)
    assert np.allclose(result, np.maximum(x @ weights + weights[0], 0.0), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model", "sample:small"), "--extract or --tune"),
        (("model", "nowhere.pt2", "--extract"), "there is no file nowhere.pt2"),
        (("model", "nowhere.onnx", "--extract"), "there is no file nowhere.onnx"),
        (("model", "sample.py", "--extract"), "cannot tell what model"),
        (("model", "nothing:here", "--extract"), "cannot import nothing:here"),
        (("model", "sample:nothing", "--extract"), "cannot import sample:nothing"),
        (("model", "sample:wrong", "--extract"), "must return (module, example_inputs"),
        (("model", "sample:training", "--extract"), "model.eval()"),
        (("model", "sample:without_products", "--tune", "--trials", "4"), "no product"),
        (("compile", "sample:small", "--log", "none.jsonl"), "there is no log none.jsonl"),
        (
            ("compile", "sample:small", "--target", "cuda:h200", "--threads", "2"),
            "--threads is for",
        ),
        (("model", "sample:small", "--tune", "--target", "cuda:h200"), "is a GPU by name"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    call: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    done = call(*words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_files_that_are_no_models_are_refused(call: Callable[..., Any], folder: Path) -> None:
    (folder / "text.pt2").write_text("hello")
    (folder / "text.onnx").write_text("hello")
    for name in ("text.pt2", "text.onnx"):
        done = call("model", name, "--extract")
        assert done.code == 2
        assert name in done.err


def test_a_model_is_listed_and_compiled_for_a_gpu_that_is_not_here(
    call: Callable[..., Any], folder: Path
) -> None:
    if find_compiler() is None:
        pytest.skip("neither nvcc nor NVRTC is here")
    done = call("model", "sample:small", "--extract", "--target", "cuda:h200")
    assert done.code == 0, done.err
    assert done.out.count("gemm m=9") == 2 and "prepacked" not in done.out

    done = call("compile", "sample:small", "--target", "cuda:h200", "-o", "small.so")
    assert done.code == 0, done.err
    header, *rows = done.out.splitlines()
    assert "predicted ms" in header and "GFLOP/s" not in header
    assert all("default" in row and "simt" in row for row in rows[:2])
    assert "not measured, nothing was run" in rows[2]
    assert "3 kernels compiled; functions by rule: 1 general reduction" in rows[3]
    assert (folder / "small.so").exists()


@pytest.mark.skipif(bool(cuda_devices()), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "words",
    [("compile", "sample:small"), ("model", "sample:small", "--tune")],
)
def test_a_missing_gpu_is_named(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    done = call(*words, "--target", "cuda")
    assert done.code == 2
    assert "no CUDA device found" in done.err and "--target cuda:h200" in done.err
