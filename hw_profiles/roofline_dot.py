"""Measure the rate of a dot-product instruction: the peak for bf16 and int8.

As for the fp32 peak, each thread runs the instruction on independent sums that stay in registers.
Importing this is cheap; its functions import TVM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.hw_profiles import instruction_text
from autotune.hw_profiles.instructions import DotInstruction

if TYPE_CHECKING:
    from collections.abc import Callable


def build_dot_kernel(
    target: dict[str, Any], instruction: DotInstruction, threads: int, iterations: int = 1 << 16
) -> tuple[Callable[[], None], int]:
    """Compile the kernel of an instruction; importing TVM is the caller's cost.

    For AMX the process must have asked for the use of tiles.

    Parameters
    ----------
    target
        From :func:`autotune.hw_profiles.tvm_target`, of a CPU that has the instruction.
    instruction
        One with an intrinsic; plain fp32 arithmetic is :func:`..roofline.build_fma_kernel`'s.
    threads
        Tasks of one call.
    iterations
        Turns of the loop in one call.

    Returns
    -------
    function, operations
        A function without arguments, and the operations of one call: two per multiply-add.
    """
    import numpy as np
    import tvm

    sums = 4 if instruction.tiles else (24 if instruction.lanes == 16 else 12)
    lanes = 256 if instruction.tiles else instruction.lanes
    k = instruction.group * (instruction_text.TILE_WORDS if instruction.tiles else 1)
    function = _tiles(instruction, threads, iterations) if instruction.tiles else _vectors(
        instruction, sums, threads, iterations
    )  # fmt: skip
    library = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(target))
    main = library["main"]
    words = tvm.runtime.tensor(np.zeros((1024,), "int32"))
    out = tvm.runtime.empty((threads * sums * lanes,), instruction.acc_dtype)
    return lambda: main(words, out), 2 * lanes * k * sums * iterations * threads


def _function(instruction: DotInstruction, text: str, elements: int, body: Any) -> Any:
    import tvm
    from tvm import tirx
    from tvm.script import tirx as T
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder.ir import prim_func

    with IRBuilder() as builder, prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        words = T.arg("words", T.buffer((1024,), "int32"))
        out = T.arg("out", T.buffer((elements,), instruction.acc_dtype))
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", tvm.ir.StringImm(text)):
            body(words, out)
    return builder.get()


def _vectors(instruction: DotInstruction, sums: int, threads: int, iterations: int) -> Any:
    from tvm import tirx
    from tvm.script import tirx as T

    lanes, dtype = instruction.lanes, instruction.acc_dtype
    name = instruction_text.dot_name(instruction)

    def body(words: Any, out: Any) -> None:
        with T.parallel(0, threads) as task:
            acc = T.alloc_buffer((sums * lanes,), dtype, scope="local")
            places = [T.ramp(i * lanes, 1, lanes) for i in range(sums)]
            for place in places:
                T.buffer_store(acc, tirx.Broadcast(tirx.const(0, dtype), lanes), [place])
            with T.serial(0, iterations):
                a = T.bind(words[T.ramp(0, 1, lanes)])
                b = T.bind(words[T.ramp(lanes, 1, lanes)])
                for place in places:
                    # Products that do not depend on the sums would be moved out of the loop.
                    x = acc[place] if instruction.mnemonic == "vpmaddwd" else a
                    value = tirx.call_extern(f"{dtype}x{lanes}", name, acc[place], x, b)
                    T.buffer_store(acc, value, [place])
            for i, place in enumerate(places):
                where = T.ramp(task * (sums * lanes) + i * lanes, 1, lanes)
                T.buffer_store(out, acc[place], [where])

    return _function(instruction, instruction_text.dot(instruction), threads * sums * lanes, body)


def _tiles(instruction: DotInstruction, threads: int, iterations: int) -> Any:
    from tvm import tirx
    from tvm.script import tirx as T

    def call(name: str, *arguments: Any) -> None:
        T.evaluate(tirx.call_extern("int32", f"at_tile_{name}", *arguments))

    def body(words: Any, out: Any) -> None:
        with T.parallel(0, threads) as task:
            call(f"config_{instruction_text.TILE_ROWS}")
            for tile in range(8):
                call(f"load_{tile}", T.address_of(words[0]), T.int64(64))
            with T.serial(0, iterations):
                for a in range(2):
                    for b in range(2):
                        call(f"{instruction.mnemonic}_{2 * a + b}_{4 + a}_{6 + b}")
            for tile in range(4):
                call(f"store_{tile}", T.address_of(out[task * 1024 + tile * 256]), T.int64(64))
            call("release")

    text = instruction_text.tiles(instruction, instruction_text.TILE_ROWS)
    return _function(instruction, text, threads * 1024, body)
