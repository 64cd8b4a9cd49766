"""What the pages of results have in common; imports nothing heavy."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path


def written_by_hand(out: Path) -> list[str]:
    """Return what stands below the tables of an earlier run: its sections are of second order."""
    _, mark, rest = (out.read_text(encoding="utf-8") if out.exists() else "").partition("\n## ")
    return [mark + rest] if mark else []


def write_page(out: Path, parts: list[str]) -> None:
    """Write the parts as paragraphs, and below them what was written by hand."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [*parts, *written_by_hand(out)]
    out.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def command(script: str) -> str:
    """Return this command, with paths out of the checkout by their last names: they differ."""
    inside = Path.cwd().resolve()
    words = []
    for word in sys.argv[1:]:
        path = Path(word)
        foreign = path.exists() and not path.resolve().is_relative_to(inside)
        words.append(path.resolve().name if foreign or path.is_absolute() else word)
    return shlex.join([f"scripts/{script}", *words])


def versions() -> str:
    """Return the versions of what decides how a search goes."""
    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "scipy", "xgboost", "xgboost-cpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
