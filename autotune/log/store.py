"""The file behind a tuning log: appended to by many processes, read at any time.

What is promised: a record that :meth:`TuningLog.append` returned for is on disk; a process killed
at any point costs at most the records it was writing; a full disk or a damaged line never costs
another record.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import filelock
from msgspec.structs import force_setattr

from autotune.errors import LogError
from autotune.log.lines import Line, Skip, encode_line, may_be_torn, read_lines
from autotune.log.record import FinalRecord, Record, RunHeader, TrialRecord

_FIRST_FEW = 5
#: Lines of a file in which a record is looked for, to tell whether it is a log.
_FIRST_LINES = 100
_CHUNK = 1 << 16


@dataclass
class Scan:
    """What a log holds.

    Parameters
    ----------
    records
        In file order.
    skipped
        How many lines were not read, by reason.
    where
        Line numbers of the first few of them.
    """

    records: list[Record] = field(default_factory=list)
    skipped: Counter[Skip] = field(default_factory=Counter)
    where: dict[Skip, list[int]] = field(default_factory=dict)

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials, in file order."""
        return [record for record in self.records if isinstance(record, TrialRecord)]

    @property
    def finals(self) -> list[FinalRecord]:
        """The final re-measurements, in file order."""
        return [record for record in self.records if isinstance(record, FinalRecord)]

    @property
    def corrupt(self) -> int:
        """How many lines are damaged."""
        return sum(count for skip, count in self.skipped.items() if skip.corrupt)

    @property
    def read_only(self) -> bool:
        """Whether a newer autotune wrote to this log, so that this one must not."""
        return self.skipped[Skip.NEWER] > 0

    def add(self, line: Line) -> None:
        """Take in one line."""
        if not isinstance(line.content, Skip):
            self.records.append(line.content)
            return
        self.skipped[line.content] += 1
        numbers = self.where.setdefault(line.content, [])
        if len(numbers) < _FIRST_FEW:
            numbers.append(line.number)


