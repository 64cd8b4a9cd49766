"""Kernels for a GPU as files: their description, and C that launches them on a stand-in driver."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from use_samples import write_log

from autotune import AutotuneError, Gemm
from autotune.call import Argument
from autotune.choice import Choice
from autotune.cli.export import command
from autotune.deploy.cubins import GpuKernel, as_logged, export_cubins
from autotune.deploy.cubins_header import cubins_header
from autotune.deploy.export import Item
from autotune.hw_profiles import load_profiles
from autotune.kernels.base import choose_template
from autotune.kernels.cuda.compile import CudaCompileError
from autotune.kernels.cuda.source import Launch
from autotune.kernels.cuda.tensor_map import TensorMap
from autotune.log import Tier, TuningLog

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "fake_cuda"
EXAMPLE = ROOT / "docs" / "examples" / "run_cubin.c"
TOOLKIT = Path("/usr/local/cuda/include")
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
H200 = load_profiles()["h200"]
M, N, K = 9, 7, 5
PTXAS = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nUsed 99 registers"
#: Both operands have to be transposed, and C is stored by TMA.
CROSSED = Gemm(129, 64, 67, "tn", "float8_e4m3fn", epilogue="bias")
PLAIN = Gemm(M, N, K)


class FakeCompiler:
    """Takes everything, or nothing."""

    description = "fake 1.0"

    def __init__(self, message: str = "") -> None:
        self.message = message

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        assert arch == "sm_90a" and "main_kernel" in source
        if self.message:
            raise CudaCompileError("rejected", self.message)
        return b"machine code", PTXAS


def item(workload: Gemm) -> Item:
    template = choose_template("auto", workload, H200)
    config = template.space(workload, H200, 1).defaults[0]
    return Item(
        workload, Choice(template.name, template.version, config, Tier.DEFAULT, "nobody measured")
    )


def made(behaviour: str) -> GpuKernel:
    """A kernel that the stand-in for the driver knows."""
    main = Launch(
        name="main_kernel", parameters=(0, 1, 2), grid=(1, 1, 1), block=(32, 1, 1),
        shared_bytes=4096,
    )  # fmt: skip
    launches, scratch = (main,), ()
    if behaviour == "mapped":
        a = TensorMap(0, "float32", (K, M), (4 * K,), (4, 8), 3, 2)
        launches = (replace(main, parameters=(a, 1, 2), cluster=2, grid=(4, 1, 1)),)
    if behaviour == "scratch":
        copy = replace(main, name="copy_kernel", parameters=(1, 3), block=(64, 1, 1))
        launches, scratch = (copy, replace(main, parameters=(0, 3, 2))), (4 * K * N,)
    shapes = {"a": (M, K), "b": (K, N), "c": (M, N)}
    arguments = tuple(Argument(name, shape, "float32") for name, shape in shapes.items())
    return GpuKernel("gemm", "gemm.cubin", "for */ a test", arguments, scratch, launches)


def compiled(folder: Path, driver: str, *options: str) -> Path:
    """Build the example of the documentation with the header that lies in a folder."""
    if CC is None:
        pytest.skip("no C compiler")
    program = folder / "run_cubin"
    words = [CC, "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-I{STAND_IN}"]
    subprocess.run([*words, *options, "-o", program, EXAMPLE, driver], check=True)
    return program


@pytest.mark.parametrize("behaviour", ["right", "mapped", "scratch"])
def test_a_c_program_launches_them(behaviour: str, fake_driver: str, tmp_path: Path) -> None:
    header = cubins_header([made(behaviour)], "a test", "sm_90a")
    assert ("AUTOTUNE_MAPS\n" in header.split("enum {")[0]) == (behaviour == "mapped")
    (tmp_path / "kernels.h").write_text(header)
    (tmp_path / "gemm.cubin").write_text(f"{behaviour} {M} {N} {K}")
    program = compiled(tmp_path, fake_driver, "-DKERNEL=gemm")
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((M, K), (K, N)))
    done = subprocess.run(
        [program, tmp_path / "gemm.cubin"], input=a.tobytes() + b.tobytes(), capture_output=True,
        env={"LD_LIBRARY_PATH": str(Path(fake_driver).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (np.frombuffer(done.stdout, np.float32).reshape(M, N) == a @ b).all()
    absent = subprocess.run(
        [program, tmp_path / "absent"], capture_output=True, text=True,
        env={"LD_LIBRARY_PATH": str(Path(fake_driver).parent)},
    )  # fmt: skip
    assert absent.returncode == 1 and "absent: as asked (301)" in absent.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two kernels."""
    folder = tmp_path_factory.mktemp("exported") / "kernels"
    kernels = export_cubins([item(CROSSED), item(PLAIN)], folder, H200, True, FakeCompiler())
    assert [kernel.launches[-1].name for kernel in kernels] == ["main_kernel"] * 2
    return folder


