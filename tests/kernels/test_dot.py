"""cpu_dot: the ladder of instructions, and what numbers its kernels give."""

from __future__ import annotations

import dataclasses
import random
import re
from typing import Any

import numpy as np
import pytest

from autotune.errors import NotApplicable
from autotune.hw_profiles import HardwareProfile, find_profile, load_profiles, tvm_target
from autotune.hw_profiles.instructions import INSTRUCTIONS, describe, ladder, peak_instruction
from autotune.hw_profiles.isa import model_named
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module
from autotune.kernels.cpu.dot_nest import DotNest
from autotune.kernels.cpu.dot_space import offered
from autotune.kernels.verify import make_problem, mismatch, numpy_dtype
from autotune.search.space import Config
from autotune.workload import LAYOUTS, Gemm

TEMPLATE = get_template("cpu_dot")
DTYPES = ("bfloat16", "float16", "int8")


def of(arch: str, *without: str) -> HardwareProfile:
    """A profile with every flag that its model implies, but for some."""
    known, model = find_profile(arch), model_named(arch)
    assert known is not None and model is not None
    return dataclasses.replace(known, features=tuple(model.implied - set(without)))


def reduced(host: HardwareProfile, *prefixes: str) -> HardwareProfile:
    kept = tuple(f for f in host.features if not f.startswith(prefixes))
    return dataclasses.replace(host, features=kept)


# -- the ladder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "bf16", "int8"),
    [
        (of("sapphirerapids"), ["amx_bf16", "avx512_bf16"], ["amx_int8", "avx512_vnni"]),
        (of("sapphirerapids", "amx_bf16"), ["avx512_bf16"], ["amx_int8", "avx512_vnni"]),
        (of("znver5"), ["avx512_bf16"], ["avx512_vnni"]),
        (of("cascadelake"), ["fp32"], ["avx512_vnni"]),
        (of("skylake-avx512"), ["fp32"], ["avx512bw"]),
        (of("haswell"), ["fp32"], ["avx2"]),
        (of("neoverse-n1"), ["fp32"], ["int32"]),
    ],
    ids=lambda x: x.name if isinstance(x, HardwareProfile) else "",
)
def test_each_cpu_gets_the_best_instructions_that_it_has(
    profile: HardwareProfile, bf16: list[str], int8: list[str]
) -> None:
    assert [i.name for i in offered("bfloat16", profile)] == bf16
    assert [i.name for i in offered("int8", profile)] == int8
    for dtype, names in (("bfloat16", bf16), ("int8", int8)):
        space = TEMPLATE.space(Gemm(64, 64, 64, dtype=dtype), profile, 1)
        inner = next(p for p in space.parameters if p.name == "inner")
        assert list(inner.values()) == names
        assert [d["inner"] for d in space.defaults] == names


def test_the_user_is_told_which_instruction_is_used_and_what_is_missing() -> None:
    line = describe("bfloat16", of("znver5"))
    assert line == "inner kernel: avx512_bf16 vdpbf16ps; this CPU has no amx_bf16"
    assert describe("int8", of("sapphirerapids")) == "inner kernel: amx_int8 tdpbssd"
    assert describe("float16", of("neoverse-n1")) == "inner kernel: fp32 multiply-add"
    assert peak_instruction("float32", of("znver5")) == ""
    assert peak_instruction("float16", of("znver5")) == ""
    assert peak_instruction("int8", of("znver5")) == "avx512_vnni"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_known_cpu_has_a_ladder(dtype: str) -> None:
    for profile in load_profiles().values():
        if profile.kind == "cpu":
            assert ladder(dtype, profile)[-1].flags == ()


def test_fp16_without_conversion_instructions_is_refused() -> None:
    with pytest.raises(NotApplicable, match="F16C.*--dtype float32"):
        TEMPLATE.space(Gemm(8, 8, 8, dtype="float16"), of("haswell", "f16c"), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_dtype": "float16"}, "returns bfloat16 or float32, not float16"),
        ({"acc_dtype": "bfloat16"}, "from sums in bfloat16"),
    ],
)
def test_types_without_code_are_refused(change: dict[str, Any], message: str) -> None:
    workload = dataclasses.replace(Gemm(8, 8, 8, dtype="bfloat16"), **change)
    with pytest.raises(NotApplicable, match=message):
        TEMPLATE.space(workload, of("znver5"), 1)


