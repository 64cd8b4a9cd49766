"""A child process of the fault tests: writes to, or locks, the log that it is told."""

from __future__ import annotations

import os
import resource
import sys
import time

from log_samples import header, trial

from autotune.errors import LogError
from autotune.log import TuningLog


def write(path: str, run: str, count: str) -> None:
    """Append one record at a time and print its id when the append has returned."""
    log, head = TuningLog(path), header(run)
    for sequence in range(int(count)):
        record = trial(sequence, head=head)
        log.append([record])
        os.write(1, f"{record.id}\n".encode())


def hold(path: str) -> None:
    """Hold the lock until killed."""
    with TuningLog(path).locked():
        os.write(1, b"locked\n")
        time.sleep(60)


def fill(path: str, slack: str) -> None:
    """Append where only ``slack`` more bytes fit; print the error."""
    limit = os.path.getsize(path) + int(slack)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    _append_and_print(path)


def unprivileged(path: str) -> None:
    """Check and append as a user who may not write there; print both errors."""
    log = TuningLog(path)
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        log.ensure_writable()
    except LogError as error:
        print(error)
    _append_and_print(path)


def _append_and_print(path: str) -> None:
    try:
        TuningLog(path).append([trial(900), trial(901)])
    except LogError as error:
        print(error)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
