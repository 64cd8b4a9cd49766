"""What running the command line needs and gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import autotune

ROOT = Path(autotune.__file__).resolve().parents[1]


class Done(NamedTuple):
    code: int
    out: str
    err: str


def child_environment() -> dict[str, str]:
    """An environment in which a child finds this checkout and no settings from outside."""
    environment = {k: v for k, v in os.environ.items() if k != "TVM_NUM_THREADS"}
    return {**environment, "PYTHONPATH": str(ROOT)}
