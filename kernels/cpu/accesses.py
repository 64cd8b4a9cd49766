"""Accesses to buffers, changed all over a scheduled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: ``(buffer, indices)`` to those that take their place, or None where nothing changes.
Place = Callable[[Any, list[Any]], "tuple[Any, list[Any]] | None"]


def with_accesses(body: Any, place: Place) -> Any:
    """Return a statement in which loads, stores and regions are elsewhere.

    A region keeps its extents, and begins where its first element has gone.
    """
    import tvm
    from tvm import tirx
    from tvm_ffi.structural import structural_map

    def load(access: Any) -> Any:
        there = place(access.source, list(access.indices))
        return access if there is None else tirx.BufferLoad(*there)

    def store(access: Any) -> Any:
        there = place(access.buffer, list(access.indices))
        return access if there is None else tirx.BufferStore(there[0], access.value, there[1])

    def region(access: Any) -> Any:
        there = place(access.source, [span.min for span in access.region])
        if there is None:
            return access
        buffer, firsts = there
        extents = [span.extent for span in access.region]
        extents = [1] * (len(firsts) - len(extents)) + extents
        spans = [
            tvm.ir.Range.from_min_extent(first, extent)
            for first, extent in zip(firsts, extents, strict=True)
        ]
        return tirx.BufferRegion(buffer, spans)

    callbacks = [
        (tvm.ir.TensorLoad, load),
        (tirx.BufferStore, store),
        (tvm.ir.TensorRegion, region),
    ]
    return structural_map(body, callbacks)
