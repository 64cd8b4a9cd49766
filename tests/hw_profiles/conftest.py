"""Builds the /proc and /sys trees of the recorded machines below a temporary folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MACHINES = Path(__file__).parent / "machines"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _group(cpu: int, size: int) -> str:
    first = cpu // size * size
    return str(first) if size == 1 else f"{first}-{first + size - 1}"


def build_tree(root: Path, machine: dict[str, Any]) -> Path:
    block = machine["cpuinfo"].strip("\n")
    cpus = range(machine["cpus"])
    _write(root / "proc/cpuinfo", "\n\n".join(f"processor\t: {cpu}\n{block}" for cpu in cpus))
    _write(root / "proc/sys/kernel/osrelease", "6.1.0-test")
    _write(root / "proc/self/cgroup", "0::/box/job")
    if "cpu_max" in machine:
        _write(root / "sys/fs/cgroup/box/cpu.max", machine["cpu_max"])
        _write(root / "sys/fs/cgroup/box/job/cpu.max", "max 100000")
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        if machine.get("topology", True):
            _write(folder / "topology/core_cpus_list", _group(cpu, machine.get("siblings", 1)))
        if "max_khz" in machine:
            _write(folder / "cpufreq/cpuinfo_max_freq", str(machine["max_khz"]))
        for index, (level, kind, size, shared) in enumerate(machine["caches"]):
            cache = folder / f"cache/index{index}"
            for name, text in (("level", level), ("type", kind), ("size", size)):
                _write(cache / name, text)
            _write(cache / "shared_cpu_list", _group(cpu, shared))
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Return a function: name of a recorded machine, and changes to it -> root of its tree."""

    def build(name: str, **changes: Any) -> Path:
        recorded = tomllib.loads((MACHINES / f"{name}.toml").read_text("utf-8"))
        return build_tree(tmp_path / name, {**recorded, **changes})

    return build
