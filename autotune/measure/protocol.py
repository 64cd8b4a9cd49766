"""The worker's side of the pipe: JSON objects, one a line.

Whatever a candidate prints must not end up among the answers, so the pipe is moved away from
standard output before anything else runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1

#: Kernels and the vendor library are timed alike. Length of one repeat: long against the clock's
#: resolution and a wake-up of a thread pool.
MIN_REPEAT_SECONDS = 0.01
MAX_REPEATS = 10


class Channel:
    """Requests in, answers out."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._in = sys.stdin

    def send(self, **fields: Any) -> None:
        """Write one object and flush."""
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()

    def phase(self, name: str) -> None:
        """Tell the parent what is being done now; it holds the deadline of that phase."""
        self.send(phase=name)

    def serve(self, operations: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
        """Answer requests until the parent closes the pipe.

        A request is ``{"op": name, "id": number, ...arguments}``; the answer is what the operation
        returns, with ``"done": number``.
        """
        self.send(ready=True, pid=os.getpid())
        for line in self._in:
            request = json.loads(line)
            operation, number = operations[request.pop("op")], request.pop("id")
            self.send(done=number, **operation(**request))


def isolate() -> None:
    """Make this process die with its parent, and at once when a candidate crashes.

    TVM installs handlers that print a backtrace for up to a minute: a crash would look like a hang.
    Call it after TVM has been imported.
    """
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C goes to the whole foreground group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Hundreds of candidates may crash; a core dump each would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the parent died before the call above
            os._exit(1)
