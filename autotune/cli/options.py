"""Options that several commands share: which product, on what, with how many threads."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

_F = TypeVar("_F", bound=Callable[..., Any])
#: The options that say what to compute.
_OF_WORKLOADS = (
    "m", "n", "k", "layout", "dtype", "epilogue", "prepacked", "batch_count", "shared", "scale",
)  # fmt: skip
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class OutputFile(click.Path):
    """A file that is written anew, which must not be a tuning log: nothing brings one back."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; refuse that of a log."""
        from autotune.log import is_log

        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.is_file() and is_log(path):
            self.fail(f"{path} is a tuning log, which would be overwritten; name another file")
        return path


def workload_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what to compute; the command is called with one ``workload``."""

    @functools.wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        given = {name: values.pop(name) for name in _OF_WORKLOADS}
        return function(*args, workload=_workload(**given), **values)

    for option in reversed(
        (
            click.option("-m", "m", type=int, default=1024, show_default=True, help="Rows of C."),
            click.option(
                "-n", "n", type=int, default=1024, show_default=True, help="Columns of C."
            ),
            click.option("-k", "k", type=int, default=1024, show_default=True, help="Depth."),
            click.option(
                "--layout",
                default="nn",
                show_default=True,
                metavar="nn|nt|tn|tt",
                help="How A and B are stored: n as is, t transposed.",
            ),
            click.option(
                "--dtype",
                default="float32",
                show_default=True,
                metavar="float32|bfloat16|float16|int8|float8_e4m3fn|tfloat32",
                help="Element type of A and B.",
            ),
            click.option(
                "--epilogue",
                default="none",
                show_default=True,
                metavar="none|bias|residual|bias_residual|[bias_]relu|gelu|gelu_tanh|silu|...",
                help="What is applied to the product.",
            ),
            click.option(
                "--prepacked",
                is_flag=True,
                help="B stays the same, as a weight does: pack it once, outside the timed call.",
            ),
            click.option(
                "--batch-count",
                type=int,
                default=1,
                show_default=True,
                help="Products of this kind, each of operands of its own, as in attention.",
            ),
            click.option(
                "--shared",
                default="",
                metavar="a|b",
                help="An operand that is one matrix for the whole batch.",
            ),
            click.option(
                "--scale", type=float, default=1.0, show_default=True, help="Factor of A x B."
            ),
        )
    ):
        command = option(command)
    return command


def machine_options(function: _F) -> _F:
    """Add the options that say what to run on."""
    for option in reversed(
        (
            click.option(
                "--target",
                default="cpu",
                show_default=True,
                metavar="cpu|cuda|cuda:N|cuda:NAME",
                help="Device: this CPU, a GPU here, or a GPU by name to compile for.",
            ),
            click.option(
                "--threads",
                type=int,
                help="CPU threads; by default TVM_NUM_THREADS, or all physical cores.",
            ),
            click.option(
                "--template",
                default="auto",
                show_default=True,
                help="Kernel template: cpu_tile, cpu_inner, cpu_swapped, cpu_dot, cpu_dot_swapped"
                " or cpu_paper; for cuda simt, simt_paper or mma_sync. auto takes what suits.",
            ),
        )
    ):
        function = option(function)
    return function


def cache_option(function: _F) -> _F:
    """Add the option that says in what state caches are when a kernel is timed."""
    return click.option(
        "--cache",
        type=click.Choice(["hot", "cold"]),
        default="hot",
        show_default=True,
        help="Time kernels on operands that are in the caches, or after emptying them.",
    )(function)


def inductor_option(function: _F) -> _F:
    """Add the option that names one more to compare with."""
    return click.option(
        "--inductor",
        is_flag=True,
        help="Compare with torch.compile's max-autotune too. It compiles for the better part of a"
        " minute, and needs a C++ compiler.",
    )(function)


def compared_libraries(inductor: bool) -> tuple[str, ...]:
    """Return the libraries to compare with."""
    from autotune.measure.libraries import INDUCTOR, LIBRARIES

    return (*LIBRARIES, INDUCTOR) if inductor else LIBRARIES


def _workload(batch_count: int, **fields: Any) -> Gemm:
    """Build the workload; raises InvalidWorkload."""
    from autotune.workload import Gemm

    return Gemm(batch=batch_count, **fields)


def resolve_machine(target: str, threads: int | None) -> tuple[HardwareProfile, int]:
    """Return the hardware profile and the number of threads.

    Raises
    ------
    AutotuneError
        If the target is unknown or absent, or the number of threads makes no sense.
    """
    from autotune.hw_profiles import resolve_target

    profile = resolve_target(target)
    if profile.kind != "cpu":
        if threads is not None:
            raise AutotuneError("--threads is for CPUs; leave it out with --target cuda")
        return profile, 1
    source = "--threads"
    if threads is None and (value := os.environ.get("TVM_NUM_THREADS")):
        source = "TVM_NUM_THREADS"
        if not (value.isascii() and value.isdigit()):
            raise AutotuneError(f"TVM_NUM_THREADS must be a number of threads, got {value!r}")
        threads = int(value)
    if threads is None:
        threads = profile.usable_threads
    if not 1 <= threads <= profile.logical_cores:
        raise AutotuneError(
            f"{source} must be between 1 and {profile.logical_cores}, the logical cores of this"
            f" machine; got {threads}"
        )
    return profile, threads


def parse_seconds(text: str) -> float:
    """Read a duration such as ``90``, ``120s``, ``10m`` or ``1h`` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match:
        raise AutotuneError(f"cannot read {text!r} as a time; write it like 90s, 10m or 1h")
    return float(match[1]) * _UNITS[match[2]]


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are JSON where they can be read as such."""
    import json

    parsed: dict[str, Any] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name:
            raise AutotuneError(f"cannot read {setting!r}; write an option as name=value")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed
