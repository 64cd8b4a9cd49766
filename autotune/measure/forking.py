"""The parent's side of workers that are forked from one process; see :mod:`.forker`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any

from autotune.errors import MeasureError

#: Importing TVM from a cold disk.
_START_SECONDS = 120.0
_MOST_BYTES = 1 << 16


def can_fork() -> bool:
    """Whether workers can be forked here: it takes Linux's handles of processes."""
    if not hasattr(os, "pidfd_open") or not hasattr(socket, "recv_fds"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox that does not allow it
        return False
    return True


class Forked:
    """What ``subprocess.Popen`` is to a child of ours: the handle of a forked worker.

    Attributes
    ----------
    pid
        Also the id of its process group.
    stdin, stdout
        The pipes.
    returncode
        None until it is known to have ended; minus the signal that ended it, if one did.
    """

    def __init__(self, forker: Forker, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._forker = forker
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return :attr:`returncode`, after a look whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and reap it.

        Raises
        ------
        subprocess.TimeoutExpired
            If it does not within so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
            self.returncode = self._forker.reap(self.pid)
            os.close(self._handle)
        return self.returncode


class Forker:
    """Starts workers by forking a process that has imported what they need.

    Threads may share it. The process is started by :meth:`begin`, or with the first worker, and
    again if it has died, which ends its workers too. It lives no longer than the thread that
    started it.

    Parameters
    ----------
    env
        Variables to set besides those of this process, for all workers.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        # The libraries of linear algebra must not have threads when it forks.
        self._env = {**os.environ, **env, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: socket.socket | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._ready = False

    def begin(self) -> None:
        """Begin to start the process, without waiting for it."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def _start(self) -> None:
        self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autotune.measure.forker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                env=self._env,
                start_new_session=True,
            )
        ours.settimeout(_START_SECONDS)
        self._wire = ours

    def wait_until_ready(self) -> None:
        """Wait until the next fork will take no longer than a fork.

        Raises
        ------
        MeasureError
            If the process does not start; with the last that it printed.
        """
        self.begin()
        with self._lock:
            if not self._ready:
                self._ask({})
                self._ready = True

    def spawn(self, module: str, env: Mapping[str, str], stderr: IO[bytes]) -> Forked:
        """Fork a worker that runs ``main()`` of a module, with pipes to and from it.

        Raises
        ------
        MeasureError
            If there is no process to fork.
        """
        self.wait_until_ready()
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        try:
            descriptors = [their_in, their_out, stderr.fileno()]
            with self._lock:
                answer = self._ask({"module": module, "env": dict(env)}, descriptors)
        finally:
            os.close(their_in)
            os.close(their_out)
        return Forked(self, answer["pid"], os.fdopen(our_out, "wb"), os.fdopen(our_in, "rb"))

    def reap(self, pid: int) -> int:
        """Return how a worker that has ended did; if the forker is gone too, it was killed."""
        with self._lock, contextlib.suppress(MeasureError):
            return int(self._ask({"reap": pid})["code"])
        return -signal.SIGKILL

    def _ask(self, request: Mapping[str, Any], descriptors: list[int] | None = None) -> Any:
        """Send a request, if it is one, and return the answer; the lock is held."""
        assert self._wire is not None
        try:
            if request:
                socket.send_fds(self._wire, [json.dumps(request).encode()], descriptors or [])
            data = self._wire.recv(_MOST_BYTES)
        except OSError as error:
            raise MeasureError(f"workers cannot be forked: {error}{self._printed()}") from None
        if not data:
            raise MeasureError(f"the process to fork workers from has ended{self._printed()}")
        return json.loads(data)

    def _printed(self) -> str:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 2000))
        printed = self._stderr.read().decode("utf-8", "replace").strip()
        return f": {printed}" if printed else ""

    def close(self) -> None:
        """End the process, and with it all workers."""
        with self._lock:
            self._end()
            self._stderr.close()

    def _end(self) -> None:
        self._ready = False
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
