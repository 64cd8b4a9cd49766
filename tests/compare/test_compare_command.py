from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from compare_samples import write_runs, write_table

from autotune.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import compare_tables

pytestmark = pytest.mark.usefixtures("odd_searchers")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "bowl.json", noise=0.3)


SMALL = ("--seeds", 3, "--trials", 25)


def test_a_comparison_prints_its_figures_and_writes_every_file(
    run: Run, table: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "out"
    code, text, errors = run(
        "compare", "--replay", table, "--searchers", "random,gbfs", *SMALL, "--out", out
    )
    assert code == 0, errors
    assert "fraction of the optimum" in text and "gbfs" in text
    assert "cost relative to random" in text
    assert {path.name for path in out.iterdir()} == {
        "curves.csv", "runs.csv", "summary.json", "report.html", "curves-1.png",
    }  # fmt: skip
    assert (out / "curves-1.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 25
    assert max(float(row["score"]) for row in rows) <= 1.0
    data = json.loads((out / "summary.json").read_text())
    assert data["baselines"] == ["random"]
    assert [s["label"] for s in data["searchers"]] == ["random", "gbfs"]


def test_the_report_stands_alone(run: Run, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run("compare", "--replay", table, "--searchers", "random,gbfs", *SMALL, "--out", tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 1
    assert not re.search(r"<script|<link|(src|href)=.?https?:", html)
    assert "Wilcoxon" in html and "trial is a unique measurement" in html


def test_two_comparisons_write_the_same_figures(run: Run, table: Path, tmp_path: Path) -> None:
    for folder, jobs in (("a", 1), ("b", 2)):
        code, _, errors = run(
            "compare", "--replay", table, "--searchers", "random,gbfs", *SMALL,
            "--noise", "resample", "--batch", 4, "--jobs", jobs, "--out", tmp_path / folder,
        )  # fmt: skip
        assert code == 0, errors
    one, two = ((tmp_path / folder / "curves.csv").read_bytes() for folder in "ab")
    assert one == two
    runs = [
        [row[:-1] for row in csv.reader((tmp_path / folder / "runs.csv").open())] for folder in "ab"
    ]
    assert runs[0] == runs[1]


def test_without_matplotlib_the_figures_are_written_and_the_way_to_plots_is_told(
    run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.report.plots.have_matplotlib", lambda: False)
    out = tmp_path / "out"
    code, _, errors = run(
        "compare", "--replay", table, "--searchers", "random", *SMALL, "--out", out
    )
    assert code == 0
    assert "pip install 'autotune-gemm[report]'" in errors
    assert "Without plots" in (out / "report.html").read_text()
    assert not list(out.glob("*.png"))


def test_a_failing_method_is_reported_with_exit_code_1(run: Run, table: Path) -> None:
    code, text, _ = run("compare", "--replay", table, "--searchers", "breaks,random", *SMALL)
    assert code == 1
    assert "FAILED bowl: breaks: seed 0: ZeroDivisionError: as it was told" in text
    assert "breaks (failed)" in text and "random" in text


def test_json_output_is_one_object(run: Run, table: Path) -> None:
    code, text, _ = run(
        "compare", "--replay", table, "--searchers", "walk,walk:careless", "--baseline", "walk",
        *SMALL, "--json",
    )  # fmt: skip
    data = json.loads(text)
    assert code == 0
    careless = data["problems"][0]["standings"][1]
    assert careless["illegal"] == 4.0
    assert "count as trials of walk:careless" in data["accounting"]
    assert [duel["trials"] for duel in careless["versus"]] == [20, 25]


def test_several_tables_get_an_overall_rank(run: Run, table: Path, tmp_path: Path) -> None:
    second = write_table(tmp_path / "other.json", side=7)
    code, text, _ = run(
        "compare", "--replay", f"{table},{second}", "--searchers", "random,gbfs", *SMALL
    )
    assert code == 0
    assert "all problems: mean rank" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", 100), "holds 55 configurations, fewer than the budget of 100"),
        (("--searchers", "nobody"), "unknown searcher 'nobody'"),
        (("--baseline", "xgb"), "baseline 'xgb' is not compared"),
        (("-m", 64), "-m is for measuring; leave it out with --replay"),
        (("--jobs", 0), "jobs must be at least 1"),
    ],
)
def test_requests_that_make_no_sense_are_one_line(
    run: Run, table: Path, arguments: tuple[object, ...], message: str
) -> None:
    code, text, errors = run(
        "compare", "--replay", table, "--searchers", "random", *SMALL, *arguments
    )
    assert (code, text) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_found_before_anything_runs(run: Run, table: Path) -> None:
    code, text, errors = run(
        "compare", "--replay", table, "--searchers", "random", *SMALL, "--out", table / "x"
    )
    assert (code, text) == (2, "")
    assert "cannot create the folder" in errors


def test_table_show_says_what_a_file_holds(run: Run, table: Path) -> None:
    code, text, _ = run("table", "show", table)
    assert code == 0
    assert "bowl on Made-up (Kernel Tuner cache)" in text
    assert "55 of 64 configs" in text
    facts = json.loads(run("table", "show", table, "--json", "--top", 2)[1])
    assert facts["seconds"]["best"] == pytest.approx(1e-3)
    assert facts["near"]["0.9"] == 1
    assert [item["config"] for item in facts["top"]] == [{"a": 5, "b": 2}, {"a": 5, "b": 1}]


def test_table_pack_wants_a_log_and_a_name_for_a_gzipped_one(
    run: Run, table: Path, tmp_path: Path
) -> None:
    code, _, errors = run("table", "pack", table, tmp_path / "x.json")
    assert code == 2 and "something.jsonl.gz, not 'x.json'" in errors
    code, _, errors = run("table", "pack", table, tmp_path / "x.jsonl.gz")
    assert code == 2 and "holds no trial" in errors
    assert not (tmp_path / "x.jsonl.gz").exists()


def test_table_show_refuses_what_is_no_table(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    code, _, errors = run("table", "show", tmp_path / "x.json")
    assert code == 2 and "no table" in errors


def _results_page(*arguments: str) -> Any:
    """Run scripts/compare_tables."""
    return CliRunner().invoke(compare_tables.main, arguments)


def test_the_results_page_is_made_by_one_command(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "other.json")
    write_table(tmp_path / "tables" / "bowl.json", side=7)
    out = tmp_path / "docs" / "page.md"
    small = ["--searchers", "random,gbfs", "--seeds", "2", "--trials", "20", "--jobs", "1"]
    result = _results_page(str(tmp_path / "tables"), *small, "--out", str(out))
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "### bowl: fraction of the optimum" in page
    assert "### all problems: mean rank" in page
    assert str(tmp_path) not in page.splitlines()[2]


def test_runs_of_another_tuner_are_columns_of_the_results_page(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table = write_table(tmp_path / "tables" / "bowl.json", side=7)
    runs = write_runs(tmp_path / "runs.json", table, trials=20, seeds=2)
    out = tmp_path / "page.md"
    small = ["--searchers", "random", "--seeds", "2", "--trials", "20", "--jobs", "1"]
    result = _results_page(str(table.parent), *small, "--external", str(runs), "--out", str(out))
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "other 9.9 with their defaults" in page and "in-order 3" in page
    sections = {part.splitlines()[0]: part for part in page.split("### ")}
    (versus,) = (
        line
        for line in sections["bowl: cost relative to random"].splitlines()
        if line.startswith("| other:in-order |")
    )
    assert re.search(r"\d/\d/\d  p \d\.\d", versus)
    assert "| other:in-order |" in sections["bowl: fraction of the optimum"]


# -- warm starts ----------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_table(tmp_path / "other.json")


def test_a_warm_start_is_named_and_makes_a_difference(run: Run, table: Path, other: Path) -> None:
    options = ("compare", "--replay", table, "--searchers", "graph-bo,random", *SMALL, "--json")
    code, text, errors = run(*options, "--warm-start", other)
    assert code == 0, errors
    assert (
        "warm start of bowl: other (Made-up): 55 results fit as they are, 0 moved to the nearest"
        " config, 0 left out; ignored by random" in errors
    )
    warm, cold = json.loads(text), json.loads(run(*options)[1])
    assert "Warm start of bowl: other" in warm["accounting"]
    assert "arm start" not in cold["accounting"]

    def scores(data: dict[str, object], label: str) -> str:
        problem = data["problems"][0]  # type: ignore[index]
        (standing,) = (s for s in problem["standings"] if s["entrant"] == label)
        standing.pop("overhead")
        return json.dumps(standing)

    assert scores(warm, "random") == scores(cold, "random")
    assert scores(warm, "graph-bo") != scores(cold, "graph-bo")


def test_only_the_fastest_of_a_warm_start(run: Run, table: Path, other: Path) -> None:
    options = ("compare", "--replay", table, "--searchers", "auto", *SMALL, "--warm-start", other)
    code, _, errors = run(*options, "--warm-start-best", 5)
    assert code == 0 and ": 5 results fit as they are" in errors


def test_warm_starts_that_cannot_be_used_are_refused(
    run: Run, table: Path, other: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object, searchers: str = "auto") -> str:
        code, _, errors = run("compare", "--searchers", searchers, *SMALL, *arguments)
        assert code == 2
        return errors

    empty = tmp_path / "empty.json"
    empty.write_text("")
    foreign = tmp_path / "foreign.json"
    foreign.write_text(other.read_text().replace('"a"', '"x"').replace('"b"', '"y"'))
    replay = ("--replay", table)
    assert "give the answer away" in refused(*replay, "--warm-start", table)
    assert "gbfs, random cannot use --warm-start" in refused(
        *replay, "--warm-start", other, searchers="gbfs,random"
    )
    assert "is empty" in refused(*replay, "--warm-start", empty)
    assert "they have x, y, the space has a, b" in refused(*replay, "--warm-start", foreign)
    assert "cannot read the table" in refused(*replay, "--warm-start", tmp_path / "no.json")
    assert "--warm-start is for comparisons with --replay" in refused("--warm-start", other)
    assert "--warm-start-best says" in refused(*replay, "--warm-start-best", 3)
