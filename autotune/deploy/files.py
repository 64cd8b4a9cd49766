"""What exported kernels and exported models have in common."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, UnsupportedTarget

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile


def c_compiler() -> str | None:
    """Return the path of a C compiler; None where there is none."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def put_library(made: Path, path: Path) -> None:
    """Copy a library to its place at once, so that nobody ever reads half of it.

    Raises
    ------
    AutotuneError
        If the place cannot be written to.
    """
    beside = path.with_name(path.name + f".{os.getpid()}")
    try:
        shutil.copyfile(made, beside)
        beside.chmod(0o755)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise AutotuneError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def present_file(path: Path) -> Iterator[str]:
    """Yield a name by which the loader of shared libraries takes what the file holds now.

    It knows libraries by the names that they were loaded by, and would not look at a file that has
    taken the place of one.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / path.name
        name.symlink_to(path)
        yield str(name)


def refuse_other_cpu(
    here: HardwareProfile, description: Mapping[str, Any], path: Path, advice: str
) -> None:
    """Raise UnsupportedTarget if a library was made for a CPU with features that this one lacks."""
    lacking = sorted(set(description["features"]) - set(here.features))
    if description["isa"] != here.isa:
        lacking = [f"the instruction set {description['isa']} (this is {platform.machine()})"]
    if lacking:
        raise UnsupportedTarget(
            f"{path} was made for {description['target']['name']}; this CPU, {here.name}, lacks"
            f" {', '.join(lacking)}: {advice}"
        )
