"""What every template promises, checked for each CPU template in the registry."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_digest import digest

import autotune
from autotune.errors import AutotuneError, NotApplicable
from autotune.hw_profiles import HardwareProfile
from autotune.kernels.base import Template, choose_template, get_template, load_templates
from autotune.kernels.verify import make_problem
from autotune.search.parameters import Categorical, Permutation
from autotune.search.space import Config, ConfigSpace
from autotune.workload import EPILOGUES, LAYOUTS, Gemm

ROOT = Path(autotune.__file__).resolve().parents[1]
#: Element types of the templates that compute others than float32.
NARROW = ("bfloat16", "float16", "int8")
DTYPES = {"cpu_dot": NARROW, "cpu_dot_swapped": NARROW}
#: Every template with every type that it computes.
MEMBERS = [
    (template, dtype)
    for template in load_templates().values()
    if template.kind == "cpu"
    for dtype in DTYPES.get(template.name, ("float32",))
]
THREADS = 2

#: Tiny, degenerate, odd and prime, and the shapes named in the project's goals.
SHAPES = (
    (1, 1, 1),
    (5, 3, 7),
    (12, 20, 16),
    (64, 1, 64),
    (1, 64, 64),
    (1, 512, 512),
    (35, 17, 197),
    (127, 131, 137),
    (1000, 333, 77),
    (197, 768, 768),
)
AVX512 = HardwareProfile("cpu", "wide", "x", "x86_64", features=("f16c",), l2_bytes=1 << 20,
                         simd_bits=512, vector_registers=32)  # fmt: skip
PROFILES = [
    AVX512,
    dataclasses.replace(AVX512, name="AVX2", simd_bits=256, vector_registers=16, l2_bytes=1 << 18),
    dataclasses.replace(AVX512, name="SSE", simd_bits=128, vector_registers=16, l2_bytes=0),
    dataclasses.replace(AVX512, name="NEON", simd_bits=128, vector_registers=32),
]

#: The layout that a template is for, where it is not "nn".
LAYOUT = {"cpu_inner": "nt", "cpu_swapped": "nt", "cpu_dot_swapped": "nt"}


def without_room(template: Template, profile: HardwareProfile) -> bool:
    """Whether a template wants more registers than a CPU has."""
    return (template.name, profile.name) == ("cpu_dot_swapped", "SSE")


each = pytest.mark.parametrize(
    ("template", "dtype"), MEMBERS, ids=[f"{t.name}-{dtype}" for t, dtype in MEMBERS]
)
any_member = st.sampled_from(MEMBERS)
extents = st.one_of(st.integers(1, 70), st.integers(1, 9000), st.just(50257), st.just(500_000))


def aspects(workload: Gemm, config: Config, space: ConfigSpace) -> dict[str, Any]:
    """What a config does that needs code of its own in the schedule."""
    kinds = {p.name for p in space.parameters if isinstance(p, Categorical | Permutation)}
    found = {name: config[name] for name in kinds}
    if "step_k" in config:
        found["pads_m"] = workload.m % config["micro_m"] != 0  # type: ignore[operator]
        found["pads_n"] = workload.n % config["micro_n"] != 0  # type: ignore[operator]
        found["step_k"] = config["step_k"]
    elif "micro_m" in config:
        if dict(config).get("block_k", workload.k) != workload.k:
            found["k_at"] = config["outer_order"].index("k")  # type: ignore[union-attr]
        else:
            found["k_at"] = None
        found["pads_m"] = workload.m % config["micro_m"] != 0  # type: ignore[operator]
        found["pads_n"] = workload.n % config["micro_n"] != 0  # type: ignore[operator]
        found["unrolled"] = config["unroll_k"] != 1
        found["asks_ahead"] = any(dict(config).get(f"prefetch_{x}", 0) != 0 for x in "ab")
    else:
        found["lanes"] = config["tile_n"][3] % 2 == 0  # type: ignore[index,operator]
    return found


def covering(
    workload: Gemm, space: ConfigSpace, strength: int, draws: int = 400
) -> Iterator[Config]:
    """Few legal configs that show every value of every aspect, or every pair of values."""
    yield from space.defaults  # before anything is drawn: some ask for no more
    rng = random.Random(f"{workload.key} {strength}")
    drawn = [*space.defaults, *(space.sample(rng) for _ in range(draws))]
    shown = {
        config: set(itertools.combinations(sorted(aspects(workload, config, space).items(),
                                                  key=lambda item: item[0]), strength))
        for config in drawn
    }  # fmt: skip
    missing = set().union(*shown.values()).difference(*(shown[c] for c in space.defaults))
    while missing:
        config = max(shown, key=lambda c: len(shown[c] & missing))
        missing -= shown[config]
        yield config


def failures(
    template: Template,
    workload: Gemm,
    host: HardwareProfile,
    check_kernel: Any,
    *,
    strength: int = 1,
    limit: int | None = None,
) -> list[str]:
    problem = make_problem(workload)
    space = template.space(workload, host, THREADS)
    # A draw of a legal config can take forty of any; a few are chosen well from fewer.
    draws = 400 if limit is None else 120
    configs = itertools.islice(covering(workload, space, strength, draws), limit)
    wrong = ((config, check_kernel(template, workload, config, problem)) for config in configs)
    return [f"{config!r}: {message}" for config, message in wrong if message]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@each
def test_every_knob_value_gives_a_correct_kernel(
    template: Template,
    dtype: str,
    shape: tuple[int, int, int],
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(*shape, layout=LAYOUT.get(template.name, "nn"), dtype=dtype)
    limit = 4 if dtype in ("float16", "int8") else None  # the nest is that of bfloat16
    if template.name == "cpu_dot_swapped":  # and of cpu_dot
        limit = 4 if dtype == "bfloat16" else 2
    assert failures(template, workload, host, check_kernel, limit=limit) == []


@pytest.mark.parametrize("tail", [0, 1, 5])
@pytest.mark.parametrize(("m", "n", "layout"), [(19, 1, "nn"), (1, 23, "tt"), (1, 1, "tn")])
def test_vectors_are_multiplied_as_inner_products(
    m: int, n: int, layout: str, tail: int, host: HardwareProfile, check_kernel: Any
) -> None:
    workload = Gemm(m, n, 64 + tail, layout=layout, epilogue="bias_relu")
    assert choose_template("auto", workload, host).name == "cpu_inner"
    assert failures(get_template("cpu_inner"), workload, host, check_kernel, limit=4) == []


def test_auto_takes_the_template_of_the_type(host: HardwareProfile) -> None:
    for dtype in NARROW:
        assert choose_template("auto", Gemm(1, 64, 64, dtype=dtype), host).name == "cpu_dot"


def test_auto_takes_the_template_that_suits_the_shape(host: HardwareProfile) -> None:
    for m, n, layout, name in (
        (512, 512, "nn", "cpu_tile"),
        (512, 512, "nt", "cpu_tile"),
        (4, 512, "nt", "cpu_inner"),
        (16, 512, "nn", "cpu_tile"),
        (512, 1, "nn", "cpu_inner"),
    ):
        assert choose_template("auto", Gemm(m, n, 256, layout=layout), host).name == name


@pytest.mark.parametrize(("layout", "epilogue"), [("nn", "none"), ("tt", "bias_gelu")])
@pytest.mark.parametrize("shape", [(64, 64, 32), (37, 50, 24), (1, 33, 40)])
def test_a_b_that_was_packed_before_gives_the_same_product(
    shape: tuple[int, int, int],
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(*shape, layout=layout, epilogue=epilogue, prepacked=True)
    assert failures(get_template("cpu_tile"), workload, host, check_kernel) == []


@pytest.mark.parametrize(
    ("shape", "layout", "epilogue"),
    [
        ((37, 50, 24), "nn", "none"),
        ((26, 70, 12), "tt", "bias_gelu"),
        ((42, 70, 40), "nt", "none"),  # both copies turn squares
    ],
)
def test_every_pair_of_knob_values_of_cpu_tile_gives_a_correct_kernel(
    shape: tuple[int, int, int],
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(*shape, layout=layout, epilogue=epilogue)
    assert failures(get_template("cpu_tile"), workload, host, check_kernel, strength=2) == []


#: Each epilogue in the layout that all but cpu_paper take, and in one of the others.
EPILOGUES_IN_LAYOUTS = [
    (epilogue, layout)
    for epilogue, other in zip(EPILOGUES, itertools.cycle(("nn", "tn", "tt")), strict=False)
    for layout in ("nt", other)
]


@pytest.mark.parametrize(("epilogue", "layout"), EPILOGUES_IN_LAYOUTS)
@each
def test_each_layout_and_epilogue_is_correct_or_refused(
    template: Template,
    dtype: str,
    layout: str,
    epilogue: str,
    host: HardwareProfile,
    check_kernel: Any,
) -> None:
    workload = Gemm(23, 35, 12, layout=layout, epilogue=epilogue, dtype=dtype)
    try:
        template.space(workload, host, THREADS)
    except NotApplicable as error:
        assert template.name in str(error) and "--template" in str(error)
        assert template.name != "cpu_tile", "cpu_tile takes every layout and epilogue"
        if template.name == "cpu_dot":
            assert dtype == "int8" and workload.activation and "int32" in str(error)
        if template.name == "cpu_dot_swapped":
            assert layout[1] == "n" or (dtype == "int8" and workload.activation)
        return
    limit = 3
    if template.name == "cpu_dot_swapped":  # it writes C as cpu_dot does
        limit = 0 if dtype == "float16" else 1
    assert failures(template, workload, host, check_kernel, limit=limit) == []


@pytest.mark.parametrize(("block_k", "order"), [(31, ("n", "m", "k")), (4, ("n", "k", "m"))])
def test_the_copy_of_a_single_element_is_not_vectorised_along_another_loop(
    block_k: int, order: tuple[str, ...], host: HardwareProfile, check_kernel: Any
) -> None:
    workload, template = Gemm(5, 3, 32 if block_k == 4 else 31), get_template("cpu_tile")
    space = template.space(workload, host, 1)
    config = space.defaults[0].replace(
        micro_m=1, micro_n=1, block_m=2, block_n=1, block_k=block_k, outer_order=order,
        pack_a="none", pack_b="none", tail="predicate", unroll_k=1,
    )  # fmt: skip
    assert space.is_legal(config)
    assert check_kernel(template, workload, config, make_problem(workload)) is None


@pytest.mark.parametrize("epilogue", ["none", "bias_silu", "bias_residual"])
@each
def test_a_factor_is_applied_before_the_epilogue(
    template: Template, dtype: str, epilogue: str, host: HardwareProfile, check_kernel: Any
) -> None:
    if dtype == "int8":
        pytest.skip("integer sums have no factor")
    layout = LAYOUT.get(template.name, "nn")
    workload = Gemm(
        23, 35, 31, layout=layout, epilogue=epilogue, dtype=dtype, scale=1 / math.sqrt(31)
    )
    if template.name == "cpu_paper":
        with pytest.raises(NotApplicable, match="plain float32 products"):
            template.space(workload, host, THREADS)
        return
    assert failures(template, workload, host, check_kernel, limit=3) == []


@pytest.mark.parametrize("other", ["float32", "float16", "bfloat16", "int8"])
@each
def test_a_dtype_without_a_kernel_is_refused_by_name(
    template: Template, dtype: str, other: str, host: HardwareProfile
) -> None:
    workload = Gemm(64, 64, 64, layout=LAYOUT.get(template.name, "nn"), dtype=other)
    if (template, other) in MEMBERS:
        assert template.space(workload, host, THREADS).defaults
        return
    with pytest.raises(NotApplicable, match=f"{template.name} .*--template"):
        template.space(workload, host, THREADS)


@each
def test_a_long_matrix_vector_product_is_correct(
    template: Template, dtype: str, host: HardwareProfile, check_kernel: Any
) -> None:
    workload = Gemm(1, 4096, 4096, layout=LAYOUT.get(template.name, "nn"), dtype=dtype)
    problem, space = make_problem(workload), template.space(workload, host, THREADS)
    rng = random.Random(0)
    for config in [*space.defaults, *(space.sample(rng) for _ in range(2))]:
        assert check_kernel(template, workload, config, problem) is None, config


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
@each
def test_the_default_for_other_vector_units_is_correct(
    template: Template, dtype: str, profile: HardwareProfile, check_kernel: Any
) -> None:
    for shape in ((37, 50, 48), (1, 96, 64)):
        workload = Gemm(*shape, layout=LAYOUT.get(template.name, "nn"), dtype=dtype)
        if without_room(template, profile):
            with pytest.raises(NotApplicable, match="8 x 8 sums.*--template cpu_dot"):
                template.space(workload, profile, THREADS)
            continue
        for config in template.space(workload, profile, THREADS).defaults:
            assert check_kernel(template, workload, config, make_problem(workload)) is None


@given(
    member=any_member,
    profile=st.sampled_from(PROFILES),
    m=extents,
    n=extents,
    k=extents,
    layout=st.sampled_from(LAYOUTS),
    threads=st.sampled_from([1, 2, 3, 8, 96]),
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_every_shape_has_a_legal_default_or_is_refused(
    member: tuple[Template, str],
    profile: HardwareProfile,
    m: int,
    n: int,
    k: int,
    layout: str,
    threads: int,
) -> None:
    template, dtype = member
    try:
        space = template.space(Gemm(m, n, k, layout=layout, dtype=dtype), profile, threads)
    except NotApplicable as error:
        if without_room(template, profile):
            return
        if template.name == "cpu_dot" or (template.name in DTYPES and layout[1] == "t"):
            assert max(m * n, m * k, n * k) >= 2**31 and "32 bits" in str(error)
            return
        assert template.name != "cpu_tile" and layout != LAYOUT.get(template.name, "nn")
        return
    # ConfigSpace itself refuses an illegal default.
    assert space.defaults
    assert space.is_legal(space.sample(random.Random(0)))


@given(member=any_member, m=extents, n=extents, k=extents)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_space_survives_json(member: tuple[Template, str], m: int, n: int, k: int) -> None:
    template, dtype = member
    most = 2**31 - 1  # elements of a matrix; the test above checks what is said of more
    n = min(n, most // m)
    workload = Gemm(m, n, min(k, most // max(m, n)), layout=LAYOUT.get(template.name, "nn"))
    space = template.space(
        dataclasses.replace(workload, dtype=dtype, acc_dtype="", out_dtype=""), AVX512, THREADS
    )
    again = ConfigSpace.from_json(space.to_json(), space.constraints)
    assert again.to_json() == space.to_json() and again.size == space.size


@each
def test_one_thread_means_no_parallel_kernel(
    template: Template, dtype: str, host: HardwareProfile, check_kernel: Any
) -> None:
    workload = Gemm(33, 40, 28, layout=LAYOUT.get(template.name, "nn"), dtype=dtype)
    space = template.space(workload, host, 1)
    problem = make_problem(workload)
    for config in covering(workload, space, strength=1):
        if "parallel" in config:
            assert "T.parallel" not in template.build(workload, config).script()
        assert check_kernel(template, workload, config, problem) is None


def test_a_config_gives_the_same_kernel_again_and_in_every_process() -> None:
    mine = digest()
    assert digest() == mine
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    command = [sys.executable, str(Path(__file__).with_name("kernel_digest.py"))]
    child = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == mine


@pytest.mark.parametrize(("extent", "size"), [(512, 484_000), (1024, 899_756), (2048, 1_589_952)])
def test_the_papers_spaces_have_the_papers_sizes(extent: int, size: int) -> None:
    space = get_template("cpu_paper").space(Gemm(extent, extent, extent), AVX512, THREADS)
    assert space.size == size


def test_the_papers_untiled_start_is_legal_and_correct(check_kernel: Any) -> None:
    template, workload = get_template("cpu_paper"), Gemm(64, 48, 40)
    space = template.space(workload, AVX512, THREADS)
    origin = space.origin()
    assert dict(origin) == {"tile_m": (64, 1, 1, 1), "tile_k": (40, 1), "tile_n": (48, 1, 1, 1)}
    assert space.is_legal(origin)
    assert check_kernel(template, workload, origin, make_problem(workload)) is None


def test_a_config_survives_the_trip_to_a_worker(host: HardwareProfile) -> None:
    template, workload = get_template("cpu_tile"), Gemm(48, 40, 36)
    space = template.space(workload, host, THREADS)
    config = space.sample(random.Random(3))
    assert space.config_from_json(config.to_json()) == config


def test_unknown_templates_and_plugins_are_named(host: HardwareProfile) -> None:
    with pytest.raises(
        AutotuneError, match="unknown template 'none'; choose one of cpu_dot, cpu_dot_swapped"
    ):
        get_template("none")
    with pytest.raises(AutotuneError, match="'no_such_plugin'.*PYTHONPATH"):
        load_templates(["no_such_plugin"])
