"""The worker that builds CUDA candidates: ``python -m autotune.measure.cuda_builder``.

It needs no GPU. A template that crashes TVM, or a compiler that hangs, costs this process only.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.measure.building import Failure, brief
from autotune.measure.protocol import Channel, isolate
from autotune.measure.worker import _timed
from autotune.trial import FailureKind


class CudaBuilder:
    """State of the worker: one workload and one device."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def setup(
        self,
        workload: Mapping[str, Any],
        profile: Mapping[str, Any],
        folder: str,
        plugins: list[str],
        sys_path: list[str],
    ) -> dict[str, Any]:
        """Take the workload, the device's profile and the folder for machine code."""
        from autotune.hw_profiles import HardwareProfile
        from autotune.kernels.base import load_templates
        from autotune.workload import Gemm

        sys.path.extend(p for p in sys_path if p not in sys.path)
        self.templates = load_templates(plugins)
        self.workload = Gemm.from_json(workload)
        self.profile = HardwareProfile.from_json(profile)
        self.folder = Path(folder)
        return {}

    def build(self, template: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Compile one config to ``FOLDER/NAME.cubin``.

        The answer holds ``kernel`` (how it is launched, its ``path``, and ``code``, a digest of the
        machine code) and ``features``, or
        ``failure`` and ``message``; and in any case ``phases``.
        """
        phases: dict[str, float] = {}
        self.channel.phase("build")
        try:
            with _timed(phases, "build"):
                kernel, features = self._build(template, config, self.folder / f"{name}.cubin")
        except Failure as failure:
            return {"failure": failure.kind.value, "message": str(failure), "phases": phases}
        return {"kernel": kernel, "features": features, "phases": phases}

    def _build(
        self, template: str, config: Mapping[str, Any], path: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from autotune.hw_profiles import cuda_arch, tvm_target
        from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin
        from autotune.kernels.cuda.source import lower
        from autotune.search.parameters import lists_to_tuples
        from autotune.search.space import Config

        values = Config({name: lists_to_tuples(value) for name, value in config.items()})
        try:
            module = self.templates[template].build(self.workload, values)
        except Exception as error:
            raise Failure(FailureKind.SCHEDULE_ERROR, brief(error)) from None
        try:
            source = lower(module, tvm_target(self.profile, 1))
            cubin = compile_cubin(source.text, cuda_arch(self.profile), source.threads)
        except CudaCompileError as error:
            raise Failure(FailureKind.COMPILE_ERROR, str(error)) from None
        except Exception as error:
            raise Failure(FailureKind.COMPILE_ERROR, brief(error)) from None
        path.write_bytes(cubin.image)
        features = {**cubin.resources.to_json(), "shared_bytes": source.shared_bytes}
        code = hashlib.sha256(cubin.image).hexdigest()[:16]
        return {**source.launch_json(), "path": str(path), "code": code}, features


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    builder = CudaBuilder(channel)
    channel.serve({"setup": builder.setup, "build": builder.build})


if __name__ == "__main__":
    main()
