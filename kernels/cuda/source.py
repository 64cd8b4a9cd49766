"""From a template's module to CUDA source and how it is launched. Needs no driver and no GPU."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
#: How a kernel that is given maps for TMA takes them.
_TENSOR_MAP = "const __grid_constant__ CUtensorMap "
#: Loops marked for unrolling stay loops with a pragma: the text is a tenth as long, and ptxas makes
#: the same code of it.
_PASSES = {"tirx.UnrollLoop": {"explicit_unroll": False}}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How one kernel is launched.

    Parameters
    ----------
    name
        Name of the ``extern "C" __global__`` function.
    parameters
        What it takes: the number of an argument, whose pointer it is, or the map through which TMA
        reaches one. Arguments are those of ``main``, scratch memory last.
    grid, block
        Extents in blocks and threads, x first.
    shared_bytes
        Dynamic shared memory of a block.
    cluster
        Blocks of a cluster, along x.
    """

    name: str
    parameters: tuple[int | TensorMap, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    cluster: int = 1

    @property
    def block_threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.block)

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


@dataclass(frozen=True, kw_only=True)
class KernelSource(Launch):
    """CUDA C++ of the kernel that computes the product, its launch, and what it needs besides.

    Parameters
    ----------
    text
        One translation unit, with this kernel and those that come before it.
    before
        Launches that each call makes first, in order: they rearrange operands.
    scratch
        Bytes of each piece of device memory that ``main`` takes after C. Whoever loads the kernel
        owns it: he allocates it, fills it with zeros once, and lets no two calls run at a time. It
        holds nothing that outlives a call but what the kernel itself put back to zero.
    """

    text: str
    before: tuple[Launch, ...] = ()
    scratch: tuple[int, ...] = ()

    @property
    def launches(self) -> tuple[Launch, ...]:
        """What a call launches, in order."""
        return (*self.before, self)

    @property
    def threads(self) -> int:
        """Threads of the largest block."""
        return max(launch.block_threads for launch in self.launches)

    def launch_json(self) -> dict[str, Any]:
        """Return what a runner needs besides the machine code, as JSON types."""
        needs: dict[str, Any] = super().launch_json()
        if self.before:
            needs["before"] = [launch.launch_json() for launch in self.before]
        if self.scratch:
            needs["scratch"] = list(self.scratch)
        return needs


#: The name that the last argument of a workload has in every template.
_OUTPUT = "c"


def lower(module: Any, target: Mapping[str, Any]) -> KernelSource:
    """Lower a module of ``tirx`` functions to CUDA source.

    Parameters
    ----------
    module
        What a CUDA template's ``build`` returns: ``main``, whose arguments after C are scratch
        memory, and functions of some of main's arguments, by their names, that come before it in
        the order of their own names.
    target
        From :func:`autotune.hw_profiles.tvm_target`.

    Raises
    ------
    ValueError
        If a function is not one kernel, or an argument of ``main`` reaches none, as a pointer or by
        a map.
    """
    main = module["main"]
    names = [p.name for p in main.params]
    lowered = split_and_lower(module, target, "tirx")
    before = sorted(v.name_hint for v in module.functions if v.name_hint != "main")
    *first, last = [lowered.launch(function, names) for function in (*before, "main")]
    parameters = [p for launch in (*first, last) for p in launch["parameters"]]
    reached = {p if isinstance(p, int) else p.argument for p in parameters}
    if reached != set(range(len(names))):
        raise ValueError(f"the kernels take {sorted(reached)} of {names}")
    return KernelSource(
        text=lowered.text,
        before=tuple(Launch(**launch) for launch in first),
        scratch=tuple(_bytes(p.ty) for p in main.params[names.index(_OUTPUT) + 1 :]),
        **last,
    )


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

    def launch(self, function: str, names: list[str]) -> dict[str, Any]:
        """Return the fields of :class:`Launch` for the only kernel of a function.

        Parameters
        ----------
        function
            Its name.
        names
            The names of the arguments that the kernel's parameters are told by.
        """
        taken = {v.name_hint: [p.name for p in f.params] for v, f in self.kernels.functions.items()}
        return _launch(self.host[function].script(), taken, names)


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
    return Lowered(host, kernels, _aligned(text) if _TENSOR_MAP in text else text)


def _bytes(buffer: Any) -> int:
    from tvm.runtime import DataType

    bits = int(DataType(str(buffer.dtype)).bits)
    return math.prod(int(extent) for extent in buffer.shape) * bits // 8


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
    if len(found) != len(taken):
        raise ValueError(f"the kernel takes {taken} for {names}")
    return found


def _aligned(text: str) -> str:
    """Return a text with its kernels' shared memory at a multiple of the swizzle's pattern."""
    wanted = f"extern __shared__ __align__({_SWIZZLE_ALIGNMENT}) uchar "
    aligned, changed = _SHARED_DECLARATION.subn(wanted, text)
    if changed < 1:
        raise ValueError("found no declaration of shared memory")
    return aligned


def _launch(host: str, taken: Mapping[str, list[str]], names: list[str]) -> dict[str, Any]:
    """Read the fields of :class:`Launch` from the text of the host function."""
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
        "parameters": _parameters(taken[calls[0]["name"]], names, host),
        "grid": extent("blockIdx"),
        "block": extent("threadIdx"),
        "shared_bytes": extents.get(_DYNAMIC_SHARED, 0),
        "cluster": extents.get("clusterCtaIdx.x", 1),
    }
