# mypy: ignore-errors
"""Pieces of kernels are written as TVM's own T.inline writes them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from tvm.script import tirx as T

from autotune.kernels.cuda.inline import inline

SIZE = 8


def kernel(decorator: Any, factor: float) -> Any:
    """Return a function whose pieces take values from here, from the module and from a caller."""

    @decorator
    def scaled(x, i, by):
        x[i] = x[i] * T.float32(factor) + by

    @decorator
    def all_of(x):
        for i in T.serial(SIZE):
            if factor > 1.0:  # settled while parsing
                scaled(x, i, by=1.0)
            else:
                scaled(x, i, 0.0)

    @T.prim_func
    def main(x_ptr: T.handle):
        x = T.match_buffer(x_ptr, (SIZE,), "float32")
        all_of(x)
        all_of(x)

    return main


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_pieces_are_written_as_tvm_writes_them(factor: float) -> None:
    assert kernel(inline, factor).script() == kernel(T.inline, factor).script()
    assert kernel(inline, 0.5).script() != kernel(inline, 2.0).script()


def test_the_stack_is_not_looked_up_in_files(monkeypatch: Any) -> None:
    """TVM's way costs as much again as all the rest, and more where the stack is deep."""
    looked_up = []
    getframeinfo = inspect.getframeinfo
    monkeypatch.setattr(
        inspect, "getframeinfo", lambda *a, **k: looked_up.append(a) or getframeinfo(*a, **k)
    )
    kernel(T.inline, 2.0)
    theirs = len(looked_up)
    looked_up.clear()
    kernel(inline, 2.0)
    assert 3 * len(looked_up) < theirs


def test_a_piece_that_no_kernel_calls_says_so() -> None:
    @inline
    def lonely(x):
        x[0] = 1.0

    with pytest.raises(RuntimeError, match="lonely is not called by a kernel"):
        lonely([0.0])
