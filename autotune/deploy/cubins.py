"""Write CUDA kernels as files: machine code, a description of their launches, a C header."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.call import Argument
from autotune.deploy.cubins_header import cubins_header
from autotune.deploy.source import symbol_of
from autotune.errors import AutotuneError
from autotune.hw_profiles import cuda_arch, same_product, tvm_target
from autotune.identity import target_json, tool_versions
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin, require_compiler
from autotune.kernels.cuda.source import Launch, lower

if TYPE_CHECKING:
    from autotune.deploy.export import Item
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.cuda.compile import Compiler
    from autotune.log import TuningLog

#: Version of the description's meaning.
FORMAT = 1
DESCRIPTION, HEADER = "kernels.json", "kernels.h"


@dataclass(frozen=True)
class GpuKernel:
    """One kernel on its way to files.

    Parameters
    ----------
    symbol, file, comment
        Its name, that of the file with its machine code, and one line about it.
    arguments
        Inputs, then the output.
    scratch
        Bytes of each piece of memory that it needs besides.
    launches
        What a call launches, in order; parameters count arguments first, scratch memory after.
    """

    symbol: str
    file: str
    comment: str
    arguments: tuple[Argument, ...]
    scratch: tuple[int, ...]
    launches: tuple[Launch, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a runner needs, as JSON types."""
        return {
            "symbol": self.symbol,
            "file": self.file,
            "arguments": [
                {"name": x.name, "shape": list(x.shape), "dtype": x.dtype} for x in self.arguments
            ],
            "scratch": list(self.scratch),
            "launches": [Launch.launch_json(launch) for launch in self.launches],
        }


def export_cubins(
    items: Sequence[Item],
    folder: Path,
    profile: HardwareProfile,
    header: bool = False,
    compiler: Compiler | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[GpuKernel]:
    """Write a folder with a cubin for each kernel and ``kernels.json``, which says how they launch.

    Parameters
    ----------
    items
        Kernels of different workloads.
    folder
        Where to; it is made if it is not there, and files of the same names are replaced.
    profile
        The GPU; it need not be here.
    header
        Whether to write ``kernels.h`` too, which launches them from C by the CUDA driver.
    compiler
        By default nvcc or NVRTC, whichever is here.

    Returns
    -------
    list of GpuKernel
        What the folder offers.

    Raises
    ------
    AutotuneError
        If a kernel does not compile, or a file cannot be written.
    UnsupportedTarget
        If there is no compiler.
    """
    if not items:
        raise AutotuneError("there is no kernel to export")
    compiler = compiler or require_compiler()
    kernels, described, images = [], [], {}
    for item in items:
        progress(item.workload.key)
        kernel, image, resources = _compiled(item, profile, compiler)
        kernels.append(kernel)
        images[kernel.file] = image
        described.append({**kernel.to_json(), **_origin(item), "resources": resources})
    description = {
        "format": FORMAT,
        "target": target_json(profile, 1),
        "tools": {**tool_versions(), "cuda_compiler": compiler.description},
        "kernels": described,
    }
    files = {**images, DESCRIPTION: (json.dumps(description, indent=1) + "\n").encode()}
    if header:
        files[HEADER] = cubins_header(kernels, profile.name, cuda_arch(profile)).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise AutotuneError(f"cannot write {folder}: {error.strerror}") from None
    return kernels


def _compiled(
    item: Item, profile: HardwareProfile, compiler: Compiler
) -> tuple[GpuKernel, bytes, dict[str, Any]]:
    """Return one kernel, its machine code, and what the compiler said of it."""
    workload, choice = item.workload, item.choice
    symbol = symbol_of(workload)
    source = lower(
        get_template(choice.template).build(workload, choice.config), tvm_target(profile, 1)
    )
    try:
        cubin = compile_cubin(source.text, cuda_arch(profile), source.threads, compiler)
    except CudaCompileError as error:
        raise AutotuneError(f"the kernel of {workload.key} does not compile: {error}") from None
    rate = "" if choice.cost is None else f", {workload.flops / choice.cost / 1e12:.1f} TFLOP/s"
    kernel = GpuKernel(
        symbol,
        f"{symbol}.cubin",
        f"{workload.key} ({choice.note}{rate})",
        (
            *(Argument(*argument) for argument in workload.inputs),
            Argument("c", workload.c_shape, workload.out_dtype),
        ),
        source.scratch,
        source.launches,
    )
    return kernel, cubin.image, cubin.resources.to_json()


def _origin(item: Item) -> dict[str, Any]:
    choice = item.choice
    return {
        "workload": item.workload.to_json(),
        "template": {"name": choice.template, "version": choice.version},
        "config": choice.config.to_json(),
        "tier": choice.tier.value,
        "note": choice.note,
        "cost": choice.cost,
    }


def as_logged(profile: HardwareProfile, log: TuningLog) -> HardwareProfile:
    """Return a GPU under the name by which a log has results of the same product, if it has any.

    Where kernels are made without the GPU it is named by its data file; its results, from the
    machine that has it, are under the name that its driver says.
    """
    names = {
        str(trial.target["name"])
        for trial in log.scan().trials
        if trial.ok and trial.target.get("kind") == "cuda"
    }
    if profile.gpu is None or profile.name in names:
        return profile
    return next(
        (
            replace(profile, name=name)
            for name in sorted(names)
            if same_product(name, profile.arch, profile.gpu.sms) == profile
        ),
        profile,
    )
