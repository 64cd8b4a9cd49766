"""The problem that all candidates of a workload are checked on: does it fit, and its file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError
from autotune.hw_profiles.cgroups import memory_limit
from autotune.measure.operands import operand_bytes

if TYPE_CHECKING:
    from autotune.workload import Gemm


def check_memory(workload: Gemm) -> None:
    """Refuse a workload whose result cannot be compared with a reference in this machine's memory.

    What is needed at the very least counts: the operands, C as the kernel and as the comparison
    have it, and three arrays of C's shape in float64 (the reference, the errors and their bounds).

    Raises
    ------
    AutotuneError
        If that is more than there is.
    """
    from autotune.kernels.verify import numpy_dtype

    of_an_element = numpy_dtype(workload.out_dtype).itemsize + 3 * 8
    needed = operand_bytes(workload) + of_an_element * math.prod(workload.c_shape)
    if needed > memory_bytes():
        raise AutotuneError(_too_large(workload, f"it takes at least {_gib(needed)}"))


def write_problem(path: Path, workload: Gemm) -> None:
    """Compute inputs and float64 reference, and write them for the workers.

    Raises
    ------
    AutotuneError
        If there is not enough memory, or not enough room in the folder.
    """
    from autotune.kernels.verify import make_problem, save_problem

    try:
        save_problem(path, make_problem(workload))
    except MemoryError as error:
        raise AutotuneError(_too_large(workload, str(error))) from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise AutotuneError(
            f"cannot write inputs and reference to {path.parent}: {error.strerror or error}; set"
            " TMPDIR to a folder with more room"
        ) from None


def memory_bytes() -> int:
    """Return the size of this machine's memory, or what a container leaves of it."""
    # Not by psutil: a machine that runs packed kernels has NumPy only.
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    return whole if limit is None else min(whole, limit)


def _too_large(workload: Gemm, why: str) -> str:
    return (
        f"{workload.key} is too large to be run and compared with"
        f" float64 on this machine, which has {_gib(memory_bytes())} of memory"
        f" ({why}); tune it with a smaller m, and load the kernel with fallback='nearest'"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
