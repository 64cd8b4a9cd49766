"""Logs without measuring: the template's default config with an invented time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune import Gemm
from autotune.hw_profiles import HardwareProfile, resolve_target
from autotune.identity import target_json, target_key
from autotune.kernels.base import choose_template
from autotune.log import TuningLog, run_header, trial_record
from autotune.search.space import Config
from autotune.trial import Result

PROFILE = resolve_target("cpu")


def write_log(
    path: Path,
    workloads: Sequence[Gemm],
    threads: int = 1,
    template: str = "auto",
    changes: dict[str, Any] | None = None,
    profile: HardwareProfile = PROFILE,
) -> Path:
    """Append one trial a workload: its default config with ``changes``, 1 ms."""
    for workload in workloads:
        chosen = choose_template(template, workload, profile)
        space = chosen.space(workload, profile, threads)
        config = Config({**space.defaults[0], **(changes or {})})
        assert space.is_legal(config)
        header = run_header(
            workload,
            target=target_json(profile, threads),
            target_key=target_key(profile, threads),
            template={"name": chosen.name, "version": chosen.version},
        )
        record = trial_record(
            header, 0, config.to_json(), Result((1e-3, 1.5e-3)), batch=0, asked=1, ask=0, tell=0
        )
        TuningLog(path).append([record])
    return path