# -- each rung computes the product ---------------------------------------------------------------

#: Names of flags to hide, so that the ladder is walked down on one machine.
HIDDEN = {"all": (), "no avx512": ("avx512", "amx"), "no vnni": ("avx512_", "avx_vnni", "amx"),
          "nothing": ("avx", "amx")}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_rung_computes_the_product(
    hidden: str, dtype: str, host: HardwareProfile, check_kernel: Any
) -> None:
    profile = reduced(host, *HIDDEN[hidden])
    rng = random.Random(hidden + dtype)
    for shape, layout in (((37, 50, 131), "nn"), ((19, 17, 72), "tt"), ((20, 65, 160), "nt")):
        for out in {"", "" if dtype == "int8" else "float32"}:
            epilogue = "bias_relu" if out else "bias"
            workload = Gemm(*shape, layout=layout, dtype=dtype, out_dtype=out, epilogue=epilogue)
            space = TEMPLATE.space(workload, profile, 2)
            problem = make_problem(workload)
            for config in [space.defaults[0], space.sample(rng)]:
                assert check_kernel(TEMPLATE, workload, config, problem) is None, config


@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_rung_takes_a_b_that_was_packed_before(
    hidden: str, dtype: str, layout: str, host: HardwareProfile, check_kernel: Any
) -> None:
    profile = reduced(host, *HIDDEN[hidden])
    # Neither rows, columns nor words fill their panels; one k and several blocks of it.
    for m, n, k, epilogue in ((33, 70, 129, "bias"), (5, 40, 300, "none")):
        workload = Gemm(m, n, k, layout=layout, dtype=dtype, prepacked=True, epilogue=epilogue)
        space, problem = TEMPLATE.space(workload, profile, 2), make_problem(workload)
        rng = random.Random(workload.key)
        configs = [*space.defaults, *(space.sample(rng) for _ in range(2))]
        assert {config["pack_b"] for config in configs} == {"whole"}
        for config in configs:
            assert check_kernel(TEMPLATE, workload, config, problem) is None, config


def test_a_batch_shares_a_b_that_was_packed_before(
    host: HardwareProfile, check_kernel: Any
) -> None:
    workload = Gemm(9, 40, 70, dtype="int8", batch=3, shared="b", prepacked=True)
    space, problem = TEMPLATE.space(workload, host, 2), make_problem(workload)
    for config in space.defaults:
        assert check_kernel(TEMPLATE, workload, config, problem) is None, config


def test_panels_of_tiles_are_not_taken_for_panels_of_vectors() -> None:
    workload = Gemm(64, 64, 256, dtype="bfloat16", prepacked=True)
    space = TEMPLATE.space(workload, of("sapphirerapids"), 1)
    shapes = {str(c["inner"]): TEMPLATE.packed_shape(workload, c) for c in space.defaults}
    assert len(shapes["amx_bf16"]) == 5 and len(shapes["avx512_bf16"]) == 3
    assert shapes["amx_bf16"] == (2, 8, 2, 16, 32)


def test_the_dot_product_and_nothing_else_is_in_the_inner_loop(host: HardwareProfile) -> None:
    """24 sums, 4 vectors of B, 6 broadcasts: no spill, no workspace."""
    import tvm

    profile = of("znver5")
    workload = Gemm(96, 128, 512, dtype="bfloat16")
    config = TEMPLATE.space(workload, profile, 1).defaults[0].replace(
        micro_m=6, micro_n=64, pack_a="none", block_m=4, block_n=2, unroll_k=1
    )  # fmt: skip
    target = tvm.target.Target(tvm_target(profile, 1))
    assembly = compile_module(TEMPLATE.build(workload, config), target).mod.inspect_source("asm")
    loops = [b for b in re.split(r"^\.LBB\w+:", assembly, flags=re.M) if "vdpbf16ps" in b]
    body = max(loops, key=lambda b: b.count("vdpbf16ps"))
    body = body[: body.index("\n\tj", body.rindex("vdpbf16ps"))]
    dots = body.count("vdpbf16ps")
    assert dots % 24 == 0
    assert len(re.findall(r"vbroadcastss|vpbroadcastd|\{1to16\}", body)) == dots // 4
    assert "rsp" not in body, "an operand lives on the stack"


