"""The compile step: what ptxas says, what is a failure, and both compilers."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from autotune.errors import UnsupportedTarget
from autotune.kernels.cuda import compile as compile_module
from autotune.kernels.cuda.compile import (
    CudaCompileError,
    Nvcc,
    compile_cubin,
    parse_resources,
    require_compiler,
)
from autotune.kernels.cuda.nvrtc import Nvrtc, find_nvrtc

GOOD = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'main_kernel' for 'sm_90a'
ptxas info    : Function properties for main_kernel
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 121 registers, used 2 barriers, 1024 bytes smem, 384 bytes cmem[0]
ptxas info    : Compile time = 1026.888 ms
"""
SERIALISED = """\
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized \
due to insufficient register resources for the wgmma pipeline crossing function boundary
"""
INJECTED = """\
ptxas info    : (C7517) warpgroup.wait is injected in around line 174 by compiler to allow use of \
registers defined by GMMA in function 'main_kernel'
"""
KERNEL = """\
extern "C" __global__ void __launch_bounds__(64) twice(float* __restrict__ x) {
  __shared__ float line[64];
  line[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = 2.0f * line[63 - threadIdx.x];
}
"""


class Says:
    """A compiler that prints what it is told to."""

    description = "a test"

    def __init__(self, printed: str) -> None:
        self.printed = printed

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        return b"code", self.printed


def test_everything_that_ptxas_reports_is_read() -> None:
    resources = parse_resources(GOOD)
    assert resources.to_json() == {
        "registers": 121,
        "stack_bytes": 16,
        "spill_store_bytes": 0,
        "spill_load_bytes": 0,
        "static_shared_bytes": 1024,
        "barriers": 2,
        "warnings": [],
    }


@pytest.mark.parametrize(
    ("printed", "threads", "says"),
    [
        (GOOD.replace("0 bytes spill loads", "24 bytes spill loads"), 128, "^spills: 0 .* 24 "),
        (GOOD + SERIALISED, 128, "^serialised_wgmma: .*C7510"),
        (GOOD + INJECTED, 128, "^serialised_wgmma: .*C7517"),
        (GOOD, 1024, "^over_limit: 1024 threads of 121 registers"),
        ("nvcc warning : something else\n", 128, "^rejected: ptxas reported nothing"),
    ],
)
def test_what_makes_a_kernel_useless_is_a_failure_by_name(
    printed: str, threads: int, says: str
) -> None:
    with pytest.raises(CudaCompileError, match=says):
        compile_cubin("", "sm_90a", threads, Says(printed))


def test_a_good_kernel_passes() -> None:
    assert compile_cubin("", "sm_90a", 512, Says(GOOD)).image == b"code"


def test_a_warning_is_kept() -> None:
    printed = GOOD + "ptxas warning : something slow\n"
    kept = compile_cubin("", "sm_90a", 64, Says(printed)).resources.warnings
    assert kept == ("ptxas warning : something slow",)


@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_a_real_compiler_compiles_and_rejects(kind: str) -> None:
    found: Any = shutil.which("nvcc") if kind == "nvcc" else find_nvrtc()
    if found is None:
        pytest.skip(f"{kind} is not here")
    compiler = Nvcc(found) if kind == "nvcc" else Nvrtc(found)
    cubin = compile_cubin(KERNEL, "sm_80", 64, compiler)
    assert cubin.image[:4] == b"\x7fELF"
    assert cubin.resources.static_shared_bytes >= 256
    assert cubin.resources.barriers == 1
    assert compiler.description.startswith(kind + " 1")
    with pytest.raises(CudaCompileError, match="^rejected: .*nonsense"):
        compile_cubin(KERNEL.replace("2.0f", "nonsense"), "sm_80", 64, compiler)


def test_no_compiler_is_one_error_that_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr(compile_module, "find_compiler", lambda: None)
    with pytest.raises(UnsupportedTarget, match="nvcc.*pip install 'autotune-gemm\\[cuda\\]'"):
        require_compiler()
