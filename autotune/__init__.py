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
    "compile",
    "load_kernel",
    "load_library",
    "load_model",
]

if TYPE_CHECKING:
    from autotune.deploy.library import load_library
    from autotune.errors import AutotuneError
    from autotune.kernel import FallbackWarning, Kernel, load_kernel
    from autotune.models.deploy import load_model
    from autotune.models.model import compile_model as compile
    from autotune.workload import Gemm

_HOMES = {
    "AutotuneError": "autotune.errors",
    "FallbackWarning": "autotune.kernel",
    "Gemm": "autotune.workload",
    "Kernel": "autotune.kernel",
    "compile": "autotune.models.model:compile_model",
    "load_kernel": "autotune.kernel",
    "load_library": "autotune.deploy.library",
    "load_model": "autotune.models.deploy",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are used: the command line must start at once."""
    import importlib

    if name in _HOMES:
        module, _, own_name = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), own_name or name)
    raise AttributeError(f"module 'autotune' has no attribute {name!r}")
