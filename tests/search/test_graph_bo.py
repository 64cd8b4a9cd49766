from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy import linalg, optimize, stats

from autotune.errors import AutotuneError, InvalidConfig
from autotune.search import (
    Categorical,
    Config,
    ConfigSpace,
    Constraint,
    Factorization,
    Ordinal,
    Permutation,
    create_searcher,
)
from autotune.search.candidates import ListedCandidates, SampledCandidates
from autotune.search.codec import Codec
from autotune.search.design import spread_config
from autotune.search.gaussian_process import GaussianProcess, _Column
from autotune.search.kernels_diffusion import (
    MAX_VERTICES,
    DiffusionKernel,
    VectorKernel,
    coordinate_kernels,
)
from autotune.search.source import Source
from autotune.search.surrogate import (
    Surrogate,
    log_expected_improvement,
    relative_speeds,
    remembered,
)
from autotune.trial import FailureKind, Result

CRASH = Result.failed(FailureKind.CRASHED, "made up")


def tiles(extent: int = 256, unroll: int = 4) -> ConfigSpace:
    parameters = [
        Factorization("m", extent, 3),
        Factorization("n", extent, 3),
        Ordinal("unroll", tuple(range(unroll))),
        Categorical("order", ("ab", "ba", "aa")),
    ]
    fits = Constraint("fits", lambda c: c["m"][2] * c["n"][2] <= 4096)  # type: ignore[index]
    return ConfigSpace("tiles", parameters, [fits])


def seconds(config: Config) -> float:
    m, n = (math.log2(config[name][2]) for name in ("m", "n"))  # type: ignore[index]
    bowl = (m - 4.0) ** 2 + (n - 5.0) ** 2 + 0.3 * abs(config["unroll"] - 2)  # type: ignore[operator]
    return 1e-3 * (1.0 + 0.2 * bowl + 0.5 * (config["order"] != "ba"))


def run(name: str, space: ConfigSpace, seed: int, budget: int, **options: Any) -> list[Config]:
    searcher = create_searcher(name, space, seed, **options)
    asked = []
    for _ in range(budget):
        (config,) = searcher.ask(1)
        asked.append(config)
        searcher.tell(config, Result((seconds(config),)))
    return asked


# ---- kernels ------------------------------------------------------------------------------------

PARAMETERS = [
    Ordinal("o", (1, 2, 4, 8)),
    Categorical("c", ("x", "y", "z")),
    Permutation("p", ("i", "j", "k")),
    Factorization("f", 24, 3),
]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.kind)
def test_the_diffusion_kernel_is_the_scaled_exponential_of_the_laplacian(parameter: Any) -> None:
    values = list(parameter.values())
    laplacian = np.zeros((len(values), len(values)))
    for i, value in enumerate(values):
        for near in parameter.neighbors(value):
            laplacian[i, values.index(near)] -= 1.0
            laplacian[i, i] += 1.0
    heat = linalg.expm(-0.7 * laplacian)
    expected = heat / np.sqrt(np.outer(np.diag(heat), np.diag(heat)))
    kernel = DiffusionKernel(parameter)
    codes = np.array([kernel.code(value) for value in values])
    found, _ = kernel.correlation(math.log(0.7), codes, codes)
    assert found == pytest.approx(expected, abs=1e-10)
    part, _ = kernel.correlation(math.log(0.7), codes[:1], codes[1:])
    assert part == pytest.approx(expected[:1, 1:], abs=1e-10)


def test_all_pairs_of_categories_are_equally_alike_and_ordinals_by_distance() -> None:
    alike, ranked = Categorical("c", tuple("abcd")), Ordinal("o", (1, 2, 3, 4))
    for parameter, same in ((alike, True), (ranked, False)):
        kernel = DiffusionKernel(parameter)
        row = kernel.correlation(kernel.log_time, np.arange(1), np.arange(4))[0][0]
        assert row[0] == pytest.approx(1.0)
        assert np.isclose(row[1], row[3]) == same
        assert same or row[1] > row[2] > row[3]


@pytest.mark.parametrize(
    "kernel",
    [DiffusionKernel(PARAMETERS[3]), VectorKernel(PARAMETERS[3]), VectorKernel(PARAMETERS[3], 1)],
    ids=["diffusion", "vector", "part"],
)
def test_kernels_have_the_derivative_that_they_report(kernel: Any) -> None:
    codes = np.unique([kernel.code(value) for value in PARAMETERS[3].values()])
    for time in (kernel.log_time - 1.0, kernel.log_time + 1.0):
        up, down = (kernel.correlation(time + h, codes, codes)[0] for h in (1e-5, -1e-5))
        value, slope = kernel.correlation(time, codes, codes)
        assert slope == pytest.approx((up - down) / 2e-5, abs=1e-6)
        assert np.linalg.eigvalsh(value).min() > -1e-8  # a covariance
        assert np.diag(value) == pytest.approx(1.0)


