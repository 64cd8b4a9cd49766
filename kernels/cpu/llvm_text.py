"""Small functions in LLVM's language, linked into a kernel and inlined there.

TVM has no masked loads and stores, and no bf16 in the code that it generates. So the few operations
that a template needs beyond plain arithmetic are given to LLVM as text (TVM's
``pragma_import_llvm``) and called by name. Those of the dot-product instructions stand in
:mod:`autotune.hw_profiles.instruction_text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SCALAR = {"float32": "float", "int32": "i32", "uint16": "i16", "int8": "i8", "uint8": "i8"}


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


def round_name(kind: str, lanes: int) -> str:
    """Return the name of the function that :func:`round_to_half` defines."""
    return f"at_round_{kind}_{lanes}"


def round_to_half(kind: str, lanes: int) -> str:
    """Return a function from fp32 to uint16 vectors: IEEE rounding to fp16 or bf16.

    For bf16 only where the CPU has an instruction for it: elsewhere LLVM would call a function that
    no library of TVM's has.
    """
    llvm = "half" if kind == "float16" else "bfloat"
    return (
        f"define linkonce_odr <{lanes} x i16> @{round_name(kind, lanes)}(<{lanes} x float> %v)"
        " alwaysinline {\n"
        f"  %h = fptrunc <{lanes} x float> %v to <{lanes} x {llvm}>\n"
        f"  %r = bitcast <{lanes} x {llvm}> %h to <{lanes} x i16>\n  ret <{lanes} x i16> %r\n}}\n"
    )


def transpose8() -> str:
    """Return ``at_transpose8(from, from stride, to, to stride)`` for 8 x 8 fp32.

    Strides are in bytes. Three rounds of shuffles of two vectors each, in the patterns that AVX2
    has single instructions for.
    """
    vector = "<8 x float>"
    lines = _transposition("at_transpose8", vector, 8)
    for i in range(0, 8, 2):  # 32-bit words of neighbouring rows
        for half, offset in ((0, 0), (1, 2)):
            words = [g + offset + x for g in (0, 4) for x in (0, 8, 1, 9)]
            lines.append(_shuffle(vector, f"%r1_{i + half}", f"%r0_{i}", f"%r0_{i + 1}", words))
    for i in (0, 4):  # 64-bit halves: columns c and 4 + c of rows i to i + 3
        for c in range(4):
            halves = [g + 2 * (c % 2) + x for g in (0, 4) for x in (0, 1, 8, 9)]
            x, y = f"%r1_{i + c // 2}", f"%r1_{i + 2 + c // 2}"
            lines.append(_shuffle(vector, f"%r2_{i + c}", x, y, halves))
    for column in range(8):  # 128-bit groups
        start, c = column // 4 * 4, column % 4
        groups = [start + x for x in (0, 1, 2, 3, 8, 9, 10, 11)]
        lines.append(_shuffle(vector, f"%t{column}", f"%r2_{c}", f"%r2_{4 + c}", groups))
    return _stored(lines, vector, 8)


def _transposition(name: str, vector: str, rows: int) -> list[str]:
    """Return the head of a function, and its loads of ``%r0_0`` to ``%r0_{rows - 1}``."""
    lines = [
        f"define linkonce_odr i32 @{name}(ptr %from, i64 %step, ptr %to, i64 %skip) alwaysinline {{"
    ]
    for i in range(rows):
        lines += [
            f"  %fo{i} = mul i64 %step, {i}",
            f"  %fp{i} = getelementptr i8, ptr %from, i64 %fo{i}",
            f"  %r0_{i} = load {vector}, ptr %fp{i}, align 1",
        ]
    return lines


def _shuffle(vector: str, result: str, x: str, y: str, indices: Sequence[int]) -> str:
    mask = ", ".join(f"i32 {i}" for i in indices)
    lanes = f"<{len(indices)} x i32>"
    return f"  {result} = shufflevector {vector} {x}, {vector} {y}, {lanes} <{mask}>"


def _stored(lines: list[str], vector: str, columns: int) -> str:
    """Return the function, with its stores of ``%t0`` to ``%t{columns - 1}``."""
    for column in range(columns):
        lines += [
            f"  %to{column} = mul i64 %skip, {column}",
            f"  %tp{column} = getelementptr i8, ptr %to, i64 %to{column}",
            f"  store {vector} %t{column}, ptr %tp{column}, align 1",
        ]
    return "\n".join([*lines, "  ret i32 0", "}", ""])


def transpose16() -> str:
    """Return ``at_transpose(from, from stride, to, to stride)`` for 16 x 16 words.

    Strides are in bytes. Four rounds of shuffles of two vectors each, in the patterns that x86 has
    single instructions for; LLVM finds what is best elsewhere.
    """
    vector = "<16 x i32>"
    lines = _transposition("at_transpose", vector, 16)

    def shuffle(result: str, x: str, y: str, indices: Sequence[int]) -> None:
        lines.append(_shuffle(vector, result, x, y, indices))

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
    return _stored(lines, vector, 16)


def prefetches() -> str:
    """Return what asks for a line that will be read; it need not exist.

    ``at_prefetch(pointer)`` brings it into the second-level cache, ``at_fetch(pointer, bytes)`` the
    line so far behind an address into all caches. Of the latter LLVM is told that it leaves the
    arrays alone, or it would not keep sums in registers meanwhile.
    """
    return (
        "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"
        "define linkonce_odr i32 @at_prefetch(ptr %p) alwaysinline {\n"
        "  call void @llvm.prefetch.p0(ptr %p, i32 0, i32 2, i32 1)\n  ret i32 0\n}\n"
        "define linkonce_odr i32 @at_fetch(ptr %p, i64 %n) alwaysinline {\n"
        "  %q = getelementptr i8, ptr %p, i64 %n\n"
        "  call void @llvm.prefetch.p0(ptr %q, i32 0, i32 3, i32 1)"
        " memory(inaccessiblemem: readwrite)\n  ret i32 0\n}\n"
    )


def join(parts: Iterable[str]) -> str:
    """Join texts, each declaration and definition once."""
    seen: dict[str, None] = {}
    for part in parts:
        seen.setdefault(part)
    return "\n".join(seen)
