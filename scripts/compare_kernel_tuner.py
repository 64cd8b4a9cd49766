"""Run strategies of Kernel Tuner (Apache-2.0) on recorded tables, for scripts/compare_tables.

Runs in an environment of its own, without autotune. Kernel Tuner replays the tables itself, by
``tune_cache``, its simulation mode, with the defaults of each strategy. What it evaluated, in that
order, goes to a file; autotune looks the costs up in its own copy of the tables.

Accounting, which is that of autotune: a trial is the first evaluation of a config that the table
holds. Kernel Tuner does not charge its budget (``max_fevals``) for evaluating a config again, nor
for a config that the table lacks, which its strategies are told is not part of the space. Some
strategies limit their calls or iterations as well and end before the budget.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

#: All that need nothing but Kernel Tuner's own dependencies and a single objective.
STRATEGIES = (
    "adaptive_tabu_greywolf",
    "hybrid_vndx",
    "genetic_algorithm",
    "diff_evo",
    "random_sample",
    "bayes_opt",
    "pso",
    "greedy_ils",
    "greedy_mls",
    "mls",
    "simulated_annealing",
    "dual_annealing",
    "basinhopping",
    "firefly_algorithm",
)
#: What autotune.compare.recorded expects.
FORMAT = "autotune runs of another tuner, 1"


def read_cache(path: Path) -> dict[str, Any]:
    """Return a Kernel Tuner cache file, plain or gzipped, also one that was never closed."""
    text = (gzip.open if path.name.endswith(".gz") else open)(path, "rt").read().rstrip()
    for ending in ("", "}", "}}"):
        try:
            cache = json.loads(text.removesuffix(",") + ending)
        except ValueError:
            continue
        if isinstance(cache, dict) and isinstance(cache.get("cache"), dict):
            return cache
    sys.exit(f"compare_kernel_tuner: {path} is no Kernel Tuner cache, which is all it can replay")


def without_readings(cache: dict[str, Any]) -> dict[str, Any]:
    """Return the cache with the one time of each config, which is what strategies see."""
    wanted = {*cache["tune_params_keys"], "time"}
    entries = {
        key: {name: value for name, value in entry.items() if name in wanted}
        for key, entry in cache["cache"].items()
    }
    return {**cache, "cache": entries}


def run(path: Path, keys: list[str], strategy: str, seed: int, trials: int) -> dict[str, Any]:
    """Run one strategy once; return the configs in the order of their first evaluation."""
    import numpy as np
    from kernel_tuner import tune_cache

    random.seed(seed)  # strategies draw from this, from NumPy's, or from both
    np.random.seed(seed)
    results, _ = tune_cache(
        str(path), strategy=strategy, strategy_options={"max_fevals": trials}, quiet=True
    )
    evaluated = [tuple(result[key] for key in keys) for result in results]
    configs = list(dict.fromkeys(evaluated))
    return {
        "method": strategy,
        "seed": seed,
        "configs": configs,
        "repeated": len(evaluated) - len(configs),
        "overhead_s": sum(result["strategy_time"] for result in results) * 1e-3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="with tables: *.json, *.json.gz")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="default: %(default)s")
    options = parser.parse_args()
    paths = sorted(p for p in options.folder.iterdir() if p.name.endswith((".json", ".json.gz")))
    if not paths:
        sys.exit(f"compare_kernel_tuner: there is no table in {options.folder}")
    warnings.simplefilter("ignore")  # that no parameter names a thread block, in each run
    problems: dict[str, Any] = {}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            name = path.name.removesuffix(".gz").removesuffix(".json")
            cache = without_readings(read_cache(path))
            keys = cache["tune_params_keys"]
            problems[name] = {"parameters": keys}
            slim = Path(folder) / f"{name}.json"
            slim.write_text(json.dumps(cache))
            for strategy in options.strategies.split(","):
                print(f"{name} {strategy}", file=sys.stderr)
                for seed in range(options.seeds):
                    result = run(slim, keys, strategy, seed, options.trials)
                    runs.append({"problem": name, **result})
    content = {
        "format": FORMAT,
        "tuner": "kernel-tuner",
        "version": metadata.version("kernel_tuner"),
        "trials": options.trials,
        "problems": problems,
        "runs": runs,
    }
    options.out.write_text(json.dumps(content), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
