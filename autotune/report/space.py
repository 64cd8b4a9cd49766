"""What can be said about a configuration space without measuring anything."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from autotune.search.parameters import (
    Factorization,
    Ordinal,
    Parameter,
    Permutation,
    prime_factors,
)

if TYPE_CHECKING:
    import networkx

    from autotune.search.space import Config, ConfigSpace


def diameter(parameter: Parameter) -> int:
    """Return the longest shortest path between two values, in edges.

    A factorization moves one prime factor a step, so all of them have to move in the worst case;
    an ordinal is a path; any permutation of n items takes at most n - 1 swaps; a categorical is
    complete.
    """
    if isinstance(parameter, Factorization):
        return (parameter.parts > 1) * sum(count for _, count in prime_factors(parameter.extent))
    if isinstance(parameter, Ordinal):
        return parameter.size - 1
    if isinstance(parameter, Permutation):
        return len(parameter.items) - 1
    return min(1, parameter.size - 1)


def describe_space(
    space: ConfigSpace, config: Config, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Return facts about a space and one of its configs, as plain JSON.

    Parameters
    ----------
    config
        The config whose degree and neighbours are given.
    samples
        Uniform draws for the legal fraction.

    Raises
    ------
    InvalidConfig
        If ``config`` is not a vertex of the space.
    """
    neighbours = list(space.neighbors(config, legal=False))
    legal = [neighbour for neighbour in neighbours if space.is_legal(neighbour)]
    return {
        "name": space.name,
        "size": space.size,
        "parameters": [
            {"name": p.name, "kind": p.kind, "size": p.size, "diameter": diameter(p)}
            for p in space.parameters
        ],
        "constraints": [constraint.name for constraint in space.constraints],
        "legal_fraction": space.legal_fraction(random.Random(seed), samples),
        "samples": samples,
        "diameter": sum(diameter(p) for p in space.parameters),
        "config": config.to_json(),
        "violates": space.violated(config),
        "degree": len(neighbours),
        "legal_degree": len(legal),
        "neighbours": [
            {
                name: neighbour.to_json()[name]
                for name in neighbour
                if neighbour[name] != config[name]
            }
            for neighbour in legal
        ],
    }


def exportable(graph: networkx.Graph, space: ConfigSpace) -> networkx.Graph:
    """Return a copy of :meth:`ConfigSpace.to_networkx` with attributes that GraphML can hold."""
    import json

    import networkx

    plain = networkx.Graph()
    for key, data in graph.nodes(data=True):
        config: Config = data["config"]
        values = {
            name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
            for name, value in config.to_json().items()
        }
        plain.add_node(key, legal=space.is_legal(config), **values)
    plain.add_edges_from(graph.edges)
    return plain
