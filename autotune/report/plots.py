"""Pictures of a comparison and of a searched neighbourhood; needs the extra ``report``."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.compare.campaign import Campaign
    from autotune.compare.summary import ProblemSummary, Summary

_RESAMPLES = 2_000
_LINES = ("-", "--", ":", "-.")
_COLOURS = 10


def have_matplotlib() -> bool:
    """Whether plots can be made."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def _pyplot() -> Any:
    if not have_matplotlib():
        raise AutotuneError(
            "plots need matplotlib, which is not installed; pip install 'autotune-gemm[report]'"
        )
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "autotune"
    from matplotlib import pyplot

    return pyplot


def figure_bytes(figure: Any, form: str) -> bytes:
    """Return a figure as the bytes of a ``svg`` or ``png`` file, without the date."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    figure.savefig(buffer, format=form, dpi=130, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()


def draw_problem(campaign: Campaign, summary: Summary, problem: ProblemSummary) -> Any:
    """Draw best-so-far curves with bands, and the final scores of all runs.

    Raises
    ------
    AutotuneError
        If matplotlib is not installed.
    """
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(13, 5), width_ratios=(3, 2), layout="constrained"
    )
    curves = _curves(campaign, summary, problem)
    for place, (label, runs) in enumerate(curves.items()):
        style = {
            "color": f"C{place % _COLOURS}",
            "linestyle": _LINES[place // _COLOURS % len(_LINES)],
        }
        _draw_band(left, label, runs, style)
        right.plot(runs[:, -1], [place] * len(runs), "o", color=style["color"], alpha=0.35)
        right.plot(runs[:, -1].mean(), place, "k|", markersize=16)
    what = "optimum" if problem.problem.optimum is not None else "best config found"
    shares = [score for runs in curves.values() for score in runs[:, -1]]
    left.set(xlabel="trials", ylabel=f"fraction of the {what}", xscale="log")
    left.set_xticks(summary.checkpoints, [str(n) for n in summary.checkpoints])
    left.set_ylim(max(0.0, min(shares, default=0.0) - 0.35), 1.01)
    left.legend(loc="lower right", fontsize=8)
    left.grid(alpha=0.3)
    right.set_yticks(range(len(curves)), list(curves))
    right.invert_yaxis()
    right.set(xlabel=f"fraction after {summary.protocol.trials} trials, one dot per seed")
    right.grid(alpha=0.3)
    figure.suptitle(problem.problem.name)
    return figure


def _curves(campaign: Campaign, summary: Summary, problem: ProblemSummary) -> dict[str, Any]:
    """Return an array of shape (runs, trials) for each method with complete runs."""
    import numpy as np

    from autotune.compare.summary import scores

    found = {}
    for entrant in campaign.entrants:
        runs = [
            scores(run, problem.reference, summary.protocol.trials)
            for run in campaign.runs(problem.problem.name, entrant.label)
            if not run.error
        ]
        if runs:
            found[entrant.label] = np.array(runs)
    return found


def _draw_band(axes: Any, label: str, runs: Any, style: Mapping[str, str]) -> None:
    """Draw the mean curve and the 95 % bootstrap interval of the mean at each trial."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = runs[rng.integers(0, len(runs), (_RESAMPLES, len(runs)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    trials = np.arange(1, runs.shape[1] + 1)
    axes.plot(trials, runs.mean(axis=0), label=label, **style)
    axes.fill_between(trials, low, high, color=style["color"], alpha=0.12, linewidth=0)


def draw_neighbourhood(graph: Any, costs: Mapping[str, float], center: str, title: str) -> Any:
    """Draw a graph of configs, coloured by speed relative to its fastest.

    Parameters
    ----------
    graph
        As from :meth:`autotune.search.space.ConfigSpace.to_networkx`.
    costs
        Seconds by config key; ``inf`` for a failure. Configs without an entry were not measured.
    center
        Key of the config in the middle.

    Raises
    ------
    AutotuneError
        If matplotlib is not installed.
    """
    import networkx

    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(10, 8), layout="constrained")
    distance = networkx.single_source_shortest_path_length(graph, center)
    shells = [
        [key for key in graph if distance[key] == ring]
        for ring in range(max(distance.values()) + 1)
    ]
    start = networkx.shell_layout(graph, shells)
    places = start if len(graph) > 600 else networkx.kamada_kawai_layout(graph, pos=start)
    groups = {
        "measured": [k for k in graph if math.isfinite(costs.get(k, math.nan))],
        "failed": [k for k in graph if costs.get(k) == math.inf],
        "not measured": [k for k in graph if k not in costs],
    }
    best = min((costs[key] for key in groups["measured"]), default=1.0)
    networkx.draw_networkx_edges(graph, places, ax=axes, alpha=0.15)
    for group, look in (
        ("not measured", {"node_color": "#dddddd", "node_size": 18}),
        ("failed", {"node_color": "#cc3333", "node_size": 30, "node_shape": "X"}),
    ):
        networkx.draw_networkx_nodes(graph, places, groups[group], ax=axes, label=group, **look)
    dots = networkx.draw_networkx_nodes(
        graph,
        places,
        groups["measured"],
        ax=axes,
        node_size=[160 if key == center else 45 for key in groups["measured"]],
        node_color=[best / costs[key] for key in groups["measured"]],
        cmap="viridis",
        vmax=1.0,
        label="measured (large: the centre)",
    )
    if groups["measured"]:
        figure.colorbar(dots, ax=axes, label="speed, relative to the fastest shown")
    axes.set_title(title)
    axes.legend(loc="lower left", fontsize=8)
    axes.set_axis_off()
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure to a file whose name ends in .png, .svg or .pdf, and close it."""
    pyplot = _pyplot()
    form = path.suffix.lstrip(".").lower()
    if form not in ("png", "svg", "pdf"):
        raise AutotuneError(f"cannot write a picture to {path}; end the name in .png or .svg")
    try:
        figure.savefig(path, dpi=130, bbox_inches="tight")
    except OSError as error:
        raise AutotuneError(f"cannot write {path}: {error.strerror}") from None
    finally:
        pyplot.close(figure)
