"""Measure on a GPU what was compiled elsewhere: neither TVM nor a compiler is needed there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles.cuda_driver import LIBRARY
from autotune.measure.cuda import CudaMeasurer
from autotune.measure.options import MeasureOptions
from autotune.search.parameters import lists_to_tuples
from autotune.search.space import Config
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm


@dataclass(frozen=True)
class PackedKernel:
    """Machine code of one config, as the CUDA builder describes it.

    Parameters
    ----------
    template, config
        What it was built from.
    kernel
        How it is launched; ``file`` is where its cubin is, from the folder of the package.
    features
        What the compiler said of it.
    """

    template: str
    config: Config
    kernel: Mapping[str, Any]
    features: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            "template": self.template,
            "config": self.config.to_json(),
            "kernel": dict(self.kernel),
            "features": dict(self.features),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PackedKernel:
        """Rebuild a kernel from :meth:`to_json`."""
        config = Config({name: lists_to_tuples(value) for name, value in data["config"].items()})
        return cls(data["template"], config, data["kernel"], data["features"])


class PackedMeasurer(CudaMeasurer):
    """A measurer whose builder is a folder of cubins.

    Parameters
    ----------
    workload, profile, options, device, library
        As those of :class:`CudaMeasurer`.
    kernels
        What there is for this workload.
    folder
        Where their files are.
    """

    def __init__(
        self,
        workload: Gemm,
        profile: HardwareProfile,
        kernels: Iterable[PackedKernel],
        folder: Path,
        options: MeasureOptions | None = None,
        device: int = 0,
        library: str = LIBRARY,
    ) -> None:
        super().__init__(workload, profile, options, (), device, library)
        self.folder = folder
        self._packed = {(k.template, k.config.key): k for k in kernels}

    def _build(self, template: str, config: Config) -> dict[str, Any] | Result:
        packed = self._packed.get((template, config.key))
        if packed is None:
            return Result.failed(FailureKind.COMPILE_ERROR, f"not in {self.folder}: {config.key}")
        kernel = {**packed.kernel, "path": str(self.folder / packed.kernel["file"])}
        return {"kernel": kernel, "features": dict(packed.features), "phases": {}}