def test_each_part_of_a_factorization_gets_a_kernel_and_single_values_none() -> None:
    parameters = [Factorization("m", 8, 3), Ordinal("u", (0, 16)), Ordinal("fixed", (7,))]
    by_part, whole = (
        [name for name, _ in coordinate_kernels(parameters, by_part=split)]
        for split in (True, False)
    )
    assert (by_part, whole) == (["m", "m", "m", "u"], ["m", "u"])
    huge = Factorization("h", 2**20, 4)
    assert huge.size > MAX_VERTICES
    ((_, kernel),) = coordinate_kernels([huge], by_part=False)
    assert isinstance(kernel, VectorKernel)


# ---- the Gaussian process -----------------------------------------------------------------------


def sample(count: int) -> tuple[list[Config], np.ndarray]:  # type: ignore[type-arg]
    space, rng = tiles(), random.Random(count)
    configs = list(dict.fromkeys(space.sample(rng) for _ in range(count)))
    logs = np.log([seconds(config) for config in configs])
    return configs, (logs - logs.mean()) / logs.std()


@pytest.mark.parametrize("with_prior", [False, True])
def test_the_gradient_of_the_likelihood_is_right(with_prior: bool) -> None:
    configs, targets = sample(25)
    codec = Codec(tiles(), by_part=True)
    codes = codec(configs)
    process = GaussianProcess(codec.kernels, with_prior)
    grid = np.arange(2 * len(targets)).reshape(-1, 2)
    prior = np.sin(grid) if with_prior else None
    columns = [_Column(column) for column in codes.T]

    def loss(theta: Any) -> Any:
        return process._loss(theta, columns, targets, prior)

    theta = process._theta + 0.3 * np.cos(np.arange(len(process._theta)))
    error = optimize.check_grad(lambda t: loss(t)[0], lambda t: loss(t)[1], theta)
    assert error < 1e-3


def test_the_posterior_interpolates_and_generalises() -> None:
    configs, targets = sample(90)
    codec = Codec(tiles(), by_part=True)
    codes = codec(configs)
    process = GaussianProcess(codec.kernels)
    process.fit(codes[:60], targets[:60], iterations=30)
    process.condition(codes[:60], targets[:60])
    means, deviations = process.predict(codes)
    assert np.abs(means[:60] - targets[:60]).max() < 0.2
    assert deviations[60:].mean() > 2 * deviations[:60].mean()
    assert stats.spearmanr(means[60:], targets[60:]).statistic > 0.9
    assert process.mean(codes) == pytest.approx(means)


def test_a_prior_that_is_right_is_used_and_one_that_misleads_is_dropped() -> None:
    configs, targets = sample(90)
    codec = Codec(tiles(), by_part=True)
    codes = codec(configs)
    noise = np.random.default_rng(0).standard_normal(len(targets))
    errors = {}
    for name, prior in (("right", targets[:, None]), ("wrong", noise[:, None]), ("none", None)):
        process = GaussianProcess(codec.kernels, with_prior=prior is not None)
        head, tail = (None, None) if prior is None else (prior[:40], prior[40:])
        process.fit(codes[:40], targets[:40], 30, head)
        process.condition(codes[:40], targets[:40], head)
        errors[name] = float(np.std(process.mean(codes[40:], tail) - targets[40:]))
    assert errors["right"] < 0.1 * errors["none"]
    assert errors["wrong"] < 1.1 * errors["none"]


def test_expected_improvement_agrees_with_the_formula_and_does_not_underflow() -> None:
    means, deviations = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 0.2])
    u = (0.3 - means) / deviations
    direct = deviations * (u * stats.norm.cdf(u) + stats.norm.pdf(u))
    assert np.exp(log_expected_improvement(means, deviations, 0.3)) == pytest.approx(direct)
    far = log_expected_improvement(np.linspace(1, 100, 300), np.full(300, 0.5), 0.0)
    assert np.isfinite(far).all()
    assert (np.diff(far) < 0).all()  # also across the change to the asymptote


def test_failures_have_no_speed_and_a_constant_is_harmless() -> None:
    assert relative_speeds([1e-3, math.inf, 4e-3]).tolist() == [1.0, 0.0, 0.25]
    assert relative_speeds([math.inf, math.inf]).tolist() == [0.0, 0.0]
    assert relative_speeds([2e-3]).tolist() == [1.0]


