from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles import CudaDevice, detect, detect_cpu, resolve_target


def test_genoa_vm_is_zen4_although_system_flags_are_hidden(machine):
    cpu = detect_cpu(machine("genoa-vm"))
    assert (cpu.arch, cpu.name, cpu.isa) == ("znver4", "AMD EPYC (Zen 4)", "x86_64")
    assert (cpu.simd_bits, cpu.vector_registers) == (512, 32)
    assert (cpu.physical_cores, cpu.logical_cores) == (2, 2)
    assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (32 << 10, 1 << 20, 32 << 20)
    assert cpu.assumed == ()
    assert cpu.features == tuple(sorted(cpu.features))
    assert {"avx512_bf16", "avx512_vnni", "fma"} <= set(cpu.features)
    assert "mtrr" not in cpu.features


def test_flags_decide_where_the_model_number_lies(machine):
    cpu = detect_cpu(machine("sapphire-odd-model"))
    assert cpu.identity.model == "85"  # a Skylake server's
    assert cpu.arch == "sapphirerapids"
    assert {"amx_bf16", "avx512_fp16"} <= set(cpu.features)


def test_without_its_new_flags_the_same_machine_is_an_older_model(machine):
    root = machine("sapphire-odd-model")
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace(" avx512_fp16", ""))
    assert detect_cpu(root).arch == "icelake-server"


def test_a_quota_of_an_outer_control_group_is_reported_and_limits_threads(machine):
    cpu = detect_cpu(machine("sapphire-odd-model"))
    assert cpu.cpu_quota == 1.5
    assert cpu.physical_cores == 2
    assert cpu.usable_threads == 1


def test_no_quota_means_all_physical_cores(machine):
    cpu = detect_cpu(machine("avx2-laptop", cpu_max="max 100000"))
    assert cpu.cpu_quota is None
    assert cpu.usable_threads == 4


def test_version_1_control_groups_are_read(machine):
    root = machine("avx2-laptop")
    folder = root / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert detect_cpu(root).cpu_quota is None
    (folder / "cpu.cfs_quota_us").write_text("200000\n")
    assert detect_cpu(root).cpu_quota == 2.0


def test_smt_siblings_count_once_and_the_clock_gives_a_datasheet_peak(machine):
    cpu = detect_cpu(machine("avx2-laptop"))
    assert (cpu.arch, cpu.simd_bits, cpu.vector_registers) == ("skylake", 256, 16)
    assert (cpu.physical_cores, cpu.logical_cores) == (4, 8)
    assert not cpu.identity.hypervisor
    assert cpu.datasheet_peak_gflops("float32", 1) == pytest.approx(2 * 16 * 4.2)
    assert cpu.datasheet_peak_gflops("float32", 99) == pytest.approx(2 * 16 * 4.2 * 4)
    assert cpu.datasheet_peak_gflops("int8", 1) is None


def test_an_affinity_mask_limits_cores_but_not_the_identity_of_the_machine(machine):
    root = machine("avx2-laptop")
    whole, part = detect_cpu(root), detect_cpu(root, cpus={0, 1, 2})
    assert (part.physical_cores, part.logical_cores) == (2, 3)
    assert part.key == whole.key


def test_caches_of_several_last_level_groups_are_counted(machine):
    caches = [["1", "Data", "32K", 1], ["2", "Unified", "1M", 1], ["3", "Unified", "32M", 4]]
    cpu = detect_cpu(machine("avx2-laptop", caches=caches))
    assert (cpu.l3_bytes, cpu.l3_instances, cpu.l2_bytes) == (32 << 20, 2, 1 << 20)


def test_missing_cache_files_give_small_sizes_marked_as_assumed(machine):
    cpu = detect_cpu(machine("no-caches"))
    assert cpu.assumed == ("l1d_bytes", "l2_bytes", "l3_bytes")
    assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (32 << 10, 256 << 10, 4 << 20)
    assert cpu.arch == "x86-64-v2"  # avx without avx2 and fma
    assert cpu.simd_bits == 256


def test_a_machine_without_a_last_level_cache_is_believed(machine):
    caches = [["1", "Data", "32K", 1], ["2", "Unified", "1M", 1]]
    cpu = detect_cpu(machine("neoverse-n1", caches=caches))
    assert (cpu.l3_bytes, cpu.assumed) == (0, ())


def test_without_topology_the_core_numbers_of_cpuinfo_count(machine):
    root = machine("no-caches")
    cpuinfo = root / "proc/cpuinfo"
    text = cpuinfo.read_text().replace("stepping", "physical id\t: 0\ncore id\t: 0\nstepping")
    cpuinfo.write_text(text)
    assert detect_cpu(root).physical_cores == 1


def test_aarch64_is_recognised_by_its_part_and_its_flags(machine):
    cpu = detect_cpu(machine("neoverse-n1"))
    assert (cpu.arch, cpu.isa) == ("neoverse-n1", "aarch64")
    assert (cpu.simd_bits, cpu.vector_registers) == (128, 32)
    assert "asimddp" in cpu.features


def test_aarch64_part_whose_flags_are_hidden_is_generic(machine):
    root = machine("neoverse-n1")
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace(" asimddp", ""))
    assert detect_cpu(root).arch == "generic"


def test_a_folder_without_any_file_is_still_described(tmp_path):
    cpu = detect_cpu(tmp_path)
    assert cpu.kind == "cpu"
    assert cpu.physical_cores >= 1
    assert len(cpu.assumed) == 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks here")
def test_the_real_machine_is_described_within_its_affinity_mask():
    cpu = detect_cpu()
    assert cpu.logical_cores == len(os.sched_getaffinity(0))
    assert 1 <= cpu.usable_threads <= cpu.physical_cores <= cpu.logical_cores


def test_key_names_the_hardware_and_fingerprint_the_moment(machine):
    root = machine("genoa-vm")
    before = detect_cpu(root)
    (root / "proc/sys/kernel/osrelease").write_text("7.0.0\n")
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("0x1000065", "0x1000066"))
    after = detect_cpu(root)
    assert after.key == before.key
    assert after.fingerprint()["kernel_release"] == "7.0.0"
    assert after.fingerprint()["microcode"] == "0x1000066"
    cpuinfo.write_text(cpuinfo.read_text().replace(" avx512_bf16", ""))
    assert detect_cpu(root).key != before.key


def test_resolve_target_cpu_is_this_machine():
    assert resolve_target("cpu") == detect_cpu()


def test_resolve_target_unknown_name_lists_the_known_ones():
    with pytest.raises(UnsupportedTarget, match="'tpu'; choose one of cpu, cuda"):
        resolve_target("tpu")


def _fake_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_cuda_devices_come_from_nvidia_smi(tmp_path, monkeypatch):
    _fake_nvidia_smi(tmp_path, "echo 'NVIDIA H200, 9.0'; echo 'NVIDIA GeForce RTX 4090, 8.9'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert detect.cuda_devices() == (
        CudaDevice("NVIDIA H200", "sm_90"),
        CudaDevice("NVIDIA GeForce RTX 4090", "sm_89"),
    )


def test_a_failing_or_hanging_nvidia_smi_means_no_device(tmp_path, monkeypatch):
    _fake_nvidia_smi(tmp_path, "echo 'driver mismatch, 1.0'; exit 9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert detect.cuda_devices() == ()

    def hang(*args, timeout, **kwargs):
        assert timeout <= 10
        raise subprocess.TimeoutExpired(args[0], timeout)

    monkeypatch.setattr(detect.subprocess, "run", hang)
    assert detect.cuda_devices() == ()
