"""Progress of long jobs that are counted: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_LINE_SECONDS = 10.0


class CountedProgress:
    """Shows "done / all" with a text on standard error; use it as a context manager."""

    def __init__(self, what: str) -> None:
        from rich.console import Console

        self._what = what
        self._console = Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._shown = time.monotonic()

    def __enter__(self) -> CountedProgress:
        if sys.stderr.isatty():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int, text: str, what: str = "") -> None:
        """Show how far it is; ``what`` is counted now, if it is something else than at first."""
        self._what = what or self._what
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total, description=f"{self._what}: {text}"
            )
        elif time.monotonic() - self._shown >= _LINE_SECONDS or done == total:
            self._shown = time.monotonic()
            self._console.print(f"{self._what} {done}/{total}: {text}", markup=False)
