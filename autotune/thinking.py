"""Let a searcher think while a kernel is measured, without a change in what it thinks.

All calls of the searcher go through one queue, so it hears and says the same things in the same
order as without any overlap; a run that is rebuilt from its log repeats them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Seconds after which a thinking thread lets go of the interpreter when another one wants it. The
#: measuring thread wants it for a moment some times a trial, and the measured core idles until it
#: has it.
_SWITCH_SECONDS = 0.0005


class Thinking:
    """Does what it is given in the order of giving: in a thread of its own, or at once.

    Use it as a context manager: leaving it waits for what has been given.

    Parameters
    ----------
    cores
        Logical cores that the thread is pinned to, so that it never thinks where a kernel is
        measured. Without any there is no thread: everything is done in the call.
    """

    def __init__(self, cores: Sequence[int]) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._given: list[Future[Any]] = []
        if cores:
            self._thread = ThreadPoolExecutor(1, "thinking", _stay_on, (frozenset(cores),))
            self._switch = sys.getswitchinterval()
            sys.setswitchinterval(min(self._switch, _SWITCH_SECONDS))

    def __enter__(self) -> Thinking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self.close()

    def do(self, work: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Do something when all before it is done; what it raises, :meth:`settle` raises."""
        if self._thread is None:
            work(*args, **kwargs)
        else:
            self._given.append(self._thread.submit(work, *args, **kwargs))

    def get(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do something when all before it is done, and return what it returns."""
        if self._thread is None:
            return work(*args, **kwargs)
        last = self._thread.submit(work, *args, **kwargs)
        self.settle()
        return last.result()

    def settle(self) -> None:
        """Wait until everything is done.

        Raises
        ------
        BaseException
            The first that was raised by anything given to :meth:`do`.
        """
        while self._given:
            self._given.pop(0).result()

    def close(self) -> None:
        """Wait until everything is done, whatever comes of it, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            sys.setswitchinterval(self._switch)
            self._thread = None


def _stay_on(cores: frozenset[int]) -> None:
    os.sched_setaffinity(0, cores)  # of this thread, and of those that it starts