class TuningLog:
    """An append-only tuning log.

    Parameters
    ----------
    path
        The file. It need not exist; nothing is created before the first append.
    timeout
        Seconds to wait for another process that is writing. A lock dies with its process, so only a
        live one is ever waited for.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        self.path = Path(path)
        # Through a link, so that all names of a log share one lock and compaction keeps the link.
        self._file = Path(os.path.realpath(path))
        self._timeout = timeout
        self._checked = 0  # bytes known to hold nothing of a newer schema
        self._inode = 0

    def scan(self) -> Scan:
        """Read the whole log; a file that does not exist is an empty log.

        Raises
        ------
        LogError
            If there is something at the path that cannot be read as a file.
        """
        scan = Scan()
        sharing: dict[str, RunHeader] = {}
        for line in self.lines():
            if not isinstance(line.content, Skip):
                _share(line.content, sharing)
            scan.add(line)
        return scan

    def lines(self) -> Iterator[Line]:
        """Yield the lines of the log, damaged ones too; raises as :meth:`scan` does."""
        try:
            with open(self._file, "rb") as file:
                yield from read_lines(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LogError(f"cannot read the log {self.path}: {error.strerror}") from error

    def ensure_writable(self, rewrite: bool = False) -> None:
        """Check early that an append can be expected to work, without creating anything.

        Parameters
        ----------
        rewrite
            The file will be written anew, and not keep what is no record.

        Raises
        ------
        LogError
            If it cannot; the message says what to do.
        """
        self._check_access()
        if self._file.exists():
            with self._open(os.O_RDONLY) as fd:
                self._refuse_others(fd, rewrite)

    def append(self, records: Sequence[Record]) -> None:
        """Append records in one write and wait until they are on disk.

        Raises
        ------
        LogError
            If they cannot be written: then none of them is in the log, and what was there is
            intact.
        """
        if not records:
            return
        data = b"".join(encode_line(record) for record in records)
        self._check_access()
        with self.locked(), self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT) as fd:
            self._refuse_others(fd)
            self._set_torn_tail_aside(fd)
            self._write(fd, data)
            self._checked = os.fstat(fd).st_size

    @property
    def lock_path(self) -> Path:
        """The file that writers lock; it stays behind, empty."""
        return self._file.with_name(self._file.name + ".lock")

    @property
    def torn_path(self) -> Path:
        """Where the torn tails of killed writers are kept."""
        return self._file.with_name(self._file.name + ".torn")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out."""
        lock = filelock.FileLock(self.lock_path)
        try:
            lock.acquire(timeout=self._timeout, poll_interval=0.005)
        except filelock.Timeout:
            raise LogError(
                f"the log {self.path} is locked by another process that is still running (waited"
                f" {self._timeout:g} s); let it finish, or write to another log"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise LogError(f"cannot lock the log {self.path}: {_reason(error)}") from error
        try:
            yield
        finally:
            lock.release()

    def _check_access(self) -> None:
        try:
            self._check_paths()
        except OSError as error:
            raise LogError(f"cannot write the log {self.path}: {_reason(error)}") from error

    def _check_paths(self) -> None:
        # Before the lock is taken, because taking it creates missing folders.
        parent = self._file.parent
        if self._file.is_dir():
            raise LogError(f"the log {self.path} is a directory; name a file in it")
        if self._file.exists() and not self._file.is_file():
            raise LogError(f"the log {self.path} is not a regular file; choose another")
        if not parent.is_dir():
            what = "is not a folder" if parent.exists() else "does not exist; create it first"
            raise LogError(f"cannot write the log {self.path}: {parent} {what}")
        # The lock file lies beside the log, so the folder must be writable for a present log too.
        for path in (parent, self._file, self.lock_path):
            if path.exists() and not os.access(path, os.W_OK):
                raise LogError(
                    f"cannot write the log {self.path}: no permission to write {path};"
                    " choose another file"
                )

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        try:
            fd = os.open(self._file, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise LogError(f"cannot open the log {self.path}: {_reason(error)}") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _refuse_others(self, fd: int, rewrite: bool = False) -> None:
        """Raise for a file that something else wrote, or, in part, a newer autotune.

        Only what was added since the last look is read. A torn line alone may be the first record
        of a killed writer, which an append sets aside; a rewrite would drop it.
        """
        status = os.fstat(fd)
        if status.st_ino != self._inode or status.st_size < self._checked:
            self._inode, self._checked = status.st_ino, 0  # compacted or replaced meanwhile
        if status.st_size == self._checked:
            return
        with open(fd, "rb", closefd=False) as file:
            file.seek(self._checked)
            found: set[Skip | None] = set()
            for _, raw, content in read_lines(file):
                if content is Skip.TORN and not may_be_torn(raw):
                    found.add(Skip.NOT_A_RECORD)
                else:
                    found.add(content if isinstance(content, Skip) else None)
        if Skip.NEWER in found:
            raise LogError(
                f"the log {self.path} holds records of a newer autotune and is read-only here;"
                " update autotune, or write to another log"
            )
        foreign = bool(found) and all(content and content.foreign for content in found)
        if foreign and not self._checked and (rewrite or found != {Skip.TORN}):
            raise LogError(
                f"{self.path} is no tuning log: none of its lines is a record; name another file,"
                " or move this one away"
            )

    def _set_torn_tail_aside(self, fd: int) -> None:
        """Move what follows the last newline to the ``.torn`` file; nothing is glued to it."""
        size = os.fstat(fd).st_size
        end = _end_of_last_line(fd, size)
        if end == size:
            return
        try:
            with open(self.torn_path, "ab") as torn:
                for offset in range(end, size, _CHUNK):
                    torn.write(os.pread(fd, min(_CHUNK, size - offset), offset))
                torn.write(b"\n")
                torn.flush()
                os.fsync(torn.fileno())
            os.ftruncate(fd, end)
        except OSError as error:
            raise LogError(
                f"cannot set the torn last line of {self.path} aside in {self.torn_path}:"
                f" {_reason(error)}; the log is unchanged"
            ) from error

    def _write(self, fd: int, data: bytes) -> None:
        before = os.fstat(fd).st_size
        try:
            written = os.write(fd, data)
            if written == len(data):
                os.fsync(fd)
                return
            reason = f"only {written} of {len(data)} bytes could be written; is the disk full?"
        except OSError as error:
            reason = _reason(error)
        try:
            os.ftruncate(fd, before)
        except OSError:
            reason += "; the partial line will be set aside by the next append"
        raise LogError(
            f"cannot append to the log {self.path}: {reason}; the records already in it are intact"
        )


def is_log(path: Path) -> bool:
    """Whether a file has records among its first lines, of this autotune or a newer one."""
    try:
        with open(path, "rb") as file:
            lines = itertools.islice(read_lines(file), _FIRST_LINES)
            return any(not (isinstance(x.content, Skip) and x.content.corrupt) for x in lines)
    except OSError:
        return False


def _end_of_last_line(fd: int, size: int) -> int:
    """Return the offset just after the last newline, reading backwards; 0 if there is none."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _share(record: Record, latest: dict[str, RunHeader]) -> None:
    """Let the records of a run share their equal dicts, most of the memory of a large log."""
    previous = latest.setdefault(record.run, record)
    for name in RunHeader.__struct_fields__:
        value = getattr(previous, name)
        if value is not getattr(record, name) and value == getattr(record, name):
            force_setattr(record, name, value)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
