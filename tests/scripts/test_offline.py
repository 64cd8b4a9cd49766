"""Packing for a machine with no network, and running there: on a stand-in for the CUDA driver."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import AutotuneError
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import find_compiler
from autotune.kernels.cuda.model import CudaTemplate
from autotune.kernels.cuda.wgmma_tiles import WgmmaTiles
from autotune.log import TuningLog
from autotune.measure.cuda_packed import PackedKernel
from autotune.search.space import Config
from autotune.workload import Gemm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import pack_offline
from bench_cuda import SUITES

SCRIPTS = Path(pack_offline.__file__).parent
H200 = load_profiles()["h200"]
WORKLOAD = Gemm(9, 7, 5)
#: What the machine may lack: everything but numpy and ml_dtypes.
RUN = (
    "import sys; sys.path.insert(0, {scripts!r})\n"
    "for name in ('tvm', 'msgspec', 'click', 'rich', 'xgboost', 'scipy', 'networkx', 'torch'):\n"
    "    sys.modules[name] = None\n"
    "import run_offline\n"
    "sys.exit(run_offline.main(sys.argv[1:]))\n"
)


def packed(behaviour: str, number: int = 0) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a kernel that the stand-in for the driver knows, and its file."""
    w = WORKLOAD
    kernel = {
        "name": "main_kernel", "parameters": [0, 1, 2], "cluster": 1, "grid": [1, 1, 1],
        "block": [32, 1, 1], "shared_bytes": 4096, "file": f"cubins/{behaviour}.cubin",
        "code": f"{behaviour}{number}",
    }  # fmt: skip
    config = Config({"behaviour": behaviour, "number": number})
    image = f"{behaviour} {w.m} {w.n} {w.k}".encode()
    described = PackedKernel("simt", config, kernel, {"registers": 42}).to_json()
    return described, {f"cubins/{behaviour}.cubin": image}


def archive(path: Path, numerics: list[str], bench: list[str]) -> Path:
    files = dict(pack_offline.sources())

    def item(behaviours: list[str]) -> dict[str, Any]:
        kernels = []
        for number, behaviour in enumerate(behaviours):
            kernel, images = packed(behaviour, number)
            kernels.append(kernel)
            files.update(images)
        return {"workload": WORKLOAD.to_json(), "kernels": kernels}

    plan = {
        "version": 1,
        "gpu": H200.to_json(),
        "compiler": "none",
        "numerics": [item([behaviour]) for behaviour in numerics],
        "bench": [item(bench)] if bench else [],
    }
    pack_offline.write_archive(path, {**files, "plan.json": json.dumps(plan).encode()})
    return path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN.format(scripts=str(SCRIPTS)), *words],
        cwd=folder, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_it_checks_measures_and_comes_back_as_a_log(fake_driver: str, tmp_path: Path) -> None:
    words = [str(archive(tmp_path / "a.tar.xz", ["right"], ["right", "wrong", "right"]))]
    words += ["--driver", fake_driver]
    none = run(tmp_path, *words, "--minutes", "1e-9")
    assert none.returncode == 1 and "2 items left" in none.stdout, none.stderr
    done = run(tmp_path, *words)
    # One of the kernels to choose from is wrong: that is told, and another is the best.
    assert done.returncode == 1, done.stderr
    assert "numerics: 1 of 1 right" in done.stdout
    assert "wrong_result: 1 of 63 elements are wrong" in done.stdout
    assert "bench: 1 products measured, 0 items left" in done.stdout
    results = tmp_path / "offline-results"
    assert "| 9, 7, 5 |" not in (results / "results-cuda.md").read_text()  # of no suite
    assert "| float32 | 1 | - |" in (results / "results-cuda.md").read_text()
    before = (results / "rows.jsonl").read_text()
    assert run(tmp_path, *words).returncode == 1
    assert (results / "rows.jsonl").read_text() == before, "done work is not done again"
    log = tmp_path / "log.jsonl"
    assert pack_offline.main(["--read", str(results), "--log", str(log)]) == 0
    records = [r for r in TuningLog(log).scan().records if r.kind == "trial"]  # type: ignore[union-attr]
    assert [r.failure for r in records] == [None, "wrong_result", None]
    assert {r.template["name"] for r in records} == {"simt"}
    assert records[0].costs[0] == pytest.approx(10e-6, rel=0.01)


