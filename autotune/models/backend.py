"""Where targets differ when a model is compiled: schedules by rule, and how code is made."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from autotune.errors import AutotuneError
from autotune.hw_profiles import tvm_target
from autotune.kernels.compiling import compile_module
from autotune.kernels.cuda.model import CudaTemplate, estimate
from autotune.models.built_kernel import without_bodies
from autotune.models.defaults import DefaultSchedules
from autotune.models.defaults_cuda import CudaSchedules

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.models.choose import Choice
    from autotune.models.device_code import DeviceCode


class Schedules(Protocol):
    """A pass that schedules every function that has no schedule yet."""

    rules: dict[str, str]

    def __call__(self, module: Any) -> Any:
        """Return the module with all functions scheduled."""


@dataclass(frozen=True)
class Code:
    """What a model was compiled to.

    Parameters
    ----------
    executable
        What ``tvm.relax.VirtualMachine`` runs.
    host
        On a GPU, the module of ``executable`` that launches kernels; what is in ``device`` has to
        be imported into it before it runs.
    device
        Machine code of the GPU.
    predicted
        Name of a kernel -> seconds of a call by a static model, where there is one.
    """

    executable: Any
    host: Any = None
    device: tuple[DeviceCode, ...] = ()
    predicted: Mapping[str, float] = field(default_factory=dict)


class Backend(ABC):
    """What one kind of target does its own way.

    Parameters
    ----------
    profile, threads
        What is compiled for.
    """

    def __init__(self, profile: HardwareProfile, threads: int) -> None:
        self.profile, self.threads = profile, threads

    @functools.cached_property
    def target(self) -> Any:
        """The ``tvm.target.Target``."""
        import tvm

        return tvm.target.Target(tvm_target(self.profile, self.threads))

    @abstractmethod
    def schedules(self) -> Schedules:
        """Return the pass that schedules what no template computes."""

    @abstractmethod
    def compile(self, lowered: Any, kernels: Mapping[str, Choice]) -> Code:
        """Compile a module of scheduled functions, of which ``kernels`` come from templates."""

    def finishing_passes(self) -> list[Any]:
        """Return Relax's passes after schedules, from calls of functions to the machine's code.

        They are TVM's for a CPU; those for a GPU differ in CUDA graphs alone, which are not used.
        """
        from tvm.relax.backend.cpu_generic import pipeline

        return [
            *pipeline.dataflow_lower_passes(self.target),
            *pipeline.finalize_passes(self.target),
        ]


class CpuBackend(Backend):
    """Code for this machine's CPU, or one like it."""

    def schedules(self) -> Schedules:
        """Return our own schedules: TVM has none."""
        return DefaultSchedules(self.profile, self.threads)

    def compile(self, lowered: Any, kernels: Mapping[str, Choice]) -> Code:
        """Compile by LLVM; kernels are made ready to be run here."""
        import tvm

        for choice in kernels.values():
            choice.template.prepare(choice.config)
        finish = tvm.transform.Sequential(self.finishing_passes())
        finish_pass = tvm.transform.module_pass(lambda mod, _context: finish(mod), opt_level=0)
        return Code(compile_module(lowered, self.target, relax_pipeline=finish_pass))


class CudaBackend(Backend):
    """Code for a GPU, which need not be here.

    Raises
    ------
    AutotuneError
        If nothing is known of the device's peaks, by which kernels are chosen that nobody tuned.
    """

    def __init__(self, profile: HardwareProfile, threads: int) -> None:
        super().__init__(profile, threads)
        if profile.peaks is None:
            raise AutotuneError(
                f"no data file has the peaks of {profile.name}, and choosing kernels needs them;"
                " name the nearest device, such as --target cuda:h200"
            )

    def schedules(self) -> Schedules:
        """Return TVM's rules for GPUs."""
        return CudaSchedules(self.target)

    def compile(self, lowered: Any, kernels: Mapping[str, Choice]) -> Code:
        """Compile to cubins, with no need of a driver.

        TVM's own build takes one pipeline for all functions, of which templates need another one,
        and would put source in the place of machine code where there is no driver.
        """
        import tvm
        from tvm import relax
        from tvm.relax import vm_build

        from autotune.models.device_code import compile_functions

        finished = without_bodies(tvm.transform.Sequential(self.finishing_passes()), lowered)
        builder = relax.ExecBuilder()
        left = vm_build._vmcodegen(builder, finished)
        functions = {variable.name_hint: f for variable, f in left.functions_items()}
        host, device = compile_functions(functions, self.profile)
        linked = relax._ffi_api.VMLink(builder, self.target, host, [], {})
        return Code(
            relax.VMExecutable(linked), host, tuple(device), self._predicted(kernels, device)
        )

    def _predicted(
        self, kernels: Mapping[str, Choice], device: Iterable[DeviceCode]
    ) -> dict[str, float]:
        """Estimate the kernels of templates, with the registers that they were given."""
        resources = {name: r for code in device for name, r in code.resources.items()}
        seconds = {}
        for name, choice in kernels.items():
            if isinstance(choice.template, CudaTemplate):
                work = choice.template.work(choice.workload, choice.config)
                work = replace(work, registers=resources[f"{name}_kernel"].registers)
                seconds[name] = estimate(work, self.profile)
        return seconds


def backend_for(profile: HardwareProfile, threads: int) -> Backend:
    """Return the backend of a kind of hardware; raises AutotuneError if it cannot serve."""
    return {"cpu": CpuBackend, "cuda": CudaBackend}[profile.kind](profile, threads)
