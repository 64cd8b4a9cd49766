"""Writing a log anew: merging several into one, and dropping what is damaged or there twice.

Lines are copied as they are and never re-encoded, so fields that this version does not know
survive.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from autotune.errors import LogError
from autotune.log.lines import Skip
from autotune.log.store import TuningLog


@dataclass(frozen=True)
class Rewritten:
    """How many lines were kept, left out as exact duplicates, and dropped as corrupt."""

    kept: int
    duplicates: int
    corrupt: int


def compact(path: str | os.PathLike[str]) -> Rewritten:
    """Drop the damaged lines and exact duplicates of a log; all else stays, in its order.

    Raises
    ------
    LogError
        If the log is missing, holds records of a newer schema or no record at all, or cannot be
        written; the log is unchanged then.
    """
    return _rewrite([path], path)


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Rewritten:
    """Write the lines of several logs to ``out``; what ``out`` already holds stays and comes first.

    Raises
    ------
    LogError
        As :func:`compact`; ``out`` is unchanged then.
    """
    return _rewrite([*([out] if os.path.exists(out) else []), *paths], out)


def _rewrite(sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Rewritten:
    for source in sources:
        if not os.path.exists(source):
            raise LogError(f"there is no log {source}; check the path")
    log = TuningLog(out)
    log.ensure_writable(rewrite=True)
    target = Path(os.path.realpath(out))
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with log.locked():
        try:
            with _create(temporary, like=target) as file:
                report = _copy_lines(sources, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync_directory(target.parent)
        except OSError as error:
            raise LogError(
                f"cannot write the log {out}: {error.strerror or error}; it is unchanged"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
    return report


def _copy_lines(sources: Sequence[str | os.PathLike[str]], file: BinaryIO) -> Rewritten:
    seen: set[bytes] = set()
    kept = duplicates = corrupt = 0
    for source in sources:
        for line in TuningLog(source).lines():
            if line.content is Skip.NEWER:
                raise LogError(
                    f"the log {source} holds records of a newer autotune; update autotune to"
                    " rewrite it"
                )
            if isinstance(line.content, Skip) and line.content.corrupt:
                corrupt += 1
            elif (digest := hashlib.sha256(line.raw).digest()) in seen:
                duplicates += 1
            else:
                seen.add(digest)
                file.write(line.raw)
                kept += 1
    return Rewritten(kept, duplicates, corrupt)


def _create(path: Path, like: Path) -> BinaryIO:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # left behind by a process of the same id that was killed
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    if like.exists():
        os.fchmod(fd, like.stat().st_mode & 0o7777)
    return open(fd, "wb")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