# -- numbers --------------------------------------------------------------------------------------


def run(workload: Gemm, config: Config, target: Any, *inputs: Any) -> Any:
    import tvm

    output = np.zeros((workload.m, workload.n), numpy_dtype(workload.out_dtype))
    arguments = [tvm.runtime.tensor(x) for x in (*inputs, output)]
    compile_module(TEMPLATE.build(workload, config), target)["main"](*arguments)
    return arguments[-1].numpy()


@pytest.fixture
def target(host: HardwareProfile) -> Any:
    import tvm

    return tvm.target.Target(tvm_target(host, 1))


def rungs(dtype: str, host: HardwareProfile) -> list[HardwareProfile]:
    return [host, reduced(host, "avx512_bf16", "amx")] if dtype == "bfloat16" else [host]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [128, 20_000, 500_000])
def test_a_correct_kernel_passes_at_any_depth(
    k: int, dtype: str, host: HardwareProfile, target: Any
) -> None:
    out = "int32" if dtype == "int8" else "float32"
    workload = Gemm(4, 16, k, dtype=dtype, out_dtype=out)
    problem = make_problem(workload)
    for profile in rungs(dtype, host):
        space = TEMPLATE.space(workload, profile, 1)
        blocked = space.defaults[0].replace(block_k=64, outer_order=("n", "k", "m"))
        for config in (space.defaults[0], blocked):
            result = run(workload, config, target, *problem.inputs)
            assert mismatch(workload, result, problem.reference) is None, config


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out", ["narrow", "wide"])
def test_a_kernel_that_skips_a_block_of_k_fails_at_128(
    dtype: str, out: str, host: HardwareProfile, target: Any
) -> None:
    wide = "int32" if dtype == "int8" else "float32"
    workload = Gemm(8, 16, 128, dtype=dtype, out_dtype=wide if out == "wide" else "")
    short = dataclasses.replace(workload, k=112)
    problem = make_problem(workload)
    a, b = np.ascontiguousarray(problem.a[:, :112]), np.ascontiguousarray(problem.b[:112])
    config = TEMPLATE.space(short, host, 1).defaults[0]
    result = run(short, config, target, a, b)
    assert mismatch(short, result, (a.astype(float) @ b.astype(float))) is None
    assert mismatch(workload, result, problem.reference) is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_int8_is_exact_at_the_ends_of_its_range(
    layout: str, host: HardwareProfile, target: Any
) -> None:
    workload = Gemm(9, 21, 1030, layout=layout, dtype="int8")
    rng = np.random.default_rng(0)
    a = rng.choice(np.array([-128, -127, 127], np.int8), workload.a_shape)
    b = rng.choice(np.array([-128, 127], np.int8), workload.b_shape)
    wide = [
        x.astype(np.int64) for x in (a if layout[0] == "n" else a.T, b if layout[1] == "n" else b.T)
    ]
    for hidden in HIDDEN.values():
        space = TEMPLATE.space(workload, reduced(host, *hidden), 1)
        for config in [space.defaults[0], space.sample(random.Random(1))]:
            assert np.array_equal(run(workload, config, target, a, b), wide[0] @ wide[1]), config


@pytest.mark.parametrize("out", ["", "float32"])
def test_infinity_and_nan_pass_through_bf16_as_through_torch(
    out: str, host: HardwareProfile, target: Any
) -> None:
    import torch

    workload = Gemm(6, 17, 35, dtype="bfloat16", out_dtype=out, epilogue="relu")
    a, b = (np.ones(s, numpy_dtype("bfloat16")) for s in (workload.a_shape, workload.b_shape))
    a[0, 0], a[1, 34], a[2, 3], a[3, 3] = np.inf, np.nan, np.inf, -np.inf
    b[0, 1], b[3, 2], b[3, 4], b[34, 16] = 0, -np.inf, np.nan, np.inf
    tensors = [torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16) for x in (a, b)]
    expected = torch.relu(torch.matmul(*tensors)).to(torch.float32).numpy()
    for profile in rungs("bfloat16", host):
        config = TEMPLATE.space(workload, profile, 1).defaults[0]
        result = run(workload, config, target, a, b).astype(np.float32)
        np.testing.assert_array_equal(result, expected)


