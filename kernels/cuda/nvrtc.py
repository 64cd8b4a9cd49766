"""NVRTC, NVIDIA's run-time compiler, by ctypes: source to cubin without nvcc or a host compiler."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import re
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

_SUCCESS = 0
#: TVM's prelude for NVRTC includes libcu++, which NVRTC does not bring along; kernels need this.
_PRELUDE = """\
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
struct alignas(128) CUtensorMap { unsigned long long opaque[16]; };
#define __asm__ asm
#define __volatile__ volatile
"""
_TVM_PRELUDE = re.compile(r"#ifdef __CUDACC_RTC__.*?#include <cuda\.h>\s*#endif", re.DOTALL)


def find_nvrtc() -> str | None:
    """Return the path or name of the library: that of a package first, then the system's."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        found = sorted(Path(folder).glob("*/lib/libnvrtc.so.*[0-9]"))
        if found:
            return str(found[-1])
    return ctypes.util.find_library("nvrtc")


class Nvrtc:
    """The library at ``path``."""

    def __init__(self, path: str) -> None:
        for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins))  # NVRTC opens it by its bare name, wherever it is itself
        self._library = ctypes.CDLL(path)
        # Headers (cuda_fp16.h) are where a package or a toolkit puts them: beside the library.
        include = Path(path).resolve().parent.parent / "include"
        self._include = str(include) if (include / "cuda_fp16.h").exists() else None

    @property
    def description(self) -> str:
        """Name and version."""
        major, minor = c_int(), c_int()
        self._library.nvrtcVersion(byref(major), byref(minor))
        return f"nvrtc {major.value}.{minor.value}"

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        """Return the image and everything that was printed."""
        from autotune.kernels.cuda.compile import CudaCompileError

        text = _TVM_PRELUDE.sub(lambda _: _PRELUDE, source, count=1)
        program = c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(
                byref(program), c_char_p(text.encode()), c_char_p(b"kernel.cu"), 0, None, None
            )
        )
        options = [f"--gpu-architecture={arch}", "--std=c++17", "--ptxas-options=-v", "-w"]
        if self._include is not None:
            options.append(f"--include-path={self._include}")
        encoded = (c_char_p * len(options))(*(option.encode() for option in options))
        try:
            code = self._library.nvrtcCompileProgram(program, len(options), encoded)
            printed = self._get(program, "nvrtcGetProgramLog").rstrip(b"\0").decode()
            if code != _SUCCESS:
                reason = printed.strip() or self._describe(code)
                raise CudaCompileError("rejected", reason[-600:])
            return self._get(program, "nvrtcGetCUBIN"), printed
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _get(self, program: Any, name: str) -> bytes:
        """Return one of the program's byte strings, by the getters of its size and itself."""
        size = c_size_t()
        self._check(self._library[f"{name}Size"](program, byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(self._library[name](program, buffer))
        return buffer.raw

    def _check(self, code: int) -> None:
        if code != _SUCCESS:
            from autotune.kernels.cuda.compile import CudaCompileError

            raise CudaCompileError("rejected", f"NVRTC failed: {self._describe(code)}")

    def _describe(self, code: int) -> str:
        self._library.nvrtcGetErrorString.restype = c_char_p
        return str((self._library.nvrtcGetErrorString(c_int(code)) or b"").decode())
