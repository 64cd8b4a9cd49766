"""Names of PTX instructions and arguments of tensor maps, for the kernel of ``wgmma``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.kernels.cuda.wgmma_tiles import WGMMA_K_BYTES

if TYPE_CHECKING:
    from autotune.kernels.cuda.wgmma_tiles import WgmmaTiles

_NAMES = {
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "s8",
    "float8_e4m3fn": "e4m3",
    "tfloat32": "tf32",
}
#: ``CU_TENSOR_MAP_DATA_TYPE_TFLOAT32``: TMA rounds float32 on the way to shared memory.
TF32_MAP = 11
LOAD = "cp.async.bulk.tensor.{}d.shared::cluster.global.mbarrier::complete_tx::bytes"
MULTICAST = LOAD + ".multicast::cluster"
STORE = "cp.async.bulk.tensor.{}d.global.shared::cta.tile.bulk_group"
STORE_MATRIX = "stmatrix.sync.aligned.m8n8.x4.shared.b16"
#: cuTensorMapEncodeTiled: 128-byte swizzle, L2 promotion to 128 bytes.
_SWIZZLE, _PROMOTION = 3, 2


def map_values(
    shape: tuple[int, ...], size: int, box: tuple[int, int], pitch: int | None = None
) -> list[int]:
    """Return what cuTensorMapEncodeTiled takes after type, rank and pointer.

    ``pitch`` is the elements from line to line, where it is more than the last of ``shape``.
    """
    *batch, lines, length = shape
    one = [1] * len(batch)
    line_bytes = (pitch or length) * size
    strides = [line_bytes] + [lines * line_bytes] * len(batch)
    return [length, lines, *batch, *strides, *box, *one, 1, 1, *one, 0, _SWIZZLE, _PROMOTION, 0]


def instruction(dtype: str, t: WgmmaTiles) -> tuple[str, tuple[int, ...]]:
    """Return the name of wgmma and the operands that follow the descriptors and ``scale_d``."""
    name, k = _NAMES[dtype], WGMMA_K_BYTES // t.a.size
    sums = "s32" if dtype == "int8" else "f32"
    mma = f"wgmma.mma_async.sync.aligned.m64n{t.b.rows}k{k}.{sums}.{name}.{name}"
    if dtype == "int8":
        return mma, ()
    if t.a.size != 2:
        return mma, (1, 1)
    return mma, (1, 1, 0 if t.a.along_k else 1, 0 if t.b.along_k else 1)
