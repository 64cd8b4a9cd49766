"""The worker that owns one GPU: ``python -m autotune.measure.cuda_worker``.

It loads machine code through the CUDA driver, compares a call's whole output with the float64
reference, and times. Neither TVM nor torch is in this process. An error that costs the context (an
illegal address, say) is told as ``sticky``: the parent then ends the process and starts another.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.hw_profiles.cuda_driver import (
    CudaError,
    Driver,
    Function,
    Module,
    TensorMapValue,
)
from autotune.kernels.cuda.tensor_map import TensorMap
from autotune.measure.building import Failure, brief
from autotune.measure.protocol import Channel, isolate
from autotune.measure.timing import time_kernel
from autotune.measure.worker import _checked, _timed
from autotune.trial import FailureKind

_MIN_REPEATS = 2
#: Launches in one graph: enough to fill a repeat with the shortest kernels.
_MAX_LAUNCHES = 5000
#: A kernel this slow is timed by its verification call alone.
_SLOW_SECONDS = 1.0
_LAUNCH_TIMEOUT = 702
_COLD_REPEATS = 10
#: Output before a kernel has written it: NaN in every float type, and no small integer.
_POISON = 0xFF


@dataclass
class Launch:
    """A kernel and how it is launched."""

    function: Function
    grid: list[int]
    block: list[int]
    shared_bytes: int
    cluster: int
    arguments: list[int | TensorMapValue]


@dataclass
class Kernel:
    """Loaded machine code, what one call launches of it, and the scratch memory that it owns."""

    module: Module
    launches: list[Launch]
    scratch: list[int]


class CudaWorker:
    """State of the worker: one device, one problem, and the kernels kept for later."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.kept: dict[str, Kernel] = {}

    def setup(
        self,
        workload: Mapping[str, Any],
        problem: str,
        device: int,
        library: str,
        cache: str,
    ) -> dict[str, Any]:
        """Open the device and copy the inputs of the ``.npz`` file ``problem`` to it.

        ``cache`` says what the costs are: ``hot``, called again and again, or ``cold``, with the L2
        cache overwritten before each call.
        """
        import numpy as np

        from autotune.kernels.verify import load_problem, numpy_dtype
        from autotune.workload import Gemm

        self.workload = Gemm.from_json(workload)
        self.cache = cache
        self.driver = driver = Driver(library)
        driver.open(device)
        self.stream = driver.stream()
        self.events = (driver.event(), driver.event())
        loaded = load_problem(problem, self.workload)
        self.reference = loaded.reference
        arrays = [np.ascontiguousarray(array) for array in loaded.inputs]
        self.pointers = [driver.allocate(array.nbytes) for array in arrays]
        for pointer, array in zip(self.pointers, arrays, strict=True):
            driver.to_device(pointer, array)
        w = self.workload
        self.output = np.empty(w.c_shape, numpy_dtype(w.out_dtype))
        self.pointers.append(driver.allocate(self.output.nbytes))
        # Twice the cache: whatever its replacement policy, nothing of the operands is left.
        self.flush_bytes = 2 * driver.attribute(device, "l2_bytes")
        self.flush = driver.allocate(self.flush_bytes)
        self.kept.clear()
        return {"device": driver.device_name(device)}

    def trial(
        self, kernel: Mapping[str, Any], seconds: float, hopeless: float | None, keep: str | None
    ) -> dict[str, Any]:
        """Load, verify and time one kernel; see :meth:`LocalMeasurer.measure`."""
        phases: dict[str, float] = {}
        self.channel.phase("run")
        loaded: Kernel | None = None
        answer: dict[str, Any] = {}
        try:
            loaded = self._load(kernel)
            with _timed(phases, "verify"):
                first = self._verify(loaded)
            with _timed(phases, "run"):
                answer = self._time(loaded, seconds, hopeless, first, _MIN_REPEATS)
        except Failure as failure:
            return {"failure": failure.kind.value, "message": str(failure), "phases": phases}
        except CudaError as error:
            kind = FailureKind.RUN_ERROR
            if error.code == _LAUNCH_TIMEOUT:
                kind = FailureKind.RUN_TIMEOUT
            return {
                "failure": kind.value,
                "message": brief(error),
                "phases": phases,
                "sticky": error.sticky,
            }
        finally:
            if loaded is not None and answer and keep is not None:
                if keep in self.kept:
                    self._unload(self.kept[keep])
                self.kept[keep] = loaded
            elif loaded is not None:
                self._unload(loaded)
        return {**answer, "phases": phases}

    def time(self, handle: str, seconds: float) -> dict[str, Any]:
        """Time a kept kernel again, as one block of an interleaved comparison."""
        self.channel.phase("run")
        kernel = self.kept[handle]
        self._launches(kernel, 1)  # the caches are another's
        return self._time(kernel, seconds, None, self._launches(kernel, 1), 1)

    def _load(self, kernel: Mapping[str, Any]) -> Kernel:
        loaded = Kernel(self.driver.load(Path(kernel["path"]).read_bytes()), [], [])
        try:
            for size in kernel.get("scratch", ()):
                loaded.scratch.append(self.driver.allocate(size))
                # Kernels count on zeros before their first call, and leave them behind.
                self.driver.fill(loaded.scratch[-1], 0, size, self.stream)
            pointers = [*self.pointers, *loaded.scratch]
            for launch in (*kernel.get("before", ()), kernel):
                loaded.launches.append(
                    Launch(
                        loaded.module.function(launch["name"], launch["shared_bytes"]),
                        launch["grid"],
                        launch["block"],
                        launch["shared_bytes"],
                        launch["cluster"],
                        [self._argument(parameter, pointers) for parameter in launch["parameters"]],
                    )
                )
        except BaseException:
            self._unload(loaded)
            raise
        return loaded

    def _unload(self, kernel: Kernel) -> None:
        kernel.module.unload()
        for address in kernel.scratch:
            self.driver.free(address)

    def _argument(
        self, parameter: int | Mapping[str, Any], pointers: list[int]
    ) -> int | TensorMapValue:
        """Return what a kernel takes for an argument of ``main``: its pointer, or a map of it."""
        if isinstance(parameter, int):
            return pointers[parameter]
        t = TensorMap.from_json(parameter)
        address = pointers[t.argument]
        return self.driver.tensor_map(
            address, t.data_type, t.extents, t.strides, t.box, t.swizzle, t.promotion
        )

    def _launch(self, kernel: Kernel) -> None:
        for launch in kernel.launches:
            launch.function.launch(
                launch.grid,
                launch.block,
                launch.shared_bytes,
                launch.arguments,
                self.stream,
                launch.cluster,
            )

    def _launches(self, kernel: Kernel, number: int) -> float:
        """Return the seconds that ``number`` launches take on the device, one after the other."""
        driver, (start, end) = self.driver, self.events
        driver.record(start, self.stream)
        for _ in range(number):
            self._launch(kernel)
        driver.record(end, self.stream)
        driver.synchronize(self.stream)
        return driver.elapsed(start, end)

    def _verify(self, kernel: Kernel) -> float:
        """Compare one call's whole output with the reference; return its seconds."""
        from autotune.kernels.verify import mismatch

        driver = self.driver
        driver.fill(self.pointers[-1], _POISON, self.output.nbytes, self.stream)
        first = self._launches(kernel, 1)
        driver.to_host(self.output, self.pointers[-1])
        wrong = mismatch(self.workload, self.output, self.reference)
        if wrong:
            raise Failure(FailureKind.WRONG_RESULT, wrong)
        return first

    def _time(
        self, kernel: Kernel, seconds: float, hopeless: float | None, first: float, least: int
    ) -> dict[str, Any]:
        """Return ``costs`` in seconds per call, and ``features`` with the other kind of L2."""
        if first >= _SLOW_SECONDS:
            return {"costs": _checked([first]), "features": {}}
        hot = time_kernel(
            lambda: self._launches(kernel, 1),
            lambda number, repeats: self._repeats(kernel, number, repeats),
            seconds,
            hopeless,
            least,
            first,
        )
        cold = [self._cold(kernel) for _ in range(_COLD_REPEATS)]
        other = {"hot_seconds": statistics.median(hot), "cold_seconds": statistics.median(cold)}
        return {"costs": _checked(cold if self.cache == "cold" else hot), "features": other}

    def _repeats(self, kernel: Kernel, number: int, repeats: int) -> list[float]:
        """Time repeats of a graph of launches: the host's part of a launch is left out."""
        driver, (start, end) = self.driver, self.events
        number = min(number, _MAX_LAUNCHES)

        def launches() -> None:
            for _ in range(number):
                self._launch(kernel)

        graph = driver.capture(self.stream, launches)
        costs = []
        try:
            for _ in range(repeats):
                driver.record(start, self.stream)
                graph.launch(self.stream)
                driver.record(end, self.stream)
                driver.synchronize(self.stream)
                costs.append(driver.elapsed(start, end) / number)
        finally:
            graph.close()
        return costs

    def _cold(self, kernel: Kernel) -> float:
        """Time one launch after the L2 cache has been overwritten."""
        self.driver.fill(self.flush, 0, self.flush_bytes, self.stream)
        return self._launches(kernel, 1)


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    isolate()
    worker = CudaWorker(channel)
    channel.serve({name: getattr(worker, name) for name in ("setup", "trial", "time")})


if __name__ == "__main__":
    main()
