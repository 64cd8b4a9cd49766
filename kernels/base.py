"""The template contract and the registry of templates.

A template is a pair of pure functions: ``space`` turns (workload, hardware profile) into a
configuration space, ``build`` turns (workload, config) into a scheduled IRModule. Everything a
kernel depends on is in those arguments, so a log line (workload, template, config) is enough to
rebuild it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.errors import AutotuneError, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.hw_profiles import HardwareProfile
    from autotune.search.space import Config, ConfigSpace
    from autotune.workload import Gemm


class Template(ABC):
    """One way to compute a workload, with knobs.

    Attributes
    ----------
    name
        Key in the registry and in the tuning log.
    version
        Raised whenever the same config would give another kernel; older records no longer match.
    kind
        Kind of hardware it is for: ``"cpu"``, ``"cuda"``, ...
    any_rows
        Whether :meth:`build` takes a workload whose ``m`` is a variable of TVM, and returns a
        kernel that is right for any number of rows.
    any_batch
        The same for a workload whose ``batch`` is a variable.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[str]
    any_rows: ClassVar[bool] = False
    any_batch: ClassVar[bool] = False

    @abstractmethod
    def space(self, workload: Gemm, profile: HardwareProfile, threads: int) -> ConfigSpace:
        """Return the configuration space, with a sensible default config.

        Raises
        ------
        NotApplicable
            If the template cannot compute this workload on this hardware; the message says why.
        """

    def rank(self, workload: Gemm, profile: HardwareProfile) -> int:
        """How well this template suits a workload, among those that can compute it.

        The highest rank is taken where the user names no template; 0 means only by name.
        """
        return 0

    def prepare(self, config: Config) -> None:
        """Make this process ready to run kernels of a config; called before each is loaded.

        Raises
        ------
        AutotuneError
            If the machine does not let it.
        """
        return None

    @property
    def packs(self) -> bool:
        """Whether the template has kernels for a prepacked B at all."""
        return type(self).packed_shape is not Template.packed_shape

    def constant_layout(self, workload: Gemm) -> str:
        """Return ``"n"`` or ``"t"``: how a B that is a constant is best stored, unpacked."""
        return workload.layout[1]

    def takes_constants_as_they_are(self, workload: Gemm, profile: HardwareProfile) -> bool:
        """Whether a product by a constant is no slower by this template than by a prepacked B.

        ``workload`` is the product by the constant as :meth:`constant_layout` says.
        """
        return False

    def notes(self, workload: Gemm, profile: HardwareProfile) -> str:
        """One line for the user about how this workload is computed here; empty for nothing."""
        return ""

    @abstractmethod
    def build(self, workload: Gemm, config: Config) -> Any:
        """Return the scheduled ``tvm.ir.IRModule`` of one config.

        Its function is ``main(A, B[, bias][, residual], C)``, with the shapes that the workload
        states. For a prepacked workload it has a second one, ``pack(B, packed)``, and ``main``
        takes ``packed``, whose shape is the template's own, in the place of B.
        """

    def packed_shape(self, workload: Gemm, config: Config) -> tuple[int, ...]:
        """Return the shape of packed B, for a prepacked workload.

        Raises
        ------
        NotApplicable
            If this template has no such kernels.
        """
        raise NotApplicable(f"template {self.name} does not take a prepacked B")


def refuse_batch(name: str, workload: Gemm) -> None:
    """Raise NotApplicable for a batch, in templates that compute one product at a time."""
    if workload.batch > 1:
        raise NotApplicable(
            f"template {name} computes one product, not a batch of {workload.batch}; use --template"
            " cpu_tile on a CPU, or compute them one by one"
        )


TEMPLATES: dict[str, Template] = {}
#: Modules that register the templates of this project when they are imported.
_BUILTIN = (
    "autotune.kernels.cpu.tile",
    "autotune.kernels.cpu.inner",
    "autotune.kernels.cpu.swapped",
    "autotune.kernels.cpu.paper",
    "autotune.kernels.cpu.dot",
    "autotune.kernels.cpu.dot_swapped",
    "autotune.kernels.cuda.simt",
    "autotune.kernels.cuda.mma",
    "autotune.kernels.cuda.wgmma",
)


def register(template: type[Template]) -> type[Template]:
    """Class decorator: make a template known by its name."""
    if template.name in TEMPLATES:
        raise ValueError(f"template {template.name!r} is registered twice")
    TEMPLATES[template.name] = template()
    return template


def load_templates(plugins: Iterable[str] = ()) -> dict[str, Template]:
    """Import the project's templates and those of ``plugins``; return the registry."""
    for module in (*_BUILTIN, *plugins):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise AutotuneError(
                f"cannot import template module {module!r}: {error}; is it on PYTHONPATH?"
            ) from None
    return TEMPLATES


#: In the place of a template's name: the one that suits the workload best.
AUTO = "auto"


def choose_template(
    name: str, workload: Gemm, profile: HardwareProfile, plugins: Iterable[str] = ()
) -> Template:
    """Return the template of that name, or for "auto" the one of the highest rank.

    Raises
    ------
    NotApplicable
        If no template computes this workload on this kind of hardware by itself.
    AutotuneError
        If there is no template of that name.
    """
    if name != AUTO:
        return get_template(name, plugins)
    known = load_templates(plugins).values()
    ranked = [(t.rank(workload, profile), t.name, t) for t in known if t.kind == profile.kind]
    rank, _, best = max(ranked, key=lambda entry: entry[:2], default=(0, "", None))
    if best is None or rank <= 0:
        raise NotApplicable(f"no template computes {workload.key} on {profile.name}")
    return best


def get_template(name: str, plugins: Iterable[str] = ()) -> Template:
    """Return a template by name.

    Raises
    ------
    AutotuneError
        If there is none of that name; the message lists those there are.
    """
    templates = load_templates(plugins)
    if name not in templates:
        raise AutotuneError(
            f"unknown template {name!r}; choose one of {', '.join(sorted(templates))}"
        )
    return templates[name]
