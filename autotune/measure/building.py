"""From a config to machine code, in whatever process does it: schedule, compile, link."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.kernels.compiling import compile_module
from autotune.trial import FailureKind

if TYPE_CHECKING:
    from autotune.search.space import Config


class Failure(Exception):
    """A candidate failed in a known way."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Compiler:
    """Builds configs of one workload for one target.

    Parameters
    ----------
    workload, target
        ``Gemm.to_json()``, and the target as TVM's dict.
    plugins, sys_path
        Modules with templates of the user's own, and where Python finds them.
    """

    def __init__(
        self,
        workload: Mapping[str, Any],
        target: Mapping[str, Any],
        plugins: list[str],
        sys_path: list[str],
    ) -> None:
        import tvm

        from autotune.kernels.base import load_templates
        from autotune.workload import Gemm

        sys.path.extend(p for p in sys_path if p not in sys.path)
        self.templates = load_templates(plugins)
        self.workload = Gemm.from_json(workload)
        self.target = tvm.target.Target(dict(target))

    def packed_shape(self, template: str, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of what ``pack`` of a prepacked workload's kernel writes."""
        return self.templates[template].packed_shape(self.workload, _config(config))

    def prepare(self, template: str, config: Mapping[str, Any]) -> None:
        """Make this process ready to run a kernel of a config.

        Raises
        ------
        Failure
            A run error, if the machine does not let it.
        """
        try:
            self.templates[template].prepare(_config(config))
        except Exception as error:
            raise Failure(FailureKind.RUN_ERROR, brief(error)) from None

    def compile(self, template: str, config: Mapping[str, Any]) -> Any:
        """Schedule a config and lower it to LLVM's form; machine code comes later.

        Raises
        ------
        Failure
            A schedule or compile error.
        """
        import tvm

        try:
            module = self.templates[template].build(self.workload, _config(config))
        except Exception as error:
            raise Failure(FailureKind.SCHEDULE_ERROR, brief(error)) from None
        try:
            self._check_signature(module)
            with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
                return compile_module(module, self.target)
        except Failure:
            raise
        except Exception as error:
            raise Failure(FailureKind.COMPILE_ERROR, brief(error)) from None

    def _check_signature(self, module: Any) -> None:
        """Make sure of what the compiled function will not check when it is called.

        Code that checks its arguments is a seventh of what there is to compile, and all arguments
        here are ours.
        """
        import tvm

        if not isinstance(module, tvm.IRModule):
            return  # what it is, the compiler will say
        main = next((f for var, f in module.functions.items() if var.name_hint == "main"), None)
        if main is None:
            raise Failure(FailureKind.COMPILE_ERROR, "the module has no function main")
        w = self.workload
        wanted = [*(shape for _, shape, _ in w.inputs), w.c_shape]
        shapes = [tuple(int(extent) for extent in parameter.shape) for parameter in main.params]
        if w.prepacked and len(shapes) > 1:
            wanted[1] = shapes[1]  # the template's own
        if shapes != wanted:
            raise Failure(
                FailureKind.COMPILE_ERROR,
                f"main takes {len(shapes)} arguments of shapes {shapes}, not {wanted}",
            )

    def in_process(self, template: str, config: Mapping[str, Any]) -> Any:
        """Return a kernel for this process."""
        library = self.compile(template, config)
        try:
            # Machine code is made when a function is first looked up, which can take longer than
            # all before it: that is building, not running.
            library["main"]
        except Exception as error:
            raise Failure(FailureKind.COMPILE_ERROR, brief(error)) from None
        return library.mod

    def shared_library(
        self, template: str, config: Mapping[str, Any], path: Path, linker: str
    ) -> str:
        """Write a kernel as a shared library for another process; return a digest of its code.

        Equal digests mean equal machine code: it covers the object file, which holds nothing else.
        """
        library = self.compile(template, config)
        objects = path.with_suffix(".o")
        try:
            library.mod.write_to_file(str(objects), "o")
            digest = hashlib.sha256(objects.read_bytes()).hexdigest()[:32]
            # By the linker itself, which takes 3 ms; through a compiler's driver it takes 12.
            # Symbols are bound at loading, so that a missing one is an error and not a crash.
            subprocess.run(
                [linker, "-shared", "-z", "now", "-o", str(path), str(objects)],
                check=True,
                capture_output=True,
                text=True,
            )
        except subprocess.CalledProcessError as error:
            raise Failure(FailureKind.COMPILE_ERROR, f"{linker}: {error.stderr[-600:]}") from None
        except Exception as error:
            raise Failure(FailureKind.COMPILE_ERROR, brief(error)) from None
        finally:
            objects.unlink(missing_ok=True)
        return digest


def _config(values: Mapping[str, Any]) -> Config:
    """Rebuild a config that came as JSON."""
    from autotune.search.space import Config

    return Config({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def load(path: str) -> Any:
    """Load a kernel that :meth:`Compiler.shared_library` wrote, and remove its file."""
    import tvm

    try:
        kernel = tvm.runtime.load_module(path)
    except Exception as error:
        raise Failure(FailureKind.COMPILE_ERROR, f"cannot be loaded: {brief(error)}") from None
    finally:
        os.unlink(path)  # what is mapped stays; thousands of files would fill the folder
    return kernel


def find_linker() -> str | None:
    """Return the path of a linker that can make what :func:`load` reads; None without one."""
    return shutil.which("ld") if sys.platform.startswith("linux") else None


def brief(error: Exception) -> str:
    """Return the last lines of an error: TVM puts the IR first and the reason last."""
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) <= 600 else "... " + text[-600:]
