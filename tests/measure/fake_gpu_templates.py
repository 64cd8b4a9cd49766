"""Builds "machine code" for the stand-in of the CUDA driver: ``python -m fake_gpu_templates``.

Takes the place of the CUDA builder: the config says how the kernel behaves.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from autotune.kernels.cuda.tensor_map import TensorMap
from autotune.measure.protocol import Channel


class FakeBuilder:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def setup(self, workload: dict[str, Any], folder: str, **_: Any) -> dict[str, Any]:
        self.workload, self.folder = workload, Path(folder)
        return {}

    def build(self, template: str, config: dict[str, Any], name: str) -> dict[str, Any]:
        self.channel.phase("build")
        behaviour = config["behaviour"]
        if behaviour == "spills":
            failure = {"failure": "compile_error", "message": "spills: 8 bytes of spill stores"}
            return {**failure, "phases": {"build": 0.1}}
        if behaviour == "slow build":
            time.sleep(60)
        w = self.workload
        path = self.folder / f"{name}.cubin"
        path.write_text(f"{behaviour} {w['m']} {w['n']} {w['k']}")
        kernel = {
            "path": str(path),
            "code": behaviour,
            "name": "main_kernel",
            "grid": [1, 1, 1],
            "shared_bytes": 4096,
            "parameters": [0, 1, 2],
            "cluster": 1,
        }
        if behaviour == "mapped":  # as "right", but A comes by a tensor map, and in clusters
            w = self.workload
            tensor = TensorMap(0, "float32", (w["k"], w["m"]), (4 * w["k"],), (4, 8), 3, 2)
            kernel |= {"parameters": [tensor.to_json(), 1, 2], "cluster": 2, "grid": [4, 1, 1]}
        if behaviour == "scratch":  # B is copied first, and multiplied from there
            copy = {**kernel, "name": "copy_kernel", "parameters": [1, 3], "block": [64, 1, 1]}
            size = 4 * w["k"] * w["n"]
            kernel |= {"parameters": [0, 3, 2], "before": [copy], "scratch": [size]}
        block = [2048 if behaviour == "too-wide" else 32, 1, 1]
        return {
            "kernel": {**kernel, "block": block},
            "features": {"registers": 42},
            "phases": {"build": 0.1},
        }


if __name__ == "__main__":
    channel = Channel()
    builder = FakeBuilder(channel)
    assert "torch" not in sys.modules
    channel.serve({"setup": builder.setup, "build": builder.build})
