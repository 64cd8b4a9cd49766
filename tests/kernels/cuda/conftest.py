"""What the tests of CUDA templates share: profiles, a compiler, an emulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulator
import pytest

from autotune.hw_profiles import load_profiles, tvm_target
from autotune.kernels.base import Template
from autotune.kernels.cuda.compile import Compiler, find_compiler
from autotune.kernels.cuda.source import KernelSource, lower
from autotune.kernels.verify import Problem, make_problem
from autotune.search.space import Config
from autotune.workload import Gemm


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    found = find_compiler()
    if found is None:
        pytest.skip("neither nvcc nor NVRTC is here")
    return found


@pytest.fixture(scope="session")
def lowered() -> Callable[..., KernelSource]:
    """(template, workload, config, profile name) -> CUDA source."""

    def make(template: Template, workload: Gemm, config: Config, gpu: str = "h200") -> KernelSource:
        return lower(template.build(workload, config), tvm_target(load_profiles()[gpu], 1))

    return make


@pytest.fixture
def emulate(lowered: Callable[..., KernelSource], tmp_path: Path) -> Callable[..., str | None]:
    """(template, workload, config) -> what is wrong with the kernel, or None."""
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    problems: dict[str, Problem] = {}

    def check(template: Template, workload: Gemm, config: Config, **options: Any) -> str | None:
        problem = problems.setdefault(workload.key, make_problem(workload))
        source = lowered(template, workload, config, options.pop("gpu", "h200"))
        return emulator.check(source, workload, problem, tmp_path, **options)

    return check
