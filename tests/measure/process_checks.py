"""Who is still alive: checks by process group, so that orphans are found too."""

from __future__ import annotations

import os
import time

import psutil


def group_members(group: int) -> list[int]:
    """Processes of a process group that are not zombies, whoever their parent is."""
    members = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def wait_until_gone(group: int, seconds: float = 10.0) -> bool:
    """Whether a process group is empty within some time; killed processes take a moment."""
    deadline = time.monotonic() + seconds
    while group_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def workers(module: str) -> list[int]:
    """Pids, which are also process groups, of this process's workers, forked ones included."""
    forked = f"tune-{module.rpartition('.')[2]}"
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
        and (child.name() == forked or module in child.cmdline())
    ]
