"""CUDA source to machine code (a cubin) without a GPU, and what the assembler said about it.

TVM without a driver embeds source and calls no compiler, so that nothing would be checked. Here
nvcc does it where it is on the PATH or in the folder that ``CUDA_PATH``'s usual places hold, and
otherwise NVRTC, which comes with the package ``nvidia-cuda-nvrtc``.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from autotune.errors import UnsupportedTarget
from autotune.kernels.cuda.nvrtc import Nvrtc, find_nvrtc

_NVCC_SECONDS = 300.0
#: Where nvcc is installed without being on the PATH.
_USUAL_FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_OPTIONS = ("-O3", "-std=c++17", "-w", "-Xptxas", "-v")
_MESSAGE = 600
#: ptxas: "... wgmma.mma_async instructions are serialized due to ..." (C7510 and its neighbours);
#: from CUDA 13 on also "warpgroup.wait is injected in ..." (C7517) and the like.
_SERIALISED = re.compile(r"wgmma.*serialized|warpgroup\.\w+ is injected", re.IGNORECASE)


class CudaCompileError(Exception):
    """A kernel cannot be used; the message starts with the name of what is wrong.

    The names are ``rejected`` (the compiler says no), ``spills``, ``serialised_wgmma`` and
    ``over_limit`` (it would not launch).
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


@dataclass(frozen=True)
class Resources:
    """What compiled kernels take: registers a thread, bytes a thread (stack, spills) or block.

    Of several kernels it is the most that one of them takes.
    """

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    static_shared_bytes: int
    barriers: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**asdict(self), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Cubin:
    """Machine code of the kernels of one config for one architecture."""

    image: bytes
    resources: Resources


class Compiler(Protocol):
    """Compiles source to a cubin."""

    @property
    def description(self) -> str:
        """Name and version, for logs."""

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        """Return the image and everything that was printed; raises CudaCompileError."""


class Nvcc:
    """The compiler driver of the CUDA toolkit, at ``path``; it needs a host compiler."""

    def __init__(self, path: str) -> None:
        self.path = path

    @functools.cached_property
    def description(self) -> str:
        """Name and version."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"V(\d+\.\d+\.\d+)", done.stdout)
        return f"nvcc {found[1] if found else 'of unknown version'}"

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        """Return the image and everything that was printed."""
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            text, image = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
            text.write_text(source, "utf-8")
            code = f"arch={arch.replace('sm_', 'compute_')},code={arch}"
            command = [self.path, "-cubin", *_OPTIONS, "-gencode", code]
            try:
                done = subprocess.run(
                    [*command, "-o", str(image), str(text)],
                    capture_output=True,
                    text=True,
                    timeout=_NVCC_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise CudaCompileError(
                    "rejected", f"nvcc took longer than {_NVCC_SECONDS:g} s"
                ) from None
            printed = done.stdout + done.stderr
            if done.returncode:
                raise CudaCompileError("rejected", printed.replace(folder, "")[-_MESSAGE:].strip())
            return image.read_bytes(), printed


@functools.cache
def find_compiler() -> Compiler | None:
    """Return nvcc if there is one, else NVRTC if there is one."""
    path = shutil.which("nvcc") or next(
        (found for folder in _USUAL_FOLDERS if (found := shutil.which("nvcc", path=folder))), None
    )
    if path is not None:
        return Nvcc(path)
    library = find_nvrtc()
    return None if library is None else Nvrtc(library)


def require_compiler() -> Compiler:
    """Return the compiler of :func:`find_compiler`; raises UnsupportedTarget without one."""
    compiler = find_compiler()
    if compiler is None:
        raise UnsupportedTarget(
            "no CUDA compiler found: install the CUDA toolkit (nvcc), or"
            " pip install 'autotune-gemm[cuda]'"
        )
    return compiler


def compile_cubin(source: str, arch: str, threads: int, compiler: Compiler | None = None) -> Cubin:
    """Compile the kernels of a config and judge what the assembler says of them.

    Parameters
    ----------
    source
        One translation unit.
    arch
        Such as ``sm_80`` or ``sm_90a``.
    threads
        Threads of the largest block; together their registers have to fit the register file.
    compiler
        By default that of :func:`require_compiler`.

    Raises
    ------
    CudaCompileError
        If the compiler rejects it, registers are spilled, wgmma instructions are serialised, or the
        block needs more registers than there are.
    UnsupportedTarget
        If there is no compiler.
    """
    image, printed = (compiler or require_compiler()).compile(source, arch)
    resources = parse_resources(printed)
    spilled = resources.spill_store_bytes + resources.spill_load_bytes
    if spilled:
        raise CudaCompileError(
            "spills",
            f"{resources.spill_store_bytes} bytes of spill stores and"
            f" {resources.spill_load_bytes} of loads with {resources.registers} registers",
        )
    serialised = [line for line in resources.warnings if _SERIALISED.search(line)]
    if serialised:
        raise CudaCompileError("serialised_wgmma", serialised[0])
    wanted = -(-resources.registers // 8) * 8 * (-(-threads // 32) * 32)
    if wanted > _REGISTER_FILE:
        raise CudaCompileError(
            "over_limit", f"{threads} threads of {resources.registers} registers do not fit"
        )
    return Cubin(image, resources)


#: 32-bit registers that one block can have, on every architecture from sm_30 on.
_REGISTER_FILE = 65536


def compile_unit(
    source: str, arch: str, compiler: Compiler | None = None
) -> tuple[bytes, dict[str, Resources]]:
    """Compile a translation unit with any number of kernels; return the image and what each takes.

    Nothing is judged: schedules by rule may spill and still be of use.

    Raises
    ------
    CudaCompileError
        If the compiler rejects it.
    UnsupportedTarget
        If there is no compiler.
    """
    image, printed = (compiler or require_compiler()).compile(source, arch)
    _, *parts = _ENTRY.split(printed)
    return image, {
        name: parse_resources(said) for name, said in zip(parts[::2], parts[1::2], strict=True)
    }


#: What ptxas says before what it has to say about one kernel.
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '\w+'")


def parse_resources(printed: str) -> Resources:
    """Read what ``ptxas -v`` printed about a translation unit.

    Raises
    ------
    CudaCompileError
        If it says nothing about registers: then nothing is known, and nothing was checked.
    """

    def most(number: str) -> int:
        return max((int(found) for found in re.findall(number, printed)), default=0)

    registers = most(r"Used (\d+) registers")
    if not registers:
        raise CudaCompileError("rejected", f"ptxas reported nothing: {printed[-_MESSAGE:].strip()}")
    warnings = [
        line.strip()
        for line in printed.splitlines()
        if re.search(r"\bwarning\b|\bC7\d{3}\b|serialized", line, re.IGNORECASE)
    ]
    return Resources(
        registers,
        most(r"(\d+) bytes stack frame"),
        most(r"(\d+) bytes spill stores"),
        most(r"(\d+) bytes spill loads"),
        most(r"(\d+) bytes smem"),
        most(r"used (\d+) barriers"),
        tuple(warnings[:8]),
    )
