"""Machine code for the GPU functions of a model, in the form in which TVM's runtime takes it.

TVM without a driver embeds source and calls no compiler. Here every kernel is compiled while the
model is, by :mod:`autotune.kernels.cuda.compile`, so that what cannot be compiled is an error by
name, and a machine with a GPU needs neither a compiler nor its time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.hw_profiles import cuda_arch, tvm_target
from autotune.kernels.cuda.compile import (
    Compiler,
    CudaCompileError,
    Resources,
    compile_cubin,
    compile_unit,
    require_compiler,
)
from autotune.kernels.cuda.source import Launch, Lowered, split_and_lower
from autotune.models.built_kernel import FROM_TEMPLATE

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile

#: Kernels whose templates' source is compiled at a time: each is a process of its own.
_AT_ONCE = 2


@dataclass(frozen=True)
class DeviceCode:
    """One cubin and its kernels.

    Parameters
    ----------
    image
        The cubin.
    kernels
        How each of its kernels is called, in the order of the names.
    resources
        What each takes, by name.
    """

    image: bytes
    kernels: tuple[KernelInfo, ...]
    resources: Mapping[str, Resources]

    def to_bytes(self) -> bytes:
        """Return what ``ffi.Module.load_from_bytes.cuda`` reads: format, kernels, code.

        This is how ``CUDAModuleNode::SaveToBytes`` of TVM 0.27 writes a module: lengths of 64 bits
        before strings and lists, little-endian.
        """
        return module_bytes("cubin", self.kernels, self.image)


@dataclass(frozen=True)
class KernelInfo:
    """How TVM calls a kernel: ``FunctionInfo`` of its ``runtime/metadata.h``.

    Parameters
    ----------
    name
        Of the kernel.
    arguments
        ``(code, bits, lanes)`` of each argument, as DLPack says it.
    launch
        What the arguments after those are: extents of grid and block, bytes of shared memory.
    maps
        For each argument whether it is a tensor map.
    """

    name: str
    arguments: tuple[tuple[int, int, int], ...]
    launch: tuple[str, ...]
    maps: tuple[bool, ...]

    @classmethod
    def of(cls, name: str, function: Any) -> KernelInfo:
        """Return that of a kernel as TVM has it after lowering."""
        return cls(
            name,
            tuple(_dlpack_type(p) for p in function.params),
            tuple(str(tag) for tag in function.attrs["tirx.kernel_launch_params"]),
            tuple(_is_map(p) for p in function.params),
        )

    def to_bytes(self) -> bytes:
        """Return TVM's serialised form."""
        return b"".join(
            [
                _string(self.name.encode()),
                _count(self.arguments),
                *(struct.pack("<BBH", *argument) for argument in self.arguments),
                _count(self.launch),
                *(_string(tag.encode()) for tag in self.launch),
                _count(self.maps),
                *(struct.pack("<i", is_map) for is_map in self.maps),
            ]
        )


def module_bytes(form: str, kernels: Iterable[KernelInfo], code: bytes) -> bytes:
    """Return a CUDA module as TVM serialises it; ``form`` is ``cubin``, ``cuda``, ..."""
    kernels = tuple(kernels)
    named = [_string(kernel.name.encode()) + kernel.to_bytes() for kernel in kernels]
    return b"".join([_string(form.encode()), _count(kernels), *named, _string(code)])


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _count(items: tuple[Any, ...]) -> bytes:
    return struct.pack("<Q", len(items))


def _is_map(parameter: Any) -> bool:
    from tvm.ir import PointerType

    kind = parameter.ty
    return isinstance(kind, PointerType) and "TensorMap" in type(kind.element_type).__name__


def _dlpack_type(parameter: Any) -> tuple[int, int, int]:
    """Return the type of an argument; a pointer is an opaque handle of 64 bits."""
    from tvm.ir import PointerType

    if isinstance(parameter.ty, PointerType):
        return (3, 64, 1)
    dtype = parameter.ty.dtype
    return (int(dtype.type_code), int(dtype.bits), int(dtype.lanes))


# -- compiling a model's functions -----------------------------------------------------------------


