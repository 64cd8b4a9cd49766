"""The worker that builds, verifies and times candidates: ``python -m autotune.measure.worker``.

It lives as long as the run, because importing TVM takes seconds. Whatever goes wrong inside a
candidate ends at most this process; the parent starts another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from autotune.measure.building import Compiler, Failure, brief, load
from autotune.measure.drift import Drift
from autotune.measure.protocol import Channel, isolate
from autotune.measure.timing import time_kernel
from autotune.trial import FailureKind

_MIN_REPEATS = 2
#: Length of one reading of the reference kernel, of which two are made; and a kernel as slow as
#: this is not read after each trial.
_REFERENCE_SECONDS, _REFERENCE_SLOW = 0.002, 0.005
#: A kernel this slow is timed by its verification call alone.
_SLOW_SECONDS = 1.0


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
        flush_bytes: int = 0,
    ) -> dict[str, Any]:
        """Take the workload; read inputs and reference from the ``.npz`` file ``problem``.

        With ``flush_bytes``, so many bytes are streamed before each timed call, so that no operand
        is in a cache.
        """
        import numpy as np
        import tvm

        from autotune.kernels.verify import load_problem, numpy_dtype

        self.compiler = Compiler(workload, target, plugins, sys_path)
        self.workload = self.compiler.workload
        self.target_dict = dict(target)
        loaded = load_problem(problem, self.workload)
        self.reference = loaded.reference
        self.inputs = [tvm.runtime.tensor(array) for array in loaded.inputs]
        self.output_host = np.empty(self.workload.c_shape, numpy_dtype(self.workload.out_dtype))
        self.kept.clear()
        self.flush = np.zeros(flush_bytes // 4, np.float32) if flush_bytes else None
        self.drift: Drift | None = None
        return {}

    def watch(self, template: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Build the reference kernel that :class:`Drift` reads after each trial."""
        self.channel.phase("build")
        try:
            self.compiler.prepare(template, config)
            kernel = self.compiler.in_process(template, config)
            self.channel.phase("run")
            inputs = self._inputs_of(kernel, template, config)
            self._verify(kernel, inputs)
        except Failure as failure:
            return {"message": f"{failure.kind.value}: {failure}"}
        call = partial(_call, kernel["main"], self._arguments(inputs))
        self.reference_seconds = max(min(call() for _ in range(3)), 1e-7)
        number = max(1, round(_REFERENCE_SECONDS / self.reference_seconds))
        self.drift = Drift(
            lambda: min(sum(call() for _ in range(number)) / number for _ in range(2))
        )
        return {}

    def trial(
        self,
        template: str,
        config: Mapping[str, Any],
        seconds: float,
        hopeless: float | None,
        keep: str | None,
        library: str | None,
    ) -> dict[str, Any]:
        """Build or load, verify and time one config; see :meth:`LocalMeasurer.measure`.

        ``library`` is the path of what a builder made of it, if one did.
        """
        phases: dict[str, float] = {}
        try:
            with _timed(phases, "build"):
                self.channel.phase("build")
                kernel = (
                    self.compiler.in_process(template, config) if library is None else load(library)
                )
            self.compiler.prepare(template, config)
            self.channel.phase("run")
            with _timed(phases, "verify"):
                inputs = self._inputs_of(kernel, template, config)
                first = self._verify(kernel, inputs)
            with _timed(phases, "run"):
                costs = [first]
                if first < _SLOW_SECONDS:
                    costs = self._time(kernel, inputs, seconds, hopeless, _MIN_REPEATS, first)
                    costs = self._steady(kernel, inputs, costs, seconds, hopeless, phases)
        except Failure as failure:
            return {"failure": failure.kind.value, "message": str(failure), "phases": phases}
        if keep is not None:
            self.kept[keep] = (kernel, inputs)
        return {"costs": costs, "phases": phases}

    def _steady(
        self,
        kernel: Any,
        inputs: list[Any],
        costs: list[float],
        seconds: float,
        hopeless: float | None,
        phases: dict[str, float],
    ) -> list[float]:
        """Time a trial again if the reference says that the machine was not itself."""
        if self.drift is None:
            return costs
        # A slow reference is read beside promising candidates only: it would double the others.
        promising = hopeless is None or min(costs) <= hopeless
        if self.reference_seconds > _REFERENCE_SLOW and not promising:
            return costs
        steady = self.drift.steady(
            costs, lambda: self._time(kernel, inputs, seconds, hopeless, _MIN_REPEATS)
        )
        phases["reference"] = round(steady.reference, 9)
        if steady.again:
            phases["again"] = float(steady.again)
        return steady.costs

    def time(self, handle: str, seconds: float) -> dict[str, Any]:
        """Time a kept kernel again, as one block of an interleaved comparison."""
        self.channel.phase("run")
        kernel, inputs = self.kept[handle]
        return {"costs": self._time(kernel, inputs, seconds, None, 1)}

    def peak(
        self, simd_bits: int, threads: int, seconds: float, instruction: str
    ) -> dict[str, Any]:
        """Measure the peak of an instruction in GFLOP/s on this process's threads.

        Plain fp32 arithmetic where ``instruction`` is empty.
        """
        self.channel.phase("calibrate")
        if self.fma is None:
            self.fma, self.fma_flops = self._peak_kernel(simd_bits, threads, instruction)
        fastest = float("inf")
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            fastest = min(fastest, _call(*self.fma))
        return {"gflops": self.fma_flops / fastest / 1e9}

    def _peak_kernel(
        self, simd_bits: int, threads: int, name: str
    ) -> tuple[tuple[Any, list[Any]], int]:
        from autotune.hw_profiles.amx import request_amx
        from autotune.hw_profiles.instructions import instruction
        from autotune.hw_profiles.roofline import build_fma_kernel, fma_arguments
        from autotune.hw_profiles.roofline_dot import build_dot_kernel

        if not name:
            function, flops = build_fma_kernel(self.target_dict, simd_bits, threads)
            arguments = fma_arguments(self.target_dict, simd_bits, threads)
            return (function, list(arguments)), flops
        chosen = instruction(name)
        if chosen.tiles:
            request_amx()
        kernel, flops = build_dot_kernel(self.target_dict, chosen, threads)
        return (kernel, []), flops

    def bandwidth(self, profile: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Measure the memory bandwidth in GB/s on this process's threads."""
        from autotune.hw_profiles import HardwareProfile
        from autotune.hw_profiles.roofline import measure_peaks

        self.channel.phase("calibrate")
        peaks = measure_peaks(HardwareProfile.from_json(profile), threads)
        return {"gb_s": peaks.bandwidth_gb_s}

    def _inputs_of(self, kernel: Any, template: str, config: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of a kernel; B is packed here, untimed, where the workload says so."""
        if not self.workload.prepacked:
            return self.inputs
        import numpy as np
        import tvm

        from autotune.kernels.verify import poison

        shape = self.compiler.packed_shape(template, config)
        host = np.empty(shape, self.inputs[1].numpy().dtype)
        poison(host)
        packed = tvm.runtime.tensor(host)
        try:
            kernel["pack"](self.inputs[1], packed)
        except Exception as error:
            raise Failure(FailureKind.RUN_ERROR, brief(error)) from None
        return [self.inputs[0], packed, *self.inputs[2:]]

    def _arguments(self, inputs: list[Any]) -> list[Any]:
        import tvm

        return [*inputs, tvm.runtime.tensor(self.output_host)]

    def _verify(self, kernel: Any, inputs: list[Any]) -> float:
        """Compare one call's whole output with the reference; return the seconds it took."""
        from autotune.kernels.verify import mismatch, poison

        poison(self.output_host)
        arguments = self._arguments(inputs)
        start = time.perf_counter()
        try:
            kernel["main"](*arguments)
        except Exception as error:
            raise Failure(FailureKind.RUN_ERROR, brief(error)) from None
        first = time.perf_counter() - start
        wrong = mismatch(self.workload, arguments[-1].numpy(), self.reference)
        if wrong:
            raise Failure(FailureKind.WRONG_RESULT, wrong)
        return first

    def _time(
        self,
        kernel: Any,
        inputs: list[Any],
        seconds: float,
        hopeless: float | None,
        least: int,
        first: float = float("inf"),
    ) -> list[float]:
        """Return seconds per call, one entry per repeat; see :func:`time_kernel`."""
        import tvm

        main, arguments = kernel["main"], self._arguments(inputs)

        def timer(number: int, repeat: int) -> list[float]:
            # Called from C++: for short kernels, Python would add to the time.
            evaluator = kernel.time_evaluator("main", tvm.cpu(), number=number, repeat=repeat)
            return [float(cost) for cost in evaluator(*arguments).results]

        call = partial(_call, main, arguments)
        if self.flush is None:
            return _checked(time_kernel(call, timer, seconds, hopeless, least, first))
        cold = partial(_cold_call, self.flush, call)
        return _checked(time_kernel(cold, timer, seconds, hopeless, least, first, single=True))


def _call(function: Any, arguments: list[Any]) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _cold_call(flush: Any, call: Callable[[], float]) -> float:
    flush += 1.0  # in place: reads and writes all of it
    return call()


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


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    # TVM imports torch if it can: seconds of start-up, and a second thread pool beside the timings.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    worker = KernelWorker(channel)
    operations = ("setup", "watch", "trial", "time", "peak", "bandwidth")
    channel.serve({name: getattr(worker, name) for name in operations})


if __name__ == "__main__":
    main()
