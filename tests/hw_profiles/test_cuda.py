from __future__ import annotations

import pytest

from autotune.errors import NotApplicable, UnsupportedTarget
from autotune.hw_profiles import cuda_arch, load_profiles, named_gpu, resolve_target, tvm_target
from autotune.hw_profiles.cuda import detect_cuda
from autotune.hw_profiles.cuda_driver import ATTRIBUTES, Driver, DriverMissing
from autotune.hw_profiles.cuda_peaks import computed_peaks, rates_of
from autotune.kernels.base import get_template
from autotune.workload import Gemm


def test_a_device_is_what_its_driver_reports_with_the_peaks_of_its_product(fake_driver):
    found, known = detect_cuda(0, fake_driver), load_profiles()["h200"]
    assert (found.name, found.arch, found.kind) == ("NVIDIA H200", "sm_90", "cuda")
    assert found.gpu == known.gpu
    assert found.peaks == known.peaks


def test_a_device_without_a_data_file_has_the_peaks_of_its_clocks(fake_driver):
    found = detect_cuda(1, fake_driver)
    assert found.gpu.sms == 7
    assert found.peaks.source == "computed: rates of sm_90, and the driver's highest clocks"
    assert found.peaks.memory_gb_s == pytest.approx(256)
    # 7 multiprocessors of 128 lanes at 1.5 GHz; tensor cores do 16 times that.
    assert found.datasheet_peak_gflops("float32") == pytest.approx(2 * 7 * 128 * 1.5)
    assert found.datasheet_peak_gflops("bfloat16") == pytest.approx(2 * 7 * 2048 * 1.5)
    for name in ("simt", "mma_sync", "wgmma"):
        workload = Gemm(512, 512, 512, "nt", "float32" if name == "simt" else "float16")
        assert get_template(name).space(workload, found, 1).defaults


@pytest.mark.parametrize(
    ("name", "ghz", "off"),
    [
        ("h200", 1.98, 0.10),  # its tensor cores' peaks are for a lower clock
        ("a100-sxm", 1.41, 0.01),
        ("rtx-4090", 2.52, 0.01),
        ("rtx-2080-ti", 1.545, 0.01),
        ("gtx-1080-ti", 1.582, 0.01),
    ],
)
def test_rates_times_clocks_are_the_datasheets_peaks(name, ghz, off):
    profile = load_profiles()[name]
    rates = rates_of(profile.arch)
    for dtype, peak in profile.peaks.gflops:
        if dtype != "float64":
            assert 2 * rates[dtype] * profile.gpu.sms * ghz == pytest.approx(peak, rel=off), dtype


def test_clocks_that_the_driver_does_not_state_leave_no_peaks(fake_driver, monkeypatch):
    def none(driver, device, arch, sms):
        monkeypatch.setitem(ATTRIBUTES, "clock_khz", 999)
        return computed_peaks(driver, device, arch, sms)

    monkeypatch.setattr("autotune.hw_profiles.cuda.computed_peaks", none)
    unknown = detect_cuda(1, fake_driver)
    assert unknown.peaks is None
    with pytest.raises(NotApplicable, match="the peaks of NVIDIA Unheard-of are not known"):
        get_template("simt").space(Gemm(64, 64, 64), unknown, 1)
    assert rates_of("sm_121") == rates_of("sm_120") and rates_of("sm_35") == {}


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
