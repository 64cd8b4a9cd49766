"""``autotune --help`` imports nothing heavy, so that it answers at once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_children import child_environment

from autotune.cli import COMMANDS, cli

HEAVY = ("tvm", "torch", "numpy", "networkx", "rich", "xgboost", "matplotlib", "scipy", "asyncio")
_LIST_HEAVY = """
import sys
from autotune.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert end.code == 0, end.code
print("heavy:", *sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIST_HEAVY, ",".join(HEAVY), *arguments],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists_and_explains_itself(name: str) -> None:
    assert importlib.util.find_spec(f"autotune.cli.{name}") is not None
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.name == name and command.help


def test_every_option_of_gemm_has_a_help_text() -> None:
    command = cli.get_command(click.Context(cli), "gemm")
    assert command is not None
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert len(options) > 10 and all(option.help for option in options)


def test_every_command_module_is_listed() -> None:
    import autotune.cli

    folder = Path(autotune.cli.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "options",
        "log_interchange",
    }
    assert modules == set(COMMANDS)
