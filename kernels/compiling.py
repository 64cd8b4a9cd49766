"""From a scheduled module to machine code of a CPU.

TVM takes small buffers from the stack, where LLVM turns them into registers, and those of 1 KiB or
more from a pool of memory. The sums of a register tile are more than that with AVX-512 (8 x 32
floats are 1 KiB), so that they were written to memory and read again where a tile is done: a tenth
of the time of ``3072 x 1500 x 128``. Here all of up to :data:`STACK_BYTES` are from the stack.

TVM also looks for common subexpressions, which takes up to four fifths of its time, and longer the
longer the code. Functions that are written statement by statement have given names to theirs, and
LLVM finds the rest: ten kernels of ``cpu_dot`` and ``cpu_dot_swapped`` were 1.00 to 1.13 times as
fast without.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

#: Largest buffer that is taken from the stack: twice as much as 32 registers of 512 bits. A few of
#: them at a time leave most of a thread's stack.
STACK_BYTES = 4096
#: Attribute of a function in which there are no common subexpressions to look for.
WRITTEN_OUT = "autotune.written_out"
#: Name of the passes, among TVM's.
_PIPELINE = "autotune"


def compile_module(module: Any, target: Any, **options: Any) -> Any:
    """Return the compiled form of a module, as ``tvm.compile`` does.

    Parameters
    ----------
    module
        An IRModule of functions for a CPU, or a model that calls such.
    target
        A ``tvm.target.Target``.
    options
        More of ``tvm.compile``.
    """
    import tvm

    tvm.tirx.register_tir_pipeline(_PIPELINE, _pipeline)
    with _without_common_subexpressions() if _written_out(module) else nullcontext():
        return tvm.compile(module, target=target, tir_pipeline=_PIPELINE, **options)


def _without_common_subexpressions() -> Any:
    """Return the present context but for that pass: one takes the place of the one around it."""
    import tvm

    now = tvm.transform.PassContext.current()
    config = {**now.config, "tirx.disable_cse_tir": True}
    return tvm.transform.PassContext(
        now.opt_level, now.required_pass, now.disabled_pass, now.instruments, config
    )


def _written_out(module: Any) -> bool:
    """Whether all functions have the attribute; what is no module is left to TVM to refuse."""
    import tvm

    if not isinstance(module, tvm.IRModule):
        return False
    return all(WRITTEN_OUT in (func.attrs or {}) for func in module.functions.values())


def _pipeline(**options: Any) -> tuple[Any, Any, Any]:
    """Return TVM's own passes, and one more before it decides where buffers are."""
    import tvm
    from tvm import tirx

    lower, finish_host, finish_device = tirx.get_tir_pipeline("default", **options)

    def on_stack(func: Any, _module: Any, _context: Any) -> Any:
        return func.with_body(_on_stack(func.body))

    def finish() -> Any:
        first = tirx.transform.prim_func_pass(on_stack, opt_level=0)
        return tvm.transform.Sequential([first, finish_host()])

    return lower, finish, finish_device


def _on_stack(body: Any) -> Any:
    """Return a statement whose small buffers TVM leaves to LLVM."""
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def allocation(statement: Any) -> Any:
        buffer = statement.buffer
        if not all(hasattr(extent, "value") for extent in buffer.shape):
            return statement
        elements = math.prod(int(extent) for extent in buffer.shape)
        if elements * _bytes(buffer.dtype) > STACK_BYTES:
            return statement
        return tirx.AllocBuffer(buffer, {"disable_lower_builtin": tirx.const(True, "bool")})

    return structural_map(body, [(tirx.AllocBuffer, allocation)])


def _bytes(dtype: Any) -> int:
    """Return the bytes of an element, which may be a vector."""
    import tvm_ffi

    kind = tvm_ffi.dtype(str(dtype))
    return int(-(-kind.bits * kind.lanes // 8))
