from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from log_samples import GEMM, TARGET, TARGET_KEY, TEMPLATE, config, final, header, trial

from autotune.log import Tier, lookup
from autotune.workload import Gemm


def tuned(workload: Gemm, number: int = 0, cost: float = 1e-3, **changes):
    return trial(number, cost, head=header(f"run-{workload.key}", workload, **changes))


def find(records, workload=GEMM):
    return lookup(records, workload, TARGET_KEY, TEMPLATE, target=TARGET)


def like(**changes) -> Gemm:
    return dataclasses.replace(GEMM, **changes)


@pytest.mark.parametrize(
    ("workload", "tier", "distance"),
    [
        (GEMM, Tier.EXACT, 0.0),
        (like(epilogue="bias_relu"), Tier.SAME_GEMM, 0.0),
        (like(m=500), Tier.M_BUCKET, math.log2(512 / 500)),
        (like(m=700), Tier.M_BUCKET, math.log2(700 / 512)),
        (like(m=1024), Tier.NEAREST, 1.0),
        (like(m=1024, n=1536), Tier.NEAREST, math.hypot(1.0, 2.0)),
        (like(k=255), Tier.NEAREST, math.log2(256 / 255)),
        (like(layout="nt"), Tier.DEFAULT, math.inf),
        (like(dtype="float16", acc_dtype="", out_dtype=""), Tier.DEFAULT, math.inf),
        (like(out_dtype="float16"), Tier.DEFAULT, math.inf),
        (like(scale=0.125), Tier.SAME_GEMM, 0.0),
        (like(epilogue="residual"), Tier.SAME_GEMM, 0.0),
        (like(batch=12), Tier.DEFAULT, math.inf),
    ],
    ids=str,
)
def test_the_tier_says_how_close_the_only_record_is(workload, tier, distance):
    hit = find([tuned(workload)])
    assert hit.tier is tier
    assert hit.distance == pytest.approx(distance)
    assert hit.config == (None if tier is Tier.DEFAULT else config(0))


@pytest.mark.parametrize(
    ("workload", "tier", "distance"),
    [
        (like(batch=12), Tier.EXACT, 0.0),
        (like(batch=12, scale=0.125), Tier.SAME_GEMM, 0.0),
        (like(batch=15), Tier.M_BUCKET, math.log2(15 / 12) / 4),
        (like(batch=12, m=500), Tier.M_BUCKET, math.log2(512 / 500)),
        (like(batch=96, m=1024), Tier.NEAREST, 1.25),
        (like(batch=96), Tier.NEAREST, 0.75),
        (like(batch=12, k=255), Tier.NEAREST, math.log2(256 / 255)),
        (GEMM, Tier.DEFAULT, math.inf),
    ],
    ids=str,
)
def test_another_batch_count_is_near_and_a_single_product_is_something_else(
    workload, tier, distance
):
    hit = find([tuned(like(batch=12))], workload)
    assert (hit.tier, hit.distance) == (tier, pytest.approx(distance))


def test_the_closest_tier_wins_over_faster_records_of_other_tiers():
    workloads = [GEMM, like(epilogue="bias"), like(m=511), like(m=1024)]
    records = [tuned(workload, n, 1e-3 / (n + 1)) for n, workload in enumerate(workloads)]
    tiers = [Tier.EXACT, Tier.SAME_GEMM, Tier.M_BUCKET, Tier.NEAREST]
    for number, tier in enumerate(tiers):
        hit = find(records[number:][::-1])
        assert (hit.tier, hit.config) == (tier, config(number))


def test_within_a_tier_the_nearest_wins_and_then_the_same_epilogue():
    near, far = tuned(like(m=500), 1, 9e-3), tuned(like(m=400), 2, 1e-3)
    other = tuned(like(m=500, epilogue="relu"), 3, 1e-3)
    assert find([far, other, near]).config == config(1)


def test_a_workload_with_failures_only_is_passed_over():
    failed = trial(1, None, head=header("run-b"))
    hit = find([failed, tuned(like(m=1024), 2)])
    assert (hit.tier, hit.config) == (Tier.NEAREST, config(2))
    assert find([failed]).tier is Tier.DEFAULT


def test_the_note_says_what_another_config_was_tuned_for_and_how_far_that_is():
    note = find([tuned(like(m=1024))]).note
    assert "nearest: tuned for gemm m=1024 n=384 k=256" in note
    assert "1.00 powers of two away" in note
    assert "not re-measured" in note


def test_a_re_measured_winner_is_used_and_a_much_faster_stray_reading_is_mentioned():
    hit = find([trial(0, 1e-4), final(1, 1e-3, number=7)])
    assert hit.config == config(7)
    assert "not re-measured: finish its run" in hit.note
    assert find([trial(0, 0.95e-3), final(1, 1e-3, number=7)]).note == "exact"


def test_records_of_other_hardware_are_never_used_and_the_note_says_what_differs():
    elsewhere = {
        "target": {**TARGET, "arch": "skylake-avx512", "threads": 4},
        "target_key": "llvm skylake-avx512 x4",
    }
    hit = find([tuned(GEMM, 1, **elsewhere), tuned(GEMM, 2, **elsewhere)])
    assert (hit.tier, hit.record, hit.config) == (Tier.DEFAULT, None, None)
    assert hit.note == (
        "nothing tuned fits; ignored 2 records of other hardware"
        " (arch 'skylake-avx512', here 'znver4', threads 4, here 8)"
    )
    mixed = find([tuned(GEMM, 1, 1e-6, **elsewhere), tuned(GEMM, 2)])
    assert mixed.config == config(2)
    assert "ignored 1 record of other hardware" in mixed.note


def test_without_the_target_the_note_names_the_keys():
    records = [tuned(GEMM, target_key="llvm znver4 x4")]
    note = lookup(records, GEMM, TARGET_KEY, TEMPLATE).note
    assert "(target_key 'llvm znver4 x4', here 'llvm znver4 x8')" in note


def test_records_of_another_template_version_are_ignored_and_counted():
    hit = find([tuned(GEMM, template={"name": "cpu", "version": 2})])
    assert hit.tier is Tier.DEFAULT
    assert "ignored 1 record of other versions of cpu than 1" in hit.note
    other_template = find([tuned(GEMM, template={"name": "cpu_paper", "version": 1})])
    assert other_template.note == "nothing tuned fits"


@pytest.mark.parametrize(
    "workload", [{"op": "conv2d"}, {"op": "gemm", "m": -1}, {**GEMM.to_json(), "m": 511}]
)
def test_a_record_whose_workload_makes_no_sense_or_contradicts_its_key_is_not_used(workload):
    assert find([msgspec.structs.replace(trial(0), workload=workload)]).tier is Tier.DEFAULT
