"""``autotune devices``: print the hardware that was detected, and measure its ceilings."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.hw_profiles.roofline import MeasuredPeaks


#: Long enough that some repeats run undisturbed on a machine that does other things too.
_MEASURE_SECONDS = 1.0


@click.command("devices")
@click.option("--measure", is_flag=True, help="Measure the multiply-add peak and the bandwidth.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads for the target and for --measure; all usable cores by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(measure: bool, threads: int | None, as_json: bool) -> None:
    """Print the CPU and the CUDA devices found on this machine."""
    from autotune.hw_profiles import cuda_devices, detect_cpu, tvm_target

    cpu = detect_cpu()
    threads = threads or cpu.usable_threads
    target = tvm_target(cpu, threads)
    devices = [{"name": device.name, "arch": device.arch} for device in cuda_devices()]
    measured = _measure(cpu, threads) if measure else None
    if as_json:
        report: dict[str, Any] = {
            "cpu": {**cpu.to_json(), "key": cpu.key},
            "threads": threads,
            "target": target,
            "datasheet_peak_gflops": cpu.datasheet_peak_gflops("float32", threads),
            "cuda": devices,
        }
        if measured is not None:
            report["measured"] = measured.to_json()
        click.echo(json.dumps(report))
        return
    rows = _cpu_rows(cpu, threads, target)
    rows += [("CUDA device", f"{device['name']} ({device['arch']})") for device in devices]
    if not devices:
        rows.append(("CUDA device", "no CUDA device"))
    if measured is not None:
        rows += _measured_rows(measured, cpu)
    _print(rows)


def _measure(cpu: HardwareProfile, threads: int) -> MeasuredPeaks:
    # TVM reads it when it makes its pool, and by itself starts one thread for two logical CPUs.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    from autotune.hw_profiles.roofline import measure_peaks

    return measure_peaks(cpu, threads, seconds=_MEASURE_SECONDS)


def _cpu_rows(cpu: HardwareProfile, threads: int, target: dict[str, Any]) -> list[tuple[str, str]]:
    peak = cpu.datasheet_peak_gflops("float32", threads)
    rates = dict(cpu.peaks.fma_per_cycle) if cpu.peaks else {}
    known = f"; {2 * rates['float32']} fp32 FLOP per cycle and core" if rates else ""
    cores = f"{cpu.physical_cores} cores, {cpu.logical_cores} hardware threads"
    if cpu.cpu_quota is not None:
        cores += f"; limited to the time of {cpu.cpu_quota:g} CPUs"
    caches = f"L1d {_size(cpu.l1d_bytes)}, L2 {_size(cpu.l2_bytes)} per core, "
    caches += f"L3 {cpu.l3_instances} x {_size(cpu.l3_bytes)}" if cpu.l3_bytes else "no L3"
    if cpu.assumed:
        caches += f" (assumed, not reported: {', '.join(cpu.assumed)})"
    return [
        ("CPU", cpu.name),
        ("arch", cpu.arch),
        ("cores", cores),
        ("caches", caches),
        ("SIMD", f"{cpu.simd_bits} bits, {cpu.vector_registers} registers"),
        ("features", " ".join(cpu.features)),
        (
            f"datasheet peak, {threads} threads",
            f"{peak:.0f} GFLOP/s fp32" if peak else f"unknown: no clock is reported{known}",
        ),
        ("TVM target", json.dumps(target)),
    ]


def _measured_rows(measured: MeasuredPeaks, cpu: HardwareProfile) -> list[tuple[str, str]]:
    peak = cpu.datasheet_peak_gflops("float32", measured.threads)
    share = f" ({measured.fma_gflops / peak:.0%} of the datasheet)" if peak else ""
    return [
        (
            f"measured peak, {measured.threads} threads",
            f"{measured.fma_gflops:.1f} GFLOP/s fp32{share}",
        ),
        (
            f"measured bandwidth, {measured.threads} threads",
            f"{measured.bandwidth_gb_s:.1f} GB/s (triad, 12 bytes an element)",
        ),
    ]


def _size(count: int) -> str:
    mebibytes = count / (1 << 20)
    return f"{mebibytes:g} MiB" if mebibytes >= 1 else f"{count // 1024} KiB"


def _print(rows: list[tuple[str, str]]) -> None:
    """Print a table on a terminal and ``name: value`` lines, unwrapped, into a pipe."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        for name, value in rows:
            click.echo(f"{name}: {value}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))  # Text: brackets in a value are not markup
    console.print(table)
