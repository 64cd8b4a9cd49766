"""Infinities, NaN and subnormal numbers in fp32: kernels treat them as torch does.

Not so GELU: torch's own is infinite or NaN for infinity, depending on whether oneDNN computes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotune.hw_profiles import HardwareProfile, tvm_target
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module
from autotune.search.space import Config
from autotune.workload import Gemm

#: Extents that leave tails in every direction.
M, N, K = 13, 37, 29


def run(host: HardwareProfile, template: str, workload: Gemm, config: Config, *inputs: Any) -> Any:
    import tvm

    made = get_template(template)
    target = tvm.target.Target(tvm_target(host, 1))
    library = compile_module(made.build(workload, config), target)
    arrays = [tvm.runtime.tensor(array) for array in inputs]
    out = tvm.runtime.empty(workload.c_shape, workload.out_dtype)
    library["main"](*arrays, out)
    return out.numpy()


def expected(workload: Gemm, a: Any, b: Any) -> Any:
    result = torch.from_numpy(a) @ torch.from_numpy(b if workload.layout[1] == "n" else b.T.copy())
    if workload.epilogue == "relu":
        result = torch.relu(result)
    elif workload.epilogue == "silu":
        result = torch.nn.functional.silu(result)
    return result.numpy()


def configs(host: HardwareProfile, template: str, workload: Gemm) -> list[Config]:
    """The defaults, and one config that packs and pads as much as it can."""
    space = get_template(template).space(workload, host, 1)
    chosen = list(space.defaults[:2])
    if template == "cpu_tile":
        packed = chosen[0].replace(pack_a="whole", pack_b="whole")
        chosen.append(packed)
        chosen += [c for c in (packed.replace(tail="pad"),) if space.is_legal(c)]
    return [config for config in chosen if space.is_legal(config)]


CASES = [
    ("cpu_tile", Gemm(M, N, K)),
    ("cpu_tile", Gemm(M, N, K, layout="nt")),
    ("cpu_tile", Gemm(M, N, K, epilogue="relu")),
    ("cpu_tile", Gemm(M, N, K, epilogue="silu")),
    ("cpu_inner", Gemm(1, N, K, layout="nt")),
    ("cpu_inner", Gemm(3, N, K, layout="nt", epilogue="relu")),
    ("cpu_swapped", Gemm(M, N, K, layout="nt")),
    ("cpu_swapped", Gemm(3, N, K, layout="nt", epilogue="relu")),
]


def operands(workload: Gemm, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, workload.a_shape).astype("float32")
    return a, rng.uniform(-1, 1, workload.b_shape).astype("float32")


@pytest.mark.parametrize(("template", "workload"), CASES, ids=lambda value: str(value)[:60])
def test_infinities_and_nan_reach_what_torch_lets_them_reach(
    host: HardwareProfile, template: str, workload: Gemm
) -> None:
    a, b = operands(workload)
    a[0, 3], a[-1, -1] = np.inf, -np.inf
    b[0, 5], b[-1, -1], b[2, 3] = np.nan, np.inf, 0.0  # infinity times zero is NaN
    if workload.m > 4:
        a[2, 0], a[4, 7] = np.nan, np.inf
    wanted = expected(workload, a, b)
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    for config in configs(host, template, workload):
        got = run(host, template, workload, config, a, b)
        assert np.array_equal(np.isnan(got), np.isnan(wanted)), config
        assert np.array_equal(np.isposinf(got), np.isposinf(wanted)), config
        assert np.array_equal(np.isneginf(got), np.isneginf(wanted)), config
        finite = np.isfinite(wanted)
        assert np.allclose(got[finite], wanted[finite], atol=1e-5), config


@pytest.mark.parametrize(("template", "workload"), CASES[:2] + CASES[4:5], ids=str)
def test_subnormal_numbers_are_neither_dropped_nor_flushed(
    host: HardwareProfile, template: str, workload: Gemm
) -> None:
    a, b = operands(workload)
    a *= np.float32(1e-38)  # operands of which many, and sums of which some, are subnormal
    b *= np.float32(0.1)
    exact = a.astype("float64") @ (b if workload.layout[1] == "n" else b.T).astype("float64")
    tiny = np.finfo("float32").tiny
    assert (np.abs(a) < tiny).any()
    assert ((np.abs(exact) > 0) & (np.abs(exact) < tiny)).any()
    for config in configs(host, template, workload):
        got = run(host, template, workload, config, a, b).astype("float64")
        # Half a step of the subnormal grid for each of K roundings.
        assert np.abs(got - exact).max() <= K * np.finfo("float32").smallest_subnormal, config
    assert np.allclose(expected(workload, a, b), exact, atol=K * 1.5e-45, rtol=0)


def test_a_sum_that_overflows_is_infinite(host: HardwareProfile) -> None:
    workload = Gemm(M, N, K)
    a, b = np.full((M, K), 1e38, "float32"), np.full((K, N), 1.0, "float32")
    for config in configs(host, "cpu_tile", workload):
        assert np.isposinf(run(host, "cpu_tile", workload, config, a, b)).all()
