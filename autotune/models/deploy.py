"""Compiled models as shared libraries, and loading them where TVM's compiler is absent."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.deploy.files import c_compiler, present_file, put_library, refuse_other_cpu
from autotune.deploy.gpu import import_code, require_gpu
from autotune.errors import AutotuneError
from autotune.hw_profiles import cuda_arch, detect_cpu
from autotune.identity import target_json, tool_versions
from autotune.kernels.base import get_template
from autotune.models.function import Input, ModelFunction
from autotune.search.parameters import lists_to_tuples
from autotune.search.space import Config

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.models.backend import Code
    from autotune.models.coverage import Coverage

#: Name of the string that says what a library holds, and the version of its meaning.
_SYMBOL, _FORMAT = "autotune_model_description", 1
#: Name of the machine code for a GPU: modules one after the other, whose sizes the string says.
_CODE_SYMBOL = "autotune_model_device_code"
#: What TVM says of each constant on writing and on reading, which is of no use to anybody.
_NOISE = (b"Warning: Scope Saving:", b"Warning: Scope Loaded:")


def describe(
    inputs: Sequence[Input], profile: HardwareProfile, threads: int, coverage: Coverage
) -> dict[str, Any]:
    """Return what an exported model says of itself, as plain JSON."""
    return {
        "format": _FORMAT,
        "inputs": [{"shape": list(shape), "dtype": dtype} for shape, dtype in inputs],
        "isa": profile.isa,
        "features": sorted(profile.features),
        "target": target_json(profile, threads),
        **({"gpu": {"name": profile.name, "arch": cuda_arch(profile)}} if profile.gpu else {}),
        "tools": tool_versions(),
        "coverage": coverage.to_json(),
    }


def export_model(code: Code, path: Path, description: Mapping[str, Any]) -> None:
    """Write compiled code with its description as a shared library.

    Raises
    ------
    AutotuneError
        If there is no C compiler, or the file cannot be written.
    """
    compiler = c_compiler()
    if compiler is None:
        raise AutotuneError("exporting a model needs a C compiler (cc, gcc or clang) on the PATH")
    modules = [part.to_bytes() for part in code.device]
    if modules:
        description = {**description, "device_code": [len(module) for module in modules]}
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "description.c", Path(folder) / "model.so"
        text = json.dumps(json.dumps(description, ensure_ascii=True))
        lines = [f"const char {_SYMBOL}[] = {text};"]
        if modules:
            (Path(folder) / "device_code").write_bytes(b"".join(modules))
            lines.append(_INCLUDE.format(symbol=_CODE_SYMBOL, file=Path(folder) / "device_code"))
        source.write_text("\n".join([*lines, ""]), "utf-8")
        command = [compiler, "-c", "-fPIC", "-o", str(source.with_suffix(".o")), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise AutotuneError(f"{compiler} failed: {done.stderr.strip()[-400:]}")
        with _without_noise():
            code.executable.export_library(str(made), addons=[str(source.with_suffix(".o"))])
        put_library(made, path)


#: A file as constant data; as an array of C it would take the compiler a minute.
_INCLUDE = """\
__asm__(".section .rodata\\n.globl {symbol}\\n.balign 64\\n{symbol}:\\n"
        ".incbin \\"{file}\\"\\n.previous\\n");"""


class LoadedModel(ModelFunction):
    """A model from a shared library.

    Attributes
    ----------
    description
        What it was compiled for, with which versions, and the coverage of its products.
    """

    def __init__(self, machine: Any, description: dict[str, Any], device: str = "cpu") -> None:
        self._machine, self.description = machine, description
        inputs = [(tuple(x["shape"]), x["dtype"]) for x in description["inputs"]]
        super().__init__(lambda: machine["main"], inputs, device)


def load_model(path: str | os.PathLike[str], device: int = 0) -> LoadedModel:
    """Load a model that ``autotune compile`` or :meth:`CompiledModel.export` wrote.

    TVM's runtime library is needed, its compiler is not, nor is CUDA's.

    Parameters
    ----------
    device
        For a model that was made for a GPU, the number of the one to run it on.

    Raises
    ------
    UnsupportedTarget
        If it was made for a CPU with features that this one lacks, or for a GPU that is not here.
    AutotuneError
        If it cannot be loaded, or is no model of autotune's.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise AutotuneError(f"there is no model {file}")
    _load_runtime()  # even to look into the library
    with present_file(file) as name:
        return _loaded(file, name, device)


def _loaded(file: Path, name: str, device: int) -> LoadedModel:
    """Load a model by the name that the loader takes for it."""
    description = _read_description(file, name)
    gpu = description.get("gpu")
    if gpu is None:
        refuse_other_cpu(detect_cpu(), description, file, "compile it here")
        _prepare(description)
        place = "cpu"
        os.environ.setdefault("TVM_NUM_THREADS", str(description["target"]["threads"]))
    else:
        place = f"cuda:{device}"
        require_gpu(gpu["name"], gpu["arch"], place)
    import tvm_ffi

    try:
        with _without_noise():
            module = tvm_ffi.load_module(name, keep_module_alive=True)
            machine = module["vm_load_executable"]()
        if gpu is not None:
            import_code(module, _device_code(name, description["device_code"]))
        machine["vm_initialization"](*_devices(place))
    except (RuntimeError, AttributeError, ValueError) as error:
        raise AutotuneError(f"{file} cannot be loaded: {error}") from None
    return LoadedModel(machine, description, place)


def _devices(place: str) -> list[int]:
    """Return kind, number and allocator of the device, and then of the CPU for shapes."""
    import tvm_ffi

    pooled, arguments = 2, []
    for name in dict.fromkeys((place, "cpu")):
        device = tvm_ffi.device(name)
        arguments += [int(device.dlpack_device_type()), int(device.index), pooled]
    return arguments


def _device_code(name: str, sizes: Sequence[int]) -> list[bytes]:
    """Return the modules of machine code that a library holds."""
    start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(name), _CODE_SYMBOL))
    modules = []
    for size in sizes:
        modules.append(ctypes.string_at(start, size))
        start += size
    return modules


def _read_description(file: Path, name: str) -> dict[str, Any]:
    try:
        library = ctypes.CDLL(name)
        text = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, _SYMBOL)))
        description = json.loads(text)
    except (OSError, ValueError) as error:
        said = str(error).replace(name, str(file))
        raise AutotuneError(f"{file} is not a model that autotune exported: {said}") from None
    if description.get("format") != _FORMAT:
        raise AutotuneError(f"{file} was made by another version of autotune; compile it again")
    return dict(description)


def _prepare(description: Mapping[str, Any]) -> None:
    """Ask the system for what kernels need, such as the use of AMX."""
    for row in description["coverage"]["rows"]:
        config = {name: lists_to_tuples(value) for name, value in row["config"].items()}
        get_template(row["template"]).prepare(Config(config))


def _load_runtime() -> None:
    """Make TVM's runtime known to the process, without importing TVM and its compiler."""
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise AutotuneError("running a model needs TVM's runtime; pip install apache-tvm")
    folder = Path(next(iter(spec.submodule_search_locations)))
    library = folder / "lib" / "libtvm_runtime.so"
    if not library.exists():
        raise AutotuneError(f"there is no {library}; install apache-tvm anew")
    import tvm_ffi  # noqa: F401 (the runtime's own library is loaded by it)

    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leave out TVM's lines about constants from what the process writes to standard error."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            file.seek(0)
            for line in file:
                if not any(noise in line for noise in _NOISE):
                    os.write(kept, line)
            os.close(kept)
