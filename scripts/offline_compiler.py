"""The part of TVM that building CUDA kernels takes, for a machine that cannot install it.

Most of it is one library of 250 MB, whatever is left out of the rest; of Python's files those are
taken that a rehearsal (:func:`rehearse`) imports: it does all that tuning does but run kernels.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from elf_columns import by_columns

from autotune.errors import AutotuneError

#: What is packed: import name -> distribution. The rest, as numpy and rich, has to be there.
PACKED = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "msgspec": "msgspec"}
#: Where it lies in the archive.
SITE = "site"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
#: For machine code: targets of jumps are made absolute first, and what is alike lies far apart.
FILTERS = [
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 256 << 20},
]
#: A library of so many bytes is packed by columns, under its name and this.
_LARGE, COLUMNS = 64 << 20, ".columns"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: (template, type, layout): kernels of every kind, with copies and without.
_KERNELS = (
    ("simt", "float32", "nn"),
    ("mma_sync", "bfloat16", "tn"),
    ("mma_sync", "int8", "tn"),
    ("wgmma", "float16", "nt"),
    ("wgmma", "float8_e4m3fn", "nn"),
    ("wgmma", "tfloat32", "nn"),
)
_TRIALS = 12


def rehearse() -> dict[str, str]:
    """Search, build and log without a device; return name and file of each module that it took."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # as in the processes that build
    from autotune.hw_profiles import load_profiles, tvm_target
    from autotune.kernels.base import get_template
    from autotune.kernels.cuda.model import CudaTemplate, estimate
    from autotune.kernels.cuda.source import lower
    from autotune.search import create_searcher
    from autotune.trial import Result
    from autotune.workload import Gemm

    for module in ("log", "measure.cuda_builder", "measure.cuda_worker", "report.console", "tune"):
        importlib.import_module(f"autotune.{module}")
    gpu = load_profiles()["h200"]
    for name, dtype, layout in _KERNELS:
        template = get_template(name)
        assert isinstance(template, CudaTemplate)
        workload = Gemm(130, 131, 133, layout, dtype, epilogue="bias")
        space = template.space(workload, gpu, 1)
        searcher = create_searcher("auto", space, 0, start=space.defaults)
        for _ in range(_TRIALS):
            for config in searcher.ask(1):
                searcher.tell(config, Result((estimate(template.work(workload, config), gpu),)))
        lower(template.build(workload, space.defaults[0]), tvm_target(gpu, 1))
    modules = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {name: file for name, file in modules.items() if file}


def rehearsed(path: list[str]) -> dict[str, str]:
    """Return what :func:`rehearse` returns in a new process that finds modules on that path first.

    Raises
    ------
    AutotuneError
        If it fails: something is missing there.
    """
    code = "import json, offline_compiler as o; print(json.dumps(o.rehearse()))"
    paths = [*path, str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        raise AutotuneError(f"building kernels with what is packed fails: {done.stderr[-600:]}")
    modules: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def needed(modules: dict[str, str]) -> list[str]:
    """Return the packages that tuning takes and the archive does not hold, by import name."""
    tops = {name.partition(".")[0] for name in modules}
    installed = set(metadata.packages_distributions())
    ours = {*PACKED, "autotune", "offline_compiler"}
    # What starts with an underscore is a part of another package, or of how this one is installed.
    return sorted(name for name in (tops & installed) - ours if not name.startswith("_"))


def compiler_files(python: str = HERE) -> tuple[dict[str, bytes], list[str]]:
    """Return the files by their names in the archive, and what else tuning needs there.

    Parameters
    ----------
    python
        Version of the Python that it is for, such as ``3.12``; for another one than this, its
        extension modules are taken from the package index.

    Raises
    ------
    AutotuneError
        If kernels cannot be built with just these, or an extension module is not to be had.
    """
    modules = rehearsed([])
    files: dict[str, bytes] = {}
    for name, distribution in PACKED.items():
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        loaded = {Path(f) for m, f in modules.items() if m.partition(".")[0] == name}
        for file in sorted(
            {f for f in loaded if f.is_relative_to(root)} | {*root.glob("lib/*.so")}
        ):
            content = file.read_bytes()
            content = _without_docstrings(content) if file.suffix == ".py" else content
            files[f"{SITE}/{name}/{file.relative_to(root)}"] = content
        version = metadata.version(distribution)
        info = f"{SITE}/{distribution.replace('-', '_')}-{version}.dist-info/METADATA"
        files[info] = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n".encode()
    _check(files)
    if python != HERE:
        files = {name: content for name, content in files.items() if not _is_extension(name)}
        for distribution in PACKED.values():
            files |= {f"{SITE}/{n}": content for n, content in _extensions(distribution, python)}
    return files, needed(modules)


def in_archive(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files as the archive holds them: large libraries so that they compress better."""
    return {
        name + COLUMNS if len(content) >= _LARGE else name: (
            by_columns(content) if len(content) >= _LARGE else content
        )
        for name, content in files.items()
    }


def _is_extension(name: str) -> bool:
    return ".cpython-" in name and name.endswith(".so")


def _without_docstrings(source: bytes) -> bytes:
    """Return Python without its docstrings and comments, which are half of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def _check(files: dict[str, bytes]) -> None:
    """Build kernels with the packed files alone."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        site = Path(folder, SITE)
        used = rehearsed([str(site)])
        elsewhere = [
            file
            for name, file in used.items()
            if name.partition(".")[0] in PACKED and not Path(file).is_relative_to(site)
        ]
        if elsewhere:
            raise AutotuneError(f"what is packed is not all that was used: {elsewhere[:3]}")


def _extensions(distribution: str, python: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a distribution's extension modules for another Python."""
    wanted = f"{distribution}=={metadata.version(distribution)}"
    tag = f".cpython-{python.replace('.', '')}-"
    with tempfile.TemporaryDirectory() as folder:
        command: list[Any] = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--dest", folder]
        for platform in _PLATFORMS:
            command += ["--platform", platform]
        done = subprocess.run([*command, wanted], capture_output=True, text=True)
        if done.returncode:
            raise AutotuneError(f"no {wanted} for Python {python}: {done.stderr.strip()[-300:]}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if tag in name and name.endswith(".so"):
                    yield name, archive.read(name)
