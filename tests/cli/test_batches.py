"""A batch with a factor and a residual, from the command line to a call from Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import Gemm, load_kernel
from autotune.kernels.verify import make_problem, mismatch
from autotune.log import TuningLog

WORDS = ("-m", "17", "-n", "33", "-k", "24", "--layout", "nt", "--batch-count", "3",
         "--scale", "0.25", "--epilogue", "bias_residual", "--threads", "1")  # fmt: skip
WORKLOAD = Gemm(17, 33, 24, layout="nt", epilogue="bias_residual", batch=3, scale=0.25)


def test_a_batch_is_tuned_logged_measured_again_and_used(
    spawn: Callable[..., Any], folder: Path
) -> None:
    done = spawn("gemm", *WORDS, "--trials", "3")
    assert done.code == 0, done.err
    assert "epilogue=bias_residual batch=3 scale=0.25" in done.out
    assert "0 failed" in done.out and " x torch" in done.out
    assert "onednn cannot compute this" in done.out
    scan = TuningLog(folder / "tuned.jsonl").scan()
    assert {record.workload_key for record in scan.records} == {WORKLOAD.key}

    use = next(line for line in done.out.splitlines() if line.startswith("use it: "))
    used = spawn(*shlex.split(use.removeprefix("use it: "))[1:], "--json")
    assert used.code == 0, used.err
    assert json.loads(used.out)
    shown = spawn("log", "best", "tuned.jsonl")
    assert "3 x 17x33x24 nt float32 bias_residual" in shown.out

    kernel = load_kernel("tuned.jsonl", WORKLOAD, threads=1)
    problem = make_problem(WORKLOAD, seed=5)
    result = kernel(*problem.inputs)
    assert result.shape == WORKLOAD.c_shape
    assert mismatch(WORKLOAD, result, problem.reference) is None
    with pytest.raises(Exception, match="takes a, b, bias, residual; got 3"):
        kernel(*problem.inputs[:3])


def test_the_space_of_a_batch_is_shown(spawn: Callable[..., Any]) -> None:
    shown = spawn("space", "show", *WORDS, "--shared", "a", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--batch-count", "0"), "batch must be between 1 and"),
        (("--scale", "0"), "scale must be finite and not zero"),
        (("--batch-count", "2", "--prepacked"), "packs one matrix B beforehand"),
        (("--shared", "a"), "shared 'a' is for batches"),
        (("--batch-count", "2", "--template", "cpu_paper"), "one product, not a batch of 2"),
    ],
)
def test_what_no_template_computes_is_one_line(
    words: tuple[str, ...], says: str, spawn: Callable[..., Any]
) -> None:
    done = spawn("gemm", "-m", "8", "-n", "8", "-k", "8", *words)
    assert done.code == 2
    assert says in done.err and len(done.err.splitlines()) == 1