def test_subnormal_bf16_is_zero_on_the_dot_product_and_kept_by_plain_arithmetic(
    host: HardwareProfile, target: Any
) -> None:
    """vdpbf16ps takes subnormal operands for zero and flushes such sums; torch uses it as well."""
    workload = Gemm(4, 16, 64, dtype="bfloat16", out_dtype="float32")
    a, b = (np.zeros(s, numpy_dtype("bfloat16")) for s in (workload.a_shape, workload.b_shape))
    a[0, 0], b[0, :] = 1e-39, 1.0  # a subnormal operand
    a[1, 1], b[1, :] = 1e-20, 1e-20  # a subnormal product
    a[2, 2], b[2, :] = 2e-38, 1.0  # the smallest normal numbers
    exact = a.astype(np.float32) @ b.astype(np.float32)
    plain = reduced(host, "avx512_bf16", "amx")
    config = TEMPLATE.space(workload, plain, 1).defaults[0]
    np.testing.assert_array_equal(run(workload, config, target, a, b), exact)
    if "avx512_bf16" not in host.features:
        pytest.skip("this CPU has no avx512_bf16")
    config = TEMPLATE.space(workload, reduced(host, "amx"), 1).defaults[0]
    flushed = exact.copy()
    flushed[:2] = 0
    np.testing.assert_array_equal(run(workload, config, target, a, b), flushed)


def test_rounding_to_bf16_is_to_nearest_even_without_an_instruction_for_it(
    host: HardwareProfile, target: Any
) -> None:
    workload = Gemm(1, 64, 2, dtype="bfloat16")
    rng = np.random.default_rng(1)
    dtype = numpy_dtype("bfloat16")
    a = np.array([[1.0, 2.0**-8]], dtype)
    b = rng.integers(-256, 257, workload.b_shape).astype(dtype)  # exact sums, many of them ties
    config = TEMPLATE.space(workload, reduced(host, "avx512_bf16", "amx"), 1).defaults[0]
    expected = (a.astype(np.float32) @ b.astype(np.float32)).astype(dtype)
    result = run(workload, config, target, a, b)
    np.testing.assert_array_equal(result.view(np.uint16), expected.view(np.uint16))


def test_the_table_of_instructions_is_consistent() -> None:
    sizes = {"bfloat16": 2, "float16": 2, "int8": 1, "int16": 2, "float32": 4, "int32": 4}
    assert len({i.name for i in INSTRUCTIONS}) == len(INSTRUCTIONS)
    for i in INSTRUCTIONS:
        assert i.group * sizes[i.operand] == 4
        assert bool(i.intrinsic) == bool(i.flags) == bool(i.lanes)


def test_without_emulation_a_kernel_calls_nothing_outside_itself() -> None:
    workload = Gemm(40, 40, 40, dtype="int8")
    config = TEMPLATE.space(workload, of("sapphirerapids"), 1).defaults[0]
    linked = DotNest(workload, config).module().script(show_meta=True)
    assert "define linkonce_odr i32 @at_tile_config_16" in linked
    emulated = DotNest(workload, config, emulate_tiles=True).module().script(show_meta=True)
    assert "define linkonce_odr i32 @at_tile" not in emulated


def test_kernels_of_all_types_and_rungs_can_stand_in_one_module(
    host: HardwareProfile, target: Any
) -> None:
    """What they give LLVM as text must not go by one name: a model may need them all."""
    import tvm

    functions, problems = {}, {}
    for dtype in DTYPES:
        for number, profile in enumerate(rungs(dtype, host)):
            workload = Gemm(19, 40, 36, dtype=dtype)
            config = TEMPLATE.space(workload, profile, 1).defaults[0]
            name = f"{dtype}_{number}"
            main = TEMPLATE.build(workload, config)["main"]
            functions[name] = main.with_attr("global_symbol", name)
            problems[name] = workload, make_problem(workload)
    library = tvm.compile(tvm.IRModule(functions), target=target)
    for name, (workload, problem) in problems.items():
        out = np.zeros(workload.c_shape, numpy_dtype(workload.out_dtype))
        *inputs, result = (tvm.runtime.tensor(x) for x in (*problem.inputs, out))
        library[name](*inputs, result)
        assert mismatch(workload, result.numpy(), problem.reference) is None, name
