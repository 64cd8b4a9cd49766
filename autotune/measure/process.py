"""The parent's side of a worker: start it, talk to it, and end it whatever it does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.errors import MeasureError
from autotune.measure.cores import pin
from autotune.measure.forking import Forked, Forker

#: Importing TVM or torch from a cold disk.
_START_SECONDS = 120.0
_MESSAGE_BYTES = 2000
#: An answer is small; a worker that sends more than this has been overrun by a candidate.
_MAX_LINE = 1 << 20


class WorkerDied(Exception):
    """The worker ended before it answered; ``phase`` says what it was doing."""

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class Deadline(Exception):
    """The worker did not finish a phase in time and was killed."""

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class WorkerProcess:
    """A persistent child process in a session of its own, reached by JSON lines.

    Parameters
    ----------
    module
        Python module to run with ``-m``.
    env
        Variables to set besides those of this process.
    cores
        Logical cores that it is pinned to; () for all.
    start
        Whether to start it now; else :meth:`restart` does.
    forker
        What to fork it from, instead of starting a Python of its own.
    """

    def __init__(
        self,
        module: str,
        env: Mapping[str, str],
        cores: Sequence[int] = (),
        start: bool = True,
        forker: Forker | None = None,
    ) -> None:
        self.module = module
        self.cores = tuple(cores)
        self._env = dict(env)
        self._forker = forker
        # What native code prints; kept in a file, so that no amount of it can block the worker.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        # Appending, so that truncating the file here also rewinds the worker.
        flags = fcntl.fcntl(self._stderr, fcntl.F_GETFL)
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, flags | os.O_APPEND)
        self._buffer = b""
        self._requests = 0
        self._process: subprocess.Popen[bytes] | Forked | None = None
        if start:
            self._start()

    def _start(self) -> None:
        self._spawn()
        try:
            self._receive("start", self.clock() + _START_SECONDS)
        except (WorkerDied, Deadline) as error:
            self.kill()
            raise MeasureError(f"the worker {self.module} does not start: {error}") from None

    def _spawn(self) -> None:
        if self._forker is not None:
            self._process = self._forker.spawn(self.module, self._env, self._stderr)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **self._env},
                start_new_session=True,
            )
        pin(self._process.pid, self.cores)

    def clock(self) -> float:
        """Return the seconds by which deadlines are kept."""
        return time.monotonic()

    @property
    def process(self) -> subprocess.Popen[bytes] | Forked:
        """The child process, dead or alive."""
        if self._process is None:
            raise WorkerDied(f"the worker {self.module} has not been started", "start")
        return self._process

    @property
    def pid(self) -> int:
        """Process id; also the id of the worker's process group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def request(self, op: str, limits: Mapping[str, float], **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Parameters
        ----------
        op, arguments
            Name of the worker's operation and what it takes (JSON).
        limits
            Seconds allowed for each phase that the worker announces; ``""`` is the time before the
            first of them, and that of any phase which is not named.

        Raises
        ------
        Deadline
            A phase took too long; the process group has been killed.
        WorkerDied
            The process ended; it has been cleaned up.
        """
        self._stderr.truncate(0)
        self._requests += 1
        phase = ""
        try:
            request = {"op": op, "id": self._requests, **arguments}
            self._write(json.dumps(request).encode() + b"\n", phase)
            while True:
                limit = limits.get(phase, limits[""])
                answer = self._receive(phase, self.clock() + limit)
                # By its number, so that no late or forged line passes for this answer.
                if answer.get("done") == self._requests:
                    return answer
                if not isinstance(answer.get("phase"), str):
                    raise WorkerDied("the worker sent what is not an answer", phase)
                phase = answer["phase"]
        except Deadline:
            self.kill()
            raise Deadline(f"{phase or op} took longer than {limit:g} s", phase) from None
        except WorkerDied:
            self.kill()
            raise

    def _write(self, data: bytes, phase: str) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        try:
            pipe.write(data)
            pipe.flush()
        except (OSError, ValueError):  # a broken pipe, or one that is closed here
            raise WorkerDied(self._epitaph(), phase) from None

    def _receive(self, phase: str, deadline: float) -> dict[str, Any]:
        pipe = self.process.stdout
        assert pipe is not None
        descriptor = pipe.fileno()
        while b"\n" not in self._buffer:
            left = deadline - self.clock()
            if left <= 0:
                raise Deadline(f"no answer from {self.module}", phase)
            if not select.select([descriptor], [], [], max(left, 0.01))[0]:
                continue  # the clock says whether that was all
            data = os.read(descriptor, 65536)
            if not data or len(self._buffer) > _MAX_LINE:
                raise WorkerDied(self._epitaph(), phase)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise WorkerDied("the worker sent what is not JSON", phase) from None
        if not isinstance(answer, dict):
            raise WorkerDied("the worker sent what is not an answer", phase)
        return answer

    def _epitaph(self) -> str:
        """Say how the process ended, with the last it printed."""
        try:
            code: int | None = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        else:
            reason = f"exited with code {code}" if code is not None else "closed its pipe"
        printed = self._printed()
        return f"the worker {reason}" + (f": {printed}" if printed else "")

    def _printed(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _MESSAGE_BYTES))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def kill(self) -> None:
        """End the whole process group now, and reap it. Harmless if it has ended."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._buffer = b""

    def restart(self) -> None:
        """Start anew after :meth:`kill`."""
        self.kill()
        self._start()

    def close(self) -> None:
        """End the worker for good."""
        self.kill()
        self._stderr.close()
