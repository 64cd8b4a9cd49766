"""The instructions of :mod:`autotune.hw_profiles.instructions` as text in LLVM's language.

TVM can call LLVM intrinsics, but none that takes bf16 vectors, because it rewrites every bf16 value
to uint16 before it generates code. So they are wrapped in small functions, given to LLVM as text
(TVM's ``pragma_import_llvm``), called by name, and inlined. What they exchange with the rest of a
kernel are vectors of 32-bit words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.hw_profiles.instructions import DotInstruction

#: An AMX tile has up to 16 rows of 16 words.
TILE_ROWS, TILE_WORDS = 16, 16


def dot_name(instruction: DotInstruction) -> str:
    """Return the name of the function that :func:`dot` defines.

    Kernels for several types may stand in one module, so each instruction has its own.
    """
    return f"at_dot_{instruction.name}"


def dot(instruction: DotInstruction) -> str:
    """Return a function ``(acc, a, b)`` on vectors of sums and of words."""
    lanes, name = instruction.lanes, instruction.intrinsic
    acc = f"<{lanes} x {'float' if instruction.acc_dtype == 'float32' else 'i32'}>"
    words = f"<{lanes} x i32>"
    if instruction.mnemonic == "vpmaddwd":  # multiplies and adds pairs, but does not accumulate
        operand = f"<{2 * lanes} x i16>"
        declaration = f"declare {words} @{name}({operand}, {operand})"
        body = (
            f"  %p = call {words} @{name}({operand} %x, {operand} %y)\n"
            f"  %r = add {words} %acc, %p\n"
        )
    else:
        # LLVM's x86 int8 intrinsics take words, the bf16 ones vectors of bfloat.
        operand = words if instruction.operand == "int8" else f"<{2 * lanes} x bfloat>"
        declaration = f"declare {acc} @{name}({acc}, {operand}, {operand})"
        body = f"  %r = call {acc} @{name}({acc} %acc, {operand} %x, {operand} %y)\n"
    return (
        f"{declaration}\n"
        f"define linkonce_odr {acc} @{dot_name(instruction)}({acc} %acc, {words} %a, {words} %b)"
        " alwaysinline {\n"
        f"  %x = bitcast {words} %a to {operand}\n"
        f"  %y = bitcast {words} %b to {operand}\n"
        f"{body}  ret {acc} %r\n}}\n"
    )


def tiles(instruction: DotInstruction, rows: int) -> str:
    """Return the AMX operations: C in tiles 0 to 3, A in 4 and 5, B in 6 and 7.

    ``at_tile_config_ROWS()``, ``at_tile_release()``, ``at_tile_zero_T()``, ``at_tile_load_T(p, s)``
    and ``at_tile_store_T(p, s)`` with strides s in bytes, ``at_tile_MNEMONIC_C_A_B()``.
    ``at_tile_stream_T(p, s)`` loads with a hint that the lines will not be used again soon.

    Parameters
    ----------
    rows
        Rows of A and of C in a tile, at most 16; B always has 16.
    """
    heights = [rows] * 6 + [TILE_ROWS] * 2
    # Byte 0 is the palette; 16-bit widths from byte 16, heights from byte 48.
    config = bytearray(64)
    config[0] = 1
    for tile, height in enumerate(heights):
        config[16 + 2 * tile], config[48 + tile] = 4 * TILE_WORDS, height
    cells = ", ".join(f"i8 {x}" for x in config)
    text = [
        f"@at_tile_palette = internal constant [64 x i8] [{cells}], align 64",
        "declare void @llvm.x86.ldtilecfg(ptr)",
        "declare void @llvm.x86.tilerelease()",
        "declare void @llvm.x86.tilezero(i8 immarg)",
        "declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)",
        "declare void @llvm.x86.tileloaddt164(i8 immarg, ptr, i64)",
        "declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)",
        f"declare void @{instruction.intrinsic}(i8 immarg, i8 immarg, i8 immarg)",
        _void(f"at_tile_config_{rows}", "", "llvm.x86.ldtilecfg", "ptr @at_tile_palette"),
        _void("at_tile_release", "", "llvm.x86.tilerelease", ""),
    ]
    move = "ptr %p, i64 %s"
    for tile in range(4):
        text.append(_void(f"at_tile_zero_{tile}", "", "llvm.x86.tilezero", f"i8 {tile}"))
        text.append(
            _void(f"at_tile_store_{tile}", move, "llvm.x86.tilestored64", f"i8 {tile}, {move}")
        )
    for tile in range(8):
        text.append(
            _void(f"at_tile_load_{tile}", move, "llvm.x86.tileloadd64", f"i8 {tile}, {move}")
        )
    for tile in range(4, 8):
        text.append(
            _void(f"at_tile_stream_{tile}", move, "llvm.x86.tileloaddt164", f"i8 {tile}, {move}")
        )
    for a in range(2):
        for b in range(2):
            numbers = (2 * a + b, 4 + a, 6 + b)
            name = f"at_tile_{instruction.mnemonic}_" + "_".join(map(str, numbers))
            arguments = ", ".join(f"i8 {i}" for i in numbers)
            text.append(_void(name, "", instruction.intrinsic, arguments))
    return "\n".join(text) + "\n"


def _void(name: str, parameters: str, called: str, arguments: str) -> str:
    return (
        f"define linkonce_odr i32 @{name}({parameters}) alwaysinline {{\n"
        f"  call void @{called}({arguments})\n  ret i32 0\n}}"
    )
