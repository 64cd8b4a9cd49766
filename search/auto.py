"""What the command line searches with when nothing else is asked for."""

from __future__ import annotations

from typing import ClassVar

from autotune.search.graph_bo import GraphBO


class Auto(GraphBO):
    """Bayesian optimisation on the graph, with its default options.

    Chosen and frozen with development seeds on recorded spaces of other kernels (convolution,
    dedispersion, point-in-polygon) on devices of two makers, on CPU measurements and on the two
    recorded GEMM spaces; docs/results-search.md says how. A name of its own lets the choice change
    without changing what ``graph-bo`` means.
    """

    name = "auto"
    presets: ClassVar[dict[str, dict[str, object]]] = {"default": {}}
