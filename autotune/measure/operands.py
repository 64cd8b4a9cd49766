"""What a workload reads and writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.workload import Gemm


def operand_bytes(workload: Gemm) -> int:
    """Return the bytes of A, B and C together."""
    from autotune.kernels.verify import numpy_dtype

    size, out_size = (numpy_dtype(t).itemsize for t in (workload.dtype, workload.out_dtype))
    operands = math.prod(workload.a_shape) + math.prod(workload.b_shape)
    return size * operands + out_size * math.prod(workload.c_shape)
