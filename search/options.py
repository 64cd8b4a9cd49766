"""How a searcher declares its options."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with a default and the help text that the command line prints."""
    return field(default=default, metadata={"help": text})


def require(holds: bool, text: str) -> None:
    """Raise ValueError with ``text`` unless ``holds``."""
    if not holds:
        raise ValueError(text)
