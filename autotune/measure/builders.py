"""A pool of builder processes, which halt while a kernel is timed on their core.

There is one builder per core. Those on other cores than the measured ones go on while a kernel is
timed; those on measured cores are stopped by a signal for that time. So on a machine with cores to
spare building hides behind measuring, and where all cores are measured the two alternate, the
builds of a batch side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import MeasureError
from autotune.measure.cores import Cores
from autotune.measure.forking import Forker
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.search.space import Config

#: More builders than this are never busy: a batch is rarely larger.
_MOST = 16
#: How far builders yield to the searcher.
_NICENESS = 10


@dataclass(frozen=True)
class Built:
    """A candidate ready to be loaded.

    Parameters
    ----------
    path
        The shared library.
    digest
        Equal for equal machine code.
    seconds
        CPU time that building took.
    """

    path: Path
    digest: str
    seconds: float


class Builders:
    """Builds configs ahead of their measurement; use :meth:`close` in the end.

    Parameters
    ----------
    cores
        Where builders run.
    env, setup, limits
        Environment, arguments of the builders' ``setup``, and seconds for each of their phases.
        Time in which a builder is halted does not count.
    folder
        Where libraries are written.
    linker
        Path of the linker.
    forker
        What builders are forked from; None where each starts by itself.
    """

    def __init__(
        self,
        cores: Cores,
        env: Mapping[str, str],
        setup: Mapping[str, Any],
        limits: Mapping[str, float],
        folder: Path,
        linker: str,
        forker: Forker | None = None,
    ) -> None:
        self._cores, self._env, self._setup, self._limits = cores, env, setup, limits
        self._folder, self._linker, self._forker = folder, linker, forker
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closing = self._halted = False
        self._builders: list[_Builder] = []
        self._idle: queue.SimpleQueue[_Builder] = queue.SimpleQueue()
        self._begun: list[Future[None]] = []
        self._size = min(len(cores.building), _MOST)
        self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="builder")

    def begin(self, builds: int) -> None:
        """Begin to start as many builders as will be busy with so many builds."""
        while len(self._begun) < min(builds, self._size):
            self._begun.append(self._threads.submit(self._start_one))

    def _start_one(self) -> None:
        builder = self._take()
        try:
            builder.ready()
        finally:
            self._idle.put(builder)  # what went wrong, the first build will say

    def submit(self, template: str, config: Config) -> Future[Built | Result]:
        """Build a config when its turn comes; the future holds the library or the failure."""
        path = self._folder / f"{next(self._numbers)}.so"
        return self._threads.submit(self._build, template, config, path)

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Halt the builders that share a core with what is being measured."""
        self._halt(True)
        try:
            yield
        finally:
            self._halt(False)

    def close(self) -> None:
        """End all builders, whatever they are doing."""
        with self._lock:
            self._closing = True
            for builder in self._builders:
                builder.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for builder in self._builders:
            builder.close()

    # -- in the pool's threads --------------------------------------------------------------------

    def _build(self, template: str, config: Config, path: Path) -> Built | Result:
        builder = self._take()
        try:
            answer = builder.ready().request(
                "build",
                self._limits,
                template=template,
                config=config.to_json(),
                path=str(path),
                linker=self._linker,
            )
        except Deadline as error:
            return Result.failed(FailureKind.COMPILE_TIMEOUT, str(error))
        except WorkerDied as error:
            return Result.failed(FailureKind.CRASHED, f"during {error.phase or 'start'}: {error}")
        finally:
            self._idle.put(builder)
        if "failure" in answer:
            phases = {"build": answer["seconds"]}
            return Result.failed(FailureKind(answer["failure"]), answer["message"], phases)
        return Built(path, answer["digest"], answer["seconds"])

    def _take(self) -> _Builder:
        """Return an idle builder; as there are as many as threads, a new one else."""
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            core = self._cores.building[len(self._builders)]
            builder = _Builder(self, core, self._cores.disturbs(core))
            if self._halted and builder.disturbs:
                builder.halt(True)
            self._builders.append(builder)
        return builder

    # -- what builders need of the pool -----------------------------------------------------------

    def _halt(self, halt: bool) -> None:
        with self._lock:
            self._halted = halt
            for builder in self._builders:
                if builder.disturbs:
                    builder.halt(halt)


class _Builder:
    """One builder process on one core; started when it is first needed, and after each crash."""

    def __init__(self, pool: Builders, core: int, disturbs: bool) -> None:
        self.pool, self.core, self.disturbs = pool, core, disturbs
        self._worker: _Process | None = None
        self._halts = 0.0
        self._since: float | None = None

    def ready(self) -> WorkerProcess:
        """Return the process, set up."""
        if self._worker is not None and self._worker.alive:
            return self._worker
        if self._worker is None:
            self._worker = _Process(self)
        self._worker.restart()
        try:
            self._worker.request("setup", self.pool._limits, **self.pool._setup)
        except (Deadline, WorkerDied) as error:
            raise MeasureError(f"{self._worker.module} failed at 'setup': {error}") from None
        return self._worker

    def clock(self) -> float:
        """Return the seconds of a clock that stands still while this builder is halted."""
        with self.pool._lock:
            now = time.monotonic() if self._since is None else self._since
            return now - self._halts

    def halt(self, halt: bool) -> None:
        """Stop the process or let it go on; the pool's lock is held."""
        if halt == (self._since is not None):
            return
        if halt:
            self._since = time.monotonic()
        elif self._since is not None:
            self._halts += time.monotonic() - self._since
            self._since = None
        if self._worker is not None:
            self._worker.signal(signal.SIGSTOP if halt else signal.SIGCONT)

    def end(self) -> None:
        """Kill the process; the pool's lock is held. Its thread notices."""
        if self._worker is not None:
            self._worker.signal(signal.SIGKILL)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class _Process(WorkerProcess):
    """A worker that is born halted if its core is being measured on."""

    def __init__(self, builder: _Builder) -> None:
        self._builder = builder
        pool, cores = builder.pool, (builder.core,)
        super().__init__("autotune.measure.builder", pool._env, cores, False, pool._forker)

    def _spawn(self) -> None:
        pool = self._builder.pool
        if pool._forker is not None:
            pool._forker.wait_until_ready()  # before the lock, which measuring takes too
        with pool._lock:
            if pool._closing:
                raise WorkerDied("the run has ended", "start")
            super()._spawn()
            # The searcher thinks while they build, and they wait for it sooner than it for them.
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICENESS)
            if pool._halted and self._builder.disturbs:
                self.signal(signal.SIGSTOP)

    def clock(self) -> float:
        return self._builder.clock()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group, if the process has not ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
