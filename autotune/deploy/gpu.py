"""Running on a GPU what was compiled elsewhere: TVM's runtime for CUDA, and who may use it."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError, UnsupportedTarget
from autotune.hw_profiles import detect_cuda

_LOADER = "ffi.Module.load_from_bytes.cuda"
#: Kinds of modules that hold the functions which launch kernels: just compiled, or from a file.
_HOSTS = ("llvm", "library")


def require_gpu(made_for: str, arch: str, device: str) -> None:
    """Make this process ready to run a model on a GPU.

    Parameters
    ----------
    made_for
        Name of the device that the model was compiled for.
    arch
        Architecture of its machine code, such as ``sm_80`` or ``sm_90a``.
    device
        ``cuda:NUMBER``, the one to run on.

    Raises
    ------
    UnsupportedTarget
        If there is no driver, no such device, or it cannot run this machine code.
    AutotuneError
        If TVM's runtime for CUDA cannot be loaded.
    """
    try:
        here = detect_cuda(int(device.partition(":")[2]))
    except UnsupportedTarget as error:
        raise UnsupportedTarget(
            f"this model was compiled for {made_for} ({arch}) and runs on a GPU only: {error}"
        ) from None
    if not runs_on(arch, here.arch):
        raise UnsupportedTarget(
            f"this model was compiled for {made_for} ({arch}), whose machine code {here.name}"
            f" ({here.arch}) does not run; compile it with --target {device}"
        )
    load_cuda_runtime()


def runs_on(arch: str, here: str) -> bool:
    """Whether a device of architecture ``here`` runs machine code for ``arch``.

    It has to be of the same generation, and not of an earlier one within that; code with an ``a``
    runs on its own architecture only (CUDA C++ Programming Guide, "Binary Compatibility" and
    "Feature-Specific Architectures").
    """
    if arch.endswith("a"):
        return here == arch.removesuffix("a")
    code, device = (int(re.sub(r"\D", "", name)) for name in (arch, here))
    return code // 10 == device // 10 and code <= device


def load_cuda_runtime() -> None:
    """Make TVM's runtime for CUDA known to the process.

    Raises
    ------
    AutotuneError
        If it is not installed, or what it needs is not: the driver and CUDA's runtime library.
    """
    import tvm_ffi

    if tvm_ffi.get_global_func(_LOADER, allow_missing=True) is not None:
        return
    spec = importlib.util.find_spec("tvm")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder).glob("lib/libtvm_runtime_cuda.so")]
    if not found:
        raise AutotuneError("this TVM has no runtime for CUDA; pip install apache-tvm")
    try:
        ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise AutotuneError(
            f"TVM's runtime for CUDA cannot be loaded: {error}; it needs NVIDIA's driver, and"
            " CUDA's runtime library on the loader's path (pip install nvidia-cuda-runtime)"
        ) from None
    if tvm_ffi.get_global_func(_LOADER, allow_missing=True) is None:
        raise AutotuneError(f"{found[0]} does not load CUDA modules; install apache-tvm anew")


def import_code(module: Any, code: Iterable[bytes]) -> None:
    """Give the functions of a module that launch kernels their machine code.

    Parameters
    ----------
    module
        A compiled module of TVM's, or one that imports it.
    code
        Modules as :meth:`autotune.models.device_code.DeviceCode.to_bytes` writes them.

    Raises
    ------
    AutotuneError
        If there are no such functions in it.
    """
    import tvm_ffi

    host = _host_of(module)
    if host is None:
        raise AutotuneError("this library has no functions that launch kernels; compile it again")
    load = tvm_ffi.get_global_func(_LOADER)
    for data in code:
        host.import_module(load(data))


def _host_of(module: Any) -> Any:
    if module.kind in _HOSTS:
        return module
    return next(filter(None, map(_host_of, module.imports)), None)
