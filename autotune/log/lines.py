"""How records become lines of a file, and what a line that is not a record is called.

A line is one compact JSON object whose last member is ``"sum"``, the first 16 hex digits of the
SHA-256 of the same object without it, in canonical form (compact, sorted keys). This framing (one
object a line, ``v``, ``sum``) holds for all future schema versions. It finds damage; it is no
protection against forgery.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from typing import Annotated, BinaryIO, NamedTuple

import msgspec

from autotune.log.record import SCHEMA, CompiledRecord, FinalRecord, Record, TrialRecord

#: Longest line in bytes that is written or read, newline included; it bounds a reader's memory.
MAX_LINE = 1 << 20
_KINDS = (TrialRecord.kind, FinalRecord.kind, CompiledRecord.kind)
_SUM_MARK = b',"sum":"'
_SUM_DIGITS = 16
_TAIL = len(_SUM_MARK) + _SUM_DIGITS + len(b'"}')


class Skip(str, enum.Enum):
    """Why a line was not read as a record."""

    TORN = "torn"
    BAD_JSON = "bad JSON"
    BAD_SUM = "bad checksum"
    TOO_LONG = "too long"
    NOT_A_RECORD = "not a record"
    NEWER = "newer schema"
    UNKNOWN_KIND = "unknown kind"

    @property
    def corrupt(self) -> bool:
        """Whether the line is damaged, rather than written by a newer autotune."""
        return self not in (Skip.NEWER, Skip.UNKNOWN_KIND)

    @property
    def foreign(self) -> bool:
        """Whether it may never have been one: a damaged record mostly still says that it is."""
        return self.corrupt and self is not Skip.BAD_SUM


class Line(NamedTuple):
    """One line of a log: its number from 1, its bytes, and what it holds."""

    number: int
    raw: bytes
    content: Record | Skip


class _Envelope(msgspec.Struct):
    v: Annotated[int, msgspec.Meta(ge=1)]
    kind: str
    sum: str | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_record: msgspec.json.Decoder[Record] = msgspec.json.Decoder(
    TrialRecord | FinalRecord | CompiledRecord
)
#: Keys are sorted, so all records of a kind begin alike.
_STARTS = [
    b'{"%s":' % min(*record.__struct_fields__, "kind").encode()
    for record in (TrialRecord, FinalRecord, CompiledRecord)
]
#: What msgspec raises on hostile input: bad JSON, bad UTF-8, numbers out of range, deep nesting.
_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


def encode_line(record: Record) -> bytes:
    """Return the line of a record, newline included.

    Raises
    ------
    ValueError
        If the record could not be read back: it is too large, or holds values that are not JSON.
    """
    body = msgspec.json.encode(record, order="sorted")
    line = body[:-1] + _SUM_MARK + checksum(body).encode() + b'"}\n'
    if len(line) > MAX_LINE:
        raise ValueError(f"record {record.id} takes {len(line)} bytes; the limit is {MAX_LINE}")
    # NaN in a field would be written as null: found here, where it can still be traced.
    content = decode_line(line)
    if isinstance(content, Skip):
        raise ValueError(f"record {record.id} could not be read back: {content.value}")
    return line


def decode_line(raw: bytes) -> Record | Skip:
    """Return the record in a line, or why there is none; never raises, whatever the bytes are."""
    try:
        envelope = _envelope.decode(raw)
    except msgspec.ValidationError:
        return Skip.NOT_A_RECORD
    except _UNREADABLE:
        return Skip.BAD_JSON
    if envelope.sum is None:
        return Skip.NEWER if envelope.v > SCHEMA else Skip.BAD_SUM
    # Before the version is believed: a flipped bit in it must not make the log read-only.
    if not _sum_agrees(raw, envelope.sum):
        return Skip.BAD_SUM
    if envelope.v > SCHEMA:
        return Skip.NEWER
    if envelope.kind not in _KINDS:
        return Skip.UNKNOWN_KIND
    try:
        return _record.decode(raw)
    except _UNREADABLE:
        return Skip.NOT_A_RECORD


def may_be_torn(raw: bytes) -> bool:
    """Whether bytes without a newline may be the beginning of a record, or what a crash left."""
    if not raw.strip(b"\0"):
        return True  # the file had grown, and its data had not arrived
    return any(raw.startswith(start) or start.startswith(raw) for start in _STARTS)


def checksum(body: bytes) -> str:
    """Return the checksum of a canonical object without its ``sum``."""
    return hashlib.sha256(body).hexdigest()[:_SUM_DIGITS]


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines from the file's position on, blank ones left out, in bounded memory.

    A line without its newline is torn, even if it looks complete: its writer did not finish. The
    ``raw`` of a line that is too long is cut.
    """
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if raw.endswith(b"\n"):
            if len(raw) > MAX_LINE:
                yield Line(number, raw, Skip.TOO_LONG)
            elif not raw.isspace():
                yield Line(number, raw, decode_line(raw))
        elif _skip_to_newline(file):
            yield Line(number, raw, Skip.TOO_LONG)
        else:
            yield Line(number, raw, Skip.TORN)


def _sum_agrees(raw: bytes, claimed: str) -> bool:
    line = raw.rstrip(b"\r\n")
    if line[-_TAIL:].startswith(_SUM_MARK) and checksum(line[:-_TAIL] + b"}") == claimed:
        return True
    # Another tool may have re-formatted the line (spaces, order of keys) and kept what it says.
    try:
        members = msgspec.json.decode(raw)
        members.pop("sum")
        return checksum(msgspec.json.encode(members, order="sorted")) == claimed
    except _UNREADABLE:
        return False


def _skip_to_newline(file: BinaryIO) -> bool:
    while rest := file.readline(MAX_LINE):
        if rest.endswith(b"\n"):
            return True
    return False
