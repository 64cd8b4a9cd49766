"""The ``autotune`` command. Each subcommand is a module here, imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from autotune import __version__
from autotune.errors import AutotuneError, MeasureError

#: Subcommand -> the line that ``autotune --help`` shows.
COMMANDS = {
    "gemm": "Tune one matrix product and keep the result in a log.",
    "model": "List the matrix products of a model, or tune them.",
    "compile": "Compile a model with the kernels of a log.",
    "bench": "Measure the logged winner of a matrix product again.",
    "export": "Write tuned kernels as a shared library for C and Python.",
    "devices": "Print the hardware that was detected, and measure its ceilings.",
    "compare": "Compare search methods on the same measurements.",
    "table": "Measure a whole space into a table, or look into one.",
    "space": "Look at a configuration space: sizes, neighbours, pictures.",
    "log": "Look at tuning logs, check them, merge them.",
}
EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
#: What click 8.2 raises for a group without a subcommand; older versions print the help themselves.
_SHOWS_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _LazyGroup(click.Group):
    """Lists its commands from a table and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"autotune.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="autotune")
def cli() -> None:
    """Find fast GEMM kernels for this machine by searching a graph of configurations.

    \b
    autotune gemm                          tune 1024 x 1024 x 1024 in float32
    autotune gemm -m 128 -n 3072 -k 768    any shape
    autotune devices --measure             what this machine can do
    """  # noqa: D301


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a request that cannot be carried out is one line and exit code 2."""
    try:
        code = cli.main(args=arguments, prog_name="autotune", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, _SHOWS_HELP):
            error.show()
        else:
            _complain(error.format_message())
        sys.exit(EXIT_USAGE)
    except MeasureError as error:
        _complain(str(error))
        sys.exit(EXIT_FAILED)
    except AutotuneError as error:
        _complain(str(error))
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo("autotune: " + " ".join(message.split()), err=True)
