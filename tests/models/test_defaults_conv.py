"""The default schedule of convolutions, with its packed weights and its epilogue."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from lowered import PROFILE, module_of, prim_funcs, random, run, scheduled
from torch.nn import functional
from tvm import relax, tirx

from autotune.models.defaults import schedule_default
from autotune.models.defaults_ir import collect

op = relax.op
F32 = "float32"


def conv(x: Any, w: Any, **options: Any) -> Any:
    return op.nn.conv2d(x, w, data_layout="NCHW", kernel_layout="OIHW", **options)


def exact(x: Any, w: Any, **options: Any) -> Any:
    tensors = torch.from_numpy(x).double(), torch.from_numpy(w).double()
    return functional.conv2d(*tensors, **options)


def agree(result: Any, expected: Any, tolerance: float = 2e-6) -> None:
    expected = expected.numpy()
    assert result.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * scale)


#: (input, weights, stride, padding, dilation, groups, expected rule)
CASES = [
    ((1, 16, 9, 9), (32, 16, 3, 3), 1, 1, 1, 1, "conv"),
    ((2, 5, 11, 7), (16, 5, 3, 3), 2, 1, 1, 1, "conv"),
    ((1, 3, 23, 29), (64, 3, 7, 7), 2, 3, 1, 1, "conv"),
    ((1, 8, 10, 13), (48, 8, 3, 3), 1, 2, 2, 1, "conv"),
    ((1, 37, 7, 7), (64, 37, 3, 3), 1, 1, 1, 1, "conv"),
    ((1, 16, 6, 5), (32, 16, 1, 1), 1, 0, 1, 1, "conv"),
    ((1, 1, 8, 8), (16, 1, 1, 1), 1, 0, 1, 1, "conv"),
    ((1, 32, 1, 1), (32, 32, 1, 1), 1, 0, 1, 1, None),
    ((1, 300, 5, 4), (16, 300, 3, 3), 1, 1, 1, 1, "conv"),
    ((1, 3, 16, 16), (32, 3, 4, 4), 4, 0, 1, 1, "conv"),
    ((1, 8, 9, 9), (13, 8, 3, 3), 1, 1, 1, 1, None),
    ((1, 8, 9, 9), (12, 8, 3, 3), 1, 1, 1, 1, None),
    ((1, 32, 9, 9), (64, 8, 3, 3), 1, 1, 1, 4, "conv"),
    ((1, 24, 9, 9), (24, 4, 3, 3), 1, 1, 1, 6, "conv"),
    ((1, 18, 12, 17), (18, 1, 3, 3), 1, 1, 1, 18, None),
    ((2, 16, 13, 13), (16, 1, 5, 5), 2, 2, 1, 16, None),
    ((1, 16, 60, 3), (32, 16, 3, 3), 1, 1, 1, 1, "conv"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{c[1]}-s{c[2]}-g{c[5]}" for c in CASES])
def test_convolutions(case: Any) -> None:
    shape, weights, stride, padding, dilation, groups, rule = case
    options = {"padding": padding, "dilation": dilation, "groups": groups}
    x, w = random(shape), random(weights, 1)
    module = module_of(
        lambda a, b: conv(a, b, strides=stride, padding=padding, dilation=dilation, groups=groups),
        (shape, F32),
        (weights, F32),
    )
    done, rules = scheduled(module)
    assert "plain" not in rules.values()
    if rule is not None:
        assert set(rules.values()) == {rule}
    agree(run(done, [x, w]), exact(x, w, stride=stride, **options))


@pytest.mark.parametrize(("simd_bits", "registers"), [(128, 32), (256, 16), (512, 32)])
@pytest.mark.parametrize("threads", [1, 2])
def test_epilogue_on_any_vector_width(simd_bits: int, registers: int, threads: int) -> None:
    """Batch norm, residual and an activation, fused, with one band of rows smaller than others."""
    profile = dataclasses.replace(PROFILE, simd_bits=simd_bits, vector_registers=registers)
    x, w, r = random((1, 16, 19, 21)), random((32, 16, 3, 3), 1, 0.1), random((1, 32, 19, 21), 2)
    scale, shift = random((32, 1, 1), 3), random((32, 1, 1), 4)

    def build(x: Any, w: Any, s: Any, b: Any, r: Any) -> Any:
        y = op.add(op.multiply(conv(x, w, padding=1), s), b)
        return op.nn.silu(op.add(y, r))

    arrays = [x, w, scale, shift, r]
    done, rules = scheduled(module_of(build, *[(a.shape, F32) for a in arrays]), threads, profile)
    assert set(rules.values()) == {"conv"}
    parallel = {int(f.kind) for p in prim_funcs(done).values() for f in collect(p.body, tirx.For)}
    assert (int(tirx.ForKind.PARALLEL) in parallel) == (threads == 2)
    y = exact(x, w, padding=1) * torch.from_numpy(scale) + torch.from_numpy(shift)
    agree(run(done, arrays, threads), functional.silu(y + torch.from_numpy(r)))


def test_large_enough_for_several_blocks_of_everything() -> None:
    x, w = random((1, 70, 60, 40)), random((64, 70, 3, 3), 1, 0.1)
    module = module_of(lambda a, b: conv(a, b, padding=1), (x.shape, F32), (w.shape, F32))
    done, _ = scheduled(module, threads=2)
    agree(run(done, [x, w], threads=2), exact(x, w, padding=1))


def test_constant_weights_are_packed_once() -> None:
    x, w = random((1, 8, 9, 9)), random((32, 8, 3, 3), 1)
    second = random((32, 32, 3, 3), 2)
    module = module_of(
        lambda a: conv(conv(a, relax.const(w), padding=1), relax.const(second), padding=1),
        (x.shape, F32),
    )
    done, rules = scheduled(module)
    assert set(rules.values()) == {"conv"}
    shapes = {
        tuple(int(extent) for extent in func.params[1].shape) for func in prim_funcs(done).values()
    }
    assert all(len(shape) == 5 and shape[-1] in (16, 32) for shape in shapes)
    expected = exact(exact(x, w, padding=1).float().numpy(), second, padding=1)
    agree(run(done, [x]), expected)
    agree(run(scheduled(module, threads=2)[0], [x], 2), expected)


def test_weights_that_are_not_always_constant_stay() -> None:
    """One function, called with a constant and with an input: it packs in the call."""
    x, w = random((1, 16, 6, 6)), random((16, 16, 3, 3), 1)
    module = module_of(
        lambda a, b: conv(conv(a, relax.const(w), padding=1), b, padding=1),
        (x.shape, F32),
        (w.shape, F32),
    )
    assert len(prim_funcs(module)) == 1
    done, _ = scheduled(module)
    agree(run(done, [x, w]), exact(exact(x, w, padding=1).float().numpy(), w, padding=1))


def test_packed_form_of_one_function() -> None:
    w = random((32, 8, 3, 3), 1)
    module = module_of(lambda a, b: conv(a, b, padding=1), ((1, 8, 9, 9), F32), (w.shape, F32))
    (func,) = prim_funcs(module).values()
    done = schedule_default(func, PROFILE, 1)
    assert done.packed is not None
    packed = done.packed.pack(w)
    assert packed.shape == tuple(int(e) for e in done.packed.func.params[1].shape)
    block = done.packed.block
    assert packed[0, 3, 2, 1, 5] == w[5, 3, 2, 1]
    assert packed[-1, 3, 2, 1, 5] == w[32 - block + 5, 3, 2, 1]


def test_one_dimension() -> None:
    x, w = random((1, 8, 40)), random((16, 8, 3), 1)
    module = module_of(lambda a, b: op.nn.conv1d(a, b, padding=1), (x.shape, F32), (w.shape, F32))
    done, rules = scheduled(module)
    assert set(rules.values()) == {"conv"}
    tensors = torch.from_numpy(x).double(), torch.from_numpy(w).double()
    agree(run(done, [x, w]), functional.conv1d(*tensors, padding=1))


def test_channels_last_and_three_dimensions() -> None:
    x, w = random((1, 7, 9, 8)), random((3, 3, 8, 16), 1)
    module = module_of(
        lambda a, b: op.nn.conv2d(a, b, data_layout="NHWC", kernel_layout="HWIO"),
        (x.shape, F32),
        (w.shape, F32),
    )
    done, rules = scheduled(module)
    assert "plain" not in rules.values()
    expected = exact(x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)).permute(0, 2, 3, 1)
    agree(run(done, [x, w]), expected)
    x, w = random((1, 4, 5, 6, 7)), random((16, 4, 3, 3, 3), 1)
    module = module_of(lambda a, b: op.nn.conv3d(a, b, padding=1), (x.shape, F32), (w.shape, F32))
    done, rules = scheduled(module)
    assert "plain" not in rules.values()
    tensors = torch.from_numpy(x).double(), torch.from_numpy(w).double()
    agree(run(done, [x, w]), functional.conv3d(*tensors, padding=1))


def test_half_precision() -> None:
    x, w = random((1, 8, 9, 9)).astype("float16"), random((32, 8, 3, 3), 1, 0.1).astype("float16")
    module = module_of(
        lambda a, b: conv(a, b, padding=1), (x.shape, "float16"), (w.shape, "float16")
    )
    done, rules = scheduled(module)
    assert set(rules.values()) == {"conv"}
    agree(run(done, [x, w]).astype("float64"), exact(x, w, padding=1), tolerance=1e-2)
