from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import GEMM, config, final, header, trial

from autotune.log import Skip, canonical_json, trial_record
from autotune.log.lines import MAX_LINE, decode_line, encode_line
from autotune.trial import FailureKind, Result

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
plain_json = st.recursive(
    scalars | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(text, plain_json, max_size=4)
seconds = st.floats(min_value=1e-9, max_value=1e6)
results = st.builds(lambda costs: Result(tuple(costs)), st.lists(seconds, min_size=1)) | st.builds(
    Result.failed, st.sampled_from(FailureKind), text, st.dictionaries(text, seconds, max_size=2)
)


@given(configs, results, st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_any_trial_survives_the_line_and_gives_its_result_back(chosen, result, number):
    record = trial_record(
        header(), number, chosen, result, batch=number, asked=9, ask=8, tell=7, elapsed=0.5
    )
    again = decode_line(encode_line(record))
    assert again == record
    assert again.result() == result
    assert again.config_key == canonical_json(again.config)


@given(configs)
@settings(max_examples=100, deadline=None)
def test_a_line_re_formatted_by_another_tool_still_counts(chosen):
    record = trial_record(header(), 1, chosen, Result((1e-7,)), batch=0, asked=1, ask=0, tell=0)
    members = json.loads(encode_line(record))
    reformatted = json.dumps(dict(reversed(members.items()))) + "\r\n"
    assert decode_line(reformatted.encode()) == record


@given(st.binary(max_size=200) | st.builds(lambda s: s.encode(), text))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_reader_raise(raw):
    assert isinstance(decode_line(raw), Skip)


def test_a_final_survives_the_line():
    record = final(3, 2e-4, number=7)
    again = decode_line(encode_line(record))
    assert again == record
    assert again.cost == 2e-4
    assert again.config_key == canonical_json(config(7))


def test_a_final_whose_winner_was_not_measured_has_no_cost():
    assert msgspec.structs.replace(final(3, 2e-4, number=7), winner=config(8)).cost == math.inf


def test_config_key_ignores_the_order_of_keys():
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == '{"a":{"c":3,"d":2},"b":1}'


def test_a_record_spells_out_its_workload_and_id():
    record = trial(12)
    assert record.id == "run-a/000012"
    assert record.workload_key == GEMM.key
    assert record.workload == GEMM.to_json()
    assert record.time.endswith("Z")


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_a_record_with_an_impossible_cost_cannot_be_made(cost):
    with pytest.raises(ValueError, match="positive finite"):
        msgspec.structs.replace(trial(), costs=(cost,))


def test_a_record_with_both_costs_and_a_failure_cannot_be_made():
    with pytest.raises(ValueError, match="either costs or a failure"):
        msgspec.structs.replace(trial(), failure="crashed")


def test_a_failure_kind_of_the_future_is_a_failure_that_keeps_its_name():
    result = msgspec.structs.replace(trial(cost=None), failure="melted").result()
    assert result.failure is FailureKind.RUN_ERROR
    assert result.message == "melted: no answer in 5 s"


def test_a_message_too_long_or_not_encodable_is_made_storable():
    result = Result.failed(FailureKind.COMPILE_ERROR, "\udcff" + "x" * (2 * MAX_LINE))
    record = trial_record(header(), 0, config(0), result, batch=0, asked=1, ask=0, tell=0)
    again = decode_line(encode_line(record))
    assert again.message.startswith("?xxx")
    assert again.message.endswith("[cut]")
    assert len(again.message) < 5000


def test_a_record_too_large_to_be_read_is_not_written():
    with pytest.raises(ValueError, match="limit"):
        encode_line(msgspec.structs.replace(trial(), message="x" * MAX_LINE))


def test_a_record_with_a_value_that_is_not_json_is_not_written():
    with pytest.raises(ValueError, match="read back"):
        encode_line(msgspec.structs.replace(trial(), elapsed=math.nan))