def compile_functions(
    functions: Mapping[str, Any],
    profile: HardwareProfile,
    compiler: Compiler | None = None,
) -> tuple[Any, list[DeviceCode]]:
    """Compile the ``PrimFunc``s of a model.

    Parameters
    ----------
    functions
        By name: those of templates (:data:`autotune.models.built_kernel.FROM_TEMPLATE`), each
        of one kernel, and scheduled ones.
    compiler
        By default nvcc, or NVRTC.

    Returns
    -------
    host
        TVM's module of the functions that launch kernels.
    code
        The machine code that belongs to it: one cubin for each kernel of a template, and one for
        all others.

    Raises
    ------
    AutotuneError
        If a function is not bound to threads, or its kernel does not compile, spills where that is
        a failure (in kernels of templates), or would not launch. The message names it.
    UnsupportedTarget
        If there is no compiler.
    """
    compiler = compiler or require_compiler()
    target = tvm_target(profile, 1)
    ours = {name: f for name, f in sorted(functions.items()) if FROM_TEMPLATE in (f.attrs or {})}
    rest = {name: f for name, f in functions.items() if name not in ours}
    tuned = [split_and_lower(_module({name: f}), target, "tirx") for name, f in ours.items()]
    scheduled = [_lowered(rest, target)] if rest else []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [
            pool.submit(_template_code, part, name, function, profile, compiler)
            for part, (name, function) in zip(tuned, ours.items(), strict=True)
        ]
        jobs += [
            pool.submit(_scheduled_code, part, rest, profile, compiler)
            for part in scheduled
            if part.kernels is not None
        ]
        code = [job.result() for job in jobs]
    return _host_module(tuned + scheduled), code


def _module(functions: Mapping[str, Any]) -> Any:
    import tvm

    return tvm.IRModule(
        {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    )


def _lowered(functions: Mapping[str, Any], target: Mapping[str, Any]) -> Lowered:
    """Lower scheduled functions; where they cannot be, say which one."""
    try:
        return split_and_lower(_module(functions), target, "s_tir")
    except Exception as error:  # TVM's passes raise several kinds
        for name, function in functions.items():
            try:
                split_and_lower(_module({name: function}), target, "s_tir")
            except Exception as own:
                raise AutotuneError(
                    f"{name} cannot be compiled for a GPU: {_last_line(own)}; please report this"
                    " model"
                ) from own
        raise AutotuneError(f"cannot be compiled for a GPU: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _template_code(
    lowered: Lowered, name: str, function: Any, profile: HardwareProfile, compiler: Compiler
) -> DeviceCode:
    launch = Launch(**lowered.launch(name, [p.name for p in function.params]))
    try:
        cubin = compile_cubin(lowered.text, cuda_arch(profile), launch.block_threads, compiler)
    except CudaCompileError as error:
        raise AutotuneError(f"kernel {launch.name} does not compile: {error}") from None
    return DeviceCode(cubin.image, _infos(lowered), {launch.name: cubin.resources})


def _scheduled_code(
    lowered: Lowered, functions: Mapping[str, Any], profile: HardwareProfile, compiler: Compiler
) -> DeviceCode:
    arch = cuda_arch(profile)
    try:
        image, resources = compile_unit(lowered.text, arch, compiler)
    except CudaCompileError as error:
        raise _by_name(functions, profile, compiler, error) from None
    infos = _infos(lowered)
    unknown = [info.name for info in infos if info.name not in resources]
    if unknown:
        raise AutotuneError(f"the CUDA compiler said nothing about {', '.join(unknown)}")
    return DeviceCode(image, infos, resources)


def _by_name(
    functions: Mapping[str, Any],
    profile: HardwareProfile,
    compiler: Compiler,
    error: CudaCompileError,
) -> AutotuneError:
    """Return the error of the first function that does not compile by itself."""
    for name, function in functions.items():
        lowered = split_and_lower(_module({name: function}), tvm_target(profile, 1), "s_tir")
        try:
            if lowered.kernels is not None:
                compile_unit(lowered.text, cuda_arch(profile), compiler)
        except CudaCompileError as own:
            return AutotuneError(f"kernel {name} does not compile: {own}")
    return AutotuneError(f"the kernels do not compile together: {error}")


def _infos(lowered: Lowered) -> tuple[KernelInfo, ...]:
    named = {
        str(function.attrs["global_symbol"]): function
        for function in lowered.kernels.functions.values()
    }
    return tuple(KernelInfo.of(name, named[name]) for name in sorted(named))


def _host_module(parts: Iterable[Lowered]) -> Any:
    """Return the compiled module of all functions that launch kernels."""
    import tvm
    from tvm import tirx
    from tvm.tirx.build import codegen_build

    host = tvm.IRModule({})
    for part in parts:
        host.update(part.host)
    finish = tirx.get_tir_pipeline("s_tir")[1]
    return codegen_build(finish()(host), tvm.target.Target("llvm"))
