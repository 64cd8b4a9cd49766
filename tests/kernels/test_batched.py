"""Batches of products: every template that computes them, and what the others say."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest

from autotune.errors import NotApplicable
from autotune.hw_profiles import HardwareProfile, load_profiles
from autotune.kernels.base import Template, choose_template, get_template, load_templates
from autotune.kernels.verify import make_problem
from autotune.workload import EPILOGUES, LAYOUTS, Gemm

THREADS = 2
#: Templates that compute batches, with a type and a layout that each takes.
BATCHED = (
    ("cpu_tile", "float32", "nn"),
    ("cpu_inner", "float32", "nt"),
    ("cpu_swapped", "float32", "nt"),
    ("cpu_dot", "bfloat16", "nt"),
    ("cpu_dot_swapped", "bfloat16", "nt"),
    ("cpu_dot", "float16", "nn"),
    ("cpu_dot", "int8", "nn"),
)
#: The layouts of those that do not take all.
ALLOWED = {"cpu_inner": ("nt",), "cpu_swapped": ("nt", "tt"), "cpu_dot_swapped": ("nt", "tt")}
#: Templates for GPUs compute batches too; their own tests say so.
OTHERS = sorted(
    name
    for name, template in load_templates().items()
    if template.kind == "cpu" and name not in {name for name, _, _ in BATCHED}
)
each = pytest.mark.parametrize(
    ("name", "dtype", "layout"), BATCHED, ids=[f"{name}-{dtype}" for name, dtype, _ in BATCHED]
)
of_each_template = pytest.mark.parametrize(("name", "dtype", "layout"), BATCHED[:5])


def failures(
    template: Template,
    workload: Gemm,
    host: HardwareProfile,
    check_kernel: Any,
    samples: int = 1,
    threads: int = THREADS,
    every_mode: bool = False,
) -> list[str]:
    """What is wrong with the default and random configs, of every value of parallel if asked."""
    space, problem = template.space(workload, host, threads), make_problem(workload)
    rng = random.Random(workload.key)
    configs = [space.defaults[0], *(space.sample(rng) for _ in range(samples))]
    modes = {config["parallel"] for config in configs}
    missing = set(next(p for p in space.parameters if p.name == "parallel").values()) - modes
    if every_mode:
        configs += [configs[0].replace(parallel=mode) for mode in sorted(missing)]
    wrong = ((config, check_kernel(template, workload, config, problem)) for config in configs)
    return [f"{config!r}: {message}" for config, message in wrong if message]


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [(2, 1, 1, 1), (3, 5, 3, 7), (2, 13, 17, 31), (5, 37, 50, 64), (2, 197, 197, 64),
     (4, 1, 197, 64), (2, 128, 64, 128), (7, 64, 1, 33)],
)  # fmt: skip
@each
def test_batches_of_odd_and_prime_shapes_are_correct(
    name: str,
    dtype: str,
    layout: str,
    batch: int,
    m: int,
    n: int,
    k: int,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(m, n, k, layout=layout, dtype=dtype, batch=batch)
    template = get_template(name)
    assert failures(template, workload, host, check_kernel, every_mode=m == 37) == []


@pytest.mark.parametrize(
    ("epilogue", "layout_of_all"),
    [*(("none", layout) for layout in LAYOUTS), *zip(EPILOGUES[1:], itertools.cycle(LAYOUTS))],
)
@of_each_template
def test_batches_take_every_layout_and_epilogue_that_single_products_take(
    name: str,
    dtype: str,
    layout: str,
    epilogue: str,
    layout_of_all: str,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    template = get_template(name)
    workload = Gemm(
        23, 35, 12, layout=layout_of_all, dtype=dtype, epilogue=epilogue, batch=3, scale=0.3
    )
    try:
        template.space(workload.one_of_batch, host, THREADS)
    except NotApplicable as refused:
        with pytest.raises(NotApplicable, match=str(refused)[:40]):
            template.space(workload, host, THREADS)
        return
    assert failures(template, workload, host, check_kernel) == []


@pytest.mark.parametrize("shared", ["a", "b"])
@of_each_template
def test_one_operand_may_be_that_of_all_products(
    name: str, dtype: str, layout: str, shared: str, host: HardwareProfile, check_kernel: Any
) -> None:
    template = get_template(name)
    workload = Gemm(13, 33, 17, layout=layout, dtype=dtype, batch=5, shared=shared)
    with_more = dataclasses.replace(workload, epilogue="bias_residual", scale=0.5)
    for each_of in (workload, with_more):
        assert failures(template, each_of, host, check_kernel, every_mode=True) == []


def test_a_weight_that_all_share_is_packed_beforehand(
    host: HardwareProfile, check_kernel: Any
) -> None:
    workload = Gemm(13, 33, 17, layout="tt", batch=4, shared="b", prepacked=True)
    assert failures(get_template("cpu_tile"), workload, host, check_kernel, every_mode=True) == []


@pytest.mark.parametrize(
    ("gpu", "dtype", "name"),
    [
        ("h200", "float32", "simt"),
        ("h200", "bfloat16", "wgmma"),
        ("a100-sxm", "bfloat16", "mma_sync"),
        ("rtx-4090", "int8", "mma_sync"),
    ],
)
def test_batches_have_a_template_on_gpus(gpu: str, dtype: str, name: str) -> None:
    """That their kernels are right is said by tests of their own."""
    profile = load_profiles()[gpu]
    for shared in ("", "a", "b"):
        workload = Gemm(64, 96, 64, dtype=dtype, batch=12, shared=shared, epilogue="residual")
        template = choose_template("auto", workload, profile)
        assert template.name == name
        assert template.space(workload, profile, 1).defaults


@pytest.mark.parametrize("seed", range(8))
@of_each_template
def test_random_workloads_are_correct(
    name: str, dtype: str, layout: str, seed: int, host: HardwareProfile, check_kernel: Any
) -> None:
    rng = random.Random(f"{name} {seed}")
    m, n, k = (rng.choice((rng.randint(1, 40), rng.randint(1, 150))) for _ in range(3))
    workload = Gemm(
        m,
        n,
        k,
        layout=rng.choice(ALLOWED.get(name, LAYOUTS)),
        dtype=dtype,
        epilogue=rng.choice(EPILOGUES),
        batch=rng.choice((1, rng.randint(2, 9))),
        scale=rng.choice((1.0, k**-0.5, -3.0)),
    )
    assert failures(get_template(name), workload, host, check_kernel, samples=2) == []


@of_each_template
def test_one_thread_means_no_parallel_loop(
    name: str, dtype: str, layout: str, host: HardwareProfile, check_kernel: Any
) -> None:
    template, workload = get_template(name), Gemm(33, 40, 28, layout=layout, dtype=dtype, batch=3)
    space = template.space(workload, host, 1)
    assert "T.parallel" not in template.build(workload, space.defaults[0]).script()
    assert failures(template, workload, host, check_kernel, threads=1) == []


@pytest.mark.parametrize(("batch", "threads", "mode"), [(11, 2, "batch"), (7, 8, "fused")])
@of_each_template
def test_threads_share_the_batch_where_it_is_large_enough(
    name: str, dtype: str, layout: str, batch: int, threads: int, mode: str, host: HardwareProfile
) -> None:
    template = get_template(name)
    workload = Gemm(64, 64, 64, layout=layout, dtype=dtype, batch=batch)
    space = template.space(workload, host, threads)
    assert {config["parallel"] for config in space.defaults} == {mode}
    script = template.build(workload, space.defaults[0]).script()
    assert ("in T.parallel" in script) and (f" in T.parallel({batch})" in script) == (
        mode == "batch"
    )


@pytest.mark.parametrize("workload", [Gemm(128, 128, 64, layout="nt"), Gemm(128, 64, 128)])
@pytest.mark.parametrize("batch", [2, 12, 512])
def test_a_template_is_found_for_attention_and_its_space_is_that_of_one_product(
    batch: int, workload: Gemm, host: HardwareProfile
) -> None:
    batched = dataclasses.replace(workload, batch=batch)
    template = choose_template("auto", batched, host)
    assert template.name == choose_template("auto", workload, host).name == "cpu_tile"
    assert template.space(batched, host, 1).size == template.space(workload, host, 1).size


def test_a_decoded_token_meets_the_template_for_vectors(host: HardwareProfile) -> None:
    scores = Gemm(1, 512, 128, layout="nt", batch=32)
    assert choose_template("auto", scores, host).name == "cpu_inner"


@pytest.mark.parametrize("name", OTHERS)
def test_other_templates_refuse_a_batch_and_do_not_offer_themselves(
    name: str, host: HardwareProfile
) -> None:
    from autotune.hw_profiles import load_profiles

    template = get_template(name)
    profile = host if template.kind == "cpu" else load_profiles()["h200"]
    for dtype in ("float32", "bfloat16"):
        workload = Gemm(64, 64, 64, dtype=dtype, batch=2)
        assert template.rank(workload, profile) == 0
        with pytest.raises(NotApplicable, match=f"template {name} "):
            template.space(workload, profile, THREADS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prepacked": True}, "packs one matrix B beforehand, not a batch of 4"),
        ({"m": 2**15, "k": 2**15}, "counts elements in 32 bits.*cut the batch"),
    ],
)
def test_batches_that_cannot_be_computed_are_refused_with_what_to_do(
    changes: dict[str, Any], says: str, host: HardwareProfile
) -> None:
    workload = dataclasses.replace(Gemm(64, 64, 64, batch=4), **changes)
    with pytest.raises(NotApplicable, match=f"template cpu_tile .*{says}"):
        get_template("cpu_tile").space(workload, host, THREADS)
