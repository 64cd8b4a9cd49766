"""Tables of a shared library by columns of differences: they compress to half of what they do.

Of a library with hundreds of thousands of functions and relocations these two tables are several
MiB of increasing addresses. Needs numpy alone, because machines that unpack archives have little.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

#: Section -> bytes before the table, type and number of columns (ELF64; LSB, "Exception Frames").
_TABLES = {".rela.dyn": (0, "<i8", 3), ".eh_frame_hdr": (12, "<i4", 2)}


def by_columns(library: bytes) -> bytes:
    """Return a library with its tables rewritten, as long as before; others as they are."""

    def change(rows: Any) -> Any:
        zeros = np.zeros((1, rows.shape[1]), rows.dtype)
        return np.diff(rows, axis=0, prepend=zeros).T.ravel()

    return _changed(library, change)


def by_rows(library: bytes) -> bytes:
    """Undo :func:`by_columns`."""

    def change(rows: Any) -> Any:
        columns = rows.reshape(rows.shape[1], rows.shape[0])
        return np.cumsum(columns, axis=1, dtype=rows.dtype).T.ravel()

    return _changed(library, change)


def _changed(library: bytes, change: Callable[[Any], Any]) -> bytes:
    changed = bytearray(library)
    for name, (offset, size) in _sections(library).items():
        if name in _TABLES:
            before, dtype, columns = _TABLES[name]
            width = np.dtype(dtype).itemsize * columns
            rows = (size - before) // width
            start, end = offset + before, offset + before + rows * width
            table = np.frombuffer(library[start:end], dtype).reshape(rows, columns)
            changed[start:end] = change(table).tobytes()
    return bytes(changed)


def _sections(library: bytes) -> dict[str, tuple[int, int]]:
    """Return offset and size of each section of a 64-bit little-endian ELF file."""
    if library[:6] != b"\x7fELF\x02\x01":
        return {}
    (headers,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    entries = [struct.unpack_from("<IIQQQQ", library, headers + i * size) for i in range(count)]
    text = entries[names][4] if entries else 0
    found = {}
    for name, _, _, _, offset, length in entries:
        end = library.index(b"\0", text + name)
        found[library[text + name : end].decode()] = (offset, length)
    return found
