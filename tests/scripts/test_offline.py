"""Packing for a machine with no network, and running there: on a stand-in for the CUDA driver."""

from __future__ import annotations

import io
import json
import lzma
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
import elf_columns
import offline_compiler
import pack_offline
import run_offline
from bench_cuda import SUITES
from numerics import NUMERICS

SCRIPTS = Path(pack_offline.__file__).parent
TESTS = Path(__file__).resolve().parents[1] / "measure"
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


#: Tuning takes more; the builder is another, because the stand-in cannot run machine code.
TUNE = (
    "import os, sys; sys.path[:0] = [{scripts!r}, {tests!r}]\n"
    "import run_offline\n"
    "os.environ['PYTHONPATH'] = {tests!r}\n"
    "def patched(self):\n"
    "    from autotune.kernels.cuda import compile\n"
    "    from autotune.measure.cuda import CudaMeasurer\n"
    "    compile.find_compiler = lambda: 'a compiler'\n"
    "    started = CudaMeasurer._started\n"
    "    CudaMeasurer._started = lambda self, worker, module: started(\n"
    "        self, worker, 'fake_gpu_right' if module.endswith('cuda_builder') else module)\n"
    "    tune(self)\n"
    "tune, run_offline.Run.tune = run_offline.Run.tune, patched\n"
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


def archive(
    path: Path, numerics: list[str], bench: list[str], tune: dict[str, Any] | None = None
) -> Path:
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
        **({"tune": {"trials": 5, "workloads": [WORKLOAD.to_json()], **tune}} if tune else {}),
    }
    pack_offline.write_archive(path, {**files, "plan.json": json.dumps(plan).encode()})
    return path


def run(folder: Path, *words: str, code: str = RUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code.format(scripts=str(SCRIPTS), tests=str(TESTS)), *words],
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
    assert "bench: 1 products measured, tuning: 0 products, 0 items left" in done.stdout
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


def test_what_has_the_compiler_is_tuned_last_and_once(fake_driver: str, tmp_path: Path) -> None:
    here = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "needs": ["numpy"]}
    path = archive(tmp_path / "a.tar.xz", ["right"], [], here)
    done = run(tmp_path, str(path), "--driver", fake_driver, code=TUNE)
    assert done.returncode == 0, done.stderr
    assert "tuning: 1 products, 0 items left" in done.stdout
    assert done.stderr.index("numerics: gemm") < done.stderr.index("tune: gemm")
    results = tmp_path / "offline-results"
    before = (results / "tuned.jsonl").read_text()
    assert run(tmp_path, str(path), "--driver", fake_driver, code=TUNE).returncode == 0
    assert (results / "tuned.jsonl").read_text() == before, "done work is not done again"
    log = tmp_path / "log.jsonl"
    assert pack_offline.main(["--read", str(results), "--log", str(log)]) == 0
    kinds = [record.kind for record in TuningLog(log).scan().records]  # type: ignore[union-attr]
    assert kinds.count("trial") == 5 and "final" in kinds
    for other, says in (
        ({**here, "python": "3.9"}, "the archive's compiler is for Python 3.9, and this is 3."),
        ({**here, "needs": ["numpy", "absent"]}, "this Python has no absent"),
    ):
        path = archive(tmp_path / "b.tar.xz", ["right"], [], other)
        words = ["--driver", fake_driver, "--out", "other"]
        refused = run(tmp_path, str(path), *words, code=TUNE)
        assert refused.returncode == 1 and f"nothing is tuned: {says}" in refused.stderr
        assert "numerics: 1 of 1 right" in refused.stdout and "1 items left" in refused.stdout


def test_tables_of_a_library_come_back_as_they_were() -> None:
    import tvm_ffi

    (library,) = Path(tvm_ffi.__file__).parent.glob("lib/libtvm_ffi.so")
    content = library.read_bytes()
    packed = elf_columns.by_columns(content)
    assert len(packed) == len(content) and packed != content
    assert elf_columns.by_rows(packed) == content
    assert len(lzma.compress(packed, preset=1)) < len(lzma.compress(content, preset=1))
    assert elf_columns.by_columns(b"no library") == b"no library"


def test_a_library_packed_by_columns_has_its_name_and_form_again(tmp_path: Path) -> None:
    import tvm_ffi

    (library,) = Path(tvm_ffi.__file__).parent.glob("lib/libtvm_ffi.so")
    name = "site/tvm_ffi/lib/libtvm_ffi.so"
    files = {**dict(pack_offline.sources()), "plan.json": b"{}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline_compiler, "_LARGE", 1 << 20)
        files |= offline_compiler.in_archive({name: library.read_bytes(), "site/a/b.py": b"x"})
    assert f"{name}.columns" in files and files["site/a/b.py"] == b"x"
    pack_offline.write_archive(tmp_path / "a.tar.xz", files)
    home = run_offline.unpacked(tmp_path / "a.tar.xz", tmp_path)
    assert (home / name).read_bytes() == library.read_bytes()
    assert not (home / f"{name}.columns").exists()


@pytest.mark.slow
def test_the_packed_compiler_builds_kernels_by_itself() -> None:
    files, needs = offline_compiler.compiler_files()
    assert set(needs) <= {
        "filelock", "ml_dtypes", "numpy", "psutil", "scipy", "threadpoolctl", "typing_extensions",
    }  # fmt: skip
    assert "site/tvm/lib/libtvm_compiler.so" in files and len(files) < 1000
    python = sum(len(content) for name, content in files.items() if name.endswith(".py"))
    assert python < 5 << 20, "docstrings are left out"


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
    for name, workload, changes in NUMERICS:
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
