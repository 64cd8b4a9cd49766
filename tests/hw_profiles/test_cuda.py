from __future__ import annotations

import pytest

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles import cuda_arch, load_profiles, named_gpu, resolve_target, tvm_target
from autotune.hw_profiles.cuda import detect_cuda
from autotune.hw_profiles.cuda_driver import Driver, DriverMissing


def test_a_device_is_what_its_driver_reports_with_the_peaks_of_its_product(fake_driver):
    found, known = detect_cuda(0, fake_driver), load_profiles()["h200"]
    assert (found.name, found.arch, found.kind) == ("NVIDIA H200", "sm_90", "cuda")
    assert found.gpu == known.gpu
    assert found.peaks == known.peaks


def test_a_device_without_a_data_file_has_no_peaks(fake_driver):
    found = detect_cuda(1, fake_driver)
    assert found.gpu.sms == 7
    assert found.peaks is None


def test_a_device_that_is_not_there_is_refused(fake_driver):
    with pytest.raises(UnsupportedTarget, match="no CUDA device 2: this machine has 2"):
        detect_cuda(2, fake_driver)


def test_no_driver_is_one_error_that_says_what_to_do(monkeypatch):
    with pytest.raises(DriverMissing, match="libabsent"):
        Driver("libabsent.so.1")

    def missing(device):
        return detect_cuda(device, "libabsent.so.1")

    monkeypatch.setattr("autotune.hw_profiles.detect_cuda", missing)
    with pytest.raises(UnsupportedTarget) as caught:
        resolve_target("cuda")
    message = str(caught.value)
    assert "no CUDA device found" in message
    assert (
        "--target cuda:h200" in message
        and "--compile-only" in message
        and "--target cpu" in message
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [("h200", "h200"), ("H100", "h100-sxm"), ("RTX 4090", "rtx-4090"), ("a100", "a100-sxm")],
)
def test_gpus_are_named_by_file_or_its_start(name, stem):
    assert named_gpu(name) is load_profiles()[stem]
    assert resolve_target(f"cuda:{name}") is load_profiles()[stem]


@pytest.mark.parametrize("name", ["h", "mi50", "znver4", "nothing"])
def test_unknown_and_ambiguous_gpus_are_refused_with_a_list(name):
    with pytest.raises(UnsupportedTarget, match="choose one of a100-sxm, .*titan-xp"):
        named_gpu(name)


def test_the_target_states_the_limits_of_the_device():
    h200 = load_profiles()["h200"]
    assert cuda_arch(h200) == "sm_90a"
    assert cuda_arch(load_profiles()["a100-sxm"]) == "sm_80"
    assert tvm_target(h200, 1) == {
        "kind": "cuda",
        "arch": "sm_90a",
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 232448,
        "thread_warp_size": 32,
    }
