"""A table from measuring to comparing, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.log import TuningLog

BUILD = ("table", "build", "-m", "64", "-n", "64", "-k", "64", "--template", "cpu_paper")
PART = (
    ("--restrict", "tile_m=[1,16,1,4],[1,8,2,4],[1,8,1,8]")
    + ("--restrict", "tile_n=[1,4,1,16],[1,2,1,32]")
    + ("--restrict", "tile_k=[64,1]", "--threads", "1")
)


def test_a_table_is_built_read_again_packed_and_searched(
    spawn: Callable[..., Any], folder: Path
) -> None:
    built = spawn(*BUILD, *PART, "--rounds", "2", "--out", "t.jsonl")
    assert built.code == 0, built.err
    assert "6 configs, 6 measured now, 0 were there, 0 failed; what is near" in built.out
    trials = TuningLog(folder / "t.jsonl").scan().trials
    assert 7 <= len(trials) <= 12  # the best of all was read again, in any case
    assert any(trial.phases.get("reference") for trial in trials)  # watched for drift
    again = spawn(*BUILD, *PART, "--out", "t.jsonl")
    assert again.code == 0 and "0 measured now, 6 were there" in again.out

    packed = spawn("table", "pack", "t.jsonl", "t.jsonl.gz")
    assert packed.code == 0 and packed.out.startswith("t.jsonl.gz: 6 configs, ")
    shown = json.loads(spawn("table", "show", "t.jsonl.gz", "--json").out)
    assert (shown["configs"], shown["failed"]) == (6, 0) and shown["readings"]["most"] >= 2
    compared = spawn(
        *("compare", "--replay", "t.jsonl.gz", "--searchers", "gbfs,random"),
        *("--seeds", "2", "--trials", "6", "--json"),
    )
    assert compared.code == 0, compared.err
    (problem,) = json.loads(compared.out)["problems"]
    for standing in problem["standings"]:
        assert standing["score"]["6"]["mean"] == 1.0  # all six configs are tried
