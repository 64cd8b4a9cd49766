"""Blocks of k where the number of rows is known only when the kernel runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autotune.hw_profiles import HardwareProfile, tvm_target
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module
from autotune.models.packing import with_any
from autotune.search.space import Config
from autotune.workload import Gemm

tvm = pytest.importorskip("tvm")

ORDERS = tuple(itertools.permutations("nmk"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("columns", [12, 100])  # fewer than a tile has, and some that stick out
@pytest.mark.parametrize("order", ORDERS, ids="".join)
def test_any_number_of_rows(
    order: tuple[str, ...], columns: int, threads: int, host: HardwareProfile
) -> None:
    workload = Gemm(64, columns, 48, epilogue="bias_relu")
    template = get_template("cpu_tile")
    space = template.space(workload, host, threads)
    values = dict(space.defaults[0])
    values |= {"micro_m": 5, "micro_n": 16, "block_m": 4, "block_k": 16,
               "outer_order": order, "inner_order": "nm", "unroll_k": 4, "prefetch_b": 8,
               "pack_a": "none", "pack_b": "block", "tail": "predicate"}  # fmt: skip
    values["block_n"] = 1 if columns < 16 else 2
    config = Config(values)
    assert space.violated(config) is None
    module = template.build(with_any("m", workload), config)
    kernel = compile_module(module, tvm.target.Target(tvm_target(host, threads)))["main"]
    rng = np.random.default_rng(0)
    for rows in (1, 4, 5, 21, 64, 131):
        a, b, bias = (rng.standard_normal(s) for s in ((rows, 48), (48, columns), (columns,)))
        out = np.full((rows, columns), np.nan)
        *inputs, out = (tvm.runtime.tensor(x.astype("float32")) for x in (a, b, bias, out))
        kernel(*inputs, out)
        assert np.allclose(out.numpy(), np.maximum(a @ b + bias, 0), atol=1e-4)
