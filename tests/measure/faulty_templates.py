"""A template whose one knob says in which way it goes wrong; imported by workers as a plugin."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from autotune.kernels.base import Template, register
from autotune.kernels.gemm import gemm_prim_func
from autotune.search.parameters import Categorical
from autotune.search.space import Config, ConfigSpace
from autotune.workload import Gemm

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile

#: What happens while the kernel is built, before a correct one is returned.
DURING_BUILD = (
    "good", "segfault", "exits", "loops", "deaf_to_sigterm", "spawns_and_loops", "prints",
    "raises", "garbles_the_pipe", "forges_an_answer", "not_a_module", "no_main",
)  # fmt: skip
#: What is wrong with the kernel itself.
KERNELS = (
    "undefined_variable", "missing_symbol", "kernel_crashes", "kernel_loops", "extra_argument",
    "drops_last_k", "drops_last_row", "drops_last_column", "writes_nothing", "reads_c_first",
)  # fmt: skip


@register
class Faulty(Template):
    """Plain loops over float32 in layout nn, gone wrong."""

    name = "faulty"
    version = 1
    kind = "cpu"

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        return ConfigSpace(self.name, [Categorical("fault", (*DURING_BUILD, *KERNELS))])

    def build(self, workload: Gemm, config: Config) -> Any:
        fault = str(config["fault"])
        special = getattr(self, f"_{fault}", None)
        if fault in KERNELS:
            return _module(special(workload))  # type: ignore[misc]
        replacement = special() if special is not None else None
        return replacement or _module(gemm_prim_func(workload))

    # -- while building -------------------------------------------------------------------------

    def _segfault(self) -> None:
        ctypes.string_at(0)

    def _exits(self) -> None:
        os._exit(0)

    def _loops(self) -> None:
        while True:
            pass

    def _deaf_to_sigterm(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)

    def _spawns_and_loops(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        self._loops()

    def _prints(self) -> None:
        for stream in (1, 2):
            for _ in range(100):
                os.write(stream, b"y" * (1 << 20))

    def _raises(self) -> None:
        raise RuntimeError("this knob cannot be scheduled")

    def _garbles_the_pipe(self) -> None:
        _write_to_pipes(b"\x00\xff this is no JSON\n")

    def _forges_an_answer(self) -> None:
        _write_to_pipes(b'{"done": true}\n')

    def _not_a_module(self) -> Any:
        return "an IRModule"

    def _no_main(self) -> Any:
        import tvm

        return tvm.IRModule({"other": gemm_prim_func(Gemm(2, 2, 2))})

    # -- kernels --------------------------------------------------------------------------------

    def _undefined_variable(self, w: Gemm) -> Any:
        from tvm import tirx

        return _gemm(w, w.k, lambda x, i, j: x * tirx.Var("nowhere", "float32"))

    def _missing_symbol(self, w: Gemm) -> Any:
        from tvm import tirx

        return _gemm(w, w.k, lambda x, i, j: tirx.call_extern("float32", "no_such_symbol", x))

    def _kernel_crashes(self, w: Gemm) -> Any:
        from tvm.script import tirx as T

        m, n, k = w.m, w.n, w.k

        @T.prim_func
        def main(
            A: T.Buffer((m, k), "float32"),
            B: T.Buffer((k, n), "float32"),
            C: T.Buffer((m, n), "float32"),
        ) -> None:
            T.evaluate(T.call_extern("int32", "raise", T.int32(11)))

        return main

    def _kernel_loops(self, w: Gemm) -> Any:
        from tvm.script import tirx as T

        m, n, k = w.m, w.n, w.k

        @T.prim_func
        def main(
            A: T.Buffer((m, k), "float32"),
            B: T.Buffer((k, n), "float32"),
            C: T.Buffer((m, n), "float32"),
        ) -> None:
            C[0, 0] = T.float32(0)
            while C[0, 0] < T.float32(1):
                C[0, 1] = C[0, 1] + A[0, 0]

        return main

    def _extra_argument(self, w: Gemm) -> Any:
        from tvm import te

        a, b, c = _operands(w, w.k, lambda x, i, j: x)
        return te.create_prim_func([a, b, te.placeholder((1,), "float32", name="D"), c])

    def _drops_last_k(self, w: Gemm) -> Any:
        return _gemm(w, w.k - 1, lambda x, i, j: x)

    def _drops_last_row(self, w: Gemm) -> Any:
        return _partial(w, w.m - 1, w.n)

    def _drops_last_column(self, w: Gemm) -> Any:
        return _partial(w, w.m, w.n - 1)

    def _writes_nothing(self, w: Gemm) -> Any:
        return _partial(w, 0, w.n)

    def _reads_c_first(self, w: Gemm) -> Any:
        from tvm.script import tirx as T

        m, n, k = w.m, w.n, w.k

        @T.prim_func
        def main(
            A: T.Buffer((m, k), "float32"),
            B: T.Buffer((k, n), "float32"),
            C: T.Buffer((m, n), "float32"),
        ) -> None:
            for i, j, r in T.grid(m, n, k):
                C[i, j] = C[i, j] + A[i, r] * B[r, j]

        return main


def _write_to_pipes(data: bytes) -> None:
    """Write to every descriptor beyond the standard ones, among them that of the answers."""
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, data)
        except OSError:
            continue


def _operands(w: Gemm, depth: int, epilogue: Any) -> tuple[Any, Any, Any]:
    from tvm import te

    a = te.placeholder((w.m, w.k), "float32", name="A")
    b = te.placeholder((w.k, w.n), "float32", name="B")
    k = te.reduce_axis((0, depth), "k")
    product = te.compute((w.m, w.n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="P")
    c = te.compute((w.m, w.n), lambda i, j: epilogue(product[i, j], i, j), name="C")
    return a, b, c


def _gemm(w: Gemm, depth: int, epilogue: Any) -> Any:
    from tvm import te

    return te.create_prim_func(list(_operands(w, depth, epilogue)))


def _partial(w: Gemm, rows: int, columns: int) -> Any:
    """Return a kernel that computes only the first rows and columns, and writes nothing else."""
    from tvm.script import tirx as T

    m, n, k = w.m, w.n, w.k

    @T.prim_func
    def main(
        A: T.Buffer((m, k), "float32"),
        B: T.Buffer((k, n), "float32"),
        C: T.Buffer((m, n), "float32"),
    ) -> None:
        for i, j in T.grid(rows, columns):
            C[i, j] = T.float32(0)
            for r in range(k):
                C[i, j] = C[i, j] + A[i, r] * B[r, j]

    return main


def _module(function: Any) -> Any:
    import tvm

    return tvm.IRModule({"main": function})
