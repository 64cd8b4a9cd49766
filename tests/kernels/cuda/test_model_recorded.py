"""The static model against recorded measurements: CLBlast's fp32 kernel on two GPUs.

Every config that is tiled through shared memory as ``simt`` is, and whose sums fit the registers,
of 4096 cubed; the files are those of Kernel Tuner's benchmark hub. Nothing is fitted to them here.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from autotune.hw_profiles import HardwareProfile, load_profiles
from autotune.kernels.cuda.model import Work, estimate
from autotune.kernels.cuda.simt import read_passes
from autotune.tables import load_table

SHARED = Path(__file__).parents[4] / "shared" / "data"
EXTENT = 4096
TURING = load_profiles()["rtx-2080-ti"]
assert TURING.gpu is not None and TURING.peaks is not None
#: 30 multiprocessors of 128 lanes at 1.425 GHz, 336 GB/s (NVIDIA's product page).
AMPERE = dataclasses.replace(
    TURING,
    name="RTX 3060 Laptop",
    arch="sm_86",
    gpu=dataclasses.replace(
        TURING.gpu, sms=30, max_threads_per_sm=1536, shared_bytes_per_sm=102400, l2_bytes=3 << 20
    ),
    peaks=dataclasses.replace(
        TURING.peaks, memory_gb_s=336.0, gflops={"float32": 2 * 128 * 30 * 1.425}
    ),
)


def work(c: Any) -> Work:
    """What a config of CLBlast's kernel does; its threads are counted along M first."""
    m, n, k = c["MWG"] // c["MDIMC"], c["NWG"] // c["NDIMC"], c["KWG"]
    width_m, width_n = min(c["VWM"], 4), min(c["VWN"], 4)
    threads = c["MDIMC"] * c["NDIMC"]
    warps = threads / 32
    loads = c["MWG"] * k / width_m / 32 + c["NWG"] * k / width_n / 32
    passes = read_passes(m, width_m, c["MDIMC"], True) + read_passes(n, width_n, c["MDIMC"], False)
    reads = m / width_m + n / width_n
    steps_k = k // c["KWI"]
    return Work(
        blocks_m=EXTENT // c["NWG"], blocks_n=EXTENT // c["MWG"], threads=threads,
        registers=min(255, m * n + m + n + 32), shared_bytes=4 * (c["MWG"] + c["NWG"]) * k,
        steps=EXTENT // k, math="float32", multiply_adds=c["MWG"] * c["NWG"] * k,
        instructions=warps * (k * (m * n + reads) + 4 * steps_k) + 10 * loads,
        shared_passes=warps * k * passes + (c["MWG"] + c["NWG"]) * k / 32,
        shared_accesses=warps * k * reads + 2 * loads, a_bytes=4 * c["NWG"] * k,
        b_bytes=4 * c["MWG"] * k, c_bytes=4 * c["MWG"] * c["NWG"], independent=m * n,
        overlapped=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "profile", "configs"),
    [("gemm_RTX_2080_Ti", TURING, 4368), ("gemm_RTX_3060_laptop", AMPERE, 2431)],
    ids=["RTX 2080 Ti", "RTX 3060 Laptop"],
)
def test_estimates_rank_as_measurements_do(
    name: str, profile: HardwareProfile, configs: int
) -> None:
    path = SHARED / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout")
    table = load_table(path)
    measured, estimated = [], []
    for config in table.configs:
        c: Any = config
        through_shared = c["SA"] == c["SB"] == 1
        if through_shared and c["MWG"] * c["NWG"] < 256 * c["MDIMC"] * c["NDIMC"]:
            measured.append(table.cost(config))
            estimated.append(estimate(work(c), profile))
    assert len(measured) == configs
    assert spearmanr(estimated, measured)[0] > 0.88
    ratios = [e / m for e, m in zip(estimated, measured, strict=True)]
    assert 0.9 < statistics.median(ratios) < 1.15
    by_estimate = sorted(zip(estimated, measured, strict=True))
    best, middle = min(measured), statistics.median(measured)
    assert best / min(m for _, m in by_estimate[:50]) > 0.9
    # The lowest estimate alone is far better than what a config is otherwise.
    assert by_estimate[0][1] < 0.65 * middle
