"""The worker that builds candidates for another to time: ``python -m autotune.measure.builder``.

It has no data of the problem and never calls what it builds. Like the kernel worker it lives as
long as the run, and whatever goes wrong inside a candidate ends at most this process.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.measure.building import Compiler, Failure
from autotune.measure.protocol import Channel, isolate


class Builder:
    """State of the worker: one workload."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def setup(
        self,
        workload: Mapping[str, Any],
        target: Mapping[str, Any],
        plugins: list[str],
        sys_path: list[str],
    ) -> dict[str, Any]:
        """Take the workload."""
        self.compiler = Compiler(workload, target, plugins, sys_path)
        # What is loaded by now stays: the collector need not look at it after every candidate.
        gc.collect()
        gc.freeze()
        return {}

    def build(
        self, template: str, config: Mapping[str, Any], path: str, linker: str
    ) -> dict[str, Any]:
        """Write one config as a shared library; see :meth:`Compiler.shared_library`."""
        self.channel.phase("build")
        # This process may be halted in between, so its own time is what building took.
        start = time.process_time()
        try:
            digest = self.compiler.shared_library(template, config, Path(path), linker)
        except Failure as failure:
            answer = {"failure": failure.kind.value, "message": str(failure)}
        else:
            answer = {"digest": digest}
        return {**answer, "seconds": round(time.process_time() - start, 6)}


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    builder = Builder(channel)
    channel.serve({"setup": builder.setup, "build": builder.build})


if __name__ == "__main__":
    main()
