"""``cpu_dot_swapped``: bf16 and int8 products by a B that is stored transposed, as the transpose.

``C^T = B^T A^T`` on the loop nest of ``cpu_dot``. Rows of B hold their words along k as they lie,
so they are read in place, or copied in whole lines; A^T takes the place of B, whose words are
gathered from several rows. So it is the small operand that is packed, not the weight of a layer
(``x @ w.T``). The sums of a tile turn in registers, in squares, when they are written.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import register
from autotune.kernels.cpu import llvm_text
from autotune.kernels.cpu.dot import DotTemplate, check
from autotune.kernels.cpu.dot_defaults import registers_of
from autotune.kernels.cpu.dot_nest import DotNest
from autotune.kernels.cpu.dot_space import DotSpace
from autotune.kernels.cpu.dot_store import KeptSums, Results
from autotune.kernels.cpu.dot_swapped_defaults import SwappedDefaults, pays
from autotune.kernels.cpu.swapped import swapped
from autotune.search.space import Config, ConfigSpace, Constraint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.hw_profiles import HardwareProfile
    from autotune.hw_profiles.instructions import DotInstruction
    from autotune.workload import Gemm

#: Columns of C in a micro-tile, which turn in eights.
_COLUMNS = (8, 16, 24, 32)
_SIDES = (16, 8)
_OTHER_AXIS = {"m": "n", "n": "m", "k": "k"}
_OTHER_KNOB = {"micro_m": "micro_n", "block_m": "block_n", "pack_a": "pack_b"}
_OTHER_KNOB |= {other: name for name, other in _OTHER_KNOB.items()}


@register
class CpuDotSwapped(DotTemplate):
    """Tiles of C^T on dot-product instructions or AMX tiles; rows of B in place, A^T packed."""

    name = "cpu_dot_swapped"
    version = 2

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """Before ``cpu_dot`` where it pays."""
        return 2 if _applicable(workload) and pays(workload, profile) else 0

    def constant_layout(self, workload: Gemm) -> str:
        """It reads B only along k."""
        return "t"

    def takes_constants_as_they_are(self, workload: Gemm, profile: HardwareProfile) -> bool:
        """Where it pays: it reads them in several streams, the panels of ``cpu_dot`` in one.

        Fifteen products of 1 to 512 rows in bf16 were .93 to 1.70 times as fast as by a prepacked
        B on one thread of an Emerald Rapids.
        """
        return self.rank(workload, profile) > 0

    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the space of instructions, tilings, loop orders and packings."""
        check(self.name, workload, profile)
        if not _applicable(workload):
            raise NotApplicable(
                f"template {self.name} computes products by a B that is stored transposed, not"
                f" prepacked; got {workload.key}; use --template cpu_dot"
            )
        space = _SwappedSpace(workload, profile, threads)
        if not space.has_room:
            raise NotApplicable(
                f"template {self.name} keeps {_SIDES[-1]} x {_SIDES[-1]} sums in registers, more"
                " than this CPU's vectors hold; use --template cpu_dot"
            )
        return space.space(self.name)

    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the module of one config."""
        return SwappedNest(workload, config).module()


def _applicable(workload: Gemm) -> bool:
    """Whether rows of B are along k, and not packed beforehand."""
    return workload.layout[1] == "t" and not workload.prepacked


class _Exchanged:
    """A config read as one of the swapped product, without a copy: rules look at all candidates."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __getitem__(self, name: str) -> Any:
        value = self._config[_OTHER_KNOB.get(name, name)]
        return _exchanged_order(value) if name.endswith("_order") else value


def _exchanged_order(order: Any) -> Any:
    axes = [_OTHER_AXIS[axis] for axis in order]
    return "".join(axes) if isinstance(order, str) else tuple(axes)


def exchanged(config: Mapping[str, Any]) -> Config:
    """Return the config of the swapped product, whose rows are columns of C; or back again."""
    view = _Exchanged(config)
    return Config({name: view[name] for name in (_OTHER_KNOB.get(each, each) for each in config)})


