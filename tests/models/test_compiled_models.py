"""Compiled models against torch: numbers, inputs, types, coverage."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import SMALL, Function, tuned
from torch.nn import functional as F

import autotune
from autotune.errors import AutotuneError, LogError
from autotune.hw_profiles import find_profile, resolve_target
from autotune.hw_profiles.isa import model_named
from autotune.log import Record, Tier, TuningLog
from autotune.models.choose import Chooser
from autotune.workload import Gemm


def compiled(model: Any, *inputs: Any, threads: int = 1, **options: Any) -> Any:
    if not isinstance(model, torch.nn.Module):
        model = Function(model)
    return autotune.compile(model.eval(), inputs, threads=threads, **options)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (got.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_computes_what_torch_computes(name: str, threads: int) -> None:
    model, inputs = SMALL[name]()
    ours = compiled(model, *inputs, threads=threads)
    with torch.no_grad():
        expected = model(*inputs)
    result = ours(*inputs)
    assert isinstance(result, torch.Tensor)
    assert relative_error(result, expected) < 5e-6
    assert all("windows overlap" in reason for _, reason in ours.coverage.missed)
    assert len(ours.coverage.missed) == name.startswith("resnet")  # its one 3x3
    assert ours.coverage.rows
    again = tuple(torch.randn_like(x) for x in inputs)
    with torch.no_grad():
        assert relative_error(ours(*again), model(*again)) < 5e-6


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize(
    "name", ["mlp", "bert_layer", "vit_block", "llama_block", "resnet_bottleneck"]
)
def test_narrow_models_are_as_near_to_float64_as_torch_is(
    name: str, dtype: torch.dtype, bound: float
) -> None:
    model, inputs = SMALL[name]()
    with torch.no_grad():
        exact = model.double()(*[x.to(dtype).double() for x in inputs])
    narrow = model.to(dtype)
    ours = compiled(narrow, *[x.to(dtype) for x in inputs])
    result = ours(*[x.to(dtype) for x in inputs])
    assert result.dtype == dtype
    assert relative_error(result, exact) < bound


Q, K = torch.randn(2, 5, 3, 12), torch.randn(2, 9, 3, 12)
IMAGES = torch.randn(3, 8, 7, 9)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda q, k: torch.einsum("bihd,bjhd->bhij", q, k), (Q, K)),
        (lambda q, k: torch.einsum("bihd,bjhd->bhij", q, k), (Q[:1], K[:1])),
        (lambda q, k: torch.einsum("ihd,jhd->ij", q[0], k[0]) + 1.0, (Q, K)),
        (lambda x, w: (x[:, None] * w[None]).sum(-1), (torch.randn(5, 12), torch.randn(9, 12))),
        (lambda p, v: (p[..., None] * v).sum(-2), (torch.rand(4, 12), torch.randn(4, 12, 9))),
        (lambda x, w: x.transpose(1, 2) @ w, (torch.randn(3, 12, 5), torch.randn(12, 9))),
        (lambda w, x: w @ x, (torch.randn(5, 12), torch.randn(4, 12, 9))),
        (lambda x, y: x @ y, (torch.randn(3, 5, 12), torch.randn(2, 1, 12, 9))),
        (torch.mv, (torch.randn(5, 12), torch.randn(12))),
        (torch.baddbmm, (torch.randn(4, 5, 9), torch.randn(4, 5, 12), torch.randn(4, 12, 9))),
        (F.conv2d, (IMAGES, torch.randn(6, 8, 1, 1))),
        (lambda x, w: F.conv2d(x, w, stride=2), (IMAGES, torch.randn(6, 8, 1, 1))),
        (lambda x, w: F.relu(F.conv2d(x, w) + x), (IMAGES, torch.randn(8, 8, 1, 1))),
        (
            lambda x, w, b: F.relu(F.conv2d(x, w, b) + x),
            (IMAGES, torch.randn(8, 8, 1, 1), torch.randn(8)),
        ),
        (
            lambda x, w, b: F.silu(F.conv2d(x, w, b)),
            (IMAGES, torch.randn(6, 8, 1, 1), torch.randn(6)),
        ),
    ],
)
def test_other_spellings_of_a_product_run_on_kernels_too(
    function: Any, inputs: tuple[torch.Tensor, ...]
) -> None:
    ours = compiled(function, *inputs)
    assert sum(row.calls for row in ours.coverage.rows) == 1
    assert ours.coverage.missed == ()
    assert relative_error(ours(*inputs), function(*inputs)) < 5e-6


def test_a_constant_is_put_in_order_while_compiling() -> None:
    weight, x = torch.randn(3, 12, 9), torch.randn(5, 12)
    ours = compiled(lambda x: torch.einsum("bk,hkj->bhj", x, weight), x)
    (row,) = ours.coverage.rows
    assert (row.calls, ours.coverage.missed) == (1, ())
    assert set(ours.coverage.rules) <= {"reshape"}
    assert relative_error(ours(x), torch.einsum("bk,hkj->bhj", x, weight)) < 5e-6


def test_int8_products_are_exact() -> None:
    a = torch.randint(-128, 128, (33, 64), dtype=torch.int8)
    b = torch.randint(-128, 128, (64, 48), dtype=torch.int8)
    ours = compiled(lambda x, y: torch._int_mm(x, y), a, b)
    assert torch.equal(ours(a, b), a.int() @ b.int())
    assert [row.template for row in ours.coverage.rows] == ["cpu_dot"]


def test_several_results_come_as_a_tuple_or_list() -> None:
    x, w = torch.randn(5, 8), torch.randn(8, 3)
    first, second = compiled(lambda x, w: (x @ w, torch.relu(x)), x, w)(x, w)
    assert torch.allclose(first, x @ w, atol=1e-5)
    assert torch.equal(second, torch.relu(x))


def test_inputs_may_be_strided_or_misaligned_but_gradients_are_not_lost_silently() -> None:
    x, w = torch.randn(6, 16), torch.randn(16, 8)
    ours = compiled(torch.matmul, x, w)
    memory = torch.randn(6 * 16 + 1)
    misaligned = memory[1:].view(6, 16)
    for value in (x.T.contiguous().T, misaligned):
        assert torch.allclose(ours(value, w), value @ w, atol=1e-5)
    wanting = x.clone().requires_grad_()
    with pytest.raises(AutotuneError, match=r"requires a gradient.*under torch.no_grad"):
        ours(wanting, w)
    with torch.no_grad():
        assert torch.allclose(ours(wanting, w), x @ w, atol=1e-5)


def test_numpy_arrays_are_taken_wherever_they_start() -> None:
    import numpy as np

    x, w = torch.randn(6, 16), torch.randn(16, 8)
    ours = compiled(torch.matmul, x, w)
    memory = np.random.default_rng(0).uniform(-1, 1, 6 * 16 + 1).astype("float32")
    array = memory[1:].reshape(6, 16)
    result = ours(array, w.numpy())
    assert np.allclose(np.asarray(result), array @ w.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.randn(6, 16),), "2 inputs, not 1"),
        ((torch.randn(6, 15), torch.randn(16, 8)), r"input 0 must be \(6, 16\) float32"),
        ((torch.randn(6, 16), torch.randn(16, 8).double()), "input 1 must be"),
        ((torch.randn(6, 16), "eight"), "input 1 must be"),
    ],
)
def test_other_inputs_are_refused_in_words(inputs: tuple[Any, ...], message: str) -> None:
    ours = compiled(torch.matmul, torch.randn(6, 16), torch.randn(16, 8))
    with pytest.raises(AutotuneError, match=message):
        ours(*inputs)


def test_a_model_without_products_is_compiled_all_the_same() -> None:
    x = torch.randn(3, 7)
    ours = compiled(lambda x: F.softmax(x, dim=-1), x)
    assert ours.coverage.rows == ()
    assert torch.allclose(ours(x), F.softmax(x, dim=-1), atol=1e-6)


# -- what the log is used for ---------------------------------------------------------------------


def write(path: Path, *records: Any) -> Path:
    log = TuningLog(path)
    log.append(list(records))
    return path


WANTED = Gemm(7, 61, 33, layout="nt", epilogue="bias_gelu", prepacked=True)


def coverage_of_mlp(log: Path) -> Any:
    model, inputs = SMALL["mlp"]()
    ours = compiled(model, *inputs, log=log)
    with torch.no_grad():
        assert relative_error(ours(*inputs), model(*inputs)) < 5e-6
    return {row.workload: row for row in ours.coverage.rows}[WANTED.key]


def test_the_logs_winner_is_used_and_named(tmp_path: Path) -> None:
    record = tuned(WANTED)
    row = coverage_of_mlp(write(tmp_path / "log.jsonl", record))
    assert row.tier == Tier.EXACT.value
    assert row.config == record.config
    assert row.seconds == 1e-3


@pytest.mark.parametrize(
    ("other", "tier"),
    [
        (Gemm(7, 61, 33, layout="nt", epilogue="bias_gelu"), Tier.SAME_GEMM),
        (Gemm(7, 61, 33, layout="nt", prepacked=True), Tier.SAME_GEMM),
        (Gemm(8, 61, 33, layout="nt", epilogue="bias_gelu", prepacked=True), Tier.M_BUCKET),
        (Gemm(300, 500, 64, layout="nt", epilogue="bias", prepacked=True), Tier.NEAREST),
    ],
)
def test_what_was_tuned_for_something_near_is_used_and_says_so(
    tmp_path: Path, other: Gemm, tier: Tier
) -> None:
    row = coverage_of_mlp(write(tmp_path / "log.jsonl", tuned(other)))
    assert row.tier == tier.value
    assert other.key in row.note
    assert math.isnan(row.seconds)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_key": "another machine"}, "of other hardware"),
        ({"template": {"name": "cpu_tile", "version": 1}}, "of other versions"),
    ],
)
def test_records_of_other_hardware_or_versions_are_ignored_aloud(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    row = coverage_of_mlp(write(tmp_path / "log.jsonl", tuned(WANTED, **changes)))
    assert row.tier == Tier.DEFAULT.value
    assert said in row.note


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", tuned(WANTED))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "trial", "torn\n')
    assert coverage_of_mlp(path).tier == Tier.EXACT.value


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    model, inputs = SMALL["mlp"]()
    with pytest.raises(LogError, match="there is no log"):
        compiled(model, *inputs, log=tmp_path / "none.jsonl")


def test_an_exact_record_of_another_template_beats_a_default() -> None:
    workload = Gemm(64, 48, 32)
    chooser = Chooser([tuned(workload, made_by="cpu_paper")], resolve_target("cpu"), 1)
    assert chooser.choose(workload).template.name == "cpu_paper"
    assert chooser.choose(Gemm(64, 48, 31)).template.name != "cpu_paper"


def test_a_constant_stays_as_it_is_where_that_is_no_slower_than_a_packed_one() -> None:
    known, model = find_profile("sapphirerapids"), model_named("sapphirerapids")
    assert known is not None and model is not None
    profile = dataclasses.replace(known, features=tuple(model.implied))
    few = Gemm(16, 768, 768, dtype="bfloat16")

    def chosen(workload: Gemm, *records: Record) -> tuple[str, str, bool]:
        choice = Chooser(records, profile, 1).choose(workload, constant_b=True)
        return choice.template.name, choice.workload.layout, choice.workload.prepacked

    assert chosen(few) == ("cpu_dot_swapped", "nt", False)  # put in order while compiling
    assert chosen(dataclasses.replace(few, m=1000)) == ("cpu_dot", "nn", True)
    assert chosen(dataclasses.replace(few, dtype="float32")) == ("cpu_tile", "nn", True)
    packed = tuned(dataclasses.replace(few, prepacked=True), made_by="cpu_dot", profile=profile)
    assert chosen(few, packed) == ("cpu_dot", "nn", True)


def test_the_profile_names_the_kernels() -> None:
    model, inputs = SMALL["mlp"]()
    ours = compiled(model, *inputs)
    seconds = ours.profile(repeats=2)
    assert {row.name for row in ours.coverage.rows} <= set(seconds)
    assert all(value >= 0.0 for value in seconds.values())
