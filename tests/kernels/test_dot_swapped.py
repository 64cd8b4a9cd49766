"""cpu_dot_swapped: where it is taken, what it packs, and that it writes C and nothing beside it."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest

from autotune.call import aligned_empty
from autotune.errors import NotApplicable
from autotune.hw_profiles import HardwareProfile, find_profile, tvm_target
from autotune.hw_profiles.isa import model_named
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.compiling import compile_module
from autotune.kernels.cpu.dot_swapped import exchanged
from autotune.kernels.verify import make_problem
from autotune.search.space import Config
from autotune.workload import Gemm

TEMPLATE = get_template("cpu_dot_swapped")


def with_features(arch: str) -> HardwareProfile:
    known, model = find_profile(arch), model_named(arch)
    assert known is not None and model is not None
    return dataclasses.replace(known, features=tuple(model.implied))


SAPPHIRE_RAPIDS = with_features("sapphirerapids")


def config_of(workload: Gemm, **changes: Any) -> Config:
    space = TEMPLATE.space(workload, SAPPHIRE_RAPIDS, 1)
    config = space.defaults[0].replace(**changes)
    assert space.violated(config) is None
    return config


@pytest.mark.parametrize(
    ("m", "n", "k", "wanted"),
    [
        (1, 768, 768, True),
        (16, 4096, 4096, True),
        (128, 768, 3072, True),
        (128, 4096, 4096, True),  # all of A is half of the second-level cache
        (129, 4096, 4096, False),
        (512, 768, 768, True),
        (520, 768, 768, False),  # more sums to turn than words of B to pack
        (128, 128, 64, False),
        (16, 768, 767, False),  # rows of B that begin inside a word
    ],
)
def test_auto_takes_it_where_packing_b_would_cost_more(
    m: int, n: int, k: int, wanted: bool
) -> None:
    workload = Gemm(m, n, k, layout="nt", dtype="bfloat16")
    name = "cpu_dot_swapped" if wanted else "cpu_dot"
    assert choose_template("auto", workload, SAPPHIRE_RAPIDS).name == name
    for other in (
        dataclasses.replace(workload, layout="nn"),
        dataclasses.replace(workload, prepacked=True),
    ):
        assert choose_template("auto", other, SAPPHIRE_RAPIDS).name == "cpu_dot"
    assert choose_template("auto", workload, with_features("znver4")).name == "cpu_dot"


def test_the_first_guess_reads_b_where_it_is() -> None:
    for m, n, micro_m, micro_n in ((1, 768, 16, 32), (32, 777, 32, 32), (100, 48, 16, 16)):
        for dtype in ("bfloat16", "int8"):
            config = config_of(Gemm(m, n, 768, layout="nt", dtype=dtype))
            assert (config["micro_m"], config["micro_n"]) == (micro_m, micro_n)
            assert (config["pack_a"], config["pack_b"]) == ("whole", "none")
    config = config_of(Gemm(16, 768, 776, layout="nt", dtype="bfloat16"))
    assert config["pack_b"] == "panel"  # its rows do not fill tiles along k


def test_what_it_does_not_compute_is_refused() -> None:
    for workload in (Gemm(16, 64, 64, dtype="int8"),
                     Gemm(16, 64, 64, layout="nt", dtype="bfloat16", prepacked=True)):  # fmt: skip
        with pytest.raises(NotApplicable, match="stored transposed, not prepacked.* cpu_dot"):
            TEMPLATE.space(workload, SAPPHIRE_RAPIDS, 1)


def test_a_config_told_of_c_and_back_is_the_same() -> None:
    workload, rng = Gemm(40, 70, 256, layout="nt", dtype="int8"), random.Random(0)
    space = TEMPLATE.space(workload, SAPPHIRE_RAPIDS, 2)
    for _ in range(50):
        config = space.sample(rng)
        other = exchanged(config)
        assert exchanged(other) == config
        assert (other["micro_m"], other["pack_b"]) == (config["micro_n"], config["pack_a"])
        orders = other["outer_order"], config["outer_order"]
        places = [[order.index(axis) for axis in "mnk"] for order in orders]  # type: ignore[union-attr]
        assert places[0] == [places[1][1], places[1][0], places[1][2]]


@pytest.mark.parametrize("epilogue", ["none", "bias_relu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("m", [8, 24, 40, 37])
def test_nothing_is_written_beside_c(
    m: int, dtype: str, epilogue: str, host: HardwareProfile
) -> None:
    """Rows that divide into squares and not into tiles, columns that do neither.

    With AMX the last tile of columns begins before the end of the one before.
    """
    import tvm

    out = "float32" if dtype == "bfloat16" else "int32"
    workload = Gemm(m, 44, 64, layout="nt", dtype=dtype, out_dtype=out, epilogue=epilogue)
    problem, space = make_problem(workload), TEMPLATE.space(workload, host, 1)
    inputs = [tvm.runtime.tensor(x) for x in problem.inputs]
    for default in space.defaults:
        TEMPLATE.prepare(default)
        for micro_m in next(p for p in space.parameters if p.name == "micro_m").values():
            config = default.replace(micro_m=micro_m)
            if not space.is_legal(config):
                continue
            kernel = compile_module(
                TEMPLATE.build(workload, config), tvm.target.Target(tvm_target(host, 1))
            )
            around = aligned_empty((m + 128, 44), out)
            around[:] = 77
            result = tvm.runtime.from_dlpack(around[64 : 64 + m])
            kernel["main"](*inputs, result)
            np.testing.assert_allclose(around[64 : 64 + m], problem.reference, 1e-2, 1e-2)
            assert (around[:64] == 77).all() and (around[64 + m :] == 77).all(), config
