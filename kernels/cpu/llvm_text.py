"""Small functions in LLVM's language, linked into a kernel and inlined there.

TVM can call LLVM intrinsics, but it rewrites every bf16 value to uint16 before it generates code, so
none that takes bf16 vectors; and it has no masked loads and stores. So the few operations that a
template needs beyond plain arithmetic are given to LLVM as text (TVM's ``pragma_import_llvm``) and
called by name. Vectors of 32-bit words are what they exchange with the rest of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.hw_profiles.instructions import DotInstruction

#: Palette of an AMX tile: 16 rows of 64 bytes, 8 tiles.
TILE_ROWS, TILE_WORDS = 16, 16
_WORD = {"bfloat16": "bfloat", "int8": "i8", "int16": "i16"}
_SCALAR = {
    "float32": "float", "int32": "i32", "uint32": "i32", "uint16": "i16", "int8": "i8", "uint8": "i8",
}  # fmt: skip


def dot(instruction: DotInstruction) -> str:
    """Return ``at_dot(acc, a, b)`` on vectors of sums and of words."""
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
        f"define linkonce_odr {acc} @at_dot({acc} %acc, {words} %a, {words} %b) alwaysinline {{\n"
        f"  %x = bitcast {words} %a to {operand}\n"
        f"  %y = bitcast {words} %b to {operand}\n"
        f"{body}  ret {acc} %r\n}}\n"
    )


def _mask(lanes: int) -> str:
    """Return the instructions that set ``%m`` to the first ``%n`` of the lanes."""
    steps = ", ".join(f"i32 {i}" for i in range(lanes))
    return (
        f"  %s = insertelement <{lanes} x i32> poison, i32 %n, i32 0\n"
        f"  %c = shufflevector <{lanes} x i32> %s, <{lanes} x i32> poison,"
        f" <{lanes} x i32> zeroinitializer\n"
        f"  %m = icmp slt <{lanes} x i32> <{steps}>, %c\n"
    )


def masked_name(kind: str, dtype: str, lanes: int) -> str:
    """Return the name of the function that :func:`masked` defines."""
    return f"at_{kind}_{dtype}_{lanes}"


def masked(kind: str, dtype: str, lanes: int) -> str:
    """Return a masked access to the first n lanes at an address.

    ``load``: ``(pointer, n) -> vector``, zero elsewhere; ``store``: ``(pointer, vector, n)``.
    """
    scalar = _SCALAR[dtype]
    vector, bits = f"<{lanes} x {scalar}>", f"<{lanes} x i1>"
    suffix = f"v{lanes}{scalar.replace('float', 'f32')}.p0"
    name = masked_name(kind, dtype, lanes)
    if kind == "load":
        return (
            f"declare {vector} @llvm.masked.load.{suffix}(ptr, i32, {bits}, {vector})\n"
            f"define linkonce_odr {vector} @{name}(ptr %p, i32 %n) alwaysinline {{\n{_mask(lanes)}"
            f"  %r = call {vector} @llvm.masked.load.{suffix}(ptr %p, i32 1, {bits} %m,"
            f" {vector} zeroinitializer)\n  ret {vector} %r\n}}\n"
        )
    return (
        f"declare void @llvm.masked.store.{suffix}({vector}, ptr, i32, {bits})\n"
        f"define linkonce_odr i32 @{name}(ptr %p, {vector} %v, i32 %n) alwaysinline {{\n"
        f"{_mask(lanes)}  call void @llvm.masked.store.{suffix}({vector} %v, ptr %p, i32 1,"
        f" {bits} %m)\n  ret i32 0\n}}\n"
    )


def round_to_half(kind: str, lanes: int) -> str:
    """Return ``at_round(vector of fp32) -> vector of uint16``: IEEE rounding to fp16 or bf16.

    For bf16 only where the CPU has an instruction for it: elsewhere LLVM would call a function that
    no library of TVM's has.
    """
    llvm = "half" if kind == "float16" else "bfloat"
    return (
        f"define linkonce_odr <{lanes} x i16> @at_round(<{lanes} x float> %v) alwaysinline {{\n"
        f"  %h = fptrunc <{lanes} x float> %v to <{lanes} x {llvm}>\n"
        f"  %r = bitcast <{lanes} x {llvm}> %h to <{lanes} x i16>\n  ret <{lanes} x i16> %r\n}}\n"
    )


def transpose16() -> str:
    """Return ``at_transpose(from, from stride, to, to stride)`` for 16 x 16 words.

    Strides are in bytes. Four rounds of shuffles of two vectors each, in the patterns that x86 has
    single instructions for; LLVM finds what is best elsewhere.
    """
    vector = "<16 x i32>"
    lines = [
        "define linkonce_odr i32 @at_transpose(ptr %from, i64 %step, ptr %to, i64 %skip)"
        " alwaysinline {"
    ]
    for i in range(16):
        lines += [
            f"  %fo{i} = mul i64 %step, {i}",
            f"  %fp{i} = getelementptr i8, ptr %from, i64 %fo{i}",
            f"  %r0_{i} = load {vector}, ptr %fp{i}, align 1",
        ]

    def shuffle(result: str, x: str, y: str, indices: Sequence[int]) -> None:
        mask = ", ".join(f"i32 {i}" for i in indices)
        lines.append(
            f"  {result} = shufflevector {vector} {x}, {vector} {y}, {vector} <{mask}>"
        )

    quarters = range(0, 16, 4)
    low = [q + i for q in quarters for i in (0, 16, 1, 17)]
    high = [q + i for q in quarters for i in (2, 18, 3, 19)]
    low2 = [q + i for q in quarters for i in (0, 1, 16, 17)]
    high2 = [q + i for q in quarters for i in (2, 3, 18, 19)]
    for i in range(0, 16, 2):  # 32-bit words of neighbouring rows
        shuffle(f"%r1_{i}", f"%r0_{i}", f"%r0_{i + 1}", low)
        shuffle(f"%r1_{i + 1}", f"%r0_{i}", f"%r0_{i + 1}", high)
    for i in range(0, 16, 4):  # 64-bit halves: column 4 l + c of rows i to i + 3 in lane group l
        for c in range(4):
            x, y = f"%r1_{i + c // 2}", f"%r1_{i + 2 + c // 2}"
            shuffle(f"%r2_{i + c}", x, y, high2 if c % 2 else low2)
    even = [g + i for g in (0, 8) for i in range(4)]
    odd = [g + i for g in (4, 12) for i in range(4)]
    both = [[*even, *(i + 16 for i in even)], [*odd, *(i + 16 for i in odd)]]
    for c in range(4):  # 128-bit groups
        for half in range(2):
            for parity in range(2):
                shuffle(f"%r3_{c}_{half}_{parity}", f"%r2_{8 * half + c}",
                        f"%r2_{8 * half + 4 + c}", both[parity])  # fmt: skip
    order = {0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1)}
    for column in range(16):
        group, c = column // 4, column % 4
        parity, second = order[group]
        x, y = f"%r3_{c}_0_{parity}", f"%r3_{c}_1_{parity}"
        start = 4 * second
        mask = [*range(start, start + 4), *range(start + 8, start + 12)]
        # Rows 0-3, 4-7 come from x, 8-11, 12-15 from y.
        shuffle(f"%t{column}", x, y, [*mask, *(i + 16 for i in mask)])
        lines += [
            f"  %to{column} = mul i64 %skip, {column}",
            f"  %tp{column} = getelementptr i8, ptr %to, i64 %to{column}",
            f"  store {vector} %t{column}, ptr %tp{column}, align 1",
        ]
    return "\n".join([*lines, "  ret i32 0", "}", ""])


def tiles(instruction: DotInstruction, rows: int) -> str:
    """Return the AMX operations: C in tiles 0 to 3, A in 4 and 5, B in 6 and 7.

    ``at_tile_config()``, ``at_tile_release()``, ``at_tile_zero_T()``, ``at_tile_load_T(p, stride)``,
    ``at_tile_store_T(p, stride)`` with strides in bytes, ``at_tile_dot_C_A_B()``.

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
        f"@at_tile_palette = linkonce_odr constant [64 x i8] [{cells}], align 64",
        "declare void @llvm.x86.ldtilecfg(ptr)",
        "declare void @llvm.x86.tilerelease()",
        "declare void @llvm.x86.tilezero(i8 immarg)",
        "declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)",
        "declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)",
        f"declare void @{instruction.intrinsic}(i8 immarg, i8 immarg, i8 immarg)",
        _void("at_tile_config", "", "llvm.x86.ldtilecfg", "ptr @at_tile_palette"),
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
    for a in range(2):
        for b in range(2):
            numbers = (2 * a + b, 4 + a, 6 + b)
            name = "at_tile_dot_" + "_".join(map(str, numbers))
            arguments = ", ".join(f"i8 {i}" for i in numbers)
            text.append(_void(name, "", instruction.intrinsic, arguments))
    return "\n".join(text) + "\n"


def _void(name: str, parameters: str, called: str, arguments: str) -> str:
    return (
        f"define linkonce_odr i32 @{name}({parameters}) alwaysinline {{\n"
        f"  call void @{called}({arguments})\n  ret i32 0\n}}"
    )


def join(parts: Iterable[str]) -> str:
    """Join texts, each declaration and definition once."""
    seen: dict[str, None] = {}
    for part in parts:
        seen.setdefault(part)
    return "\n".join(seen)