def test_of_many_results_the_best_and_the_latest_are_remembered() -> None:
    space, rng = tiles(), random.Random(0)
    configs = list(dict.fromkeys(space.sample(rng) for _ in range(400)))
    results = {config: Result((seconds(config),)) for config in configs}
    kept = remembered(results, 64)
    assert len(kept) == len(set(kept)) == 64
    assert set(sorted(configs, key=seconds)[:32]) <= set(kept)
    assert set(configs[-16:]) <= set(kept)
    assert remembered(results, 1000) == configs


def test_a_source_knows_what_was_measured_and_guesses_the_rest() -> None:
    configs, _ = sample(120)
    source = Source(Codec(tiles(), by_part=True), {c: Result((seconds(c),)) for c in configs[:80]})
    scores = source.scores(Codec(tiles(), by_part=True)(configs))
    speeds = relative_speeds([seconds(config) for config in configs])
    known = speeds[:80] / speeds[:80].max()
    assert scores[:80] == pytest.approx((known.mean() - known) / known.std())
    assert stats.spearmanr(scores[80:], -speeds[80:]).statistic > 0.8


@pytest.mark.parametrize(("kind", "low", "high"), [("alike", 0.9, 1.0), ("shuffled", 0.0, 0.3)])
def test_the_say_of_a_source_follows_the_evidence(kind: str, low: float, high: float) -> None:
    configs, _ = sample(150)
    elsewhere = [seconds(config) ** 0.7 for config in configs]
    if kind == "shuffled":
        random.Random(3).shuffle(elsewhere)
    foreign = {c: Result((s,)) for c, s in zip(configs, elsewhere, strict=True)}
    surrogate = Surrogate(Codec(tiles(), by_part=True), 256, [foreign])
    results = {config: Result((seconds(config),)) for config in configs[:30]}
    surrogate.condition(results, configs[30:32])
    assert low <= surrogate.belief <= high
    scores = surrogate.improvement(surrogate.codec(configs[40:]))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["graph-bo", "portfolio"])
def test_a_source_that_is_noise_is_as_none(name: str) -> None:
    configs, _ = sample(300)
    costs = [seconds(config) for config in configs]
    random.Random(3).shuffle(costs)
    noise = [(config, Result((cost,))) for config, cost in zip(configs, costs, strict=True)]
    true = [(config, Result((seconds(config),))) for config in configs]
    asked = {}
    for kind, pairs in (("cold", []), ("noise", noise), ("true", true)):
        searcher = create_searcher(name, tiles(), 3)
        searcher.transfer(pairs)
        for _ in range(12):
            (config,) = searcher.ask(1)
            searcher.tell(config, Result((seconds(config),)))
        asked[kind] = list(searcher.results)
    assert asked["noise"] == asked["cold"] != asked["true"]


def test_two_sources_are_never_mixed_up() -> None:
    """Costs of one that are a thousand times those of the other do not matter."""
    configs, _ = sample(60)
    asked = []
    for factor in (1.0, 1000.0):
        searcher = create_searcher("graph-bo", tiles(), 3)
        searcher.transfer([(c, Result((seconds(c),))) for c in configs[:30]])
        searcher.transfer([(c, Result((factor * seconds(c),))) for c in configs[30:]])
        for _ in range(12):
            (config,) = searcher.ask(1)
            searcher.tell(config, Result((seconds(config),)))
        asked.append([config.key for config in searcher.results])
    assert asked[0] == asked[1]


# ---- candidates and design ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ListedCandidates, SampledCandidates])
def test_candidates_are_legal_unseen_and_near_the_maximum(kind: Any) -> None:
    space, rng = tiles(), random.Random(3)
    codec = Codec(space, by_part=True)
    legal = [config for config in space if space.is_legal(config)]
    ranked = sorted(legal, key=seconds)
    value = {tuple(codec([config])[0]): -seconds(config) for config in legal}
    source = kind(space, codec, rng)
    out = set(ranked[:3])
    for _ in range(6):
        config = source.best(
            lambda codes: np.array([value[tuple(row)] for row in codes]),
            lambda config: config in out,
            [space.origin()],
        )
        assert space.is_legal(config)
        assert config not in out
        out.add(config)
    assert max(map(seconds, out)) <= seconds(ranked[40 if kind is SampledCandidates else 12])


