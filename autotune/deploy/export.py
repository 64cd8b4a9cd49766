"""Write kernels as one shared library with a plain C interface."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.call import Argument
from autotune.deploy.files import c_compiler, put_library
from autotune.deploy.source import Function, header, library_source, symbol_of
from autotune.errors import AutotuneError
from autotune.hw_profiles import tvm_target
from autotune.hw_profiles.instructions import INSTRUCTIONS
from autotune.identity import target_json, tool_versions
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module

if TYPE_CHECKING:
    from autotune.choice import Choice
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: Version of the description's meaning.
FORMAT = 1
#: What TVM's code may ask of its runtime, and deploy/runtime.c has.
_RUNTIME = {"AllocWorkspace", "FreeWorkspace", "ParallelLaunch"}
_PACK = "pack"
#: The library's interface, for the linker.
_EXPORTED = """\
{
  global: autotune_*; __tvm_ffi_*; __TVMBackend*; TVMFFIErrorSetRaisedFromCStrParts;
  local: *;
};
"""


@dataclass(frozen=True)
class Item:
    """One kernel to export: what it computes, and what it is compiled from."""

    workload: Gemm
    choice: Choice


def export_library(
    items: Sequence[Item],
    path: Path,
    profile: HardwareProfile,
    threads: int,
    header_path: Path | None = None,
) -> list[Function]:
    """Write a shared library with one function for each kernel, and one to pack B where needed.

    Parameters
    ----------
    items
        Kernels of different workloads.
    path
        The library.
    profile, threads
        What it is compiled for.
    header_path
        Where to write a C header too.

    Returns
    -------
    list of Function
        What the library offers.

    Raises
    ------
    AutotuneError
        If there is no C compiler, it fails, or a file cannot be written.
    """
    if not items:
        raise AutotuneError("there is no kernel to export")
    compiler = _compiler()
    functions: list[Function] = []
    modules: list[Any] = []
    described = []
    for item in items:
        module, own = _kernel(item)
        functions += own
        modules.append(module)
        described.append(_description(item, own))
    description = {
        "format": FORMAT,
        "target": target_json(profile, threads),
        "isa": profile.isa,
        "features": list(profile.features),
        "tools": tool_versions(),
        "kernels": described,
    }
    amx = any(_uses_amx(item) for item in items)
    source = library_source(functions, description, profile, threads, amx)
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for number, module in enumerate(modules):
            objects.append(Path(folder) / f"{number}.o")
            _compile(module, objects[-1], profile, threads)
        (Path(folder) / "library.c").write_text(source, "utf-8")
        _link(compiler, Path(folder) / "library.c", objects, path)
    if header_path is not None:
        _write(header_path, header(functions, path.name, threads))
    return functions


def _uses_amx(item: Item) -> bool:
    return any(known.tiles and known.name in item.choice.config.values() for known in INSTRUCTIONS)


def _compiler() -> str:
    compiler = c_compiler()
    if compiler is None or not sys.platform.startswith("linux"):
        raise AutotuneError(
            "exporting needs Linux and a C compiler (cc, gcc or clang) on the PATH; none is needed"
            " where the library runs"
        )
    return compiler


def _kernel(item: Item) -> tuple[Any, list[Function]]:
    """Return the module of one kernel, with its functions named for C, and these."""
    import tvm

    from autotune.kernel import kernel_inputs
    from autotune.kernels.alignment import for_any_alignment

    workload, choice = item.workload, item.choice
    template = get_template(choice.template)
    built = for_any_alignment(template.build(workload, choice.config))
    symbol = symbol_of(workload)
    packed_shape = None
    if workload.prepacked:
        packed_shape = template.packed_shape(workload, choice.config)
    rate = "" if choice.cost is None else f", {workload.flops / choice.cost / 1e9:.1f} GFLOP/s"
    inputs = kernel_inputs(workload, packed_shape)
    out = Argument("out", workload.c_shape, workload.out_dtype)
    functions = [Function(symbol, tuple(inputs), out, f"{workload.key}\n * ({choice.note}{rate})")]
    if packed_shape is not None:
        b = Argument("b", workload.b_shape, workload.dtype)
        packed = Argument("packed", packed_shape, workload.dtype)
        comment = f"Packs b for {symbol}."
        functions.append(Function(f"{symbol}_{_PACK}", (b,), packed, comment))
    names = ("main", _PACK)
    module = tvm.IRModule(
        {
            function.symbol: built[name].with_attr("global_symbol", function.symbol)
            for function, name in zip(functions, names, strict=False)
        }
    )
    return module, functions


def _description(item: Item, functions: Sequence[Function]) -> dict[str, Any]:
    choice = item.choice
    return {
        "symbol": functions[0].symbol,
        "pack_symbol": functions[1].symbol if len(functions) > 1 else None,
        "packed_shape": list(functions[1].output.shape) if len(functions) > 1 else None,
        "workload": item.workload.to_json(),
        "template": {"name": choice.template, "version": choice.version},
        "config": choice.config.to_json(),
        "tier": choice.tier.value,
        "note": choice.note,
        "cost": choice.cost,
    }


def _compile(module: Any, path: Path, profile: HardwareProfile, threads: int) -> None:
    """Write the object file of one kernel.

    Each has its own, so that what a template gives LLVM as text cannot meet another's.
    """
    import tvm

    target = tvm.target.Target(tvm_target(profile, threads))
    try:
        compile_module(module, target).mod.write_to_file(str(path), "o")
    except Exception as error:
        reason = str(error).strip()[-400:]
        raise AutotuneError(f"a kernel cannot be compiled: {reason}") from error
    asked = {name.decode() for name in re.findall(rb"__TVMBackend(\w+)", path.read_bytes())}
    if unknown := asked - _RUNTIME:
        raise AutotuneError(
            f"a kernel needs TVM's {', '.join(sorted(unknown))}, which exported libraries do not"
            " have"
        )


def _link(compiler: str, source: Path, objects: Sequence[Path], path: Path) -> None:
    """Compile and link; what exists at ``path`` is replaced at once, never half-written.

    The library stays in the process once it is loaded, because its threads run in it. What is not
    of its interface is local: LLVM's half-precision conversions have the names of libgcc's, which
    take their arguments elsewhere, and must not be replaced by them.
    """
    made, exported = source.with_name("library.so"), source.with_name("exported.map")
    exported.write_text(_EXPORTED, "utf-8")
    command = [compiler, "-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
    command += ["-o", str(made), str(source), *map(str, objects), "-lm"]
    command += [f"-Wl,-soname,{path.name}", "-Wl,-z,now", "-Wl,-z,nodelete", "-Wl,--no-undefined"]
    command += [f"-Wl,--version-script={exported}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AutotuneError(f"{compiler} failed: {done.stderr.strip()[-600:]}")
    put_library(made, path)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise AutotuneError(f"cannot write {path}: {error.strerror}") from None
