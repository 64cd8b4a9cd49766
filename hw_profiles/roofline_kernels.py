# mypy: ignore-errors
# TVMScript's annotations are buffers, not types, and its decorator compiles the source: no type
# checker can follow this module, so it holds nothing but kernels.
"""The kernels behind :mod:`autotune.hw_profiles.roofline`. Importing this imports TVM."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.script import tirx as T


def compile_fma(
    target: dict[str, Any], lanes: int, accumulators: int, iterations: int, threads: int
) -> Any:
    """Return the module of ``fma(coefficients, out)``, as ``roofline.build_fma_kernel`` says."""
    width = accumulators * lanes

    @T.prim_func(s_tir=True)
    def fma(
        coefficients: T.Buffer((2 * lanes,), "float32"),
        out: T.Buffer((threads * width,), "float32"),
    ):
        T.func_attr({"global_symbol": "fma", "tirx.noalias": True})
        for task in T.parallel(threads):
            acc = T.alloc_buffer((width,), "float32", scope="local")
            for j in T.unroll(accumulators):
                for v in T.vectorized(lanes):
                    acc[j * lanes + v] = coefficients[v]
            for _ in T.serial(iterations):
                for j in T.unroll(accumulators):
                    for v in T.vectorized(lanes):
                        acc[j * lanes + v] = (
                            acc[j * lanes + v] * coefficients[v] + coefficients[lanes + v]
                        )
            for j in T.unroll(accumulators):
                for v in T.vectorized(lanes):
                    out[task * width + j * lanes + v] = acc[j * lanes + v]

    return tvm.compile(tvm.IRModule({"fma": fma}), target=tvm.target.Target(target))


def compile_triad(
    target: dict[str, Any], lanes: int, elements: int, threads: int
) -> tuple[Any, Any]:
    """Return ``fill(a)`` (a = 1) and ``triad(a, b, c)`` (a = b + 3 * c) over float32 vectors.

    ``elements`` must be a multiple of ``threads * lanes``.
    """
    part = elements // threads
    vectors = part // lanes

    @T.prim_func(s_tir=True)
    def fill(a: T.Buffer((elements,), "float32")):
        T.func_attr({"global_symbol": "fill", "tirx.noalias": True})
        for task in T.parallel(threads):
            for i in T.serial(vectors):
                for v in T.vectorized(lanes):
                    a[task * part + i * lanes + v] = T.float32(1)

    @T.prim_func(s_tir=True)
    def triad(
        a: T.Buffer((elements,), "float32"),
        b: T.Buffer((elements,), "float32"),
        c: T.Buffer((elements,), "float32"),
    ):
        T.func_attr({"global_symbol": "triad", "tirx.noalias": True})
        for task in T.parallel(threads):
            for i in T.serial(vectors):
                for v in T.vectorized(lanes):
                    a[task * part + i * lanes + v] = (
                        b[task * part + i * lanes + v]
                        + T.float32(3) * c[task * part + i * lanes + v]
                    )

    module = tvm.compile(
        tvm.IRModule({"fill": fill, "triad": triad}), target=tvm.target.Target(target)
    )
    return module["fill"], module["triad"]
