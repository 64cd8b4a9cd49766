"""Autotune: finds fast GEMM kernels for one machine by searching a graph of configurations.

>>> from autotune import Gemm, load_kernel                                      # doctest: +SKIP
>>> kernel = load_kernel("tuned.jsonl", Gemm(1024, 1024, 1024))                 # doctest: +SKIP
>>> c = kernel(a, b)                                                            # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AutotuneError",
    "FallbackWarning",
    "Gemm",
    "Kernel",
    "__version__",
    "load_kernel",
    "load_library",
]

if TYPE_CHECKING:
    from autotune.deploy.library import load_library
    from autotune.errors import AutotuneError
    from autotune.kernel import FallbackWarning, Kernel, load_kernel
    from autotune.workload import Gemm

_HOMES = {
    "AutotuneError": "autotune.errors",
    "FallbackWarning": "autotune.kernel",
    "Gemm": "autotune.workload",
    "Kernel": "autotune.kernel",
    "load_kernel": "autotune.kernel",
    "load_library": "autotune.deploy.library",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are used: the command line must start at once."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autotune' has no attribute {name!r}")
