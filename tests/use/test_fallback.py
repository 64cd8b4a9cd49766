"""Without an exact match: an error, the nearest legal config, or the default; never silently."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from use_samples import PROFILE, write_log

from autotune import AutotuneError, FallbackWarning, Gemm, load_kernel
from autotune.choice import nearest_legal
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import get_template
from autotune.kernels.verify import make_problem, mismatch
from autotune.log import Tier
from autotune.search import Config
from autotune.search.translate import counterpart

TUNED = Gemm(96, 64, 48)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fallback") / "tuned.jsonl"
    return write_log(path, [TUNED], changes={"micro_m": 6, "unroll_k": 2})


def test_an_exact_match_says_nothing(log: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = load_kernel(log, TUNED, threads=1, fallback="nearest")
    assert kernel.tier is Tier.EXACT and kernel.note.startswith("exact")
    assert kernel.template == "cpu_tile" and kernel.config["micro_m"] == 6


@pytest.mark.parametrize(
    "wanted, tier",
    [
        (Gemm(96, 64, 48, epilogue="bias_relu"), Tier.SAME_GEMM),
        (Gemm(100, 64, 48), Tier.M_BUCKET),
        (Gemm(50, 33, 35), Tier.NEAREST),
        (Gemm(3, 20, 7), Tier.NEAREST),
        (Gemm(96, 64, 48, prepacked=True), Tier.SAME_GEMM),
    ],
)
def test_the_nearest_config_is_used_and_said(log: Path, wanted: Gemm, tier: Tier) -> None:
    with pytest.raises(AutotuneError, match="no result for"):
        load_kernel(log, wanted, threads=1)
    with pytest.warns(FallbackWarning, match=f"{tier.value}.*tuned for gemm m=96") as caught:
        kernel = load_kernel(log, wanted, threads=1, fallback="nearest")
    assert caught[0].filename == __file__
    assert kernel.tier is tier and "tuned for" in kernel.note
    space = get_template("cpu_tile").space(wanted, PROFILE, 1)
    assert space.is_legal(kernel.config)
    if wanted.m >= 50:
        assert kernel.config["micro_m"] == 6
    moved = kernel.config.to_json() != _config(log)
    assert moved == ("was moved" in kernel.note)
    problem = make_problem(wanted)
    a, b, *rest = problem.inputs
    result = kernel(a, kernel.pack(b) if wanted.prepacked else b, *rest)
    assert mismatch(wanted, np.asarray(result), problem.reference) is None


def _config(log: Path) -> object:
    from autotune.log import TuningLog

    return TuningLog(log).scan().trials[0].config


def test_where_nothing_is_near_the_default_is_used_on_request(log: Path) -> None:
    wanted = Gemm(16, 16, 16, layout="tn")
    with pytest.raises(AutotuneError, match="nothing tuned fits"):
        load_kernel(log, wanted, threads=1, fallback="nearest")
    problem = make_problem(wanted)
    for asked in (log, None):
        with pytest.warns(FallbackWarning, match="default of cpu_tile, which nobody measured"):
            kernel = load_kernel(asked, wanted, threads=1, fallback="default")
        assert kernel.tier is Tier.DEFAULT
        assert mismatch(wanted, np.asarray(kernel(*problem.inputs)), problem.reference) is None


def test_refusals(log: Path, tmp_path: Path) -> None:
    with pytest.raises(AutotuneError, match="unknown fallback 'any'"):
        load_kernel(log, TUNED, threads=1, fallback="any")
    for fallback in ("exact", "nearest"):
        with pytest.raises(AutotuneError, match="name a log, or take fallback='default'"):
            load_kernel(None, TUNED, threads=1, fallback=fallback)
    with pytest.raises(AutotuneError, match="there is no log"):
        load_kernel(tmp_path / "none.jsonl", TUNED, threads=1, fallback="default")


def test_results_of_other_hardware_are_never_near(log: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text(log.read_text())
    with pytest.raises(AutotuneError, match="ignored 1 record of other hardware"):
        load_kernel(foreign, TUNED, threads=2, fallback="nearest")


def test_the_nearest_legal_config_may_be_several_steps_away() -> None:
    # A CPU by name: how far the next legal config is depends on its registers.
    space = get_template("cpu_tile").space(Gemm(64, 64, 64), load_profiles()["znver4"], 1)
    default = space.defaults[0]
    far = Config({**default, "micro_m": 28, "micro_n": 48, "unroll_k": 8})
    assert not space.is_legal(far)
    assert not any(space.neighbors(far))
    found = nearest_legal(space, far)
    assert found is not None and space.is_legal(found)
    assert nearest_legal(space, default) is default


def test_several_rules_may_be_some_steps_from_being_kept() -> None:
    """A config with eight steps of k written out, for a k that one step divides."""
    profile = load_profiles()["sapphirerapids"]
    template = get_template("cpu_tile")
    tuned = template.space(Gemm(300, 500, 64, prepacked=True), profile, 1).defaults[0]
    assert tuned["unroll_k"] == 8
    space = template.space(Gemm(7, 61, 33, prepacked=True), profile, 1)
    moved = counterpart(space, tuned.to_json())
    assert moved is not None and not space.is_legal(moved[0])
    found = nearest_legal(space, moved[0])
    assert found is not None and space.is_legal(found)
    assert found["unroll_k"] == 1
