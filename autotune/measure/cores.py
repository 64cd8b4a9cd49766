"""Which cores are measured on, and which are free for building."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

_TOPOLOGY = Path("/sys/devices/system/cpu")
_STAT = Path("/proc/stat")


class Cores:
    """The cores of one measurer, claimed so that two of them do not measure on the same core.

    Parameters
    ----------
    threads
        Threads that are measured; each gets a physical core of its own.
    claims
        Folder of the claims, one locked file per core and per user; by default in the system's
        folder for temporary files. A claim ends with its process, whatever happens to it.

    Attributes
    ----------
    measured
        Logical cores that kernels are pinned to; empty if they run wherever the system puts them:
        it has no affinity, there are fewer free cores than threads, or other measurers hold them.
    building
        Logical cores for builders, best first: those where building disturbs nobody, then the
        measured ones, where it has to halt meanwhile.
    """

    def __init__(self, threads: int, claims: Path | None = None) -> None:
        self._files: list[IO[bytes]] = []
        if not hasattr(os, "sched_getaffinity"):
            self.measured: tuple[int, ...] = ()
            self.building: tuple[int, ...] = ()
            return
        groups = physical_cores(sorted(os.sched_getaffinity(0)))
        mine = self._claim(groups, threads, claims or _claims_folder())
        self.measured = tuple(group[0] for group in mine)
        rest = [group[0] for group in groups if group not in mine]
        self.building = (*rest, *self.measured)

    def disturbs(self, core: int) -> bool:
        """Whether building on this core has to halt while a kernel is measured."""
        return not self.measured or core in self.measured

    def _claim(
        self, groups: Sequence[tuple[int, ...]], threads: int, folder: Path
    ) -> list[tuple[int, ...]]:
        claimed: list[tuple[int, ...]] = []
        # From the last core down: the first one serves most interrupts.
        for group in reversed(groups):
            if len(claimed) < threads and (file := _lock(folder / f"cpu{group[0]}")) is not None:
                self._files.append(file)
                claimed.append(group)
        if len(claimed) < threads:
            self.release()
            return []
        return claimed

    def release(self) -> None:
        """Give the claimed cores back."""
        for file in self._files:
            file.close()
        self._files.clear()


def pin(pid: int, cores: Iterable[int]) -> None:
    """Pin a process that has just been started, and all threads it will have; () for no pinning.

    Done from outside and not by TVM, whose own pinning (TVM_BIND_THREADS) counts cores from the
    machine's first, whatever this process may use, and does nothing for torch.
    """
    wanted = set(cores)
    if wanted:
        with contextlib.suppress(ProcessLookupError):  # it has ended already, and will say why
            os.sched_setaffinity(pid, wanted)


def steal_seconds(cores: Sequence[int]) -> float:
    """Return the seconds that the hypervisor has taken from these cores, () for all, since boot.

    Column ``steal`` of ``/proc/stat``; it counts in steps of 10 ms. 0 where it is not told.
    """
    names = {f"cpu{core}" for core in cores} or {"cpu"}
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return 0.0
    fields = [line.split() for line in lines]
    ticks = sum(int(words[8]) for words in fields if words[0] in names and len(words) > 8)
    return ticks / os.sysconf("SC_CLK_TCK")


def physical_cores(logical: Sequence[int]) -> list[tuple[int, ...]]:
    """Group logical cores by the physical core that they share, in ascending order."""
    groups: dict[frozenset[int], list[int]] = {}
    for core in logical:
        groups.setdefault(_siblings(core), []).append(core)
    return [tuple(group) for group in groups.values()]


def _siblings(core: int) -> frozenset[int]:
    try:
        text = (_TOPOLOGY / f"cpu{core}/topology/thread_siblings_list").read_text()
        found: set[int] = set()
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
        return frozenset(found)
    except (OSError, ValueError):
        return frozenset((core,))


def _claims_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"autotune-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _lock(path: Path) -> IO[bytes] | None:
    file = open(path, "ab")  # noqa: SIM115 (its lock lives as long as it is open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
