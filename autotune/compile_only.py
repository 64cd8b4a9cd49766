"""Explore without a device: search on the static model, compile the best, rank them.

Nothing here is a measurement. The configs are searched on :mod:`autotune.kernels.cuda.model`'s
estimate, those in front are compiled to machine code, and the estimate is made again with the
registers that the compiler gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, MeasureError
from autotune.hw_profiles import cuda_arch, tvm_target
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin, require_compiler
from autotune.kernels.cuda.model import CudaTemplate, Work, estimate, occupancy
from autotune.kernels.cuda.source import lower
from autotune.search import create_searcher
from autotune.trial import FailureKind, Result

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.cuda.compile import Compiler
    from autotune.log import TuningLog
    from autotune.search.space import Config, ConfigSpace
    from autotune.workload import Gemm

#: What ``auto`` stands for here: estimates cost next to nothing, so no model of them is needed.
_AUTO = "gbfs"
#: Fields of :class:`Work` that are kept as features, besides what the compiler reports.
_WORK_FEATURES = ("blocks", "threads", "shared_bytes", "steps")


@dataclass(frozen=True)
class CompileRequest:
    """What to explore.

    Parameters
    ----------
    workload, profile, template
        What to compute, for what device, with which template.
    searcher, preset, seed, searcher_options
        The search method on the estimates.
    estimates
        How many configs are estimated.
    top
        How many of the best are compiled.
    plugins
        Modules with templates of the user's own.
    """

    workload: Gemm
    profile: HardwareProfile
    template: str
    searcher: str = "auto"
    preset: str = "default"
    seed: int = 0
    searcher_options: dict[str, Any] = field(default_factory=dict)
    estimates: int = 2000
    top: int = 8
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.estimates < 1 or self.top < 1:
            raise AutotuneError("the numbers of estimates and of kernels to compile start at 1")
        if self.profile.kind != "cuda":
            raise AutotuneError(
                f"--compile-only is for CUDA devices, not for {self.profile.name}; on a CPU the"
                " kernels can be run"
            )

    def describe(self) -> dict[str, Any]:
        """Return the search as a record names it; equal to that of no search that measures."""
        return {
            "name": self.searcher,
            "preset": self.preset,
            "seed": self.seed,
            "options": dict(self.searcher_options),
            "compile_only": True,
            "estimates": self.estimates,
        }


@dataclass(frozen=True)
class Compiled:
    """One config that was compiled.

    ``seconds`` is the static estimate, with the compiler's registers where it compiled; ``inf``
    ones come last.
    """

    config: Config
    seconds: float
    features: dict[str, Any]
    failure: str | None = None
    message: str = ""


@dataclass(frozen=True)
class CompileReport:
    """All that came of it, best first; failures last."""

    request: CompileRequest
    space_size: int
    estimated: int
    compiler: str
    ranking: list[Compiled]

    def gflops(self, seconds: float) -> float:
        """Convert estimated seconds per call to GFLOP/s."""
        return self.request.workload.flops / seconds / 1e9

    def to_json(self) -> dict[str, Any]:
        """Return everything a program may want, as plain JSON."""
        request = self.request
        return {
            "compile_only": True,
            "workload": request.workload.to_json(),
            "hardware": request.profile.name,
            "template": request.template,
            "searcher": request.searcher,
            "seed": request.seed,
            "estimated": self.estimated,
            "compiler": self.compiler,
            "ranking": [
                {
                    "config": c.config.to_json(),
                    "estimated_seconds": c.seconds,
                    "estimated_gflops": self.gflops(c.seconds),
                    "features": c.features,
                    "failure": c.failure,
                    "message": c.message,
                }
                for c in self.ranking
            ],
        }


def run_compile_only(
    request: CompileRequest,
    progress: Callable[[str], None] = lambda text: None,
    compiler: Compiler | None = None,
) -> CompileReport:
    """Explore, compile and rank.

    Raises
    ------
    AutotuneError
        If the template is not for CUDA or does not apply, or there is no compiler.
    MeasureError
        If none of the kernels compiles; the message holds the first failure.
    """
    template = get_template(request.template, request.plugins)
    if not isinstance(template, CudaTemplate):
        raise AutotuneError(f"template {template.name!r} is for {template.kind}, not for cuda")
    if request.profile.peaks is None:
        raise AutotuneError(
            f"no data file has the peaks of {request.profile.name}, and ranking needs them; name"
            " the nearest device, such as --target cuda:h200"
        )
    compiler = compiler or require_compiler()
    space = template.space(request.workload, request.profile, 1)
    best, estimated = _explore(request, template, space)
    ranking = []
    for number, (_, config) in enumerate(best, 1):
        progress(f"compiling {number} of {len(best)}")
        ranking.append(
            compile_config(template, request.workload, request.profile, config, compiler)
        )
    ranking.sort(key=lambda c: (c.failure is not None, c.seconds))
    if ranking[0].failure is not None:
        raise MeasureError(f"none of {len(ranking)} kernels compiles; first: {ranking[0].message}")
    return CompileReport(request, space.size, estimated, compiler.description, ranking)


def record_report(report: CompileReport, log: TuningLog) -> None:
    """Append one record for each kernel that was compiled; they never serve as results."""
    from autotune.identity import target_json, target_key, tool_versions
    from autotune.log import compiled_record, run_header

    request = report.request
    template = get_template(request.template, request.plugins)
    header = run_header(
        request.workload,
        target=target_json(request.profile, 1),
        target_key=target_key(request.profile, 1),
        template={"name": template.name, "version": template.version},
        search=request.describe(),
        hardware=request.profile.fingerprint(),
        tools={**tool_versions(), "cuda_compiler": report.compiler},
    )
    log.append(
        [
            compiled_record(
                header, number, c.config.to_json(), c.seconds, c.features, c.failure, c.message
            )
            for number, c in enumerate(report.ranking)
        ]
    )


def _explore(
    request: CompileRequest, template: CudaTemplate, space: ConfigSpace
) -> tuple[list[tuple[float, Config]], int]:
    """Search on the estimates; return the best with their seconds, and how many were looked at."""
    searcher = create_searcher(
        _AUTO if request.searcher == "auto" else request.searcher,
        space,
        request.seed,
        preset=request.preset,
        start=space.defaults,
        **request.searcher_options,
    )
    seen: list[tuple[float, Config]] = []
    while len(seen) < request.estimates and (asked := searcher.ask(1)):
        for config in asked:
            broken = space.violated(config)
            seconds = float("inf")
            if broken is None:
                work = template.work(request.workload, config)
                seconds = estimate(work, request.profile)
            seen.append((seconds, config))
            if seconds == float("inf"):
                result = Result.failed(FailureKind.ILLEGAL, broken or "no block fits on an SM")
            else:
                result = Result((seconds,))
            searcher.tell(config, result)
    finite = [pair for pair in seen if pair[0] < float("inf")]
    if not finite:
        raise MeasureError(f"no legal config was found in {space!r}")
    # Equal estimates keep the order in which they were found.
    return sorted(finite, key=lambda pair: pair[0])[: request.top], len(seen)


def compile_config(
    template: CudaTemplate,
    workload: Gemm,
    profile: HardwareProfile,
    config: Config,
    compiler: Compiler | None = None,
) -> Compiled:
    """Lower and compile one config, and estimate it with the registers it has got."""
    work = template.work(workload, config)
    features = {name: getattr(work, name) for name in _WORK_FEATURES}
    try:
        source = lower(template.build(workload, config), tvm_target(profile, 1))
        cubin = compile_cubin(source.text, cuda_arch(profile), source.threads, compiler)
    except CudaCompileError as error:
        return Compiled(config, estimate(work, profile), features, error.name, str(error))
    work = replace(work, registers=cubin.resources.registers, shared_bytes=source.shared_bytes)
    features |= cubin.resources.to_json() | dict(_fit(work, profile))
    features["cubin_bytes"] = len(cubin.image)
    return Compiled(config, estimate(work, profile), features)


def _fit(work: Work, profile: HardwareProfile) -> Iterator[tuple[str, Any]]:
    """Yield how well blocks fill the device."""
    gpu = profile.gpu
    assert gpu is not None
    resident = occupancy(gpu, profile.arch, work.threads, work.registers, work.shared_bytes)
    warps = -(-work.threads // gpu.warp_size)
    yield "blocks_per_sm", resident
    yield "occupancy", round(resident * warps * gpu.warp_size / gpu.max_threads_per_sm, 4)
    if resident:
        yield "waves", round(work.blocks / (resident * gpu.sms), 3)
