from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autotune.hw_profiles import HardwareProfile, detect_cpu, find_profile, load_profiles

PROFILES = load_profiles()


@pytest.mark.parametrize("stem", PROFILES)
def test_data_file_states_what_its_kind_needs_and_its_source(stem):
    profile = PROFILES[stem]
    assert profile.name
    assert profile.peaks is not None
    assert len(profile.peaks.source) > 20
    if profile.kind == "cpu":
        assert profile.arch == stem
        rates = dict(profile.peaks.fma_per_cycle)
        assert rates["float32"] == 2 * rates["float64"]
        # A core retires whole vectors: one to four a cycle, or half of one where it is split.
        assert rates["float32"] * 32 / profile.simd_bits in (1, 2, 4)
        assert profile.vector_registers == (32 if profile.simd_bits != 256 else 16)
        assert profile.peaks.boost_ghz is None  # clocks belong to products, not to this level
    else:
        gpu = profile.gpu
        assert gpu.max_threads_per_block <= gpu.max_threads_per_sm
        assert gpu.shared_bytes_per_block <= gpu.shared_bytes_per_sm
        assert min(vars(gpu).values()) > 0
        assert profile.datasheet_peak_gflops("float32") > 1000
        assert profile.peaks.memory_gb_s > 100


def test_the_devices_of_the_papers_and_of_today_are_known():
    gpus = {"h200", "h100-sxm", "a100-sxm", "rtx-4090", "rtx-2080-ti", "gtx-1080-ti", "titan-xp"}
    assert gpus | {"mi50", "znver4", "sapphirerapids", "neoverse-n1"} <= PROFILES.keys()


def test_find_profile_prefers_the_file_name_and_refuses_an_ambiguous_arch():
    assert find_profile("h200").name == "NVIDIA H200 SXM"
    assert find_profile("sm_80") is PROFILES["a100-sxm"]
    assert find_profile("sm_90") is None
    assert find_profile("nothing") is None


@pytest.mark.parametrize("stem", PROFILES)
def test_json_round_trip_of_data_files(stem):
    profile = PROFILES[stem]
    assert HardwareProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_json_round_trip_of_a_detected_machine(machine):
    profile = detect_cpu(machine("sapphire-odd-model"))
    assert HardwareProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    assert json.loads(json.dumps(profile.fingerprint())) == profile.fingerprint()


def test_keys_of_different_hardware_differ():
    keys = [profile.key for profile in PROFILES.values()]
    assert len(set(keys)) == len(keys)


def test_a_profile_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="unknown kind"):
        HardwareProfile(kind="tpu", name="x", arch="x")
    with pytest.raises(ValueError, match="GPU limits"):
        replace(PROFILES["h200"], gpu=None)


def test_unknown_fields_of_a_data_file_are_refused():
    with pytest.raises(TypeError):
        HardwareProfile.from_json({**PROFILES["znver4"].to_json(), "typo": 1})
