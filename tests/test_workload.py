"""The workload type: what it accepts, its key, and its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import AutotuneError, InvalidWorkload
from autotune.workload import DTYPES, EPILOGUES, LAYOUTS, Gemm

extents = st.integers(1, 2**31 - 1)
workloads = st.builds(
    Gemm,
    extents,
    extents,
    extents,
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(sorted(DTYPES)),
    epilogue=st.sampled_from(EPILOGUES),
    prepacked=st.booleans(),
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prepacked": 1}, "prepacked must be true or false, got 1"),
        ({"m": 0}, "m must be between 1 and 2147483647, got 0"),
        ({"n": -1}, "n must be between 1 and 2147483647, got -1"),
        ({"k": 2**31}, "k must be between 1 and 2147483647, got 2147483648"),
        ({"m": 1.0}, "m must be an integer, got 1.0"),
        ({"m": True}, "m must be an integer, got True"),
        ({"m": "8"}, "m must be an integer, got '8'"),
        ({"layout": "xx"}, "unknown layout 'xx'; choose one of nn, nt, tn, tt"),
        ({"dtype": "float99"}, "unknown dtype 'float99'; choose one of float32,"),
        ({"epilogue": "softmax"}, "unknown epilogue 'softmax'; choose one of none,"),
        ({"acc_dtype": "x"}, "unknown acc_dtype 'x'"),
        ({"out_dtype": "x"}, "unknown out_dtype 'x'"),
    ],
)
def test_a_malformed_workload_is_refused_with_what_to_do(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidWorkload) as caught:
        Gemm(**{"m": 4, "n": 5, "k": 6, **changes})
    assert says in str(caught.value)
    assert isinstance(caught.value, AutotuneError)


@given(workloads)
def test_json_brings_back_an_equal_workload(workload: Gemm) -> None:
    again = Gemm.from_json(workload.to_json())
    assert again == workload and again.key == workload.key and hash(again) == hash(workload)


@given(workloads, workloads)
def test_keys_are_equal_exactly_for_equal_workloads(one: Gemm, other: Gemm) -> None:
    assert (one.key == other.key) == (one == other)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Gemm)])
def test_every_field_is_part_of_the_key(field: str) -> None:
    other = {"m": 9, "n": 9, "k": 9, "layout": "tt", "dtype": "float16", "acc_dtype": "float16",
             "out_dtype": "float16", "epilogue": "relu", "prepacked": True}  # fmt: skip
    workload = Gemm(4, 5, 6)
    assert dataclasses.replace(workload, **{field: other[field]}).key != workload.key


def test_the_key_of_a_plain_product_is_the_documented_text() -> None:
    # Logs of earlier versions are looked up by this text.
    assert Gemm(4, 5, 6).key == (
        "gemm m=4 n=5 k=6 layout=nn in=float32 acc=float32 out=float32 epilogue=none"
    )


@pytest.mark.parametrize(
    "data",
    [{}, {"op": "conv2d"}, {"op": "gemm"}, {"op": "gemm", "m": 1, "n": 1, "k": 1, "color": "red"}],
)
def test_json_of_something_else_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidWorkload):
        Gemm.from_json(data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_shapes_follow_the_layout(layout: str) -> None:
    workload = Gemm(4, 5, 6, layout=layout)
    assert workload.a_shape == ((4, 6) if layout[0] == "n" else (6, 4))
    assert workload.b_shape == ((6, 5) if layout[1] == "n" else (5, 6))


def test_flops_count_two_per_multiply_add() -> None:
    assert Gemm(4, 5, 6, epilogue="bias_gelu").flops == 240


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_only_bias_epilogues_take_a_bias(epilogue: str) -> None:
    assert Gemm(1, 1, 1, epilogue=epilogue).has_bias == ("bias" in epilogue)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_accumulator_and_output_follow_the_dtype_unless_named(dtype: str) -> None:
    assert (Gemm(1, 1, 1, dtype=dtype).acc_dtype, Gemm(1, 1, 1, dtype=dtype).out_dtype) == (
        DTYPES[dtype]
    )
    assert Gemm(1, 1, 1, dtype=dtype, out_dtype="float32").out_dtype == "float32"
