"""Prints a digest of many kernels as TVMScript; run in processes that hash differently."""

from __future__ import annotations

import hashlib
import random
import sys

from autotune.hw_profiles import HardwareProfile
from autotune.kernels.base import load_templates
from autotune.workload import Gemm


def digest() -> str:
    profile = HardwareProfile("cpu", "p", "x", simd_bits=512, vector_registers=32, l2_bytes=1 << 20)
    total = hashlib.sha256()
    for name, template in sorted(load_templates().items()):
        workload = Gemm(
            48,
            40,
            36,
            layout="nt" if name == "cpu_inner" else "nn",
            dtype="bfloat16" if name == "cpu_dot" else "float32",
        )
        space, rng = template.space(workload, profile, 2), random.Random(0)
        for config in [*space.defaults, *(space.sample(rng) for _ in range(6))]:
            total.update(template.build(workload, config).script().encode())
    return total.hexdigest()


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would import it, for seconds
    print(digest())
