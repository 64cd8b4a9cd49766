"""Which configs of ``cpu_tile`` are likely to be fast: the default, and what a search tries first.

Register blocking after Low et al., "Analytical modeling is enough for high-performance BLIS" (TOMS
2016). The speeds in comments are of one Zen 5 core, measured with the L3 cache shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autotune.search.space import Config, ConfigSpace

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.workload import Gemm

#: So few rows that the default reads B in place: 1.0 to 1.9 times the packed default with m = 8
#: to 128.
_FEW_ROWS = 128
#: Rows of B between two visits to a tile of C, where k is blocked.
_BLOCK_K = 256


def likely_configs(
    space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
) -> list[Config]:
    """Return legal configs, each once, the default first."""
    model = _Model(space, workload, profile, threads)
    return [config for config in dict.fromkeys(model.configs()) if space.is_legal(config)]


class _Model:
    """What is known of a workload and a machine."""

    def __init__(
        self, space: ConfigSpace, workload: Gemm, profile: HardwareProfile, threads: int
    ) -> None:
        self.workload, self.profile, self.threads = workload, profile, threads
        self.lanes = max(1, profile.simd_bits // 32)
        self.values: dict[str, tuple[Any, ...]] = {
            p.name: tuple(p.values()) for p in space.parameters
        }
        # Narrower tiles exist only where n itself is narrower than two vectors.
        self.two_vectors = self._at_most("micro_n", 2 * self.lanes)

    def configs(self) -> Iterator[Config]:
        """Yield the default, then what it might lose to."""
        if self._few_rows_pay():
            yield from self._in_place()
        yield self._packed(self.two_vectors)
        yield self._packed(4 * self.lanes)
        yield self._k_blocked()

    def _at_most(self, name: str, limit: int) -> int:
        values = self.values[name]
        return int(max((v for v in values if v <= limit), default=min(values)))

    def _config(self, micro_m: int, micro_n: int, **changes: Any) -> Config:
        """Return the usual config of a register tile, with changes."""
        w, threads = self.workload, self.threads
        tiles_m, tiles_n = -(-w.m // micro_m), -(-w.n // micro_n)
        # A panel of B stays in half of the second-level cache.
        panels = max(1, self.profile.l2_bytes // 2 // (4 * w.k * micro_n))
        return Config(
            {
                "micro_m": micro_m,
                "micro_n": micro_n,
                "block_m": self._at_most("block_m", max(1, tiles_m // threads)),
                "block_n": self._at_most("block_n", min(panels, tiles_n, 4)),
                "block_k": w.k,
                "unroll_k": 1,
                "outer_order": ("n", "m", "k"),
                "inner_order": "nm",
                "pack_a": "none" if w.layout[0] == "n" else "whole",
                "pack_b": "whole",
                "tail": "predicate",
                "parallel": "none" if threads == 1 else "fused",
                **changes,
            }
        )

    def _packed(self, width: int) -> Config:
        """B in panels.

        Two vectors wide and eight rows high is best while A and B are in the nearer caches; four
        wide and six high needs fewer rows of A per product, and won where A streams from the L3
        cache: 1.12 times with 5124 x 700 x 2048, 1.07 with 512 x 3072 x 768.
        """
        w, vectors = self.workload, max(1, width // self.lanes)
        micro_n = self._at_most("micro_n", width)
        rows = 8 if self.profile.vector_registers >= 32 else 6
        rows = min(rows, (self.profile.vector_registers - 1) // vectors - 1)
        micro_m = self._at_most("micro_m", _balanced(w.m, max(1, rows)))
        changes: dict[str, Any] = {}
        if not w.prepacked:
            changes["pack_b"] = "whole" if w.m > 4 * micro_m else "block"
            if w.m <= 2 and w.layout[1] == "n":
                # A matrix-vector product reads B once: copying it would double the traffic.
                widest = (self.profile.vector_registers - 1) // (micro_m + 1) * self.lanes
                fitting = [v for v in self.values["micro_n"] if w.n % v == 0 and v <= widest]
                if fitting:
                    micro_n, changes["pack_b"] = max(fitting), "none"
        return self._config(micro_m, micro_n, **changes)

    def _k_blocked(self) -> Config:
        """Blocks of k outside the rows, as BLIS does, for operands larger than the caches."""
        usual = self._packed(self.two_vectors)
        block_k = self._at_most("block_k", _BLOCK_K)
        if block_k == self.workload.k:
            return usual
        changed = {**dict(usual), "block_k": block_k, "outer_order": ("n", "k", "m")}
        return Config(changed)

    def _few_rows_pay(self) -> bool:
        """Whether copying B would cost more than it gains."""
        w = self.workload
        large = 4 * w.k * w.n > self.profile.l2_bytes
        return not w.prepacked and w.layout[1] == "n" and 2 < w.m <= _FEW_ROWS and large

    def _in_place(self) -> Iterator[Config]:
        """B where it is; nothing where no whole vectors divide n.

        Copying B costs about as much as a few dozen rows of products. Instead, strips of B stay in
        the first-level cache while all rows pass over them. The tile is wide, so that each row of B
        is read in long pieces, and its height cuts m with little waste, each tile paying for two
        rows more: those of B that it loads.
        """
        w, registers = self.workload, self.profile.vector_registers
        width = next((v for v in (4, 3, 2) if w.n % (v * self.lanes) == 0), None)
        if width is None:
            return
        micro_n = width * self.lanes
        heights = [r for r in self.values["micro_m"] if r <= (registers - 1) // width - 1]
        if not heights or micro_n not in self.values["micro_n"]:
            return
        micro_m = min(heights, key=lambda r: (-(-w.m // r) * (r + 2), -r))
        tiles_m, tiles_n = -(-w.m // micro_m), w.n // micro_n
        strip = max(self.profile.l1d_bytes, 1 << 15) * 4 // 3
        block_k = self._at_most("block_k", strip // (8 * micro_n))
        yield self._config(
            micro_m,
            micro_n,
            block_m=min(b for b in self.values["block_m"] if b >= tiles_m),
            block_n=self._at_most("block_n", min(2, -(-tiles_n // self.threads))),
            block_k=block_k,
            outer_order=("n", "k", "m") if block_k != w.k else ("n", "m", "k"),
            pack_b="none",
        )


def _balanced(extent: int, rows: int) -> int:
    """Return the row count near ``rows`` that cuts ``extent`` with the least waste."""
    if extent <= rows:
        return extent
    counts = range(max(1, rows - 2), rows + 1)
    return min(counts, key=lambda r: (-(-extent // r) * r, -r))
