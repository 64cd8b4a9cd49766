"""``autotune log export-...`` and ``import-...``: results for other tools, and from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import OutputFile
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
@click.argument("file", type=OutputFile())
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


@click.command("export-metaschedule")
@_log
@click.argument("folder", type=click.Path(path_type=Path))
@_words
def export_metaschedule(log: Path, folder: Path, workload: str) -> None:
    """Write the winners of LOG to MetaSchedule databases in FOLDER, one for each target."""
    from autotune.cli.log import printable, record_words
    from autotune.interchange.metaschedule import export_metaschedule as export

    words = set(workload.lower().split())
    records = [record for record in _scan(log).records if words <= record_words(record)]
    done = export(records, folder)
    for item in done:
        where = "skipped" if item.folder is None else str(item.folder)
        click.echo(f"{where}: {printable(item.workload_key)}: {printable(item.note)}")
    written = sum(item.folder is not None for item in done)
    click.echo(f"{written} of {len(done)} workloads exported")
    if not written:
        raise click.exceptions.Exit(1)


@click.command("import-metaschedule")
@click.argument("folder", type=click.Path(path_type=Path))
@_log
def import_metaschedule(folder: Path, log: Path) -> None:
    """Append what a database in FOLDER says of autotune's configs to LOG."""
    from autotune.cli.log import printable
    from autotune.interchange.metaschedule import import_metaschedule as read
    from autotune.log import TuningLog

    done = read(folder, TuningLog(log))
    click.echo(f"{log}: {done.added} records added, {sum(done.skipped.values())} skipped")
    for reason, count in done.skipped.most_common():
        click.echo(f"  {count}: {printable(reason)}")
    if not done.added:
        raise click.exceptions.Exit(1)


def _scan(path: Path) -> Scan:
    from autotune.cli.log import open_log, warn_of_skipped

    scan = open_log(path).scan()
    warn_of_skipped(path, scan)
    return scan


COMMANDS = (export_t4, export_metaschedule, import_metaschedule)
