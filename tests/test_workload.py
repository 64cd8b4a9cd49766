"""The workload type: what it accepts, its key, and its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import AutotuneError, InvalidWorkload
from autotune.workload import DTYPES, EPILOGUES, LAYOUTS, Gemm

extents = st.integers(1, 2**31 - 1)
factors = st.floats(1e-6, 1e6) | st.just(1.0)
narrow = st.builds(
    Gemm,
    extents,
    extents,
    extents,
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(sorted(DTYPES)),
    epilogue=st.sampled_from(EPILOGUES),
    prepacked=st.booleans(),
    batch=st.integers(1, 2**31 - 1),
)
workloads = st.one_of(
    narrow,
    narrow.filter(lambda w: w.acc_dtype != "int32").flatmap(
        lambda w: st.builds(lambda scale: dataclasses.replace(w, scale=scale), factors)
    ),
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
        ({"batch": 0}, "batch must be between 1 and 2147483647, got 0"),
        ({"batch": 2.0}, "batch must be an integer, got 2.0"),
        ({"shared": "a"}, "shared 'a' is for batches"),
        ({"shared": "c", "batch": 2}, "unknown shared 'c'"),
        ({"scale": 0.0}, "scale must be finite and not zero, got 0.0"),
        ({"scale": float("nan")}, "scale must be finite and not zero, got nan"),
        ({"scale": "2"}, "scale must be a number, got '2'"),
        ({"scale": 0.5, "dtype": "int8"}, "sums in int32 are not scaled; got scale 0.5"),
    ],
)
def test_a_malformed_workload_is_refused_with_what_to_do(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidWorkload) as caught:
        Gemm(**{"m": 4, "n": 5, "k": 6, **changes})
    assert says in str(caught.value)
    assert isinstance(caught.value, AutotuneError)


def test_numpys_integers_are_extents_as_well() -> None:
    m, n = np.zeros((4, 5)).shape
    workload = Gemm(np.int64(m), np.int32(n), np.uint8(6), batch=np.int16(2))  # type: ignore[arg-type]
    assert workload == Gemm(4, 5, 6, batch=2)
    assert [type(x) for x in (workload.m, workload.n, workload.k, workload.batch)] == [int] * 4
    with pytest.raises(InvalidWorkload, match="m must be an integer"):
        Gemm(np.True_, 5, 6)  # type: ignore[arg-type]


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
             "out_dtype": "float16", "epilogue": "relu", "prepacked": True, "batch": 2,
             "scale": 0.5, "shared": "b"}  # fmt: skip
    workload = Gemm(4, 5, 6, batch=3 if field == "shared" else 1)
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


def test_batch_and_factor_are_written_only_where_there_are_some() -> None:
    plain, workload = Gemm(4, 5, 6), Gemm(4, 5, 6, batch=12, scale=0.125)
    assert workload.key == plain.key + " batch=12 scale=0.125"
    assert not {"batch", "scale"} & plain.to_json().keys()
    assert workload.to_json() == {**plain.to_json(), "batch": 12, "scale": 0.125}
    assert Gemm(4, 5, 6, scale=2) == Gemm(4, 5, 6, scale=2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_is_the_first_dimension_of_all_but_the_bias(layout: str) -> None:
    one, many = (Gemm(4, 5, 6, layout=layout, epilogue="bias_residual", batch=b) for b in (1, 3))
    assert (many.a_shape, many.b_shape) == ((3, *one.a_shape), (3, *one.b_shape))
    assert (one.c_shape, many.c_shape, many.flops) == ((4, 5), (3, 4, 5), 3 * one.flops)
    assert many.one_of_batch == one
    assert many.inputs == (
        ("a", many.a_shape, "float32"),
        ("b", many.b_shape, "float32"),
        ("bias", (5,), "float32"),
        ("residual", (3, 4, 5), "float32"),
    )


@pytest.mark.parametrize("shared", ["a", "b"])
def test_a_shared_operand_is_one_matrix(shared: str) -> None:
    one, many = Gemm(4, 5, 6), Gemm(4, 5, 6, batch=3, shared=shared)
    assert (many.a_shape == one.a_shape) == (shared == "a")
    assert (many.b_shape == one.b_shape) == (shared == "b")
    assert many.one_of_batch == one
    assert many.key == f"{one.key} batch=3 shared={shared}"
    assert Gemm.from_json(many.to_json()) == many


def test_flops_count_two_per_multiply_add() -> None:
    assert Gemm(4, 5, 6, epilogue="bias_gelu").flops == 240


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_only_bias_epilogues_take_a_bias(epilogue: str) -> None:
    workload = Gemm(1, 1, 1, epilogue=epilogue)
    assert workload.has_bias == ("bias" in epilogue)
    assert workload.has_row_bias == ("rowbias" in epilogue)
    assert workload.has_residual == ("residual" in epilogue)
    rest = set(epilogue.replace("gelu_tanh", "gelu-tanh").split("_"))
    rest -= {"bias", "rowbias", "residual", "none"}
    assert {workload.activation.replace("_", "-")} - {""} == rest


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_accumulator_and_output_follow_the_dtype_unless_named(dtype: str) -> None:
    assert (Gemm(1, 1, 1, dtype=dtype).acc_dtype, Gemm(1, 1, 1, dtype=dtype).out_dtype) == (
        DTYPES[dtype]
    )
    assert Gemm(1, 1, 1, dtype=dtype, out_dtype="float32").out_dtype == "float32"