def test_all_right_is_exit_code_0(fake_driver: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.xz", ["right"], ["right"])
    done = run(tmp_path, str(path), "--driver", fake_driver)
    assert done.returncode == 0, done.stderr
    assert "numerics: 1 of 1 right" in done.stdout


def test_what_cannot_run_here_says_why_in_one_line(fake_driver: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.xz", ["right"], [])
    missing = run(tmp_path, str(path), "--driver", "libabsent.so.1")
    assert missing.returncode == 2
    assert missing.stderr.startswith("run_offline: no CUDA device found: cannot load")
    assert run(tmp_path, "absent.tar.xz").returncode == 2
    with tarfile.open(path, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    outside = run(tmp_path, str(path))
    assert outside.returncode == 2 and "not of our making" in outside.stderr


def test_an_archive_that_is_too_large_is_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pack_offline, "LIMIT_MIB", 1)
    noise = random.Random(0).randbytes(2 << 20)
    with pytest.raises(AutotuneError, match="2.0 MiB, more than the 1 of one transfer"):
        pack_offline.write_archive(tmp_path / "a.tar.xz", {"noise": noise})
    assert not (tmp_path / "a.tar.xz").exists()


def test_chosen_configs_are_legal_and_differ_in_their_tiling() -> None:
    template = get_template("wgmma")
    assert isinstance(template, CudaTemplate)
    workload = Gemm(4096, 4096, 4096, dtype="bfloat16", layout="nt")
    configs = [
        c for c, _ in zip(pack_offline.chosen(workload, template, H200), range(6), strict=False)
    ]
    space = template.space(workload, H200, 1)
    assert configs[0] == space.defaults[0]
    assert all(space.is_legal(c) for c in configs)
    tilings = {(WgmmaTiles.of(workload, c).a, WgmmaTiles.of(workload, c).b) for c in configs}
    assert len(tilings) >= 4


def test_the_numerics_are_legal_configs() -> None:
    for dtype, shape, layout, epilogue, name, changes in pack_offline.NUMERICS:
        workload = Gemm(*shape, dtype=dtype, layout=layout, epilogue=epilogue)
        space = get_template(name).space(workload, H200, 1)
        assert space.violated(space.defaults[0].replace(**changes)) is None
    assert set(pack_offline.workloads("bert", ["bfloat16"], "nt")) and SUITES


def test_a_packed_kernel_is_found_and_another_is_named(tmp_path: Path) -> None:
    """A real kernel, built as for the archive; it is not run."""
    if find_compiler() is None:
        pytest.skip("neither nvcc nor NVRTC is here")
    packer = pack_offline.Packer(H200)
    workload = Gemm(64, 64, 64, dtype="float16", layout="nt")
    item = packer.bench(workload, 1)
    assert item is not None
    (kernel,) = [PackedKernel.from_json(k) for k in item["kernels"]]
    assert packer.files[kernel.kernel["file"]][:4] == b"\x7fELF"
    assert [type(p) for p in kernel.kernel["parameters"]].count(dict) >= 2
    from autotune.measure.cuda_packed import PackedMeasurer

    with PackedMeasurer(workload, H200, [kernel], tmp_path) as measurer:
        result = measurer.measure("wgmma", kernel.config.replace(group=16))
    assert result.failure is not None and "not in" in result.message
    nothing = Gemm(64, 64, 64, dtype="int8", layout="nt", epilogue="gelu")
    assert packer.bench(nothing, 1) is None
