"""Which kernel computes a workload, and how close to it the log came.

That is the log's winner, or what was tuned for something near, or the template's default.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.choice import find_hit, fit
from autotune.errors import NotApplicable
from autotune.kernels.base import load_templates
from autotune.log import Tier

if TYPE_CHECKING:
    from autotune.hw_profiles import HardwareProfile
    from autotune.kernels.base import Template
    from autotune.log import Record
    from autotune.search.space import Config, ConfigSpace
    from autotune.workload import Gemm


@dataclass(frozen=True)
class Choice:
    """A kernel for a workload.

    Parameters
    ----------
    workload
        As asked for, except that ``prepacked`` says whether this kernel packs B beforehand, and
        that B, if it is a constant, may be wanted transposed.
    template, config, space
        What it is built from, and the space that the config belongs to.
    tier
        How close the record it comes from is; ``DEFAULT`` is the template's own estimate.
    note
        One line: what was used, what was ignored, and why.
    seconds
        Logged seconds per call of exactly this workload; NaN where it was not measured.
    """

    workload: Gemm
    template: Template
    config: Config
    tier: Tier
    note: str
    space: ConfigSpace
    seconds: float = math.nan


class Chooser:
    """Chooses kernels by a log, each workload once.

    Parameters
    ----------
    records
        All records of a log; none for defaults only.
    profile, threads
        What is compiled for. Records of other hardware are not used, and the notes say so.
    """

    def __init__(
        self,
        records: Iterable[Record],
        profile: HardwareProfile,
        threads: int,
        plugins: Iterable[str] = (),
    ) -> None:
        self.records = list(records)
        self.profile, self.threads = profile, threads
        self._templates = [
            template
            for template in load_templates(plugins).values()
            if template.kind == profile.kind
        ]
        self._known: dict[tuple[Gemm, bool, bool], Choice] = {}

    def choose(
        self,
        workload: Gemm,
        constant_b: bool = False,
        any_rows: bool = False,
        any_batch: bool = False,
    ) -> Choice:
        """Return the kernel for a workload.

        Parameters
        ----------
        workload
            What to compute; ``prepacked`` is not looked at.
        constant_b
            Whether B may be packed beforehand.
        any_rows, any_batch
            Whether the kernel must be right for other numbers of rows, or of products, too.

        Raises
        ------
        NotApplicable
            If no template computes it; the message names the reason of the likeliest one.
        """
        wanted = replace(workload, prepacked=constant_b)
        key = (wanted, any_rows, any_batch)
        if key not in self._known:
            self._known[key] = self._choose(wanted, any_rows, any_batch)
        return self._known[key]

    def _choose(self, workload: Gemm, any_rows: bool, any_batch: bool) -> Choice:
        templates = [
            template
            for template in self._templates
            if (template.any_rows or not any_rows) and (template.any_batch or not any_batch)
        ]
        reasons: list[str] = []
        options = constant_options(templates, workload, self.profile)
        choices = (self._best(templates, workload, option, reasons) for option in options)
        found = filter(None, choices)
        chosen = next(found, None)
        if chosen is None:
            known = [reason for reason in dict.fromkeys(reasons) if reason]
            raise NotApplicable("; ".join(known) or f"no template computes {workload.key}")
        if chosen.workload.prepacked or chosen.tier is Tier.EXACT:
            return chosen
        # B is best left as it is, unless exactly the packed product was tuned.
        packed = next(found, chosen)
        return packed if packed.tier is Tier.EXACT else chosen

    def _best(
        self, templates: list[Template], workload: Gemm, option: Gemm, reasons: list[str]
    ) -> Choice | None:
        """Return the best kernel for one way to take B; why others are none is added to reasons."""
        choices = [
            self._from(template, for_constant(template, workload, option), reasons)
            for template in templates
        ]
        found = [choice for choice in choices if choice is not None]
        return min(found, key=self._preference, default=None)

    def _preference(self, choice: Choice) -> tuple[Any, ...]:
        rank = choice.template.rank(choice.workload, self.profile)
        tier = list(Tier).index(choice.tier)
        # A record of a template that would not be taken by itself counts if it is of this product.
        if choice.tier is Tier.EXACT:
            return (tier, choice.seconds, -rank)
        return (1, -rank, tier)

    def _from(self, template: Template, workload: Gemm, reasons: list[str]) -> Choice | None:
        hit = find_hit(self.records, workload, self.profile, self.threads, template)
        if template.rank(workload, self.profile) <= 0 and hit.tier is not Tier.EXACT:
            return None
        try:
            space = template.space(workload, self.profile, self.threads)
            if workload.prepacked:
                template.packed_shape(workload, space.defaults[0])
        except NotApplicable as error:
            reasons.append(str(error))
            return None
        config, note = (None, hit.note) if hit.winner is None else fit(space, hit)
        if config is None:
            return Choice(workload, template, space.defaults[0], Tier.DEFAULT, note, space)
        exact = hit.tier is Tier.EXACT and hit.winner is not None
        seconds = hit.winner.cost if exact and hit.winner is not None else math.nan
        return Choice(workload, template, config, hit.tier, note, space, seconds)


def constant_options(
    templates: Iterable[Template], wanted: Gemm, profile: HardwareProfile
) -> list[Gemm]:
    """Return the workloads by which a product can be computed, the one to try first in front.

    Parameters
    ----------
    templates
        Those to choose from.
    wanted
        What was asked for: prepacked where B is a constant.
    """
    if not wanted.prepacked:
        return [wanted]
    plain = replace(wanted, prepacked=False)
    for template in templates:
        option = for_constant(template, wanted, plain)
        if template.takes_constants_as_they_are(option, profile):
            return [option, wanted]
    return [wanted, plain]


def for_constant(template: Template, wanted: Gemm, option: Gemm) -> Gemm:
    """Return a workload with B in the layout that its template likes best, if B is a constant.

    Parameters
    ----------
    template
        What is to compute it.
    wanted
        What was asked for: prepacked where B is a constant.
    option
        That, or without packing.
    """
    if not wanted.prepacked or option.prepacked:
        return option
    return replace(option, layout=option.layout[0] + template.constant_layout(option))
