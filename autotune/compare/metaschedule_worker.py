"""MetaSchedule's tuner in a worker of ours: ``python -m autotune.compare.metaschedule_worker``.

The search, its space of traces and its cost model are MetaSchedule's own. Building and running are
ours: every candidate is verified and timed exactly like those of the other methods. Its own builder
would pay a slow import in each fresh process, and its own runner never checks an output.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
import time
import types
from typing import Any

from autotune.measure.building import Failure
from autotune.measure.protocol import Channel, isolate
from autotune.measure.worker import KernelWorker
from autotune.trial import FailureKind


class MetaScheduleWorker(KernelWorker):
    """Adds one operation to the kernel worker: a whole tuning run."""

    def tune(self, trials: int, batch: int, seed: int, seconds: float) -> dict[str, Any]:
        """Tune the workload from scratch.

        Parameters
        ----------
        trials, batch
            Candidates to measure, and how many MetaSchedule plans between two refits of its model.
        seed
            At least 1; MetaSchedule draws its own seed instead of 0.
        seconds
            Timed seconds per candidate.

        Returns
        -------
        ``results``, one ``{"cost": seconds}`` or ``{"failure": kind, "message": text}`` per
        candidate in the order of measuring, and ``overhead``, the seconds spent neither building
        nor running.
        """
        _import_intrinsics()
        from tvm.s_tir import meta_schedule
        from tvm.s_tir.meta_schedule import measure_callback as callback

        from autotune.kernels.gemm import gemm_prim_func

        self.results: list[dict[str, Any]] = []
        self.seconds, self.busy = seconds, 0.0
        self._built: dict[str, Any] = {}
        builder, runner = _make_builder(self), _make_runner(self)
        self.channel.phase("tune")
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            meta_schedule.tune_tir(
                gemm_prim_func(self.workload),
                self.compiler.target,
                folder,
                trials,
                num_trials_per_iter=batch,
                builder=builder,
                runner=runner,
                database=meta_schedule.database.MemoryDatabase(),
                # Without the default one that deletes build folders: nothing is exported here.
                measure_callbacks=[callback.AddToDatabase(), callback.UpdateCostModel()],
                seed=seed,
            )
        overhead = time.monotonic() - start - self.busy
        return {"results": self.results[:trials], "overhead": overhead}

    def build_module(self, module: Any) -> tuple[str | None, str | None]:
        """Compile one candidate; return its handle, or None and the error."""
        import tvm
        from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

        start = time.monotonic()
        self.channel.phase("build")
        try:
            plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
            handle = f"kernel-{len(self._built)}"
            self._built[handle] = tvm.compile(plain, target=self.compiler.target).mod
            return handle, None
        except Exception as error:
            message = f"{type(error).__name__}: {error}"[-300:]
            self.results.append({"failure": FailureKind.COMPILE_ERROR.value, "message": message})
            return None, message
        finally:
            self.busy += time.monotonic() - start
            self.channel.phase("tune")

    def run_kernel(self, handle: str) -> tuple[list[float] | None, str | None]:
        """Verify and time one candidate; return its costs in seconds, or None and the error."""
        start = time.monotonic()
        self.channel.phase("run")
        kernel = self._built[handle]
        self._built[handle] = None  # thousands of kernels would fill the memory
        try:
            self._verify(kernel, self.inputs)
            costs = self._time(kernel, self.inputs, self.seconds, None, 1)
            self.results.append({"cost": statistics.median(costs)})
            return costs, None
        except Failure as failure:
            self.results.append({"failure": failure.kind.value, "message": str(failure)})
            return None, str(failure)
        finally:
            self.busy += time.monotonic() - start
            self.channel.phase("tune")


def _import_intrinsics() -> None:
    """Import the tensor intrinsics of CPUs only, before MetaSchedule imports those of all GPUs.

    Those take most of a minute, are of no use here, and would count as overhead of the search.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        import tvm.s_tir

        package = types.ModuleType(name)
        package.__path__ = [f"{folder}/tensor_intrin" for folder in tvm.s_tir.__path__]
        sys.modules[name] = package
        importlib.import_module(f"{name}.x86")


def _make_builder(worker: MetaScheduleWorker) -> Any:
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder

    @derived_object
    class InProcessBuilder(PyBuilder):  # type: ignore[misc]
        def build(self, build_inputs: list[Any]) -> list[Any]:
            return [BuilderResult(*worker.build_module(item.mod)) for item in build_inputs]

    return InProcessBuilder()


def _make_runner(worker: MetaScheduleWorker) -> Any:
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerResult

    @derived_object
    class Done(PyRunnerFuture):  # type: ignore[misc]
        def __init__(self, result: Any) -> None:
            super().__init__()
            self._result = result

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return self._result

    @derived_object
    class InProcessRunner(PyRunner):  # type: ignore[misc]
        def run(self, runner_inputs: list[Any]) -> list[Any]:
            answers = [worker.run_kernel(str(item.artifact_path)) for item in runner_inputs]
            return [Done(RunnerResult(*answer)) for answer in answers]

    return InProcessRunner()


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    worker = MetaScheduleWorker(channel)
    channel.serve({name: getattr(worker, name) for name in ("setup", "tune")})


if __name__ == "__main__":
    main()
