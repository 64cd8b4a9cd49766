"""Machine code in words, by NVIDIA's disassembler: on the PATH, or of the package that has it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path


def disassembler() -> str | None:
    """Return the program's path; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    packaged = (str(p) for folder in folders for p in sorted(Path(folder).glob("*/bin/nvdisasm")))
    return shutil.which("nvdisasm") or next(packaged, None)


def disassembled(image: bytes, folder: Path) -> str | None:
    """Return the machine code of a cubin as text, or None where no disassembler is."""
    program = disassembler()
    if program is None:
        return None
    path = folder / "kernel.cubin"
    path.write_bytes(image)
    done = subprocess.run([program, "-c", path], capture_output=True, text=True, check=True)
    return done.stdout


def kernel_of(code: str, name: str) -> str:
    """Return the part of a disassembly that one of its kernels is."""
    (part,) = (p for p in code.split(".section\t.text.")[1:] if p.startswith(f"{name},"))
    return part
