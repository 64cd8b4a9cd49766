"""Use a tuned kernel from Python: the logged winner, compiled in this process."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.call import Argument, CheckedFunction
from autotune.choice import EXACT, Choice, choose_config
from autotune.errors import AutotuneError
from autotune.hw_profiles import resolve_target, tvm_target
from autotune.kernels.base import AUTO, choose_template
from autotune.log import Tier, TuningLog

if TYPE_CHECKING:
    from autotune.search.space import Config
    from autotune.workload import Gemm


class FallbackWarning(UserWarning):
    """A kernel was compiled from a config that was not tuned for exactly its workload."""


class Kernel(CheckedFunction):
    """A compiled product, called as ``kernel(a, b[, bias][, residual], out=None)``.

    Arguments are C-contiguous arrays on the CPU of the workload's stored shapes and dtypes: torch
    tensors, numpy's arrays, or anything that speaks DLPack. Nothing is copied, wherever the memory
    starts; where every array starts on a cache line (as torch's do) kernels are a few percent
    faster. For a prepacked workload, b is what :meth:`pack` returned.

    Attributes
    ----------
    workload
        What it computes.
    tier, note
        How the log's record was matched with the workload, and one line about it.
    template, config
        What it was compiled from: the template's name, and the config.
    threads
        Number of threads that it was tuned for.
    """

    def __init__(
        self,
        workload: Gemm,
        function: Any,
        pack: Any = None,
        packed_shape: tuple[int, ...] | None = None,
        *,
        choice: Choice,
        threads: int,
    ) -> None:
        self.workload = workload
        self.tier, self.note = choice.tier, choice.note
        self.template: str = choice.template
        self.config: Config = choice.config
        self.threads = threads
        self._choice = choice
        out = Argument("out", workload.c_shape, workload.out_dtype)
        super().__init__(function, kernel_inputs(workload, packed_shape), out)
        self._pack = None
        if packed_shape is not None:
            b = Argument("b", workload.b_shape, workload.dtype)
            packed = Argument("packed", packed_shape, workload.dtype)
            self._pack = CheckedFunction(pack, [b], packed)

    def __repr__(self) -> str:
        return f"Kernel({self.workload.key!r}, {self.template}, {self.tier.value})"

    def pack(self, b: Any) -> Any:
        """Return B, of its stored shape, in the order in which this kernel reads it.

        The result, a torch tensor if ``b`` is one and else a numpy array, is for this kernel only:
        another config packs otherwise.

        Raises
        ------
        AutotuneError
            If the workload is not prepacked, or ``b`` has another shape, dtype or layout.
        """
        if self._pack is None:
            raise AutotuneError("this kernel takes b as it is; only prepacked workloads pack it")
        return self._pack(b)

    def export(
        self, path: str | os.PathLike[str], header: str | os.PathLike[str] | None = None
    ) -> None:
        """Write this kernel, for this machine's CPU, as a shared library.

        It runs without TVM: from C through the functions that the header declares, from Python
        through :func:`autotune.load_library`. A C compiler is needed here, not there.

        Parameters
        ----------
        path
            The library, ``gemm.so`` for instance.
        header
            Where to write a C header too.

        Raises
        ------
        AutotuneError
            If there is no C compiler, or a file cannot be written.
        """
        from autotune.deploy.export import Item, export_library

        items = [Item(self.workload, self._choice)]
        header_path = None if header is None else Path(header)
        export_library(items, Path(path), resolve_target("cpu"), self.threads, header_path)


def kernel_inputs(workload: Gemm, packed_shape: tuple[int, ...] | None = None) -> list[Argument]:
    """Return what a kernel of a workload takes before its output."""
    inputs = [Argument(*argument) for argument in workload.inputs]
    if packed_shape is not None:
        inputs[1] = Argument("b", packed_shape, workload.dtype)
    return inputs


def load_kernel(
    log: str | os.PathLike[str] | None,
    workload: Gemm,
    *,
    threads: int | None = None,
    template: str = AUTO,
    fallback: str = EXACT,
) -> Kernel:
    """Compile the logged winner of a workload for this machine.

    Parameters
    ----------
    log
        Path of a tuning log; None for the template's first guess, with ``fallback="default"``.
    workload
        What was tuned.
    template
        What it was tuned with; "auto" is what ``autotune gemm`` takes by itself.
    threads
        Thread count that it was tuned for; by default all physical cores. TVM's pool takes its
        size from ``TVM_NUM_THREADS`` at its first use in a process; it is set here if it is not.
    fallback
        What to do if the log has no result for exactly this workload: ``"exact"`` refuses;
        ``"nearest"`` takes the config of the closest workload tuned on this hardware, as the tiers
        of :class:`autotune.log.Tier` order them, moved to the nearest legal config of this one;
        ``"default"`` takes the template's own first guess where there is none either. Anything but
        an exact match is said by a :class:`FallbackWarning`, ``Kernel.tier`` and ``Kernel.note``.

    Raises
    ------
    AutotuneError
        If the log has no such result, hardware and thread count included.
    """
    profile = resolve_target("cpu")
    threads = threads or profile.usable_threads
    chosen = choose_template(template, workload, profile)
    tuned = None if log is None else TuningLog(Path(log))
    choice = choose_config(tuned, workload, profile, threads, chosen, fallback=fallback)
    if choice.tier is not Tier.EXACT:
        warnings.warn(f"{workload.key}: {choice.note}", FallbackWarning, stacklevel=2)
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    import tvm

    from autotune.kernels.alignment import for_any_alignment
    from autotune.kernels.compiling import compile_module

    chosen.prepare(choice.config)
    module = for_any_alignment(chosen.build(workload, choice.config))
    library = compile_module(module, tvm.target.Target(tvm_target(profile, threads)))
    pack, shape = None, None
    if workload.prepacked:
        pack, shape = library["pack"], chosen.packed_shape(workload, choice.config)
    return Kernel(workload, library["main"], pack, shape, choice=choice, threads=threads)
