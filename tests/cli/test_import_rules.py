"""The folders at the top are parts of ``autotune`` and are imported through it only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autotune

ROOT = Path(autotune.__file__).resolve().parents[1]
BARE = ("kernels", "search", "hw_profiles")
FOLDERS = ("autotune", *BARE, "tests", "scripts")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all absolute imports, wherever in the file they are."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def test_no_module_uses_a_bare_name_or_a_relative_import() -> None:
    assert len(SOURCES) > 50
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in imported(tree) & set(BARE)]
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno}: relative"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level
        ]
    assert wrong == []


@pytest.mark.parametrize("name", BARE)
def test_the_folders_are_reached_through_relative_links(name: str) -> None:
    link = ROOT / "autotune" / name
    assert link.is_symlink() and not Path(link.readlink()).is_absolute()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("line", ["import {}", "from {} import base", "import {}.base as b"])
@pytest.mark.parametrize("file", ["autotune/new.py", "tests/test_new.py", "search/new.py"])
def test_the_linter_finds_a_bare_import(name: str, line: str, file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise",
         "--stdin-filename", file, "-"],
        cwd=ROOT,
        input=line.format(name) + "\n",
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "TID251" in done.stdout and f"autotune.{name}" in done.stdout


def test_the_linter_accepts_the_import_through_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251",
         "--stdin-filename", "autotune/new.py", "-"],
        cwd=ROOT,
        input="from autotune.search import base\n",
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
