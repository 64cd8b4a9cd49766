from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networkx
import pytest
from compare_samples import write_table

from autotune.cli import main
from autotune.report.space import describe_space, diameter
from autotune.search.parameters import Categorical, Factorization, Ordinal, Parameter, Permutation
from autotune.search.space import Config, ConfigSpace, Constraint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return call


@pytest.mark.parametrize(
    "parameter",
    [
        Factorization("p", 8, 3),
        Factorization("p", 36, 2),
        Factorization("p", 30, 3),
        Factorization("p", 8, 1),
        Factorization("p", 1, 4),
        Ordinal("p", (1, 2, 4, 8, 16)),
        Ordinal("p", (7,)),
        Categorical("p", ("a", "b", "c")),
        Categorical("p", ("a",)),
        Permutation("p", ("a", "b", "c", "d")),
    ],
    ids=lambda p: p.describe(),
)
def test_the_diameter_of_a_parameter_is_that_of_its_graph(parameter: Parameter) -> None:
    space = ConfigSpace("s", [parameter])
    graph = space.to_networkx(space.origin(), 100)
    assert graph.number_of_nodes() == parameter.size
    assert diameter(parameter) == networkx.diameter(graph)


def test_a_space_is_described_exactly() -> None:
    space = ConfigSpace(
        "s",
        [Factorization("f", 4, 2), Ordinal("o", (1, 2, 3))],
        [Constraint("o is small", lambda c: c["o"] < 3)],  # type: ignore[operator]
    )
    facts = describe_space(space, Config({"f": (2, 2), "o": 2}), 4000)
    assert (facts["size"], facts["diameter"], facts["degree"], facts["legal_degree"]) == (
        9,
        4,
        4,
        3,
    )
    assert facts["neighbours"] == [{"f": [1, 4]}, {"f": [4, 1]}, {"o": 1}]
    assert facts["legal_fraction"] == pytest.approx(2 / 3, abs=0.03)
    assert facts["violates"] is None
    assert describe_space(space, Config({"f": (2, 2), "o": 3}), 1)["violates"] == "o is small"


def test_space_show_gives_the_papers_size(run: Run) -> None:
    code, text, errors = run(
        "space", "show", "-m", 512, "-n", 512, "-k", 512, "--template", "cpu_paper"
    )
    assert code == 0, errors
    assert "484,000 configs" in text
    assert "diameter at most 27" in text
    assert "degree 7, of which 7 neighbours are legal" in text


def test_space_show_takes_a_config_and_writes_its_surroundings(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "g.graphml"
    config = json.dumps({"tile_m": [2, 2, 2, 2], "tile_k": [4, 4], "tile_n": [16, 1, 1, 1]})
    code, text, errors = run(
        "space", "show", "-m", 16, "-n", 16, "-k", 16, "--template", "cpu_paper",
        "--config", config, "--graphml", path, "--radius", 1, "--json",
    )  # fmt: skip
    assert code == 0, errors
    facts = json.loads(text)
    assert facts["degree"] == 12 + 2 + 3
    graph = networkx.read_graphml(path)
    assert graph.number_of_nodes() == facts["graphml"]["nodes"] == 18
    assert {data["tile_k"] for _, data in graph.nodes(data=True)} == {"[4, 4]", "[2, 8]", "[8, 2]"}
    assert all(data["legal"] for _, data in graph.nodes(data=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "write it as JSON"), ('{"tile_m": 3}', "not a config"), ("best", "write it as JSON")],
)
def test_a_config_that_does_not_fit_is_refused(run: Run, config: str, message: str) -> None:
    code, _, errors = run("space", "show", "--config", config)
    assert code == 2
    assert message in errors


def test_a_neighbourhood_is_drawn_around_the_best(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table, out = write_table(tmp_path / "bowl.json"), tmp_path / "n.png"
    code, text, errors = run("space", "draw", table, "-o", out)
    assert code == 0, errors
    # A diamond of radius 2 around (5, 2) holds 13 configs; (4, 2) and others may be missing.
    reach = [(a, b) for a in range(8) for b in range(8) if (a * 8 + b) % 7 != 3]
    near = networkx.Graph()
    near.add_nodes_from(reach)
    near.add_edges_from(
        (p, q) for p in reach for q in reach if abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1
    )
    ball = networkx.ego_graph(near, (5, 2), 2)
    assert f"{ball.number_of_nodes()} configs, {ball.number_of_edges()} edges" in text
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_a_name_that_says_its_format(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = write_table(tmp_path / "bowl.json")
    code, _, errors = run("space", "draw", table, "-o", tmp_path / "n.txt")
    assert code == 2 and "end the name in .png or .svg" in errors


def test_a_picture_without_matplotlib_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.report.plots.have_matplotlib", lambda: False)
    table = write_table(tmp_path / "bowl.json")
    code, _, errors = run("space", "draw", table, "-o", tmp_path / "n.png")
    assert code == 2 and "pip install 'autotune-gemm[report]'" in errors
