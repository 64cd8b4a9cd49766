from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from autotune.cli.devices import command
from autotune.hw_profiles import detect_cpu, roofline
from autotune.hw_profiles.roofline import MeasuredPeaks


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("autotune.hw_profiles.cuda_devices", lambda: ())
    return lambda *arguments: CliRunner().invoke(command, arguments)


def test_piped_output_is_one_line_a_fact(run):
    result = run()
    assert result.exit_code == 0
    lines = dict(line.split(": ", 1) for line in result.output.splitlines())
    cpu = detect_cpu()
    assert lines["CPU"] == cpu.name
    assert lines["CUDA device"] == "no CUDA device"
    assert json.loads(lines["TVM target"])["num-cores"] == cpu.usable_threads


def test_json_is_one_object_with_the_target_of_the_threads_asked_for(run):
    report = json.loads(run("--json", "--threads", "3").output)
    assert report["target"]["num-cores"] == report["threads"] == 3
    assert report["cpu"]["key"] == detect_cpu().key
    assert report["cuda"] == []
    assert "measured" not in report


def test_measure_sets_the_size_of_the_pool_before_measuring(run, monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "7")

    def measure(cpu, threads, seconds):
        import os

        assert os.environ["TVM_NUM_THREADS"] == str(threads)
        return MeasuredPeaks(123.4, 56.7, threads)

    monkeypatch.setattr(roofline, "measure_peaks", measure)
    result = run("--measure", "--threads", "2")
    assert "measured peak, 2 threads: 123.4 GFLOP/s fp32" in result.output
    assert "measured bandwidth, 2 threads: 56.7 GB/s" in result.output
    report = json.loads(run("--measure", "--threads", "2", "--json").output)
    assert report["measured"]["fma_gflops"] == 123.4


def test_zero_threads_are_refused(run):
    result = run("--threads", "0")
    assert result.exit_code == 2
    assert "--threads" in result.output


def test_a_machine_with_assumed_caches_and_a_quota_says_so(run, monkeypatch, machine):
    box = detect_cpu(machine("no-caches", cpu_max="50000 100000"))
    monkeypatch.setattr("autotune.hw_profiles.detect_cpu", lambda: box)
    output = run().output
    assert "limited to the time of 0.5 CPUs" in output
    assert "assumed, not reported: l1d_bytes, l2_bytes, l3_bytes" in output
    assert "datasheet peak, 1 threads: unknown" in output
