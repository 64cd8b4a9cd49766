"""Open a file of recorded results, whatever it is."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.tables.table import Table, TableError

if TYPE_CHECKING:
    from autotune.log import TrialRecord

_GZIP = b"\x1f\x8b"


def load_table(path: str | Path) -> Table:
    """Read a table: a Kernel Tuner cache, a T4 file or a log of autotune, plain or gzipped.

    Raises
    ------
    TableError
        If the file cannot be read, is cut short or foreign, or holds several problems.
    """
    tables = load_tables(path)
    if len(tables) > 1:
        held = "; ".join(f"{table.kernel} on {table.device}" for table in tables[:5])
        raise TableError(f"{path} holds {len(tables)} problems and one is wanted: {held}")
    return tables[0]


def load_tables(path: str | Path) -> list[Table]:
    """Read every table of a file; a log holds one for each workload, target and template.

    Raises
    ------
    TableError
        If the file cannot be read, is cut short or is foreign.
    """
    from autotune.tables.from_log import tables_from_records
    from autotune.tables.kernel_tuner import parse_json, read_kernel_tuner

    path = Path(path)
    data = _read(path)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    if _is_log(data):
        return tables_from_records(_trials(data, path), name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise TableError(
            f"{path} is not text; expected a table as JSON, plain or gzipped"
        ) from None
    return [read_kernel_tuner(parse_json(text, str(path)), name, str(path))]


def load_trials(path: str | Path) -> list[TrialRecord]:
    """Read the trials of a log, plain or gzipped; raises TableError where there is none."""
    path = Path(path)
    return _trials(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"cannot read the table {path}: {error.strerror}") from None
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise TableError(f"{path} is cut short or damaged ({error}); get it again") from None
    if not data.strip():
        raise TableError(f"the table {path} is empty")
    return data


def _is_log(data: bytes) -> bool:
    """Whether one of the first lines is a record, or was one before it was damaged."""
    from autotune.log import Skip
    from autotune.log.lines import decode_line

    head = data[: 1 << 21].splitlines()[:20]
    foreign = (Skip.BAD_JSON, Skip.NOT_A_RECORD)
    return any(decode_line(line) not in foreign for line in head if line.strip())


def _trials(data: bytes, path: Path) -> list[TrialRecord]:
    from autotune.log import TrialRecord
    from autotune.log.lines import read_lines

    contents = [line.content for line in read_lines(io.BytesIO(data))]
    trials = [content for content in contents if isinstance(content, TrialRecord)]
    if not trials:
        raise TableError(f"the log {path} holds no trial that this autotune can read")
    return trials
