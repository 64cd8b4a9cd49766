"""The commands that README and docs name are there, with the options that they are given."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from autotune.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = ROOT / "scripts"
#: Code in a line and in a block: both may hold a command, in a line also broken over two.
CODE = re.compile(r"`([^`]+)`|^ {4}(?:\$ )?([^#\n]+)", re.M)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command of ours."""
    for found in CODE.finditer(page.read_text("utf-8")):
        words = (found[1] or found[2]).split()
        if words and re.fullmatch(r"(scripts/\w+|autotune)", words[0]):
            yield words


def options(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--[a-z]", word)]


def of_the_command_line(words: list[str]) -> set[str]:
    """Return the options of the command of ``autotune`` that the words begin with."""
    command: click.Command = cli
    context = click.Context(cli)
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(context, word) or command
    return {name for p in command.params for name in [*p.opts, *p.secondary_opts]} | {"--help"}


def of_a_script(name: str) -> set[str] | None:
    """Return the options that a script's source names; None if there is no such script."""
    script = SCRIPTS / name
    if not os.access(script, os.X_OK):
        return None
    source = script.with_suffix(".py")
    text = source.read_text("utf-8") if source.exists() else ""
    return {*re.findall(r"(?<=\")--[a-z-]+", text), "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_are_there(page: Path) -> None:
    unknown = []
    for words in commands(page):
        name = words[0].removeprefix("scripts/")
        there = of_the_command_line(words[1:]) if name == "autotune" else of_a_script(name)
        if there is None:
            unknown.append(" ".join(words))
        elif name != "test":  # whose options are pytest's
            given = options(words[1:])
            unknown += [f"{' '.join(words)}: {x}" for x in given if x not in there]
    assert unknown == []


def test_commands_are_found() -> None:
    """The readme's: the test above would pass if none were."""
    found = [words[:2] for words in commands(ROOT / "README.md")]
    assert ["scripts/autotune", "gemm"] in found and ["scripts/test"] in [w[:1] for w in found]
    assert "--log" in of_the_command_line(["bench"])
    assert "--log" not in of_the_command_line([])
