"""Recorded search spaces: tables of measured configs, read from several kinds of file."""

from __future__ import annotations

from autotune.tables.load import load_table, load_tables
from autotune.tables.table import Entry, Table, TableError, TableSpace, free_parameter

__all__ = [
    "Entry",
    "Table",
    "TableError",
    "TableSpace",
    "free_parameter",
    "load_table",
    "load_tables",
]