def test_a_listed_space_is_used_up_config_by_config() -> None:
    parameters = [Ordinal("u", tuple(range(60))), Ordinal("v", tuple(range(60)))]
    below = Constraint("below", lambda c: c["u"] <= c["v"])  # type: ignore[operator]
    space = ConfigSpace("triangle", parameters, [below])  # more than a shortlist
    source = ListedCandidates(space, Codec(space, by_part=True), random.Random(0))
    out: set[Config] = set()
    out.update(config for config in list(space)[::2] if space.is_legal(config))
    for _ in range(sum(space.is_legal(config) for config in space) - len(out)):
        found = source.best(lambda codes: codes.sum(axis=1) * 1.0, out.__contains__, [])
        assert found is not None
        out.add(found)
    assert source.best(lambda codes: codes.sum(axis=1) * 1.0, out.__contains__, []) is None


def test_the_start_spreads_over_the_levels() -> None:
    space, worst = tiles(), {}
    for name in ("spread", "random"):
        worst[name] = 0
        for seed in range(8):
            rng = random.Random(seed)
            known: list[Config] = []
            while len(known) < 12:
                draw = lambda taken: space.sample(rng)  # noqa: B023, E731
                config = spread_config(space, known, draw) if name == "spread" else draw([])
                assert config is not None
                known.append(config)
            counts = [sum(c["order"] == order for c in known) for order in ("ab", "ba", "aa")]
            worst[name] += max(counts) - min(counts)
    assert worst["spread"] < 0.5 * worst["random"]
    assert spread_config(space, [], lambda taken: None) is None


# ---- the searcher -------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "combo"])
def test_it_is_far_ahead_of_random_search(preset: str) -> None:
    space = tiles(unroll=6)
    best = min(seconds(config) for config in space if space.is_legal(config))
    scores = {}
    for name, options in (("graph-bo", {"preset": preset}), ("random", {})):
        runs = [run(name, space, seed, 40, **options) for seed in range(3)]
        scores[name] = np.mean([best / min(map(seconds, asked)) for asked in runs])
    assert scores["graph-bo"] > 0.97
    assert scores["graph-bo"] > scores["random"] + 0.05


def test_a_batch_spreads() -> None:
    searcher = create_searcher("graph-bo", tiles(), 1)
    for config in run("graph-bo", tiles(), 1, 20):
        searcher.tell(config, Result((seconds(config),)))
    batch = searcher.ask(8)
    assert len(set(batch)) == 8
    assert len({config["m"] for config in batch}) > 1


def test_regions_that_fail_are_left_alone() -> None:
    space = tiles()
    searcher = create_searcher("graph-bo", space, 2)
    for _ in range(50):
        (config,) = searcher.ask(1)
        fails = config["order"] == "ba"  # where the costs would be lowest
        searcher.tell(config, CRASH if fails else Result((seconds(config),)))
    late = list(searcher.results)[-20:]
    assert sum(config["order"] == "ba" for config in late) <= 5


@pytest.mark.parametrize("name", ["graph-bo", "portfolio"])
def test_results_from_a_similar_machine_give_a_head_start(name: str) -> None:
    space = tiles()
    best = min(seconds(config) for config in space if space.is_legal(config))
    rng = random.Random(5)
    history = {space.sample(rng) for _ in range(80)}
    found: dict[str, list[float]] = {"cold": [], "alike": [], "misleading": []}
    for seed in range(3):
        for kind, scores in found.items():
            searcher = create_searcher(name, space, seed)
            if kind != "cold":
                power = 0.5 if kind == "alike" else -1.0
                pairs = [(c, Result((seconds(c) ** power,))) for c in sorted(history, key=str)]
                searcher.transfer(pairs)
            for _ in range(14):
                (config,) = searcher.ask(1)
                searcher.tell(config, Result((seconds(config),)))
            assert searcher.best is not None
            scores.append(best / searcher.best[1])
    means = {kind: float(np.mean(scores)) for kind, scores in found.items()}
    assert means["alike"] > means["cold"]
    assert means["misleading"] > means["cold"] - 0.15


def test_transfer_is_checked_like_history_and_is_not_a_result() -> None:
    searcher = create_searcher("graph-bo", tiles(), 0)
    with pytest.raises(InvalidConfig):
        searcher.transfer([(Config({"m": 1}), CRASH)])
    searcher.transfer([(tiles().origin(), Result((1e-9,)))])
    assert searcher.best is None
    assert searcher.ask(1) == [tiles().origin()]
    with pytest.raises(RuntimeError, match="before the first ask"):
        searcher.transfer([])
    cold = create_searcher("gbfs", tiles(), 0)
    warm = create_searcher("gbfs", tiles(), 0)
    warm.transfer([(tiles().origin(), Result((1e-9,)))])
    assert cold.ask(5) == warm.ask(5)  # a method without use for it ignores it


def test_bad_options_are_refused() -> None:
    for option, value in (("warmup", 1), ("memory", 3)):
        with pytest.raises(AutotuneError, match=option):
            create_searcher("graph-bo", tiles(), 0, **{option: value})
