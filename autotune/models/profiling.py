"""Where the time of a compiled model goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from autotune.errors import AutotuneError


def profile(executable: Any, inputs: Sequence[Any], repeats: int) -> dict[str, float]:
    """Return the seconds of one call by function: medians over ``repeats`` calls.

    Each function is timed by the virtual machine's hooks around it, which costs some microseconds
    that are counted with the function.
    """
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(executable, tvm.cpu())
    main = machine["main"]
    main(*inputs)
    main(*inputs)
    spent: dict[str, float] = {}
    starts: list[float] = []

    def hook(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if before:
            starts.append(time.perf_counter())
        else:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - starts.pop()
        return 0

    machine.set_instrument(hook)
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        spent.clear()
        main(*inputs)
        runs.append(dict(spent))
    names = {name for run in runs for name in run}
    medians = {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def random_inputs(inputs: Sequence[tuple[tuple[Any, ...], str]]) -> list[Any]:
    """Return random tensors of these shapes and types; whole numbers are zeros and ones.

    Raises
    ------
    AutotuneError
        If an extent is only known at run time.
    """
    import numpy as np
    import tvm

    from autotune.kernels.verify import numpy_dtype

    rng = np.random.default_rng(0)
    tensors = []
    for shape, dtype in inputs:
        if not all(isinstance(extent, int) for extent in shape):
            raise AutotuneError(f"cannot make up an input of shape {shape}; run the model yourself")
        whole = dtype.startswith(("int", "uint", "bool"))
        values: Any = rng.integers(0, 2, shape) if whole else rng.uniform(-1.0, 1.0, shape)
        tensors.append(tvm.runtime.tensor(values.astype(numpy_dtype(dtype))))
    return tensors
