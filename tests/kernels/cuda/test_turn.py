"""Copies of operands that the tensor cores cannot take as they lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest
from machine_code import disassembled, kernel_of

from autotune.errors import NotApplicable
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import Template, choose_template, get_template
from autotune.kernels.cuda.compile import compile_cubin
from autotune.kernels.cuda.model import CudaTemplate, estimate
from autotune.kernels.cuda.turn import Turn
from autotune.kernels.verify import make_inputs
from autotune.workload import LAYOUTS, Gemm

WGMMA, MMA = get_template("wgmma"), get_template("mma_sync")
H200 = load_profiles()["h200"]


def test_what_is_copied_is_what_does_not_lie_right() -> None:
    def copied(layout: str, dtype: str, size: int, k: int = 64) -> str:
        turns = Turn.needed(Gemm(65, 63, k, layout, dtype), size)
        return " ".join(f"{t.name}{'T' if t.across else ''}" for t in turns)

    assert [copied(x, "int8", 1) for x in ("nt", "nn", "tt", "tn")] == ["", "bT", "aT", "aT bT"]
    assert copied("nt", "tfloat32", 4, 66) == "a b" and copied("nn", "int8", 1, 63) == "a bT"
    # The tensor cores transpose 16 bits themselves: 65 rows and 63 columns lie at odd places.
    assert [copied(x, "float16", 2) for x in ("nt", "nn", "tt", "tn")] == ["", "b", "a", "a b"]
    assert all(copied(layout, "float16", 2, 63) == "a b" for layout in LAYOUTS)


def test_an_operand_that_a_batch_shares_is_copied_once() -> None:
    each, one = (
        Turn.needed(Gemm(8, 63, 64, "nn", "float16", batch=3, shared=shared), 2)
        for shared in ("", "b")
    )
    assert [t.batch for t in (*each, *one)] == [3, 1]
    assert each[0].elements == 3 * one[0].elements == 3 * 64 * 64


def test_copies_that_32_bits_do_not_index_are_refused() -> None:
    thin = Gemm(2**28, 4, 1, "nt", "bfloat16")
    with pytest.raises(NotApplicable, match="its lines padded to 16 bytes, has 2\\^31 elements"):
        WGMMA.space(thin, H200, 1)
    (knob,) = (p for p in MMA.space(thin, H200, 1).parameters if p.name == "unaligned")
    assert list(knob.values()) == ["read"]


@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize(
    ("dtype", "batch", "n", "k"),
    [
        ("int8", 2, 131, 150),
        ("int8", 1, 256, 136),
        ("tfloat32", 3, 37, 67),
        ("float16", 2, 133, 71),
        ("bfloat16", 1, 70, 130),
    ],
)
def test_copies_are_the_operand_and_zeros(
    dtype: str, batch: int, n: int, k: int, layout: str, lowered: Any, tmp_path: Path
) -> None:
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to run kernels on the CPU with")
    workload = Gemm(8, n, k, layout, dtype, batch=batch)
    source = lowered(WGMMA, workload, WGMMA.space(workload, H200, 1).defaults[0])
    size = {"int8": 1, "tfloat32": 4}.get(dtype, 2)
    *_, turn = Turn.needed(workload, size)
    assert turn.across == (layout == "nn" and size != 2)
    assert source.before[-1].name == "turn_b_kernel"
    program = emulator.build(source.text, source.before[-1], tmp_path)
    a, b = make_inputs(workload)
    copied = [*(0 for _ in source.before[1:]), source.scratch[len(source.before) - 1]]
    wanted = np.zeros((batch, turn.rows, turn.pitch), b.dtype)
    wanted[:, :, : turn.length] = b.swapaxes(-1, -2) if turn.across else b
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


def test_a_large_product_pays_for_its_copies_and_a_small_one_does_not() -> None:
    for extent, dtype, wanted, copies in (
        (4095, "bfloat16", "wgmma", 2),
        (1025, "bfloat16", "wgmma", 2),
        (255, "bfloat16", "mma_sync", 0),
        (2047, "int8", "wgmma", 2),
    ):
        workload = Gemm(extent, extent, extent, dtype=dtype, layout="nt")
        template = choose_template("auto", workload, H200)
        assert template.name == wanted
        default = template.space(workload, H200, 1).defaults[0]
        assert isinstance(template, CudaTemplate)
        assert len(template.work(workload, default).copies) == copies
    # On Ampere the copies pay too: the operands come by cp.async then.
    large = Gemm(4095, 4095, 4095, dtype="bfloat16", layout="nt")
    assert MMA.space(large, load_profiles()["a100-sxm"], 1).defaults[0]["unaligned"] == "copy"


@pytest.mark.parametrize(
    ("template", "gpu", "arch", "multiply"),
    [(WGMMA, "h200", "sm_90a", "HGMMA"), (MMA, "a100-sxm", "sm_80", "HMMA")],
    ids=["wgmma", "mma_sync"],
)
def test_copies_of_16_bits_are_in_the_machine_code(
    template: Template, gpu: str, arch: str, multiply: str, compiler: Any, lowered: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    workload = Gemm(4095, 4095, 4096, dtype="bfloat16", layout="nn", epilogue="bias")
    values = template.space(workload, load_profiles()[gpu], 1).defaults[0]
    source = lowered(template, workload, values, gpu)
    assert [launch.name for launch in source.before] == ["turn_b_kernel"]
    assert source.scratch == (4096 * 4096 * 2,)
    cubin = compile_cubin(source.text, arch, source.threads, compiler)
    assert cubin.resources.stack_bytes == 0
    code = disassembled(cubin.image, tmp_path)
    if code is None:
        return
    assert not re.search(r"\b(LDL|STL)\b", code), "local memory"
    copy = kernel_of(code, "turn_b_kernel")
    # 4095 columns start at odd places: read one by one, written two at a time.
    assert re.search(r"LDG\.E\.U16", copy) and re.search(r"STG\.E(\s|\.\w+\s)", copy)
    assert multiply in kernel_of(code, "main_kernel")
