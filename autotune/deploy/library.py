"""Load kernels from an exported library; TVM's compiler is not needed for that."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autotune.choice import Choice
from autotune.deploy.export import FORMAT
from autotune.deploy.files import present_file, refuse_other_cpu
from autotune.deploy.source import DESCRIPTION
from autotune.errors import AutotuneError, InvalidWorkload, UnsupportedTarget
from autotune.hw_profiles import detect_cpu
from autotune.kernel import Kernel
from autotune.log import Tier
from autotune.search.parameters import lists_to_tuples
from autotune.search.space import Config
from autotune.workload import Gemm


class Library(Mapping[Gemm, Kernel]):
    """The kernels of an exported library, by workload.

    Attributes
    ----------
    path
        The file.
    description
        What is known of it: target, versions, and for each kernel its workload, template, config.
    """

    def __init__(self, path: Path, description: dict[str, Any], kernels: dict[Gemm, Kernel]):
        self.path, self.description, self._kernels = path, description, kernels

    def __getitem__(self, workload: Gemm) -> Kernel:
        """Return the kernel of a workload; raises AutotuneError for one that is not there."""
        try:
            return self._kernels[workload]
        except KeyError:
            known = "; ".join(kernel.key for kernel in self._kernels)
            raise AutotuneError(f"{self.path} has no {workload.key}; it has {known}") from None

    def __contains__(self, workload: object) -> bool:
        return workload in self._kernels

    def __iter__(self) -> Iterator[Gemm]:
        return iter(self._kernels)

    def __len__(self) -> int:
        return len(self._kernels)


def open_library(path: str | os.PathLike[str]) -> Library:
    """Load every kernel of an exported library.

    Raises
    ------
    UnsupportedTarget
        If it was made for a CPU with features that this one lacks.
    AutotuneError
        If it cannot be loaded, or is no library of autotune's.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise AutotuneError(f"there is no library {file}")
    with present_file(file) as name:
        native, description = _describe(file, name)
        _check_cpu(native, description, file)
        kernels = _kernels(file, name, description)
    return Library(file, description, {kernel.workload: kernel for kernel in kernels})


def _kernels(path: Path, name: str, description: Mapping[str, Any]) -> list[Kernel]:
    from tvm_ffi import load_module

    try:
        module = load_module(name, keep_module_alive=True)
        threads = int(description["target"]["threads"])
        return [_kernel(module, entry, threads) for entry in description["kernels"]]
    except (RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise AutotuneError(f"{path} cannot be loaded: {error}") from None


def load_library(path: str | os.PathLike[str], workload: Gemm | None = None) -> Kernel:
    """Return a kernel of an exported library, to be called like one of :func:`load_kernel`.

    Neither the log nor TVM's compiler is needed. Where TVM's runtime is loaded too, parallel
    kernels share its threads; else the library has its own.

    Parameters
    ----------
    path
        What :meth:`Kernel.export` or ``autotune export`` wrote.
    workload
        Which of its kernels; needed only if it has several.

    Raises
    ------
    UnsupportedTarget
        If the library was made for a CPU with features that this one lacks.
    AutotuneError
        If it cannot be loaded, or has no such kernel.
    """
    library = open_library(path)
    if workload is None:
        if len(library) != 1:
            known = "; ".join(kernel.key for kernel in library)
            raise AutotuneError(f"{path} has several kernels; name the workload of one: {known}")
        (workload,) = library
    return library[workload]


def _describe(path: Path, name: str) -> tuple[ctypes.CDLL, dict[str, Any]]:
    """Return a library and what it says of itself. Opening it runs none of its code."""
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        said = str(error).replace(name, str(path))
        raise AutotuneError(f"{path} cannot be loaded: {said}") from None
    try:
        text = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, DESCRIPTION)))
        description = json.loads(text)
    except ValueError:  # no such symbol, or no JSON
        raise AutotuneError(
            f"{path} is not a library that autotune exported: it has no {DESCRIPTION}"
        ) from None
    if description.get("format") != FORMAT:
        raise AutotuneError(f"{path} was made by another version of autotune; export it again")
    return library, dict(description)


def _check_cpu(library: ctypes.CDLL, description: Mapping[str, Any], path: Path) -> None:
    """Refuse what this CPU cannot run; asks Linux for the use of AMX where it is needed."""
    refuse_other_cpu(detect_cpu(), description, path, "tune and export it here")
    if library.autotune_check_cpu() != 0:
        library.autotune_last_error.restype = ctypes.c_char_p
        raise UnsupportedTarget(f"{path}: {library.autotune_last_error().decode()}")


def _kernel(module: Any, entry: Mapping[str, Any], threads: int) -> Kernel:
    try:
        workload = Gemm.from_json(entry["workload"])
    except InvalidWorkload as error:
        raise ValueError(str(error)) from None
    template = entry["template"]
    config = Config({name: lists_to_tuples(value) for name, value in entry["config"].items()})
    choice = Choice(
        template["name"],
        template["version"],
        config,
        Tier(entry["tier"]),
        entry["note"],
        entry["cost"],
    )
    pack = shape = None
    if entry["packed_shape"] is not None:
        pack, shape = module[entry["pack_symbol"]], tuple(entry["packed_shape"])
    function = module[entry["symbol"]]
    return Kernel(workload, function, pack, shape, choice=choice, threads=threads)
