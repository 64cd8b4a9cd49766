"""``autotune log export-...`` and ``import-...``: results for other tools, and from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.log import Scan

_log = click.argument("log", type=click.Path(path_type=Path))
_words = click.option(
    "--workload",
    metavar="TEXT",
    default="",
    help="Only workloads with all these words, such as 'm=512 float32' or 512x512x512.",
)


@click.command("export-t4")
@_log
@click.argument("file", type=click.Path(path_type=Path))
@_words
def export_t4(log: Path, file: Path, workload: str) -> None:
    """Write the trials of one workload of LOG to FILE, in Kernel Tuner's T4 format."""
    from autotune.cli.log import record_words
    from autotune.tables.t4 import t4_results

    words = set(workload.lower().split())
    trials = [trial for trial in _scan(log).trials if words <= record_words(trial)]
    contents = t4_results(trials)
    try:
        file.write_text(json.dumps(contents, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise AutotuneError(f"cannot write {file}: {error.strerror}") from None
    failed = sum(result["invalidity"] != "correct" for result in contents["results"])
    click.echo(f"{file}: {len(contents['results'])} configs, {failed} of them failed")


def _scan(path: Path) -> Scan:
    from autotune.cli.log import open_log, warn_of_skipped

    scan = open_log(path).scan()
    warn_of_skipped(path, scan)
    return scan


COMMANDS = (export_t4,)
