from __future__ import annotations

import msgspec
import pytest
from log_samples import GEMM, SEARCH, TARGET_KEY, TEMPLATE, config, final, header, trial

from autotune.log import (
    best,
    canonical_json,
    find_run,
    next_sequence,
    results_for,
    run_batches,
    select,
    winner,
)
from autotune.trial import FailureKind
from autotune.workload import Gemm

WANTED = (GEMM.key, TARGET_KEY, TEMPLATE)


def at(record, time):
    return msgspec.structs.replace(record, time=time)


def test_the_lowest_cost_is_best_and_a_failure_never():
    records = [trial(0, 3e-3), trial(1, 1e-3), trial(2, None), trial(3, 2e-3)]
    assert best(records) is records[1]
    assert best([records[2]]) is None
    assert best([]) is None


def test_of_equal_costs_the_earliest_is_best_whatever_the_order_in_the_file():
    records = [at(trial(0), "2026-02"), at(trial(2), "2026-01"), at(trial(1), "2026-01")]
    assert best(records) is records[2]
    assert best(records[::-1]) is records[2]


@pytest.mark.parametrize(
    "change",
    [
        {"workload": Gemm(513, 384, 256)},
        {"workload": Gemm(512, 385, 256)},
        {"workload": Gemm(512, 384, 257)},
        {"workload": Gemm(512, 384, 256, layout="nt")},
        {"workload": Gemm(512, 384, 256, dtype="float16")},
        {"workload": Gemm(512, 384, 256, acc_dtype="float16")},
        {"workload": Gemm(512, 384, 256, out_dtype="float16")},
        {"workload": Gemm(512, 384, 256, epilogue="bias")},
        {"target_key": "llvm znver4 x4"},
        {"template": {"name": "cpu", "version": 2}},
        {"template": {"name": "cpu_paper", "version": 1}},
    ],
    ids=str,
)
def test_a_record_that_differs_in_anything_that_matters_is_not_used(change):
    records = [trial(0, head=header(**change)), final(1, 1e-3, 0, head=header(**change))]
    assert list(select(records, *WANTED)) == []
    assert best(records, *WANTED) is None
    assert winner(records, *WANTED) is None
    assert results_for(records, *WANTED) == {}
    assert find_run(records, *WANTED, SEARCH) is None


def test_other_driver_versions_in_the_fingerprint_do_not_matter():
    records = [trial(0, head=header(tools={"tvm": "0.28.0"}, hardware={"cpu": "renamed"}))]
    assert best(records, *WANTED) is records[0]


def test_without_a_final_the_best_trial_wins_unconfirmed():
    found = winner([trial(0, 3e-3), trial(1, 1e-3)], *WANTED)
    assert (found.config, found.cost, found.confirmed) == (config(1), 1e-3, False)
    assert found.config_key == canonical_json(config(1))


def test_a_final_outranks_a_lower_single_reading():
    found = winner([trial(1, 1e-4), final(2, 2e-3, number=7)], *WANTED)
    assert (found.config, found.cost, found.confirmed) == (config(7), 2e-3, True)


def test_the_final_of_the_run_that_won_by_re_measured_cost_decides():
    slow, fast = header("run-slow"), header("run-fast")
    records = [
        final(1, 2e-3, 7, head=slow),
        final(1, 1e-3, 8, head=fast),
        final(2, 3e-3, 9, head=slow, trials=20),
    ]
    assert winner(records, *WANTED).config == config(8)


def test_a_later_final_of_a_run_replaces_its_earlier_one_even_if_the_clock_went_back():
    lucky = at(final(1, 1e-3, 7, trials=10), "2026-06")
    sober = at(final(2, 2e-3, 8, trials=20), "2026-05")
    for records in ([lucky, sober], [sober, lucky]):
        assert winner(records, *WANTED).config == config(8)


def test_a_final_without_a_measured_winner_is_passed_over():
    broken = msgspec.structs.replace(final(1, 1e-5, 7), winner=config(99))
    assert winner([broken, trial(0)], *WANTED).config == config(0)


def test_a_success_serves_before_a_failure_and_the_newest_success_before_older_ones():
    records = [
        at(trial(0, 1e-3, number=5), "2026-01"),
        at(trial(1, 2e-3, number=5), "2026-03"),
        at(trial(2, None, number=5), "2026-04"),
        at(trial(3, 3e-3, number=5), "2026-02"),
    ]
    for order in (records, records[::-1]):
        assert results_for(order, *WANTED) == {canonical_json(config(5)): records[1]}


def test_a_measurement_serves_before_a_newer_record_that_copies_one():
    copied = at(trial(1, number=5, source="run-x/000000"), "2026-02")
    measured = at(trial(0, number=5), "2026-01")
    assert list(results_for([copied, measured], *WANTED).values()) == [measured]
    assert list(results_for([copied], *WANTED).values()) == [copied]


def test_crashes_and_time_outs_serve_but_noisy_readings_are_measured_again():
    kinds = [FailureKind.CRASHED, FailureKind.RUN_TIMEOUT, FailureKind.NOISY]
    records = [trial(n, None, failure=kind) for n, kind in enumerate(kinds)]
    served = results_for(records, *WANTED)
    assert [record.failure for record in served.values()] == ["crashed", "run_timeout"]


def test_the_newest_run_of_the_same_search_is_the_one_to_resume():
    other = header("run-c", search={**SEARCH, "seed": 1})
    records = [
        at(trial(0, head=header("run-a")), "2026-01"),
        at(trial(0, head=header("run-b")), "2026-02"),
        at(trial(0, head=other), "2026-03"),
    ]
    assert find_run(records, *WANTED, dict(reversed(SEARCH.items()))) == "run-b"
    assert find_run(records, *WANTED, {**SEARCH, "options": {}}) is None


def test_the_next_sequence_follows_the_highest_of_the_run():
    other = header("run-b")
    records = [trial(9), trial(10), final(11, 1e-3, 1), trial(50, head=other)]
    assert next_sequence(records, "run-a") == 12
    assert next_sequence(records, "run-c") == 0
    odd = msgspec.structs.replace(trial(3), id="run-a/last")
    assert next_sequence([odd], "run-a") == 0


def test_a_run_is_told_batch_by_batch_in_the_order_of_telling():
    other = trial(4, head=header("run-b"), batch=0)
    late = trial(3, batch=1, asked=3, ask=2, tell=1)
    records = [
        trial(0, batch=0, asked=2, ask=1, tell=0),
        other,
        trial(1, batch=0, asked=2, ask=0, tell=1),
        late,
        trial(2, batch=1, asked=3, ask=0, tell=0),
        final(5, 1e-3, 1),
    ]
    first, second = run_batches(records, "run-a")
    assert first == (2, [(1, 0, records[0]), (0, 1, records[2])])
    assert second == (3, [(0, 0, records[4]), (2, 1, late)])


def test_a_record_that_is_there_twice_is_told_once():
    record = trial(0, batch=0)
    assert run_batches([record, record], "run-a") == [(1, [(0, 0, record)])]


def test_a_run_is_told_up_to_a_batch_of_which_nothing_is_left():
    records = [trial(n, batch=n) for n in (0, 1, 3)]
    assert [told[0][2] for _, told in run_batches(records, "run-a")] == records[:2]
    assert run_batches(records[2:], "run-a") == []
