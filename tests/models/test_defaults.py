"""The default schedules but convolutions: results, rules, and the loops themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import lowered
import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from lowered import PROFILE, module_of, prim_funcs, random, run, scheduled
from tvm import relax, te, tirx

from autotune.models.defaults import DefaultSchedules, is_scheduled, schedule_default
from autotune.models.defaults_ir import collect

op = relax.op
F32 = "float32"


def check(
    build: Callable[..., Any],
    reference: Callable[..., Any],
    *arrays: Any,
    rules: set[str],
    threads: int = 1,
    profile: Any = PROFILE,
    tolerance: float = 2e-6,
) -> Any:
    """Compare with torch in float64; return the scheduled module."""
    module = module_of(build, *[(a.shape, str(a.dtype)) for a in arrays])
    done, used = scheduled(module, threads, profile)
    assert set(used.values()) == rules
    result = run(done, arrays, threads)
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    exact = reference(*[t.double() if t.is_floating_point() else t for t in tensors]).numpy()
    assert result.shape == exact.shape
    scale = np.abs(exact).max() if exact.size else 1.0
    np.testing.assert_allclose(result, exact, rtol=0, atol=tolerance * max(scale, 1e-30))
    return done


def loop_kinds(module: Any) -> set[int]:
    """Return the kinds of all loops."""
    funcs = prim_funcs(module).values()
    return {int(node.kind) for func in funcs for node in collect(func.body, tirx.For)}


def has_parallel(module: Any) -> bool:
    return int(tirx.ForKind.PARALLEL) in loop_kinds(module)


def has_vectors(module: Any) -> bool:
    return int(tirx.ForKind.VECTORIZED) in loop_kinds(module)


# -- elementary functions -------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e-6, 3.4e38, -3.4e38, 1e4, -1e4]


@pytest.mark.parametrize(
    ("build", "exact", "low", "high"),
    [
        (op.exp, torch.exp, -87.0, 88.7),
        (op.tanh, torch.tanh, -12.0, 12.0),
        (op.erf, torch.erf, -5.0, 5.0),
        (op.sigmoid, torch.sigmoid, -80.0, 80.0),
    ],
)
def test_elementary_functions_are_near_exact_everywhere(
    build: Any, exact: Any, low: float, high: float
) -> None:
    x = np.linspace(low, high, 40_001).astype(F32)
    x = np.concatenate([x, np.geomspace(1e-20, 1.0, 999).astype(F32), np.array(SPECIAL, F32)])
    done, rules = scheduled(module_of(build, (x.shape, F32)))
    assert set(rules.values()) == {"elementwise"}
    assert has_vectors(done)
    text = "".join(func.script() for func in prim_funcs(done).values())
    assert not any(f"T.{name}(" in text for name in ("exp", "tanh", "erf", "sigmoid"))
    result = run(done, [x])
    reference = exact(torch.from_numpy(x).double()).float().numpy()
    ordinary = np.isfinite(reference) & (np.abs(reference) >= 1.2e-38)
    np.testing.assert_allclose(result[ordinary], reference[ordinary], rtol=2e-6)
    rest = ~ordinary
    np.testing.assert_allclose(result[rest], reference[rest], rtol=0, atol=1e-38)


def test_exp_underflows_gradually() -> None:
    x = np.linspace(-104.0, -87.0, 1001).astype(F32)
    result = run(scheduled(module_of(op.exp, (x.shape, F32)))[0], [x])
    np.testing.assert_allclose(result, np.exp(x.astype(np.float64)), rtol=2e-6, atol=2e-45)


def test_relu_keeps_nan() -> None:
    x = np.array([np.nan, -1.0, 2.0, -np.inf, np.inf] * 7, F32)
    result = run(scheduled(module_of(op.nn.relu, (x.shape, F32)))[0], [x])
    np.testing.assert_array_equal(result, torch.relu(torch.from_numpy(x)).numpy())


# -- elementwise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (197,), (3, 7, 11), (2, 16, 32), (4, 1, 13)])
@pytest.mark.parametrize("simd_bits", [128, 512])
def test_chains_of_any_shape(shape: tuple[int, ...], simd_bits: int) -> None:
    profile = dataclasses.replace(PROFILE, simd_bits=simd_bits, vector_registers=16)
    check(
        lambda x, y: op.multiply(op.nn.silu(op.add(x, y)), x),
        lambda x, y: torch.nn.functional.silu(x + y) * x,
        random(shape),
        random(shape, 1),
        rules={"elementwise"},
        profile=profile,
    )


@pytest.mark.parametrize("shape", [(16, 3, 5), (2, 7, 16), (1, 5, 48)])
def test_broadcasts(shape: tuple[int, int, int]) -> None:
    n, c, w = shape
    check(
        lambda x, s, b: op.nn.relu(op.add(op.multiply(x, s), b)),
        lambda x, s, b: torch.relu(x * s + b),
        random(shape),
        random((c, 1), 1),
        random((w,), 2),
        rules={"elementwise"},
    )


@pytest.mark.parametrize("shape", [(3, 5), (16, 16), (33, 50), (1, 47), (64, 48)])
def test_transposes(shape: tuple[int, int]) -> None:
    check(lambda x: op.permute_dims(x, [1, 0]), lambda x: x.T, random(shape), rules={"elementwise"})


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_permutations(axes: tuple[int, ...]) -> None:
    check(
        lambda x: op.multiply(op.permute_dims(x, list(axes)), relax.const(2.0)),
        lambda x: 2 * x.permute(*axes),
        random((2, 5, 7, 19)),
        rules={"elementwise"},
    )


def test_rotary_embedding() -> None:
    def build(x: Any, c: Any, s: Any) -> Any:
        left = op.strided_slice(x, axes=[2], begin=[0], end=[8])
        right = op.strided_slice(x, axes=[2], begin=[8], end=[16])
        turned = op.concat([op.negative(right), left], axis=2)
        return op.add(op.multiply(x, c), op.multiply(turned, s))

    def reference(x: Any, c: Any, s: Any) -> Any:
        return x * c + torch.cat([-x[..., 8:], x[..., :8]], -1) * s

    arrays = random((5, 3, 16)), random((5, 1, 16), 1), random((5, 1, 16), 2)
    done = check(build, reference, *arrays, rules={"elementwise"})
    assert "if_then_else" not in "".join(func.script() for func in prim_funcs(done).values())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation(axis: int) -> None:
    shapes = [[4, 6, 7], [4, 6, 7]]
    shapes[1][axis] = 3
    check(
        lambda x, y: op.concat([x, y], axis=axis),
        lambda x, y: torch.cat([x, y], axis),
        random(shapes[0]),
        random(shapes[1], 1),
        rules={"elementwise"},
    )


def test_padding_and_gather_and_grouped_heads() -> None:
    check(
        lambda x: op.nn.pad(x, [0, 0, 1, 2, 3, 1]),
        lambda x: torch.nn.functional.pad(x, (3, 1, 1, 2)),
        random((3, 5, 9)),
        rules={"elementwise"},
    )
    check(
        lambda x, i: op.take(x, i, axis=0),
        lambda x, i: x[i],
        random((11, 33)),
        np.array([3, 0, 10, 3], "int64"),
        rules={"elementwise"},
    )
    check(
        lambda x: op.reshape(op.broadcast_to(op.expand_dims(x, 2), (3, 2, 4, 16)), (3, 8, 16)),
        lambda x: x.unsqueeze(2).expand(3, 2, 4, 16).reshape(3, 8, 16),
        random((3, 2, 16)),
        rules={"elementwise"},
    )


def test_resize() -> None:
    check(
        lambda x: op.image.resize2d(
            x,
            size=(14, 10),
            layout="NCHW",
            method="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        lambda x: torch.nn.functional.interpolate(x, size=(14, 10), mode="bilinear"),
        random((1, 3, 7, 5)),
        rules={"elementwise"},
    )


# -- reductions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 128), (5, 197), (2, 3, 7), (1, 1), (7, 64), (1, 1, 33)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    x = random(shape, scale=3.0)
    module = module_of(lambda v: op.nn.softmax(v, axis), (shape, F32))
    done, rules = scheduled(module)
    assert set(rules.values()) <= {"rows", "nests", "elementwise"}
    expected = torch.softmax(torch.from_numpy(x).double(), axis).numpy()
    np.testing.assert_allclose(run(done, [x]), expected, rtol=3e-6, atol=1e-12)


def test_softmax_of_masked_and_broken_rows() -> None:
    x = random((4, 37))
    x[0, 5:] = -np.inf
    x[1, 3] = np.nan
    x[2] = 1e30
    x[3, 1] = 3e38
    result = run(scheduled(module_of(lambda v: op.nn.softmax(v, -1), (x.shape, F32)))[0], [x])
    expected = torch.softmax(torch.from_numpy(x), -1).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(1, 17), (5, 64), (7, 197), (24, 768)])
@pytest.mark.parametrize("threads", [1, 2])
def test_norms(rows: int, columns: int, threads: int) -> None:
    shape = (1, rows, columns)
    done = check(
        lambda x, w, b: op.nn.layer_norm(x, w, b, axes=[-1], epsilon=1e-5),
        lambda x, w, b: torch.nn.functional.layer_norm(x, (columns,), w, b, 1e-5),
        random(shape) + 3,
        random((columns,), 1),
        random((columns,), 2),
        rules={"rows" if rows > 1 else "nests"},
        threads=threads,
    )
    assert has_vectors(done)
    assert has_parallel(done) == (threads == 2 and rows * columns >= 24 * 768)
    check(
        lambda x, w: op.nn.rms_norm(x, w, axes=[-1], epsilon=1e-5),
        lambda x, w: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w,
        random(shape),
        random((columns,), 1),
        rules={"rows" if rows > 1 else "nests"},
        threads=threads,
    )


@pytest.mark.parametrize(
    ("build", "exact"),
    [
        (op.sum, lambda x, axis: x.sum(axis)),
        (op.mean, lambda x, axis: x.mean(axis)),
        (op.max, lambda x, axis: x.amax(axis)),
        (op.min, lambda x, axis: x.amin(axis)),
        (op.variance, lambda x, axis: x.var(axis, correction=0)),
        (op.prod, lambda x, axis: x.prod(axis)),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_reductions_along_any_axis(build: Any, exact: Any, axis: int) -> None:
    x = random((5, 19, 67)) * 0.3 + 1
    module = module_of(lambda v: build(v, axis=axis), (x.shape, F32))
    done, _ = scheduled(module)
    assert has_vectors(done)
    expected = exact(torch.from_numpy(x).double(), axis).numpy()
    np.testing.assert_allclose(run(done, [x]), expected, rtol=2e-5)


def test_reduction_to_one_number_and_over_two_axes() -> None:
    for axes in (None, [1, 2], [0, 1], [0, 2]):
        x = random((6, 11, 35))
        dims = [0, 1, 2] if axes is None else axes
        done, _ = scheduled(module_of(lambda v, a=axes: op.sum(v, axis=a), (x.shape, F32)))
        result = run(done, [x])
        np.testing.assert_allclose(
            result, x.astype(np.float64).sum(tuple(dims)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("axis", [0, 1])
def test_argmax(axis: int) -> None:
    x = random((9, 37))
    done, rules = scheduled(module_of(lambda v: op.argmax(v, axis=axis), (x.shape, F32)))
    assert "plain" not in rules.values()
    np.testing.assert_array_equal(run(done, [x]), x.argmax(axis))


@pytest.mark.parametrize("kind", ["max", "average", "global"])
@pytest.mark.parametrize("size", [7, 18])
def test_pooling(kind: str, size: int) -> None:
    x = random((2, 5, size, size))
    pool, functional = op.nn, torch.nn.functional
    build, exact = {
        "max": (
            lambda v: pool.max_pool2d(v, [3, 3], [2, 2], [1, 1, 1, 1]),
            lambda v: functional.max_pool2d(v, 3, 2, 1),
        ),
        "average": (
            lambda v: pool.avg_pool2d(v, [2, 2], [2, 2]),
            lambda v: functional.avg_pool2d(v, 2, 2),
        ),
        "global": (
            lambda v: pool.adaptive_avg_pool2d(v, [1, 1]),
            lambda v: functional.adaptive_avg_pool2d(v, 1),
        ),
    }[kind]
    module = module_of(build, (x.shape, F32))
    done, rules = scheduled(module)
    assert "plain" not in rules.values()
    expected = exact(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(run(done, [x]), expected, rtol=1e-5, atol=1e-6)


# -- products -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 33, 5), (16, 64, 32), (13, 197, 64)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products(m: int, n: int, k: int, transposed: bool) -> None:
    a, b = random((3, m, k)), random((3, k, n), 1)
    module = module_of(lambda x, y: op.nn.gelu(op.matmul(x, y)), (a.shape, F32), (b.shape, F32))
    arrays = [a, b]
    if transposed:
        module = _transposed_product(m, n, k)
        arrays = [a[0], np.ascontiguousarray(b[0].T)]
    done, _ = scheduled(module)
    expected = torch.from_numpy(a).double() @ torch.from_numpy(b).double()
    expected = expected[0] if transposed else torch.nn.functional.gelu(expected)
    np.testing.assert_allclose(run(done, arrays), expected.numpy(), rtol=0, atol=2e-5)


def _transposed_product(m: int, n: int, k: int) -> Any:
    builder = relax.BlockBuilder()
    a = relax.Var("a", relax.TensorType([m, k], F32))
    b = relax.Var("b", relax.TensorType([n, k], F32))

    def product(x: Any, y: Any) -> Any:
        r = te.reduce_axis((0, k), "r")
        return te.compute((m, n), lambda i, j: te.sum(x[i, r] * y[j, r], axis=r))

    with builder.function("main", [a, b]):
        builder.emit_func_output(builder.emit_te(product, a, b))
    return builder.get()


def test_exact_integer_products() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-128, 128, shape).astype("int8") for shape in ((9, 40), (40, 70)))
    module = module_of(
        lambda x, y: op.matmul(x, y, out_dtype="int32"), (a.shape, "int8"), (b.shape, "int8")
    )
    result = run(scheduled(module)[0], [a, b])
    np.testing.assert_array_equal(result, a.astype("int64") @ b.astype("int64"))


# -- types, shapes, threads -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, y = random((6, 37)).astype(kind), random((6, 37), 1).astype(kind)
    build = lambda a, b: op.nn.softmax(op.multiply(op.exp(a), b), -1)  # noqa: E731
    module = module_of(build, (x.shape, dtype), (y.shape, dtype))
    result = run(scheduled(module)[0], [x, y]).astype("float64")
    a, b = (torch.from_numpy(v.astype("float64")) for v in (x, y))
    expected = torch.softmax(a.exp() * b, -1).numpy()
    tolerance = {"float16": 2e-2, "bfloat16": 2e-1, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.parametrize("threads", [1, 2])
def test_symbolic_shapes(threads: int) -> None:
    rows = tirx.Var("n", "int64")
    width = 24

    def build(x: Any, w: Any, b: Any) -> Any:
        h = op.nn.gelu(op.nn.layer_norm(x, w, b, axes=[-1]))
        return op.nn.softmax(op.matmul(h, op.permute_dims(h, [1, 0])), -1)

    module = module_of(build, ((rows, width), F32), ((width,), F32), ((width,), F32))
    done, _ = scheduled(module, threads)
    assert has_parallel(done) == (threads == 2)
    w, b = random((width,), 1), random((width,), 2)
    for n in (1, 7, 33, 128):
        x = random((n, width))
        t = [torch.from_numpy(v).double() for v in (x, w, b)]
        h = torch.nn.functional.gelu(torch.nn.functional.layer_norm(t[0], (width,), t[1], t[2]))
        expected = torch.softmax(h @ h.T, -1).numpy()
        np.testing.assert_allclose(run(done, [x, w, b], threads), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(40_001,), (3, 20_000), (200, 300)])
def test_threads_share_large_loops(shape: tuple[int, ...]) -> None:
    done = check(
        lambda x: op.multiply(op.exp(x), x),
        lambda x: x.exp() * x,
        random(shape),
        rules={"elementwise"},
        threads=2,
    )
    assert has_parallel(done)


def test_small_loops_stay_on_one_thread() -> None:
    module = module_of(lambda x: op.add(x, x), ((64, 32), F32))
    assert not has_parallel(scheduled(module, threads=2)[0])


@pytest.mark.parametrize("offset", [1, 3, 16])
def test_inputs_may_start_anywhere(offset: int) -> None:
    """A view of a torch tensor is often not aligned to vectors."""
    x = torch.from_numpy(random((offset + 64 * 40,)))[offset:].view(64, 40)
    done, _ = scheduled(module_of(lambda v: op.add(op.nn.softmax(v, -1), v), ((64, 40), F32)))
    result = run(done, [tvm_ffi.from_dlpack(x)])
    np.testing.assert_allclose(result, (torch.softmax(x, -1) + x).numpy(), rtol=1e-5)


def test_reductions_that_do_not_start_from_nothing() -> None:
    """Several accumulators would each add the initial value: these keep to one."""

    @tvm.script.tirx.prim_func(s_tir=True)
    def biased(  # type: ignore[no-untyped-def]
        a: tvm.script.tirx.Buffer((3, 64), "float32"), b: tvm.script.tirx.Buffer((3,), "float32")
    ):
        for i, k in tvm.script.tirx.grid(3, 64):
            with tvm.script.tirx.sblock("sum"):
                vi, vk = tvm.script.tirx.axis.remap("SR", [i, k])
                with tvm.script.tirx.init():
                    b[vi] = tvm.script.tirx.float32(5)
                b[vi] = b[vi] + a[vi, vk]

    done = schedule_default(biased, PROFILE, 1)
    library = tvm.compile(tvm.IRModule({"main": done.func}), target=lowered.target())
    a = random((3, 64))
    b = tvm.runtime.empty((3,), F32)
    library["main"](tvm.runtime.tensor(a), b)
    np.testing.assert_allclose(b.numpy(), 5 + a.sum(1), rtol=1e-5)


# -- whole modules, and the last resort -----------------------------------------------------------


def test_unknown_bodies_stay_as_they_are() -> None:
    @tvm.script.tirx.prim_func(s_tir=True)
    def opaque(a: tvm.script.tirx.Buffer((8,), "float32")):  # type: ignore[no-untyped-def]
        for i in range(8):
            a[i] = tvm.script.tirx.float32(1)

    done = schedule_default(opaque, PROFILE, 2)
    assert done.rule == "plain"
    assert is_scheduled(done.func)


def test_scheduled_functions_are_left_alone() -> None:
    module = module_of(op.exp, ((40,), F32))
    once = DefaultSchedules(PROFILE, 1)(module)
    again = DefaultSchedules(PROFILE, 1)
    twice = again(once)
    assert again.rules == {}
    assert all(twice[name].same_as(func) for name, func in once.functions_items())
    assert not any(is_scheduled(func) for func in prim_funcs(module).values())


@pytest.mark.slow
def test_many_operators_agree_with_unscheduled_ones() -> None:
    """One module of operators that no other test names; each is a function of its own."""
    nn = op.nn

    def const(value: float) -> Any:
        return relax.const(value, F32)

    def build(a: Any, b: Any, x: Any, w: Any, v: Any, m: Any) -> Any:
        parts = op.split(a, 2, axis=2)
        return relax.Tuple(
            [
                op.where(op.greater(a, b), a, op.tanh(b)),
                op.astype(op.multiply(op.clip(a, -1, 1), const(10.0)), "int32"),
                op.tril(a, 1),
                relax.TupleGetItem(parts, 1),
                op.stack([a, b], axis=1),
                op.tile(a, (2, 1, 3)),
                op.repeat(a, 3, 1),
                op.flip(a, 2),
                op.cumsum(a, axis=1),
                op.topk(a, k=3, ret_type="values"),
                op.strided_slice(a, axes=[1, 2], begin=[0, 1], end=[5, 15], strides=[2, 3]),
                op.concat([op.sin(a), op.cos(b)], axis=-1),
                op.power(op.abs(a), const(0.3)),
                op.power(a, const(3.0)),
                op.log(op.add(op.exp(a), const(1.0))),
                nn.log_softmax(a, 1),
                op.std(a, axis=[1]),
                op.mean(a),
                op.argmin(a, axis=1),
                op.einsum((a, b), "bik,bjk->bij"),
                op.einsum((a, b), "bij,bik->bjk"),
                op.matmul(m, v),
                op.matmul(v, op.permute_dims(m, [1, 0])),
                op.sum(op.square(op.subtract(op.expand_dims(m, 1), m)), axis=[2]),
                nn.group_norm(x, w, w, num_groups=2, channel_axis=1, axes=[2, 3]),
                nn.instance_norm(x, w, w, channel_axis=1, axes=[2, 3]),
                relax.TupleGetItem(nn.batch_norm(x, w, w, w, op.abs(w), axis=1), 0),
                nn.avg_pool2d(x, [3, 3], [2, 2], [1, 1, 1, 1]),
                nn.adaptive_avg_pool2d(x, [3, 2]),
                nn.prelu(x, w, axis=1),
                nn.pad(x, [0, 0, 0, 0, 2, 2, 1, 1], pad_mode="reflect"),
                op.permute_dims(x, [0, 3, 1, 2]),
                op.max(x, axis=[0, 2]),
                op.isnan(a),
                op.full((3, 5), const(2.0)),
            ]
        )

    arrays = [random((3, 5, 16)), random((3, 5, 16), 1), random((2, 6, 7, 9), 2)]
    arrays += [random((6,), 3), random((67,), 4), random((9, 67), 5)]
    module = module_of(build, *[(a.shape, F32) for a in arrays])
    expected = run(module, arrays)
    done, rules = scheduled(module, threads=2)
    # A scan, a sort, and a window whose size varies from place to place.
    plain = {name.rstrip("0123456789") for name, rule in rules.items() if rule == "plain"}
    assert plain <= {"cumsum", "topk", "adaptive_avg_pool2d"}
    for result, reference in zip(run(done, arrays, 2), expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=2e-5, atol=1e-5)


def test_rows_wait_for_results_that_other_rows_need() -> None:
    """The first nest writes an output that the second reads at another row."""

    @tvm.script.tirx.prim_func(s_tir=True)
    def mirrored(  # type: ignore[no-untyped-def]
        a: tvm.script.tirx.Buffer((64, 16), "float32"),
        b: tvm.script.tirx.Buffer((64, 16), "float32"),
        c: tvm.script.tirx.Buffer((64, 16), "float32"),
    ):
        for i, j in tvm.script.tirx.grid(64, 16):
            with tvm.script.tirx.sblock("double"):
                vi, vj = tvm.script.tirx.axis.remap("SS", [i, j])
                b[vi, vj] = a[vi, vj] * tvm.script.tirx.float32(2)
        for i, j in tvm.script.tirx.grid(64, 16):
            with tvm.script.tirx.sblock("mirror"):
                vi, vj = tvm.script.tirx.axis.remap("SS", [i, j])
                c[vi, vj] = b[63 - vi, vj]

    done = schedule_default(mirrored, PROFILE, 1)
    assert done.rule == "nests"
    library = tvm.compile(tvm.IRModule({"main": done.func}), target=lowered.target())
    a = random((64, 16))
    b, c = tvm.runtime.empty((64, 16), F32), tvm.runtime.empty((64, 16), F32)
    library["main"](tvm.runtime.tensor(a), b, c)
    np.testing.assert_array_equal(c.numpy(), 2 * a[::-1])


def test_attention_with_residual() -> None:
    """Several functions in a row, with views between them, as an encoder layer has."""

    def build(x: Any, w: Any) -> Any:
        q = op.permute_dims(op.reshape(op.matmul(x, w), (1, 9, 4, 8)), [0, 2, 1, 3])
        scores = op.divide(op.matmul(q, op.permute_dims(q, [0, 1, 3, 2])), relax.const(2.0))
        mixed = op.matmul(op.nn.softmax(scores, -1), q)
        return op.add(x, op.reshape(op.permute_dims(mixed, [0, 2, 1, 3]), (1, 9, 32)))

    x, w = random((1, 9, 32)), random((32, 32), 1, 0.2)
    done, rules = scheduled(module_of(build, (x.shape, F32), (w.shape, F32)))
    assert "plain" not in rules.values()
    tx, tw = (torch.from_numpy(v).double() for v in (x, w))
    q = (tx @ tw).view(1, 9, 4, 8).transpose(1, 2)
    mixed = torch.softmax(q @ q.transpose(-1, -2) / 2, -1) @ q
    expected = tx + mixed.transpose(1, 2).reshape(1, 9, 32)
    np.testing.assert_allclose(run(done, [x, w]), expected.numpy(), rtol=0, atol=1e-5)
