"""From a template's module to CUDA source and how it is launched. Needs no driver and no GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CALL = re.compile(
    r'call_ffi_kernel\("(?P<name>\w+)", (?P<values>.*?), launch_params=\[(?P<tags>[^\]]*)\]'
)
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"
#: Loops marked for unrolling stay loops with a pragma: the text is a tenth as long, and ptxas makes
#: the same code of it.
_PASSES = {"tirx.UnrollLoop": {"explicit_unroll": False}}


@dataclass(frozen=True)
class KernelSource:
    """CUDA C++ of one kernel and its launch.

    Parameters
    ----------
    text
        One translation unit with one ``extern "C" __global__`` function.
    name
        Name of that function. Its parameters are the pointers of ``main``, in the same order.
    grid, block
        Extents in blocks and threads, x first.
    shared_bytes
        Dynamic shared memory of a block.
    """

    text: str
    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    def launch_json(self) -> dict[str, Any]:
        """Return what a runner needs besides the machine code, as JSON types."""
        return {
            "name": self.name,
            "grid": list(self.grid),
            "block": list(self.block),
            "shared_bytes": self.shared_bytes,
        }


def lower(module: Any, target: Mapping[str, Any]) -> KernelSource:
    """Lower a module of one ``tirx`` function ``main`` to CUDA source.

    Parameters
    ----------
    module
        What a CUDA template's ``build`` returns.
    target
        From :func:`autotune.hw_profiles.tvm_target`.

    Raises
    ------
    ValueError
        If it is not one kernel that takes every argument of ``main``.
    """
    import tvm
    from tvm import tirx
    from tvm.tirx.build import codegen_build, split_host_device_mods

    parameters = [p.name for p in module["main"].params]
    device = tvm.target.Target(dict(target))
    bound = device.with_host(tvm.target.Target("llvm"))
    with device, tvm.transform.PassContext(config=_PASSES):
        lowered = tirx.transform.BindTarget(bound)(module)
        pipeline, _, finish_device = tirx.get_tir_pipeline("tirx")
        host, devices = split_host_device_mods(pipeline(lowered))
        ((device_target, kernels),) = devices.items()
        (kernel,) = kernels.functions.values()
        text = codegen_build(finish_device()(kernels), device_target).inspect_source()
    taken = [p.name.removesuffix("_ptr") for p in kernel.params]
    if taken != parameters:
        raise ValueError(f"the kernel takes {taken} instead of {parameters}")
    return KernelSource(text, *_launch(host["main"].script()))


def _launch(host: str) -> tuple[str, tuple[int, int, int], tuple[int, int, int], int]:
    """Read name, grid, block and shared bytes from the text of the host function."""
    calls = list(_CALL.finditer(host))
    if len(calls) != 1:
        raise ValueError(f"expected one kernel launch, found {len(calls)}")
    tags = re.findall(r'"([^"]+)"', calls[0]["tags"])
    values = [int(value) for value in re.findall(r"(?<![\w.])-?\d+(?![\w.])", calls[0]["values"])]
    extents = dict(zip(tags, values[-len(tags) :], strict=True))
    grid, block = (
        tuple(extents.get(f"{kind}.{axis}", 1) for axis in "xyz")
        for kind in ("blockIdx", "threadIdx")
    )
    return calls[0]["name"], grid, block, extents.get(_DYNAMIC_SHARED, 0)
