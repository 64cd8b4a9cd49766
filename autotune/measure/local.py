"""Measure on this machine: builders, one kernel worker, one vendor worker, one problem."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import MeasureError
from autotune.hw_profiles import tvm_target
from autotune.hw_profiles.instructions import peak_instruction
from autotune.measure.builders import Builders, Built
from autotune.measure.building import find_linker
from autotune.measure.cores import Cores, steal_seconds
from autotune.measure.forking import Forker, can_fork
from autotune.measure.libraries import LIBRARIES
from autotune.measure.operands import operand_bytes
from autotune.measure.options import MeasureOptions
from autotune.measure.problem import check_memory, write_problem
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess
from autotune.measure.protocol import MAX_REPEATS
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.search.space import Config
    from autotune.workload import Gemm

#: Streamed for cold caches where the size of the last-level cache is not known.
_FLUSH_BYTES = 1 << 26
#: Bytes a second that any memory is read and written at.
_SLOWEST_STREAM = 1e9
#: Pause before a process is timed after the other one was, with one thread and with several: the
#: idle threads of a pool spin for a while. With 0.02 s and two threads torch read 17 GFLOP/s
#: instead of 170 on a 512 cubed product.
_SETTLE_ALONE, _SETTLE_POOLS = 0.02, 0.25


class LocalMeasurer:
    """Builds, verifies and times configs of one workload in worker processes.

    Use it as a context manager: leaving it ends the workers and removes the problem file.

    Parameters
    ----------
    workload, profile, threads
        What to compute, on what, with how many threads.
    options
        Budgets and deadlines.
    plugins
        Modules with templates of the user's own, imported by the worker.

    Raises
    ------
    AutotuneError
        If the workload is too large for this machine's memory.
    """

    def __init__(
        self,
        workload: Gemm,
        profile: HardwareProfile,
        threads: int,
        options: MeasureOptions | None = None,
        plugins: Sequence[str] = (),
    ) -> None:
        check_memory(workload)
        self.workload = workload
        self.profile = profile
        self.threads = threads
        self.options = options or MeasureOptions()
        self.plugins = list(plugins)
        self._limits = self.options.limits(workload)
        # Emptying the caches is no fault of a candidate's: 480 MiB of L3 took more than 3 s in all.
        self._limits["run"] += 2 * MAX_REPEATS * self._flush_bytes() / _SLOWEST_STREAM
        self._env = {
            name: str(threads)
            for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        # Pinned from outside: TVM would take the machine's first cores whatever we may use.
        self._env["TVM_BIND_THREADS"] = "0"
        self._cores = Cores(threads) if profile.kind == "cpu" else None
        self._folder = tempfile.TemporaryDirectory(prefix="autotune-")
        self._problem = Path(self._folder.name) / "problem.npz"
        self._worker: WorkerProcess | None = None
        self._vendor: WorkerProcess | None = None
        self._linker = find_linker()
        # With one core, a process that builds and measures itself is 10 % faster than two.
        cores = 0 if self._cores is None else len(self._cores.building)
        wanted = cores > 1 if self.options.ahead is None else self.options.ahead and cores > 0
        #: Of workers that import TVM; torch must not be in their way.
        self._forker = Forker(self._env) if self._cores is not None and can_fork() else None
        self._builders = self._make_builders() if wanted and self._linker is not None else None
        self._reference: dict[str, Any] | None = None
        self._by_code: dict[str, Result] = {}
        self._ahead: dict[tuple[str, str], Future[Built | Result]] = {}
        self._kept: set[str] = set()
        self._last_timed = ""

    def __enter__(self) -> LocalMeasurer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and remove the temporary files."""
        for worker in (self._worker, self._vendor):
            if worker is not None:
                worker.close()
        if self._builders is not None:
            self._builders.close()
        if self._forker is not None:
            self._forker.close()
        if self._cores is not None:
            self._cores.release()
        self._worker = self._vendor = self._builders = self._forker = None
        self._folder.cleanup()

    # -- candidates -----------------------------------------------------------------------------

    @property
    def spare_cores(self) -> tuple[int, ...]:
        """Logical cores where a process may think while a kernel is measured on others."""
        if self._cores is None:
            return ()
        return tuple(c for c in self._cores.building if not self._cores.disturbs(c))

    def prepare(self, template: str, configs: Sequence[Config], beside: bool = False) -> None:
        """Begin to build configs that :meth:`measure` will be asked for, in this order.

        It changes how long they take and nothing else; it may be called while another thread
        measures. For a single one it does nothing unless ``beside`` says that there is something to
        measure meanwhile.
        """
        if self._builders is None or len(configs) < 2 - beside:
            return
        for config in configs:
            key = (template, config.key)
            if key not in self._ahead:
                self._ahead[key] = self._builders.submit(template, config)

    def measure(
        self,
        template: str,
        config: Config,
        hopeless: float | None = None,
        keep: str | None = None,
    ) -> Result:
        """Build, verify and time one config.

        Parameters
        ----------
        template, config
            What to build.
        hopeless
            Seconds; a candidate that is surely slower is not read further.
        keep
            Name under which the worker keeps the kernel for :meth:`time_kept`.

        Returns
        -------
        A result with costs in seconds, or with the kind and message of the failure. A candidate
        that crashes or hangs costs the worker its life; the next call starts another. One that
        was built ahead and has the same machine code as an earlier one has its costs and ``code``.
        """
        ahead = self._ahead.pop((template, config.key), None)
        built = None if ahead is None else ahead.result()
        if isinstance(built, Result):
            return built
        twin = None if built is None or keep is not None else self._by_code.get(built.digest)
        if built is not None and twin is not None:
            built.path.unlink()
            return replace(twin, phases={"build": built.seconds})
        try:
            worker = self._kernel_worker()
            stolen = steal_seconds(self._measured())
            with self._quiet():
                answer = worker.request(
                    "trial",
                    self._limits,
                    template=template,
                    config=config.to_json(),
                    seconds=self.options.seconds,
                    hopeless=hopeless,
                    keep=keep,
                    library=None if built is None else str(built.path),
                )
        except Deadline as error:
            kind = (
                FailureKind.COMPILE_TIMEOUT if error.phase == "build" else FailureKind.RUN_TIMEOUT
            )
            return Result.failed(kind, str(error))
        except WorkerDied as error:
            return Result.failed(FailureKind.CRASHED, f"during {error.phase or 'start'}: {error}")
        phases = answer["phases"]
        if (stolen := steal_seconds(self._measured()) - stolen) > 0:
            phases["steal"] = round(stolen, 3)
        code = "" if built is None else built.digest
        if built is not None:
            phases["build"] = round(phases.get("build", 0.0) + built.seconds, 6)
        if "failure" in answer:
            return Result.failed(FailureKind(answer["failure"]), answer["message"], phases)
        if keep is not None:
            self._kept.add(keep)
        result = Result(tuple(answer["costs"]), phases=phases, code=code)
        if code:
            self._by_code[code] = result
        return result

    def watch(self, template: str, config: Config) -> None:
        """Read the kernel of this config after each trial, and time again what it finds disturbed.

        See :mod:`autotune.measure.drift`. A config that cannot be built is not watched.
        """
        self._reference = {"template": template, "config": config.to_json()}
        if self._worker is not None and self._worker.alive:
            self._watch(self._worker)

    def _watch(self, worker: WorkerProcess) -> None:
        if self._reference is not None:
            try:
                answer = worker.request("watch", self._limits, **self._reference)
            except (Deadline, WorkerDied):
                self._reference = None  # it would end each worker; trials will say what is wrong
                return
            if "message" in answer:
                self._reference = None

    def is_kept(self, name: str) -> bool:
        """Whether the present worker still holds a kernel under this name."""
        return name in self._kept and self._worker is not None and self._worker.alive

    def time_kept(self, name: str, seconds: float) -> list[float]:
        """Time a kept kernel again; returns seconds per call, one entry per repeat.

        Raises
        ------
        MeasureError
            If the worker died over it, as with all that follows.
        """
        worker = self._settled("kernels", self._kernel_worker())
        with self._quiet():
            answer = self._ask(worker, "time", handle=name, seconds=seconds)
        return [float(cost) for cost in answer["costs"]]

    def peak_gflops(self, seconds: float = 0.1) -> float:
        """Measure the multiply-add peak on the worker's threads, in GFLOP/s.

        It is that of the best instruction for the workload's type: fp32 multiply-adds, or a dot
        product of bf16 or int8.
        """
        worker = self._settled("kernels", self._kernel_worker())
        with self._quiet():
            answer = self._ask(
                worker,
                "peak",
                simd_bits=self.profile.simd_bits,
                threads=self.threads,
                seconds=seconds,
                instruction=peak_instruction(self.workload.dtype, self.profile),
            )
        return float(answer["gflops"])

    def ceilings(self) -> tuple[float, float]:
        """Measure the multiply-add peak and the roofline of this workload, both in GFLOP/s.

        Memory bandwidth bounds the workload only if its operands do not fit the last-level cache,
        because a kernel is timed on the same operands again and again.
        """
        peak = self.peak_gflops(0.2)
        moved = operand_bytes(self.workload)
        if moved <= self.profile.l3_bytes * max(1, self.profile.l3_instances):
            return peak, peak
        answer = self._ask(
            self._kernel_worker(),
            "bandwidth",
            profile=self.profile.to_json(),
            threads=self.threads,
        )
        return peak, min(peak, float(answer["gb_s"]) * self.workload.flops / moved)

    # -- the vendor library -----------------------------------------------------------------------

    def vendor_time(self, seconds: float, library: str = LIBRARIES[0]) -> list[float]:
        """Time a vendor library through torch; returns seconds per call, one per repeat.

        Raises
        ------
        MeasureError
            If the library cannot compute the workload or computes something else, or the worker
            died over it.
        """
        worker = self._settled("vendor", self._vendor_worker())
        with self._quiet():
            answer = self._ask(worker, "time", seconds=seconds, library=library)
        if "failure" in answer:
            raise MeasureError(str(answer["failure"]))
        return [float(cost) for cost in answer["costs"]]

    # -- workers ----------------------------------------------------------------------------------

    def _make_builders(self) -> Builders:
        assert self._cores is not None and self._linker is not None
        setup = {
            "workload": self.workload.to_json(),
            "target": tvm_target(self.profile, self.threads),
            "plugins": self.plugins,
            "sys_path": [path for path in sys.path if path],
        }
        folder = Path(self._folder.name)
        return Builders(
            self._cores, self._env, setup, self._limits, folder, self._linker, self._forker
        )

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep everything of ours off the measured cores."""
        with contextlib.nullcontext() if self._builders is None else self._builders.halted():
            yield

    def begin(self, builds: int) -> None:
        """Begin to start the processes of the first trials, without waiting for any.

        ``builds`` is how many configs :meth:`prepare` will be given at once, at most.
        """
        if self._forker is not None:
            self._forker.begin()
        if self._builders is not None:
            self._builders.begin(builds)

    def start(self) -> None:
        """Start the kernel worker now rather than with the first trial."""
        self._kernel_worker()

    def _settled(self, who: str, worker: WorkerProcess) -> WorkerProcess:
        """Wait until the threads of the process that was timed last have gone to sleep."""
        if who != self._last_timed:
            time.sleep(_SETTLE_ALONE if self.threads == 1 else _SETTLE_POOLS)
            self._last_timed = who
        return worker

    def _kernel_worker(self) -> WorkerProcess:
        if self._worker is None or not self._worker.alive:
            self._kept.clear()
            self._worker = self._started(self._worker, "autotune.measure.worker", self._forker)
            self._set_up(
                self._worker,
                target=tvm_target(self.profile, self.threads),
                plugins=self.plugins,
                sys_path=[path for path in sys.path if path],
                flush_bytes=self._flush_bytes(),
            )
            self._watch(self._worker)
            if not self._worker.alive:
                return self._kernel_worker()
        return self._worker

    def _flush_bytes(self) -> int:
        return 0 if self.options.cache == "hot" else 2 * self.profile.l3_bytes or _FLUSH_BYTES

    def _measured(self) -> tuple[int, ...]:
        return () if self._cores is None else self._cores.measured

    def _vendor_worker(self) -> WorkerProcess:
        if self._vendor is None or not self._vendor.alive:
            self._vendor = self._started(self._vendor, "autotune.measure.vendor")
            self._set_up(self._vendor, threads=self.threads, flush_bytes=self._flush_bytes())
        return self._vendor

    def _started(
        self, worker: WorkerProcess | None, module: str, forker: Forker | None = None
    ) -> WorkerProcess:
        if worker is None:
            return WorkerProcess(module, self._env, self._measured(), forker=forker)
        worker.restart()
        return worker

    def _ask(self, worker: WorkerProcess, op: str, **arguments: Any) -> dict[str, Any]:
        """Make a request that only a fault of ours, or of the machine, can fail."""
        try:
            return worker.request(op, self._limits, **arguments)
        except (Deadline, WorkerDied) as error:
            raise MeasureError(f"{worker.module} failed at {op!r}: {error}") from None

    def _set_up(self, worker: WorkerProcess, **arguments: Any) -> dict[str, Any]:
        workload, problem = self.workload.to_json(), str(self._problem_file())
        return self._ask(worker, "setup", workload=workload, problem=problem, **arguments)

    def _problem_file(self) -> Path:
        """Compute inputs and float64 reference once; workers read them from this file."""
        if not self._problem.exists():
            write_problem(self._problem, self.workload)
        return self._problem
