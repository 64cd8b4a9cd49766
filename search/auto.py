"""What the command line searches with when nothing else is asked for."""

from __future__ import annotations

from typing import ClassVar

from autotune.search.graph_bo import GraphBO


class Auto(GraphBO):
    """Bayesian optimisation on the graph, with its default options.

    Chosen with development seeds on the two recorded GEMM spaces and on synthetic ones (tiled loops
    on a made-up CPU and GPU, random interactions): of the methods here it was the best, or within
    the error of it, after 100 results on each recorded space and on average over the synthetic
    ones. A name of its own lets the choice change without changing what ``graph-bo`` means.
    """

    name = "auto"
    presets: ClassVar[dict[str, dict[str, object]]] = {"default": {}}
