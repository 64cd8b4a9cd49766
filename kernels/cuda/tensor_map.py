"""Tensor maps: what TMA has to be told of an operand, and what the driver makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: ``CUtensorMapDataType`` by name of the element type (cuda.h).
_DATA_TYPES = {
    "uint8": 0,
    "int8": 0,
    "float8_e4m3fn": 0,
    "int32": 3,
    "float16": 6,
    "float32": 7,
    "bfloat16": 9,
    "tfloat32": 11,
}
#: Bytes of a ``CUtensorMap``; it has to be aligned to 64.
MAP_BYTES = 128


@dataclass(frozen=True)
class TensorMap:
    """The arguments of ``cuTensorMapEncodeTiled`` for one parameter of a kernel.

    Parameters
    ----------
    argument
        Number of the argument of ``main`` whose memory it describes.
    dtype
        Element type.
    extents
        In elements, contiguous dimension first.
    strides
        In bytes, of every dimension but the first.
    box
        Elements that one load or store moves, in the order of ``extents``.
    swizzle, promotion
        ``CUtensorMapSwizzle`` (3: 128 bytes) and ``CUtensorMapL2promotion``.
    """

    argument: int
    dtype: str
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    promotion: int

    @property
    def data_type(self) -> int:
        """The type's ``CUtensorMapDataType``."""
        return _DATA_TYPES[self.dtype]

    @classmethod
    def of_call(cls, argument: int, dtype: str, values: list[int]) -> TensorMap:
        """Return the map of a call of TVM's ``runtime.cuTensorMapEncodeTiled``.

        ``values`` are what follows type and pointer: rank, extents, strides, box, element strides
        (1), interleave (0), swizzle, promotion, how what lies outside is filled (0: zeros), and
        for tf32, which TVM has no name for, the type once more.

        Raises
        ------
        ValueError
            If they are none, or ask for what this class cannot say.
        """
        rank = values[0] if values else 0
        if len(values) == 4 * rank + 5 and values[-1] == _DATA_TYPES["tfloat32"]:
            dtype, values = "tfloat32", values[:-1]  # a type of the map's own
        ends = (1 + rank, 2 * rank, 3 * rank, 4 * rank)
        if rank < 1 or len(values) != ends[3] + 4:
            raise ValueError(f"not the arguments of a tensor map: {values}")
        extents, strides = values[1 : ends[0]], values[ends[0] : ends[1]]
        box, steps = values[ends[1] : ends[2]], values[ends[2] : ends[3]]
        interleave, swizzle, promotion, fill = values[ends[3] :]
        if any(step != 1 for step in steps) or interleave or fill:
            raise ValueError(f"a tensor map with steps, interleaving or NaN: {values}")
        return cls(argument, dtype, tuple(extents), tuple(strides), tuple(box), swizzle, promotion)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorMap:
        """Rebuild a map from :meth:`to_json`."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**fields)