def test_the_description_has_all_that_a_launch_takes(exported: Path) -> None:
    described = json.loads((exported / "kernels.json").read_text())
    assert described["format"] == 1 and described["tools"]["cuda_compiler"] == "fake 1.0"
    assert described["target"]["arch"] == "sm_90"
    crossed, plain = described["kernels"]
    assert [launch["name"] for launch in crossed["launches"]] == [
        "turn_a_kernel", "turn_b_kernel", "main_kernel",
    ]  # fmt: skip
    assert [x["name"] for x in crossed["arguments"]] == ["a", "b", "bias", "c"]
    assert crossed["arguments"][0] == {"name": "a", "shape": [67, 129], "dtype": "float8_e4m3fn"}
    # Lines of 67 bytes are padded to 80; parameters count scratch memory after the arguments.
    assert crossed["scratch"][:2] == [129 * 80, 64 * 80]
    assert [launch["parameters"] for launch in crossed["launches"][:2]] == [[0, 4], [1, 5]]
    maps = [p for p in crossed["launches"][2]["parameters"] if not isinstance(p, int)]
    assert [m["argument"] for m in maps][:2] == [4, 5] and maps[0]["extents"] == [67, 129]
    assert crossed["template"]["name"] == "wgmma" and crossed["tier"] == "default"
    assert crossed["resources"]["registers"] == 99
    assert plain["scratch"] == [] and len(plain["launches"]) == 1
    for kernel in described["kernels"]:
        assert (exported / kernel["file"]).read_bytes() == b"machine code"
    assert "k=5 layout=nn" in (exported / "kernels.h").read_text()


@pytest.mark.parametrize(
    ("language", "include"),
    [("c", STAND_IN), ("c", TOOLKIT), ("c++", TOOLKIT)],
    ids=["c, stand-in", "c, toolkit", "c++, toolkit"],
)
def test_the_header_compiles_without_a_warning(
    language: str, include: Path, exported: Path
) -> None:
    compiler = CC if language == "c" else shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not (include / "cuda.h").exists():
        pytest.skip("no compiler, or no cuda.h")
    words = [compiler, f"-x{language}", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*words, f"-isystem{include}", exported / "kernels.h"], check=True)


def run(*words: str) -> Any:
    return CliRunner().invoke(command, list(words))


def test_the_command_writes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autotune.deploy.cubins.require_compiler", FakeCompiler)
    (tmp_path / "tuned.jsonl").touch()
    words = f"-m {M} -n {N} -k {K} --target cuda:h200 -o out --header".split()
    refused = run(*words)
    assert isinstance(refused.exception, AutotuneError)
    assert "has no result for" in str(refused.exception)
    result = run(*words, "--fallback", "default")
    assert result.exit_code == 0, result.output
    assert "out/kernels.json: 1 kernel(s) for NVIDIA H200 SXM" in result.stdout
    assert "a, b, c; 1 launch(es)" in result.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "autotune_gemm_9x7x5_nn_float32.cubin", "kernels.h", "kernels.json",
    ]  # fmt: skip


def test_results_of_the_same_product_elsewhere_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver calls it "NVIDIA H200", its data file "NVIDIA H200 SXM"."""
    there = replace(H200, name="NVIDIA H200")
    log = write_log(tmp_path / "gpu.jsonl", [PLAIN, CROSSED], profile=there)
    assert as_logged(H200, TuningLog(log)).key == there.key
    assert as_logged(load_profiles()["a100-sxm"], TuningLog(log)).name.startswith("NVIDIA A100")
    monkeypatch.setattr("autotune.deploy.cubins.require_compiler", FakeCompiler)
    words = ["--all", "--target", "cuda:h200", "--log", str(log), "-o", str(tmp_path / "out")]
    result = run(*words)
    assert result.exit_code == 0, result.output
    described = json.loads((tmp_path / "out" / "kernels.json").read_text())
    assert [kernel["tier"] for kernel in described["kernels"]] == ["exact", "exact"]


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(AutotuneError, match="k=5 .* does not compile: rejected: no such thing"):
        export_cubins([item(PLAIN)], tmp_path, H200, compiler=FakeCompiler("no such thing"))
    (tmp_path / "file").touch()
    with pytest.raises(AutotuneError, match="cannot write .*file"):
        export_cubins([item(PLAIN)], tmp_path / "file", H200, compiler=FakeCompiler())
    with pytest.raises(AutotuneError, match="no kernel to export"):
        export_cubins([], tmp_path, H200)
