"""Copies of operands that the tensor cores cannot take as they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest

from autotune.hw_profiles import load_profiles
from autotune.kernels.base import get_template
from autotune.kernels.cuda.model import estimate
from autotune.kernels.cuda.turn import Turn
from autotune.kernels.verify import make_inputs
from autotune.workload import LAYOUTS, Gemm

WGMMA = get_template("wgmma")
H200 = load_profiles()["h200"]


def test_what_is_copied_is_what_does_not_lie_right() -> None:
    def copied(layout: str, dtype: str, size: int, k: int = 64) -> str:
        turns = Turn.needed(Gemm(65, 63, k, layout, dtype), size)
        return " ".join(f"{t.name}{'T' if t.across else ''}" for t in turns)

    assert [copied(x, "int8", 1) for x in ("nt", "nn", "tt", "tn")] == ["", "bT", "aT", "aT bT"]
    assert copied("nt", "tfloat32", 4, 66) == "a b" and copied("nn", "int8", 1, 63) == "a bT"
    assert not any(copied(layout, "float16", 2, 63) for layout in LAYOUTS)


@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize(
    ("dtype", "batch", "n", "k"),
    [("int8", 2, 131, 150), ("int8", 1, 256, 136), ("tfloat32", 3, 37, 67)],
)
def test_copies_are_the_operand_and_zeros(
    dtype: str, batch: int, n: int, k: int, layout: str, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(8, n, k, layout, dtype, batch=batch)
    source = lowered(WGMMA, workload, WGMMA.space(workload, H200, 1).defaults[0])
    *_, turn = Turn.needed(workload, {"int8": 1, "tfloat32": 4}[dtype])
    assert turn.across == (layout == "nn") and source.before[-1].name == "turn_b_kernel"
    program = emulator.build(source.text, source.before[-1], tmp_path)
    a, b = make_inputs(workload)
    copied = [*(0 for _ in source.before[1:]), source.scratch[len(source.before) - 1]]
    wanted = np.zeros((batch, n, turn.pitch), b.dtype)
    wanted[:, :, :k] = b.reshape(workload.b_shape).swapaxes(-1, -2) if turn.across else b
    assert copied[-1] == wanted.nbytes
    for order in emulator.ORDERS:
        contents = [a.tobytes(), b.tobytes(), b"", *(b"\x55" * size for size in copied)]
        files = [tmp_path / f"argument{i}" for i in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        emulator.run(program, order, files)
        assert files[-1].read_bytes() == wanted.tobytes()
        assert files[1].read_bytes() == b.tobytes()


def test_the_time_of_copies_counts() -> None:
    straight = Gemm(4096, 4096, 4096, dtype="int8", layout="nt")
    crossed = Gemm(4096, 4096, 4096, dtype="int8", layout="tn")
    config = WGMMA.space(straight, H200, 1).defaults[0]
    one, other = (WGMMA.work(w, config) for w in (straight, crossed))
    assert other.copies == (2 * 4096 * 4096,) * 2 and one.copies == ()
    longer = estimate(other, H200) - estimate(one, H200)
    # Two launches, and 64 MiB through L2.
    assert 2 * 1.5e-6 + 2**26 / 10e12 < longer < 40e-6
