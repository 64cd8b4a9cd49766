"""Prints a digest of many kernels as TVMScript; run in processes that hash differently."""

from __future__ import annotations

import hashlib
import random
import sys

from autotune.hw_profiles import HardwareProfile, load_profiles
from autotune.kernels.base import load_templates
from autotune.workload import Gemm


def digest() -> str:
    cpu = HardwareProfile("cpu", "p", "x", simd_bits=512, vector_registers=32, l2_bytes=1 << 20)
    profiles = {"cpu": cpu, "cuda": load_profiles()["h200"]}
    narrow = ("cpu_dot", "cpu_dot_swapped", "mma_sync", "wgmma")
    total = hashlib.sha256()
    for name, template in sorted(load_templates().items()):
        workload = Gemm(
            48,
            40,
            40 if name == "wgmma" else 36,  # lines of whole 16 bytes
            layout="nt" if name in ("cpu_inner", "cpu_swapped", "cpu_dot_swapped") else "nn",
            dtype="bfloat16" if name in narrow else "float32",
        )
        space, rng = template.space(workload, profiles[template.kind], 2), random.Random(0)
        draws = 6 if template.kind == "cpu" else 2  # parsing a CUDA kernel takes half a second
        for config in [*space.defaults, *(space.sample(rng) for _ in range(draws))]:
            total.update(template.build(workload, config).script().encode())
    return total.hexdigest()


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would import it, for seconds
    print(digest())
