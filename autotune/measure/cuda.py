"""Measure on one GPU: a builder on the CPU, one process that owns the device, one for torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles.cuda_driver import LIBRARY
from autotune.measure.local import LocalMeasurer
from autotune.measure.options import MeasureOptions
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.search.space import Config
    from autotune.workload import Gemm


class CudaMeasurer(LocalMeasurer):
    """Builds, verifies and times CUDA kernels of one workload.

    Parameters
    ----------
    workload, profile, options, plugins
        As those of :class:`LocalMeasurer`; both kinds of ``cache``, of which the device's L2 is
        meant, are kept as features of a result.
    device
        Number of the GPU.
    library
        The CUDA driver.
    """

    def __init__(
        self,
        workload: Gemm,
        profile: HardwareProfile,
        options: MeasureOptions | None = None,
        plugins: Sequence[str] = (),
        device: int = 0,
        library: str = LIBRARY,
    ) -> None:
        super().__init__(workload, profile, 1, options, plugins)
        self.device, self.library = device, library
        self._builder: WorkerProcess | None = None
        self._built = 0

    def close(self) -> None:
        """End the workers and remove the temporary files."""
        if self._builder is not None:
            self._builder.close()
            self._builder = None
        super().close()

    def measure(
        self,
        template: str,
        config: Config,
        hopeless: float | None = None,
        keep: str | None = None,
    ) -> Result:
        """Build, verify and time one config; see :meth:`LocalMeasurer.measure`."""
        built = self._build(template, config)
        if isinstance(built, Result):
            return built
        code = built["kernel"]["code"]
        twin = None if keep is not None else self._by_code.get(code)
        if twin is not None:
            return replace(twin, phases=built["phases"])
        answer = self._attempt(
            self._kernel_worker,
            "trial",
            kernel=built["kernel"],
            seconds=self.options.seconds,
            hopeless=hopeless,
            keep=keep,
        )
        features = built["features"]
        if isinstance(answer, Result):
            return Result.failed(
                answer.failure or FailureKind.RUN_ERROR,
                answer.message,
                {**built["phases"], **answer.phases},
            )
        if keep is not None:
            self._kept.add(keep)
        result = self._by_code[code] = Result(
            tuple(answer["costs"]),
            phases={**built["phases"], **answer["phases"]},
            code=code,
            features={**features, **answer["features"]},
        )
        return result

    def _build(self, template: str, config: Config) -> dict[str, Any] | Result:
        """Return what the builder answers: ``kernel``, ``features`` and ``phases``."""
        self._built += 1
        return self._attempt(
            self._cuda_builder,
            "build",
            template=template,
            config=config.to_json(),
            name=f"kernel{self._built}",
        )

    def watch(self, template: str, config: Config) -> None:
        """Do nothing: drift is looked for on CPUs, where other processes take time away."""

    def _flush_bytes(self) -> int:
        gpu = self.profile.gpu
        return 0 if self.options.cache == "hot" or gpu is None else 2 * gpu.l2_bytes

    def _attempt(self, worker: Any, op: str, **arguments: Any) -> dict[str, Any] | Result:
        """Make a request that a candidate can fail; its failure is returned as a result."""
        process = worker()
        try:
            answer: dict[str, Any] = process.request(op, self._limits, **arguments)
        except Deadline as error:
            timeouts = {"build": FailureKind.COMPILE_TIMEOUT, "trial": FailureKind.RUN_TIMEOUT}
            return Result.failed(timeouts[op], str(error))
        except WorkerDied as error:
            return Result.failed(FailureKind.CRASHED, f"during {error.phase or op}: {error}")
        if "failure" not in answer:
            return answer
        if answer.get("sticky"):
            process.kill()  # its context answers nothing but the same error from now on
        return Result.failed(FailureKind(answer["failure"]), answer["message"], answer["phases"])

    def peak_gflops(self, seconds: float = 0.1) -> float:
        """Return the datasheet's peak of the workload's dtype in GFLOP/s; nothing is measured."""
        return self.profile.datasheet_peak_gflops(self.workload.dtype) or 0.0

    def ceilings(self) -> tuple[float, float]:
        """Return the datasheet's peak and the roofline of this workload, both in GFLOP/s."""
        peak, w = self.peak_gflops(), self.workload
        bandwidth = self.profile.peaks.memory_gb_s if self.profile.peaks else None
        gpu = self.profile.gpu
        operands, result = w.m * w.k + w.k * w.n, w.m * w.n
        moved = w.batch * (_BYTES[w.dtype] * operands + _BYTES[w.out_dtype] * result)
        if bandwidth is None or gpu is None or moved <= gpu.l2_bytes:
            return peak, peak
        return peak, min(peak, bandwidth * w.flops / moved)

    def _cuda_builder(self) -> WorkerProcess:
        if self._builder is None or not self._builder.alive:
            self._builder = self._started(self._builder, "autotune.measure.cuda_builder")
            self._ask(
                self._builder,
                "setup",
                workload=self.workload.to_json(),
                profile=self.profile.to_json(),
                folder=self._folder.name,
                plugins=self.plugins,
                sys_path=[path for path in sys.path if path],
            )
        return self._builder

    def _kernel_worker(self) -> WorkerProcess:
        if self._worker is None or not self._worker.alive:
            self._kept.clear()
            self._worker = self._started(self._worker, "autotune.measure.cuda_worker")
            self._set_up(
                self._worker, device=self.device, library=self.library, cache=self.options.cache
            )
        return self._worker

    def _vendor_worker(self) -> WorkerProcess:
        if self._vendor is None or not self._vendor.alive:
            self._vendor = self._started(self._vendor, "autotune.measure.vendor")
            self._set_up(
                self._vendor,
                threads=1,
                device=f"cuda:{self.device}",
                flush_bytes=self._flush_bytes(),
            )
        return self._vendor


#: Bytes of an element.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4}
_BYTES |= {"float8_e4m3fn": 1, "tfloat32": 4}


def make_measurer(
    target: str,
    workload: Gemm,
    profile: HardwareProfile,
    threads: int,
    options: MeasureOptions | None = None,
    plugins: Sequence[str] = (),
) -> LocalMeasurer:
    """Return the measurer of what ``--target`` names.

    Raises
    ------
    UnsupportedTarget
        If it names a GPU by its product: that one is for compiling, and need not be here.
    """
    if profile.kind == "cpu":
        return LocalMeasurer(workload, profile, threads, options, plugins)
    require_present(target)
    return CudaMeasurer(workload, profile, options, plugins, int(target.partition(":")[2] or 0))


def require_present(target: str) -> None:
    """Raise UnsupportedTarget if a target names a GPU by its product: that one need not be here."""
    which = target.partition(":")[2]
    if which and not which.isdecimal():
        raise UnsupportedTarget(
            f"{target} is a GPU by name, which kernels are only built for: to tune, use --target"
            " cuda on a machine that has one; to rank without one, add --compile-only to autotune"
            " gemm"
        )
