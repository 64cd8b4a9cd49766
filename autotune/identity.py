"""What a result belongs to: the hardware as the log names it, and the versions of the software."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from autotune.hw_profiles import tvm_target

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile


def target_key(profile: HardwareProfile, threads: int, cache: str = "hot") -> str:
    """Return the string under which results of this hardware and thread count are kept.

    Results for cold caches are kept apart; for hot ones nothing is said, as in older logs.
    """
    return f"{profile.key} threads={threads}" + ("" if cache == "hot" else f" cache={cache}")


def target_json(profile: HardwareProfile, threads: int, cache: str = "hot") -> dict[str, Any]:
    """Describe the target, and how it is measured, for the log."""
    return {
        "kind": profile.kind,
        "arch": profile.arch,
        "name": profile.name,
        "threads": threads,
        **({} if cache == "hot" else {"cache": cache}),
        "tvm": tvm_target(profile, threads),
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of what shapes a result."""
    versions = {"python": platform.python_version()}
    for name in ("apache-tvm", "apache-tvm-ffi", "torch", "numpy", "autotune-gemm"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
