"""Slices of k that threads share: correct sums, and offered where C has too little to share."""

from __future__ import annotations

import random
from typing import Any

import pytest

from autotune.hw_profiles import HardwareProfile
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.verify import make_problem
from autotune.workload import EPILOGUES, Gemm

THREADS = 2


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(
    ("name", "m", "n", "k", "layout"),
    [
        ("cpu_tile", 8, 24, 2048, "nn"),
        ("cpu_tile", 13, 17, 1222, "tt"),
        ("cpu_inner", 3, 5, 1534, "nt"),
        ("cpu_inner", 37, 1, 1222, "nn"),
        ("cpu_inner", 1, 1, 4096, "nt"),
    ],
)
def test_slices_are_added_up_and_the_epilogue_follows_once(
    name: str,
    m: int,
    n: int,
    k: int,
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(m, n, k, layout=layout, epilogue=epilogue, scale=0.5)
    template, problem = get_template(name), make_problem(workload)
    space = template.space(workload, host, THREADS)
    rng = random.Random(workload.key)
    sliced = [config for config in space.defaults if config["slices_k"] == 2]
    while len(sliced) < 3:
        config = space.sample(rng)
        if config["slices_k"] == 2:
            sliced.append(config)
    for config in sliced:
        assert space.violated(config) is None
        assert check_kernel(template, workload, config, problem) is None, config


def test_threads_share_the_slices(host: HardwareProfile) -> None:
    workload = Gemm(4, 8, 4096)
    template = get_template("cpu_tile")
    config = template.space(workload, host, THREADS).defaults[0]
    assert (config["slices_k"], config["parallel"]) == (2, "none")
    text = template.build(workload, config).script()
    assert text.count("T.parallel(2)") == 1


def test_slices_are_offered_where_c_is_small_and_k_is_long(host: HardwareProfile) -> None:
    def values(workload: Gemm, threads: int) -> tuple[Any, ...]:
        space = choose_template("auto", workload, host).space(workload, host, threads)
        return next((tuple(p.values()) for p in space.parameters if p.name == "slices_k"), ())

    assert values(Gemm(16, 16, 8192), 2) == (1, 2)
    assert values(Gemm(16, 16, 8192), 6) == (1, 2, 4)  # 6 does not divide k
    assert values(Gemm(16, 16, 6144), 6) == (1, 2, 4, 6)
    assert values(Gemm(16, 16, 8192), 1) == ()
    assert values(Gemm(16, 16, 1023), 2) == ()
    assert values(Gemm(16, 16, 8193), 2) == ()
    assert values(Gemm(1024, 1024, 8192), 2) == ()
    assert values(Gemm(16, 16, 8192, batch=3), 2) == ()
    assert values(Gemm(16, 16, 8192, prepacked=True), 2) == ()


def test_slices_come_first_only_where_threads_would_be_idle(host: HardwareProfile) -> None:
    template = get_template("cpu_tile")
    few, enough = (template.space(Gemm(8, n, 4096), host, THREADS).defaults for n in (8, 2048))
    assert few[0]["slices_k"] == 2 and enough[0]["slices_k"] == 1
    assert {config["slices_k"] for config in enough} == {1, 2}
    assert all(
        template.space(Gemm(8, 8, 4096), host, THREADS).violated(config) is None for config in few
    )
    shared = few[0].replace(parallel="fused")
    assert "slices of k or of C" in str(
        template.space(Gemm(8, 8, 4096), host, THREADS).violated(shared)
    )
