"""The worker that builds candidates for another to time: ``python -m autotune.measure.builder``.

It has no data of the problem and never calls what it builds. Like the kernel worker it lives as
long as the run, and whatever goes wrong inside a candidate ends at most this process.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.measure.building import Compiler, Failure
from autotune.measure.protocol import Channel, isolate

#: glibc's allocator keeps what a build frees for the next one. Handing every compiler context back
#: to the system and zeroing its pages anew cost half of the scheduling, a tenth of a build.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES, _GROW_BYTES = 1 << 30, 64 << 20
#: The largest that it takes from the heap, as all else would be handed back.
_HEAP_BYTES = 32 << 20


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


def _keep_memory() -> None:
    """Let freed memory stay with this process, if its C library is one that can be told so."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _GROW_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    sys.modules["torch"] = None  # type: ignore[assignment]
    import tvm  # noqa: F401

    isolate()
    _keep_memory()
    builder = Builder(channel)
    channel.serve({"setup": builder.setup, "build": builder.build})


if __name__ == "__main__":
    main()
