"""``autotune space``: look at a configuration space as a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import OutputFile, machine_options, resolve_machine, workload_options
from autotune.errors import AutotuneError, InvalidConfig

if TYPE_CHECKING:
    from autotune.search.space import Config, ConfigSpace
    from autotune.workload import Gemm

#: A picture with more nodes than this shows nothing, and takes minutes.
_MOST_NODES = 5_000


@click.group("space")
def command() -> None:
    """Look at configuration spaces: sizes, neighbours, graphs and pictures."""


@command.command("show")
@workload_options
@machine_options
@click.option(
    "--config",
    "config_text",
    default="default",
    show_default=True,
    metavar="JSON|default|origin",
    help="The config to look at.",
)
@click.option(
    "--legal-fraction",
    "samples",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Draws that the legal fraction is estimated from.",
)
@click.option("--graphml", type=OutputFile(), help="Write the graph around the config here.")
@click.option(
    "--radius",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Steps from the config, for --graphml.",
)
@click.option("--plugin", multiple=True, metavar="MODULE", help="Import templates of your own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
def show(
    workload: Gemm,
    target: str,
    threads: int | None,
    template: str,
    config_text: str,
    samples: int,
    graphml: Path | None,
    radius: int,
    plugin: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say how large a space is, how much of it is legal, and what lies around a config."""
    from autotune.kernels.base import choose_template
    from autotune.report.space import describe_space

    profile, threads = resolve_machine(target, threads)
    space = choose_template(template, workload, profile, plugin).space(workload, profile, threads)
    config = _config(space, config_text)
    facts = describe_space(space, config, samples)
    if graphml is not None:
        facts["graphml"] = {"file": str(graphml), **_write_graphml(space, config, radius, graphml)}
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))


@command.command("draw")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--center",
    default="best",
    show_default=True,
    metavar="best|JSON",
    help="The config in the middle.",
)
@click.option(
    "--radius",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Steps from the centre.",
)
@click.option(
    "-o",
    "--out",
    type=OutputFile(),
    required=True,
    help="The picture, .png or .svg.",
)
def draw(file: Path, center: str, radius: int, out: Path) -> None:
    """Draw the measured neighbourhood of a config, coloured by speed, from a log or table."""
    from autotune.report.plots import draw_neighbourhood, save
    from autotune.tables import load_table

    table = load_table(file)
    middle = table.optimum[0] if center == "best" else _config(table.space, center)
    # What a table lacks is illegal; what a log lacks was not tried, and is shown in grey.
    everything = table.meta["format"] == "autotune log"
    graph = table.space.to_networkx(middle, radius, legal=not everything)
    if graph.number_of_nodes() > _MOST_NODES:
        raise AutotuneError(
            f"{graph.number_of_nodes():,} configs lie within {radius} steps, too many for a"
            " picture; choose a smaller --radius"
        )
    costs = {
        key: table.cost(data["config"])
        for key, data in graph.nodes(data=True)
        if data["config"] in table
    }
    title = f"{table.name}: {len(costs)} measured configs within {radius} steps"
    save(draw_neighbourhood(graph, costs, middle.key, title), out)
    click.echo(f"wrote {out}: {graph.number_of_nodes()} configs, {graph.number_of_edges()} edges")


def _config(space: ConfigSpace, text: str) -> Config:
    if text == "origin":
        return space.origin()
    if text == "default":
        return space.defaults[0] if space.defaults else space.origin()
    try:
        return space.config_from_json(json.loads(text))
    except ValueError:
        raise InvalidConfig(f"cannot read {text!r} as a config; write it as JSON") from None


def _write_graphml(space: ConfigSpace, config: Config, radius: int, path: Path) -> dict[str, int]:
    import networkx

    from autotune.report.space import exportable

    graph = exportable(space.to_networkx(config, radius), space)
    try:
        networkx.write_graphml(graph, path)
    except OSError as error:
        raise AutotuneError(f"cannot write {path}: {error.strerror}") from None
    return {"nodes": graph.number_of_nodes(), "edges": graph.number_of_edges()}


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{facts['name']}: {facts['size']:,} configs; legal: {facts['legal_fraction']:.1%} of"
        f" {facts['samples']:,} uniform draws; diameter at most {facts['diameter']}"
    ]
    lines += [
        f"  {p['name']}: {p['kind']} of {p['size']:,} values, diameter {p['diameter']}"
        for p in facts["parameters"]
    ]
    lines += [f"  rule: {name}" for name in facts["constraints"]]
    verdict = "legal" if facts["violates"] is None else f"illegal, it breaks: {facts['violates']}"
    lines += [
        f"config {json.dumps(facts['config'])} ({verdict})",
        f"  degree {facts['degree']}, of which {facts['legal_degree']} neighbours are legal:",
        *(f"    {json.dumps(neighbour)}" for neighbour in facts["neighbours"]),
    ]
    if "graphml" in facts:
        graph = facts["graphml"]
        lines.append(f"wrote {graph['file']}: {graph['nodes']} configs, {graph['edges']} edges")
    return lines
