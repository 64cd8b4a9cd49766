"""What the process's control groups (containers, batch systems) leave it of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the tightest CPU bandwidth limit, in cores; None if there is none."""
    limits = [_words(folder / "cpu.max") for folder in _own_groups(root)]
    legacy = root / "sys/fs/cgroup/cpu"  # version 1 hierarchy
    limits.append(_words(legacy / "cpu.cfs_quota_us") + _words(legacy / "cpu.cfs_period_us"))
    quotas = [
        int(limit[0]) / int(limit[1])
        for limit in limits
        if len(limit) == 2 and all(number.isdigit() for number in limit)
    ]
    return min(quotas, default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the tightest memory limit, in bytes; None if there is none.

    Version 1 says a number beyond any memory where there is none.
    """
    limits = [_words(folder / "memory.max") for folder in _own_groups(root)]
    limits.append(_words(root / "sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min((int(limit[0]) for limit in limits if limit and limit[0].isdigit()), default=None)


def _own_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's group and of those it is in (version 2 hierarchy)."""
    groups = root / "sys/fs/cgroup"
    lines = _text(root / "proc/self/cgroup").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    own = groups / path.strip("/")
    for folder in (own, *own.parents):
        yield folder
        if folder == groups:
            return


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