class _SwappedSpace(DotSpace):
    """The space of ``cpu_dot`` for the swapped product, told in rows and columns of C."""

    maker = SwappedDefaults

    def __init__(self, workload: Gemm, profile: HardwareProfile, threads: int) -> None:
        super().__init__(swapped(workload), profile, threads, ("B", "A"))

    @property
    def has_room(self) -> bool:
        """Whether each instruction can have a square of sums, and what is multiplied beside it."""
        side, registers = _SIDES[-1], self.profile.vector_registers

        def fits(rung: DotInstruction) -> bool:
            vectors = -(-side // self.lanes[rung.name])
            return rung.tiles or registers_of(rung, side, vectors, packs_b=True) <= registers

        return all(map(fits, self.rungs))

    def space(self, name: str) -> ConfigSpace:
        """Return it; what the other space has, by the names of C's own axes and operands."""
        other = super().space(name)

        def asked(holds: Callable[[Any], bool]) -> Callable[[Config], bool]:
            return lambda config: holds(_Exchanged(config))

        parameters = [
            dataclasses.replace(each, name=_OTHER_KNOB.get(each.name, each.name))
            for each in other.parameters
        ]
        constraints = [Constraint(rule.name, asked(rule.holds)) for rule in other.constraints]
        return ConfigSpace(name, parameters, constraints, [*map(exchanged, other.defaults)])

    def _micro_m(self) -> tuple[int, ...]:
        """Whole squares; no more than one of them sticks out."""
        return tuple(x for x in _COLUMNS if x == _COLUMNS[0] or x < self.w.m + _COLUMNS[0])

    def _micro_n(self) -> tuple[int, ...]:
        """Whole vectors, and whole squares; no more than one vector sticks out of many."""
        least = {max(_SIDES[-1], lanes) for lanes in self.lanes.values()}
        whole = {x for x in super()._micro_n() if x % _SIDES[-1] == 0}
        return tuple(sorted(least | whole))

    def _rows_fit(self, micro_m: int) -> bool:
        return self.w.m >= micro_m


class SwappedNest(DotNest):
    """Builds the function of one config by the product whose result is the transpose of C."""

    def __init__(self, workload: Gemm, config: Config, emulate_tiles: bool = False) -> None:
        super().__init__(swapped(workload), exchanged(config), emulate_tiles)
        self.stated = workload

    def _new_results(self, out: Any, bias: Any, residual: Any) -> Results:
        return _TurnedResults(self, out, bias, residual)

    def _body(self, a: Any, b: Any) -> None:
        super()._body(b, a)

    @property
    def last_begins_earlier(self) -> bool:
        """Whether the last tiles along B's rows begin so far up that they end with the last row.

        AMX reads whole tiles, and beyond a B that is read in place there is nothing. What they
        compute once more is the same, whoever writes it.
        """
        return self.instruction.tiles and self.c["pack_a"] == "none"

    def first_row(self, tile: Any) -> Any:
        """Return the first row of B of a micro-tile, which is a column of C."""
        from tvm.script import tirx as T

        first = super().first_row(tile)
        if self.workload.m % self.mr == 0 or not self.last_begins_earlier:
            return first
        return T.min(first, self.workload.m - self.mr)


class _TurnedResults(Results):
    """Turns micro-tiles of sums, whose rows are columns of C, square by square, and writes them."""

    def __init__(self, nest: SwappedNest, out: Any, bias: Any, residual: Any) -> None:
        super().__init__(nest, out, bias, residual)
        side = next(x for x in _SIDES if nest.mr % x == nest.nr % x == 0)
        self.height = self.width = self.lanes = side
        #: Whether all squares end at the last column of C or before.
        self.ends_with_c = self.workload.n % nest.mr == 0 or nest.last_begins_earlier
        self.tail = 0 if self.ends_with_c else self.workload.n % side

    def store(self, tile: dict[str, Any], sums: Callable[[int, int], Any]) -> None:
        """Emit the turning of a micro-tile's sums, epilogue and stores."""
        nest, side = self.nest, self.lanes
        kept = nest.inner.kept(sums)
        first_row, first_column = tile["n"] * nest.nr, nest.first_row(tile["m"])
        for row in range(0, nest.mr, side):
            for column in range(0, nest.nr, side):
                self._store_square(first_row + column, first_column + row, kept, row, column)

    def fetch(self, tile: dict[str, Any], step: Any, steps: int) -> None:
        """Ask for no lines of C, which is small beside B.

        An Emerald Rapids, bf16 and int8: .94 to 1.02 times as fast if they were.
        """

    def _store_square(
        self, first_row: Any, first_column: Any, kept: KeptSums, row: int, column: int
    ) -> None:
        """Turn the square of sums at a row and a column, and write it at a row and a column of C.

        Nothing is done for one that lies beyond C.
        """
        from tvm import tirx
        from tvm.script import tirx as T

        side, w, nest = self.lanes, self.workload, self.nest

        def emit() -> None:
            turned = self._turned(kept, row, column)
            self.store_at(
                first_row, first_column, lambda row, _: turned[T.ramp(row * side, 1, side)]
            )

        inside = []
        if w.m % nest.nr:
            inside.append(first_row < w.m)
        if not self.ends_with_c:
            inside.append(first_column < w.n)
        if not inside:
            emit()
            return
        with T.If(tirx.all(*inside)), T.Then():
            emit()

    def _turned(self, kept: KeptSums, row: int, column: int) -> Any:
        """Return the square that begins with a row and a column of the sums, turned."""
        from tvm import tirx
        from tvm.script import tirx as T

        side, wide = self.lanes, self.lanes == _SIDES[0]
        turned = self.nest.allocate(side * side, self.nest.instruction.acc_dtype, "local")
        self.nest.need(llvm_text.transpose16() if wide else llvm_text.transpose8())
        arguments = (
            T.address_of(kept.buffer[kept.start(row, column)]),
            T.int64(4 * kept.stride),
            T.address_of(turned[0]),
            T.int64(4 * side),
        )
        name = "at_transpose" if wide else "at_transpose8"
        T.evaluate(tirx.call_extern("int32", name, *arguments))
        return turned
