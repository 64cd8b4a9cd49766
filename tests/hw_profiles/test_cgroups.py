"""Limits of control groups on memory; those on CPUs are tested with the detection of CPUs."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from autotune.hw_profiles.cgroups import memory_limit
from autotune.measure import problem

GIB = 1 << 30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_tightest_limit_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    write(tmp_path / "proc/self/cgroup", "4:memory:/elsewhere\n0::/batch/job7\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "batch/job7/memory.max", "max\n")
    assert memory_limit(tmp_path) is None
    write(groups / "batch/memory.max", f"{3 * GIB}\n")
    assert memory_limit(tmp_path) == 3 * GIB
    write(groups / "batch/job7/memory.max", f"{2 * GIB}\n")
    assert memory_limit(tmp_path) == 2 * GIB
    write(groups / "batch/job8/memory.max", "1\n")
    assert memory_limit(tmp_path) == 2 * GIB, "job8 is another's"


def test_version_1_is_read_too(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}\n")
    assert memory_limit(tmp_path) == GIB


def test_a_containers_limit_is_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = psutil.virtual_memory().total
    for limit, seen in ((None, whole), (whole - 1, whole - 1), (1 << 63, whole)):
        monkeypatch.setattr(problem, "memory_limit", lambda limit=limit: limit)
        assert problem.memory_bytes() == seen
