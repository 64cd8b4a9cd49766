"""The worker that builds, verifies and times candidates: ``python -m autotune.measure.worker``.

It lives as long as the run, because importing TVM takes seconds. Whatever goes wrong inside a
candidate ends at most this process; the parent starts another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from autotune.measure.protocol import MAX_REPEATS, MIN_REPEAT_SECONDS, Channel, isolate
from autotune.trial import FailureKind

_MIN_REPEATS = 2
#: A kernel this slow is timed by its verification call alone.
_SLOW_SECONDS = 1.0


class Failure(Exception):
    """A candidate failed in a known way."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class KernelWorker:
    """State of the worker: one problem, and the kernels that the parent asked to keep."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.kept: dict[str, Any] = {}
        self.fma: tuple[Any, list[Any]] | None = None

    def setup(
        self,
        workload: Mapping[str, Any],
        target: Mapping[str, Any],
        problem: str,
        plugins: list[str],
        sys_path: list[str],
    ) -> dict[str, Any]:
        """Take the workload; read inputs and reference from the ``.npz`` file ``problem``."""
        import numpy as np
        import tvm

        from autotune.kernels.base import load_templates
        from autotune.kernels.verify import numpy_dtype
        from autotune.workload import Gemm

        sys.path.extend(p for p in sys_path if p not in sys.path)
        self.templates = load_templates(plugins)
        self.workload = Gemm.from_json(workload)
        self.target_dict = dict(target)
        self.target = tvm.target.Target(self.target_dict)
        with np.load(problem) as data:
            self.reference = data["reference"]
            arrays = [data[name] for name in ("a", "b", "bias") if name in data]
        self.inputs = [tvm.runtime.tensor(array) for array in arrays]
        self.output_host = np.empty(
            (self.workload.m, self.workload.n), numpy_dtype(self.workload.out_dtype)
        )
        self.kept.clear()
        return {}

    def trial(
        self,
        template: str,
        config: Mapping[str, Any],
        seconds: float,
        hopeless: float | None,
        keep: str | None,
    ) -> dict[str, Any]:
        """Build, verify and time one config; see :meth:`LocalMeasurer.measure`."""
        phases: dict[str, float] = {}
        try:
            with _timed(phases, "build"):
                self.channel.phase("build")
                kernel = self._build(template, config)
            self.channel.phase("run")
            with _timed(phases, "verify"):
                first = self._verify(kernel)
            with _timed(phases, "run"):
                costs = [first]
                if first < _SLOW_SECONDS:
                    costs = self._time(kernel, seconds, hopeless, _MIN_REPEATS)
        except Failure as failure:
            return {"failure": failure.kind.value, "message": str(failure), "phases": phases}
        if keep is not None:
            self.kept[keep] = kernel
        return {"costs": costs, "phases": phases}

    def time(self, handle: str, seconds: float) -> dict[str, Any]:
        """Time a kept kernel again, as one block of an interleaved comparison."""
        self.channel.phase("run")
        return {"costs": self._time(self.kept[handle], seconds, None, 1)}

    def peak(self, simd_bits: int, threads: int, seconds: float) -> dict[str, Any]:
        """Measure the multiply-add peak in GFLOP/s on this process's threads."""
        from autotune.hw_profiles.roofline import build_fma_kernel, fma_arguments

        self.channel.phase("calibrate")
        if self.fma is None:
            function, self.fma_flops = build_fma_kernel(self.target_dict, simd_bits, threads)
            self.fma = (function, list(fma_arguments(self.target_dict, simd_bits, threads)))
        fastest = float("inf")
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            fastest = min(fastest, _call(*self.fma))
        return {"gflops": self.fma_flops / fastest / 1e9}

    def bandwidth(self, profile: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Measure the memory bandwidth in GB/s on this process's threads."""
        from autotune.hw_profiles import HardwareProfile
        from autotune.hw_profiles.roofline import measure_peaks

        self.channel.phase("calibrate")
        peaks = measure_peaks(HardwareProfile.from_json(profile), threads)
        return {"gb_s": peaks.bandwidth_gb_s}

    def _build(self, template: str, config: Mapping[str, Any]) -> Any:
        import tvm

        from autotune.search.space import Config

        values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        try:
            module = self.templates[template].build(self.workload, Config(values))
        except Exception as error:
            raise Failure(FailureKind.SCHEDULE_ERROR, _brief(error)) from None
        try:
            library = tvm.compile(module, target=self.target)
            # Machine code is made when a function is first looked up, which can take longer than
            # all before it: that is building, not running.
            library["main"]
        except Exception as error:
            raise Failure(FailureKind.COMPILE_ERROR, _brief(error)) from None
        return library

    def _arguments(self) -> list[Any]:
        import tvm

        return [*self.inputs, tvm.runtime.tensor(self.output_host)]

    def _verify(self, kernel: Any) -> float:
        """Compare one call's whole output with the reference; return the seconds it took."""
        from autotune.kernels.verify import mismatch, poison

        poison(self.output_host)
        arguments = self._arguments()
        start = time.perf_counter()
        try:
            kernel["main"](*arguments)
        except Exception as error:
            raise Failure(FailureKind.RUN_ERROR, _brief(error)) from None
        first = time.perf_counter() - start
        wrong = mismatch(self.workload, arguments[-1].numpy(), self.reference)
        if wrong:
            raise Failure(FailureKind.WRONG_RESULT, wrong)
        return first

    def _time(self, kernel: Any, seconds: float, hopeless: float | None, least: int) -> list[float]:
        """Return seconds per call, one entry per repeat, at least ``least`` of them.

        ``seconds`` is shared by the repeats; a kernel slower than ``hopeless`` gets a single one.
        """
        main, arguments = kernel["main"], self._arguments()
        if least < _MIN_REPEATS:  # a block of an interleaved comparison: caches are another's
            main(*arguments)
        estimate = _call(main, arguments)
        if hopeless is not None and estimate > hopeless:
            return [estimate]
        if estimate > MIN_REPEAT_SECONDS:
            repeats = min(max(int(seconds / estimate), least), MAX_REPEATS)
            return _checked([estimate] + [_call(main, arguments) for _ in range(repeats - 1)])
        # Short kernels are called from C++, several times a repeat.
        number = max(1, round(MIN_REPEAT_SECONDS / max(estimate, 1e-7)))
        repeats = min(max(int(seconds / (number * estimate)), least), MAX_REPEATS)
        import tvm

        evaluator = kernel.mod.time_evaluator("main", tvm.cpu(), number=number, repeat=repeats)
        return _checked([float(cost) for cost in evaluator(*arguments).results])


def _call(function: Any, arguments: list[Any]) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _checked(costs: list[float]) -> list[float]:
    if any(not 0.0 < cost < float("inf") for cost in costs):
        raise Failure(FailureKind.RUN_ERROR, f"the timer returned {costs}")
    return costs


class _timed:
    """Context manager that adds the seconds of its body to a phase."""

    def __init__(self, phases: dict[str, float], name: str) -> None:
        self.phases, self.name = phases, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.phases[self.name] = round(time.perf_counter() - self.start, 6)


def _brief(error: Exception) -> str:
    """Return the last lines of an error: TVM puts the IR first and the reason last."""
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) <= 600 else "... " + text[-600:]


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    # TVM imports torch if it can: seconds of start-up, and a second thread pool beside the timings.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    worker = KernelWorker(channel)
    operations = ("setup", "trial", "time", "peak", "bandwidth")
    channel.serve({name: getattr(worker, name) for name in operations})


if __name__ == "__main__":
    main()
