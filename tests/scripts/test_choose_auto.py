"""``scripts/choose_auto``: from tables to a page, and what is run again."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autotune.errors import AutotuneError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import choose_auto


def write_table(path: Path, device: str, tilt: float) -> Path:
    """Write a cache of 15 x 15 configs; with ``tilt`` its optimum lies elsewhere."""
    cache: dict[str, Any] = {}
    for a in range(15):
        for b in range(15):
            time = 1.0 + (a - 10 + tilt) ** 2 + 0.5 * (b - 2 - tilt) ** 2
            cache[f"{a},{b}"] = {"a": a, "b": b, "time": time}
    ranges = {"a": list(range(15)), "b": list(range(15))}
    data = {"device_name": device, "tune_params_keys": ["a", "b"], "tune_params": ranges}
    path.write_text(json.dumps({**data, "cache": cache}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tables of two devices."""
    tables = tmp_path / "tables"
    tables.mkdir()
    for name, device, tilt in (("p1", "P", 0.0), ("p2", "P", 1.0), ("q", "Q", 2.0)):
        write_table(tables / f"{name}.json", device, tilt)
    return tables


def choose(folder: Path, *options: str) -> Result:
    out, rows = folder.parent / "page.md", folder.parent / "rows.jsonl"
    small = ["--searchers", "random,gbfs", "--seeds", "2", "--jobs", "1"]
    arguments = [str(folder), *small, "--out", str(out), "--rows", str(rows), *options]
    return CliRunner().invoke(choose_auto.main, arguments)


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Return a list that fills with what is run: the table's file, and the seeds."""
    made: list[tuple[str, tuple[int, ...]]] = []
    original = choose_auto.run_replay

    def counted(paths: Any, entrants: Any, protocol: Any, *rest: Any) -> Any:
        made.append((f"{paths[0].stem} {','.join(e.label for e in entrants)}", protocol.seeds))
        return original(paths, entrants, protocol, *rest)

    monkeypatch.setattr(choose_auto, "run_replay", counted)
    return made


def test_the_page_has_a_fold_for_each_device_and_keeps_what_was_written_by_hand(
    folder: Path,
) -> None:
    page = folder.parent / "page.md"
    page.write_text("# Old\n\n## What this says\n\nBy hand.\n")
    result = choose(folder)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    sections = {part.splitlines()[0]: part for part in text.split("### ")}
    folds = sections["Leave one device out"].splitlines()[4:6]
    assert [line.split(" | ")[0] for line in folds] == ["| P", "| Q"]
    assert all(" | gbfs (1.000) | random (" in line for line in folds)
    assert sections["Tables"].count("| 225 | 225 |") == 3
    assert len(re.findall(r"^\| (p1|p2|q) \| (random|gbfs) \|", text, re.M)) == 6
    assert "which is **not** what `auto` is, `graph-bo`" in text
    assert "seeds (2000 to 2001)" in text
    assert text.endswith("## What this says\n\nBy hand.\n") and "Old" not in text
    assert str(folder.parent) not in text


def test_the_same_command_again_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(folder).exit_code == 0
    page, rows = folder.parent / "page.md", folder.parent / "rows.jsonl"
    whole, lines = page.read_text(), rows.read_text().splitlines(keepends=True)
    assert len(lines) == 3 * 2 * 2
    made = count_runs(monkeypatch)
    assert choose(folder).exit_code == 0 and made == []
    assert page.read_text() == whole
    rows.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote
    assert choose(folder).exit_code == 0
    lost = json.loads(lines[-1])["run"]
    assert made == [(f"{lost['table']} {lost['entrant']}", (lost["seed"],))]
    strip = re.compile(r"\d+\.\d+ \|$", re.M)  # the time that a method takes
    assert strip.sub("", page.read_text()) == strip.sub("", whole)


def test_another_table_or_other_search_code_is_run_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(folder).exit_code == 0
    made = count_runs(monkeypatch)
    write_table(folder / "q.json", "Q", 3.0)
    assert choose(folder).exit_code == 0
    assert made == [("q random,gbfs", (2000, 2001))]
    made.clear()
    monkeypatch.setattr(choose_auto, "search_code", lambda: "other")
    assert choose(folder).exit_code == 0 and len(made) == 3


def test_what_cannot_be_chosen_on_is_refused_before_anything_is_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_runs(monkeypatch)
    (folder / "q.json").unlink()
    error = choose(folder).exception
    assert isinstance(error, AutotuneError) and "there is only P" in str(error)
    data = json.loads(write_table(folder / "q.json", "Q", 0.0).read_text())
    data["cache"] = dict(list(data["cache"].items())[:150])
    (folder / "q.json").write_text(json.dumps(data))
    error = choose(folder).exception
    assert isinstance(error, AutotuneError) and "'q' holds 150 configs, fewer" in str(error)
    (folder.parent / "rows.jsonl").write_text("{}\n")
    write_table(folder / "q.json", "Q", 0.0)
    error = choose(folder).exception
    assert isinstance(error, AutotuneError) and "line 1 is no run of choose_auto" in str(error)
    assert made == []


def test_a_device_that_a_file_does_not_say_is_named(folder: Path) -> None:
    write_table(folder / "q.json", "", 2.0)
    error = choose(folder).exception
    assert isinstance(error, AutotuneError) and "add --device q=NAME" in str(error)
    error = choose(folder, "--device", "r=R").exception
    assert isinstance(error, AutotuneError) and "TABLE=DEVICE, of p1, p2, q" in str(error)
    assert choose(folder, "--device", "q=R").exit_code == 0
    assert "\n| R | gbfs (1.000)" in (folder.parent / "page.md").read_text()


def test_a_method_that_breaks_ends_the_choice_and_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr("autotune.search.gbfs.GBFS._observe", broken)
    error = choose(folder).exception
    assert isinstance(error, AutotuneError)
    assert "gbfs failed on p1 with seed 2000: ZeroDivisionError: no luck" in str(error)
