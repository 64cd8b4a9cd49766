"""Functions that are written into a kernel where it calls them. Importing this imports TVM.

TVM's own ``T.inline`` finds its parser with ``inspect.getouterframes``, which looks up the file and
the line of everything on the stack, at each call: half of the time in which a kernel is written,
and more the deeper the stack.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tvm.script.parser.core import utils
from tvm.script.parser.core.entry import scan_macro
from tvm.tirx.script.parser.entry import TIRInline


class _Inlined(TIRInline):  # type: ignore[misc]  # tvm has no types
    """TVM's, but for how the parser is found."""

    def _find_parser_def(self) -> Any:
        frame = inspect.currentframe()
        while frame is not None:
            parser = frame.f_globals.get(self.parser_object_name)
            if parser is not None:
                return parser
            frame = frame.f_back
        raise RuntimeError(f"{self.func.__name__} is not called by a kernel")


def inline(func: Callable[..., None]) -> Callable[..., None]:
    """Let kernels call ``func``, whose body is TVMScript, as ``T.inline`` does."""
    inlined = _Inlined(*scan_macro(func, utils.inspect_function_capture(func)), func)

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> None:
        inlined(*args, **kwargs)

    return call
