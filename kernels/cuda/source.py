"""From a template's module to CUDA source and how it is launched. Needs no driver and no GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.kernels.cuda.tensor_map import TensorMap

_CALL = re.compile(
    r'call_ffi_kernel\("(?P<name>\w+)", (?P<values>.*?), launch_params=\[(?P<tags>[^\]]*)\]'
)
_MAP = re.compile(
    r'"runtime\.cuTensorMapEncodeTiled", (?P<map>\w+), "(?P<dtype>\w+)", (?P<rank>\d+),'
    r" (?P<data>\w+?)(?:_\d+)?\.data, (?P<values>[\d, ]+)\)"
)
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"
#: TVM declares dynamic shared memory with the alignment of vectors; TMA's swizzled tiles and
#: wgmma's descriptors take for granted that they start at a multiple of the pattern.
_SHARED_DECLARATION = re.compile(r"extern __shared__ __align__\(\d+\) uchar ")
_SWIZZLE_ALIGNMENT = 1024
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
        Name of that function.
    parameters
        What it takes: the number of an argument of ``main``, whose pointer it is, or the map
        through which TMA reaches one.
    grid, block
        Extents in blocks and threads, x first.
    shared_bytes
        Dynamic shared memory of a block.
    cluster
        Blocks of a cluster, along x.
    """

    text: str
    name: str
    parameters: tuple[int | TensorMap, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    cluster: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    def launch_json(self) -> dict[str, Any]:
        """Return what a runner needs besides the machine code, as JSON types."""
        return {
            "name": self.name,
            "parameters": [p if isinstance(p, int) else p.to_json() for p in self.parameters],
            "cluster": self.cluster,
            "grid": list(self.grid),
            "block": list(self.block),
            "shared_bytes": self.shared_bytes,
        }


@dataclass(frozen=True)
class Lowered:
    """A module after lowering, cut in two.

    Parameters
    ----------
    host
        Module of the functions that launch kernels, ready for code generation.
    kernels
        Module of the kernels, likewise; None if there are none.
    text
        CUDA C++ of all kernels, one translation unit; empty if there are none.
    """

    host: Any
    kernels: Any
    text: str


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
        If it is not one kernel that takes every argument of ``main``, as a pointer or by a map.
    """
    return lower_kernel(module, target, "main")[0]


def lower_kernel(module: Any, target: Mapping[str, Any], name: str) -> tuple[KernelSource, Lowered]:
    """Lower a module of one ``tirx`` function of any name, as :func:`lower` does one of ``main``.

    Returns
    -------
    source
        The kernel and its launch.
    lowered
        The function that launches it, and the kernel as TVM has it; ``text`` is that of ``source``.
    """
    names = [p.name for p in module[name].params]
    lowered = split_and_lower(module, target, "tirx")
    (kernel,) = lowered.kernels.functions.values()
    script = lowered.host[name].script()
    parameters = _parameters([p.name for p in kernel.params], names, script)
    if any(isinstance(p, TensorMap) for p in parameters):
        lowered = replace(lowered, text=_aligned(lowered.text))
    return KernelSource(lowered.text, parameters=parameters, **_launch(script)), lowered


def split_and_lower(module: Any, target: Mapping[str, Any], pipeline: str) -> Lowered:
    """Lower a module's functions with a pipeline of TVM's, and write their kernels as CUDA C++.

    Parameters
    ----------
    module
        Any number of functions.
    target
        From :func:`autotune.hw_profiles.tvm_target`.
    pipeline
        ``tirx`` for the functions of templates, ``s_tir`` for scheduled ones.
    """
    import tvm
    from tvm import tirx
    from tvm.tirx.build import codegen_build, split_host_device_mods

    device = tvm.target.Target(dict(target))
    bound = device.with_host(tvm.target.Target("llvm"))
    passes, _, finish = tirx.get_tir_pipeline(pipeline)
    with device, tvm.transform.PassContext(config=_PASSES if pipeline == "tirx" else {}):
        lowered = passes(tirx.transform.BindTarget(bound)(module))
        host, devices = split_host_device_mods(lowered)
        if not devices:
            return Lowered(host, None, "")
        ((device_target, kernels),) = devices.items()
        kernels = finish()(kernels)
        text = codegen_build(kernels, device_target).inspect_source()
    return Lowered(host, kernels, text)


def _parameters(taken: list[str], names: list[str], host: str) -> tuple[int | TensorMap, ...]:
    """Return what the kernel takes, from the names of its parameters and the host's calls."""
    maps = {}
    for call in _MAP.finditer(host):
        argument = names.index(call["data"].removesuffix("_ptr"))
        values = [int(value) for value in f"{call['rank']}, {call['values']}".split(",")]
        maps[call["map"]] = TensorMap.of_call(argument, call["dtype"], values)
    found = tuple(
        maps[name] if name in maps else names.index(name.removesuffix("_ptr"))
        for name in taken
        if name in maps or name.removesuffix("_ptr") in names
    )
    reached = [p if isinstance(p, int) else p.argument for p in found]
    if len(found) != len(taken) or sorted(reached) != list(range(len(names))):
        raise ValueError(f"the kernel takes {taken} for {names}")
    return found


def _aligned(text: str) -> str:
    """Return a kernel's text with its shared memory at a multiple of the swizzle's pattern."""
    wanted = f"extern __shared__ __align__({_SWIZZLE_ALIGNMENT}) uchar "
    aligned, changed = _SHARED_DECLARATION.subn(wanted, text)
    if changed != 1:
        raise ValueError(f"expected one declaration of shared memory, found {changed}")
    return aligned


def _launch(host: str) -> dict[str, Any]:
    """Read name, grid, block, shared bytes and cluster from the text of the host function."""
    calls = list(_CALL.finditer(host))
    if len(calls) != 1:
        raise ValueError(f"expected one kernel launch, found {len(calls)}")
    tags = re.findall(r'"([^"]+)"', calls[0]["tags"])
    values = [int(value) for value in re.findall(r"(?<![\w.])-?\d+(?![\w.])", calls[0]["values"])]
    extents = dict(zip(tags, values[-len(tags) :], strict=True))

    def extent(kind: str) -> tuple[int, ...]:
        return tuple(extents.get(f"{kind}.{axis}", 1) for axis in "xyz")

    return {
        "name": calls[0]["name"],
        "grid": extent("blockIdx"),
        "block": extent("threadIdx"),
        "shared_bytes": extents.get(_DYNAMIC_SHARED, 0),
        "cluster": extents.get("clusterCtaIdx.x", 1),
    }
