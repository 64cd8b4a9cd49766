"""Exported libraries run without TVM: from C, and from a Python that cannot import it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from use_samples import PROFILE, write_log

from autotune import AutotuneError, Gemm, load_kernel, load_library
from autotune.choice import choose_config
from autotune.cli import main
from autotune.deploy.export import Item, export_library
from autotune.deploy.library import open_library
from autotune.deploy.source import symbol_of
from autotune.kernels.base import choose_template
from autotune.kernels.verify import make_problem, mismatch
from autotune.log import Tier, TuningLog

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang)")
GEMM = Gemm(37, 50, 33, epilogue="bias_relu")
PACKED = Gemm(37, 50, 33, prepacked=True)
ATTENTION = Gemm(12, 20, 16, layout="nt", batch=3, scale=0.125, epilogue="bias_residual")
NARROW = [Gemm(16, 24, 20, dtype=dtype) for dtype in ("bfloat16", "float16", "int8")]
ALL = [GEMM, PACKED, ATTENTION, *NARROW]
#: All operands are packed, so that there are workspaces, and threads where there are several.
PACKING = {"pack_a": "whole", "pack_b": "whole"}


@pytest.fixture(scope="module", params=["none", "fused"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``gemm.so`` and ``gemm.h``; of the first the command line makes them."""
    parallel = request.param
    folder = tmp_path_factory.mktemp(f"export-{parallel}")
    log, threads = folder / "tuned.jsonl", 1 if parallel == "none" else 2
    changes = {"parallel": parallel, **PACKING, "block_m": 1, "block_n": 1}
    write_log(log, [GEMM], threads, changes=changes)
    write_log(log, ALL[1:], threads)
    if threads == 1:
        words = ["--all", "--threads", "1", "--log", str(log), "--header"]
        with pytest.raises(SystemExit) as ended:
            main(["export", *words, "-o", str(folder / "gemm.so")])
        assert ended.value.code == 0
        return folder
    items = []
    for workload in ALL:
        template = choose_template("auto", workload, PROFILE)
        choice = choose_config(TuningLog(log), workload, PROFILE, threads, template)
        items.append(Item(workload, choice))
    export_library(items, folder / "gemm.so", PROFILE, threads, folder / "gemm.h")
    return folder


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_c_program_calls_it(folder: Path, threads: str) -> None:
    assert COMPILER is not None
    source = Path(__file__).with_name("caller.c")
    program = folder / "caller"
    command = [COMPILER, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-I{folder}", "-o", str(program), str(source), str(folder / "gemm.so")]
    subprocess.run([*command, f"-Wl,-rpath,{folder}"], check=True)
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    assert "tvm" not in linked
    done = subprocess.run([program, threads], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "threads 0",
        "status 0",
        "right 1",
        "null 2: b is NULL",
        "shared 2: the output shares memory with bias",
        "threads 2",
        "concurrent 0",
        "forked 0",
        "described 1",
    ]


_WITHOUT_TVM = """
import sys
sys.modules["tvm"] = sys.modules["torch"] = None  # as if they were not installed
import ml_dtypes, numpy as np
from autotune.deploy.library import open_library
library = open_library(sys.argv[1])
for workload, kernel in library.items():
    inputs = [x.view(workload.dtype) for x in np.load(f"{workload.key}.npz").values()]
    if workload.prepacked:
        inputs[1] = kernel.pack(inputs[1])
    result = kernel(*inputs)
    assert result.dtype.name == workload.out_dtype
    np.save(f"{workload.key}.npy", result.astype(np.float64))
libraries = {line.rpartition("/")[2].strip() for line in open("/proc/self/maps")}
loaded = {x for x in libraries if x.startswith(("libtvm", "libtorch"))}
assert loaded - {"libtvm_ffi_testing.so"} == {"libtvm_ffi.so"}, loaded
print(len(library))
"""


def test_python_without_tvm_calls_it(folder: Path, tmp_path: Path) -> None:
    problems = {w: make_problem(w) for w in ALL}
    for workload, problem in problems.items():
        plain = [x.view(np.uint16) if x.itemsize == 2 else x for x in problem.inputs]
        np.savez(tmp_path / f"{workload.key}.npz", *plain)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TVM, str(folder / "gemm.so")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(len(problems))
    for workload, problem in problems.items():
        found = np.load(tmp_path / f"{workload.key}.npy")
        assert mismatch(workload, found, problem.reference) is None


def test_in_a_process_with_tvm_it_computes_the_same(folder: Path) -> None:
    import torch

    library = open_library(folder / "gemm.so")
    assert set(library) == set(ALL)
    kernel = load_library(folder / "gemm.so", GEMM)
    problem = make_problem(GEMM)
    assert mismatch(GEMM, kernel(*problem.inputs), problem.reference) is None
    out = torch.full((37, 50), float("nan"))
    kernel(*map(torch.from_numpy, problem.inputs), out=out)
    assert mismatch(GEMM, out.numpy(), problem.reference) is None
    with pytest.raises(AutotuneError, match="a must have shape"):
        kernel(problem.a.T.copy(), *problem.inputs[1:])


def test_it_says_what_it_is(folder: Path) -> None:
    library = open_library(folder / "gemm.so")
    assert library.description["target"]["arch"] == PROFILE.arch
    assert library.description["tools"]["apache-tvm"].startswith("0.")
    kernel = library[GEMM]
    assert kernel.tier.value == "exact" and kernel.template == "cpu_tile"
    assert kernel.config["pack_a"] == "whole"
    with pytest.raises(AutotuneError, match=r"has several kernels.*m=37"):
        load_library(folder / "gemm.so")
    with pytest.raises(AutotuneError, match=r"has no gemm m=1 .*; it has gemm m=37"):
        load_library(folder / "gemm.so", Gemm(1, 1, 1))


def test_another_cpu_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from autotune.deploy import library as module

    lesser = replace(PROFILE, name="an old CPU", features=PROFILE.features[2:])
    monkeypatch.setattr(module, "detect_cpu", lambda: lesser)
    lacking = ", ".join(PROFILE.features[:2])
    with pytest.raises(AutotuneError, match=f"was made for .*an old CPU, lacks {lacking}: tune"):
        load_library(folder / "gemm.so", GEMM)


def test_c_code_refuses_a_cpu_that_lacks_a_feature(tmp_path: Path) -> None:
    """Compiled as for a CPU with a feature that there is nowhere."""
    import ctypes

    from autotune.deploy.source import library_source

    invented = replace(PROFILE, features=(*PROFILE.features, "zzz512"))
    (tmp_path / "x.c").write_text(library_source([], {}, invented, 1, False))
    subprocess.run(
        [str(COMPILER), "-std=gnu11", "-shared", "-fPIC", "-pthread", "x.c", "-o", "x.so"],
        cwd=tmp_path,
        check=True,
    )
    library = ctypes.CDLL(str(tmp_path / "x.so"))
    assert library.autotune_check_cpu() == 1
    library.autotune_last_error.restype = ctypes.c_char_p
    assert b"a CPU with zzz512, which this one lacks" in library.autotune_last_error()


def test_a_kernel_exports_itself(tmp_path: Path) -> None:
    log = write_log(tmp_path / "tuned.jsonl", [GEMM])
    load_kernel(log, GEMM, threads=1).export(tmp_path / "one.so", tmp_path / "one.h")
    kernel = load_library(tmp_path / "one.so")
    assert kernel.workload == GEMM
    problem = make_problem(GEMM)
    assert mismatch(GEMM, kernel(*problem.inputs), problem.reference) is None
    assert f"int {symbol_of(GEMM)}(const float *a," in (tmp_path / "one.h").read_text()


def test_a_file_that_took_the_place_of_a_loaded_one_is_read(tmp_path: Path) -> None:
    log = write_log(tmp_path / "tuned.jsonl", [GEMM, PACKED])
    for workload in (GEMM, PACKED):
        load_kernel(log, workload, threads=1).export(tmp_path / "one.so")
        assert load_library(tmp_path / "one.so").workload == workload


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutotuneError, match="there is no library"):
        load_library(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(AutotuneError, match="cannot be loaded"):
        load_library(tmp_path / "text.so")
    import _ctypes

    with pytest.raises(AutotuneError, match="not a library that autotune exported"):
        load_library(_ctypes.__file__)
    kernel = load_kernel(write_log(tmp_path / "t.jsonl", [GEMM]), GEMM, threads=1)
    with pytest.raises(AutotuneError, match="cannot write"):
        kernel.export(tmp_path / "no" / "such" / "folder.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AutotuneError, match="needs Linux and a C compiler"):
        kernel.export(tmp_path / "x.so")


def test_the_command_line_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["export", *words, "--threads", "1", "-o", str(tmp_path / "gemm.so")])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    log = str(write_log(tmp_path / "log.jsonl", [GEMM]))
    write_log(tmp_path / "log.jsonl", [Gemm(8, 8, 8)], template="cpu_paper")
    code, out, err = export("--all", "--log", log)
    assert code == 0 and "1 function(s)" in out and "(exact" in out
    assert "left out" in err and "m=8 n=8 k=8" in err
    shape = ["-m", "40", "-n", "50", "-k", "33", "--log", log]
    code, _, err = export(*shape)
    assert code == 2 and "no result for gemm m=40" in err
    code, out, _ = export(*shape, "--fallback", "nearest")
    assert code == 0 and "M bucket: tuned for gemm m=37" in out
    assert load_library(tmp_path / "gemm.so").tier is Tier.M_BUCKET
    code, _, err = export("--all", "--log", str(tmp_path / "none.jsonl"))
    assert code == 2 and "there is no log" in err


def test_symbols_of_different_workloads_differ() -> None:
    workloads = [
        GEMM,
        PACKED,
        *NARROW,
        ATTENTION,
        replace(ATTENTION, scale=1),
        replace(ATTENTION, scale=-1),
        replace(ATTENTION, scale=1e-20),
        replace(ATTENTION, batch=1),
        Gemm(37, 50, 33),
        Gemm(37, 50, 33, layout="nt"),
        Gemm(16, 24, 20, dtype="bfloat16", out_dtype="float32"),
        Gemm(16, 24, 20, dtype="float16", acc_dtype="float16"),
    ]
    assert len({symbol_of(workload) for workload in workloads}) == len(workloads)
    assert all(symbol_of(workload).isidentifier() for workload in workloads)
