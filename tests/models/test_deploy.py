"""Exported models: in this process, in one without TVM's compiler, and what is refused."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import SMALL

import autotune
from autotune.errors import AutotuneError, UnsupportedTarget
from autotune.hw_profiles import detect_cpu
from autotune.models import deploy

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "run_model.c"

WITHOUT_COMPILER = """
import json, sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("tvm."):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import autotune
model = autotune.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], model(x))
loaded = open("/proc/self/maps").read()
print(json.dumps({"compiler": "libtvm_compiler" in loaded}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, torch.Tensor]:
    model, (x,) = SMALL["mlp"]()
    path = tmp_path_factory.mktemp("exported") / "model.so"
    autotune.compile(model, (x,), threads=2).export(path)
    return path, model, x


def test_a_loaded_model_computes_the_same(exported: tuple[Path, Any, torch.Tensor]) -> None:
    path, model, x = exported
    loaded = autotune.load_model(path)
    with torch.no_grad():
        assert torch.allclose(loaded(x), model(x), atol=1e-5)
    assert len(loaded.description["coverage"]["rows"]) == 2
    with pytest.raises(AutotuneError, match="input 0 must be"):
        loaded(x[:3])


def test_it_runs_in_a_process_without_the_compiler(
    exported: tuple[Path, Any, torch.Tensor], tmp_path: Path
) -> None:
    path, model, x = exported
    np.save(tmp_path / "x.npy", x.numpy())
    files = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, *files],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"compiler": False}
    assert "Scope" not in done.stderr
    with torch.no_grad():
        assert np.allclose(np.load(tmp_path / "y.npy"), model(x).numpy(), atol=1e-5)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_the_example_in_c_computes_the_same(
    exported: tuple[Path, Any, torch.Tensor], tmp_path: Path
) -> None:
    import tvm
    import tvm_ffi

    path, model, x = exported
    ffi = Path(tvm_ffi.__file__).parent
    folders = [ffi / "lib", Path(tvm.__file__).parent / "lib"]
    program = tmp_path / "run_model"
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", str(EXAMPLE)]
    command += [f"-I{ffi / 'include'}", *(f"-L{folder}" for folder in folders)]
    command += ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-o", str(program)]
    command += [f"-Wl,-rpath,{folder}" for folder in folders]
    subprocess.run(command, check=True)

    extents = [str(extent) for extent in x.shape]
    words = [str(program), str(path), *extents]
    done = subprocess.run(words, input=x.numpy().tobytes(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(np.frombuffer(done.stdout, "float32").reshape(expected.shape), expected,
                       atol=1e-5)  # fmt: skip

    words[-1] = str(x.shape[-1] - 1)
    wrong = subprocess.run(words, input=x.numpy().tobytes(), capture_output=True, timeout=120)
    assert wrong.returncode == 1
    assert b"the model: " in wrong.stderr and b"mismatch" in wrong.stderr


def test_a_file_that_took_the_place_of_a_loaded_one_is_read(tmp_path: Path) -> None:
    place = tmp_path / "model.so"
    x = torch.randn(4, 8)
    for factor in (2.0, 3.0):
        layer = torch.nn.Linear(8, 8, bias=False)
        torch.nn.init.eye_(layer.weight).data.mul_(factor)
        autotune.compile(layer.eval(), (x,), threads=1).export(place)
        assert torch.allclose(autotune.load_model(place)(x), factor * x)


def test_a_model_for_another_cpu_is_refused(
    exported: tuple[Path, Any, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    here = detect_cpu()
    poorer = dataclasses.replace(here, features=frozenset(sorted(here.features)[:-1]))
    monkeypatch.setattr(deploy, "detect_cpu", lambda: poorer)
    with pytest.raises(UnsupportedTarget, match="lacks"):
        autotune.load_model(exported[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AutotuneError, match="there is no model"):
        autotune.load_model(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("hello")
    with pytest.raises(AutotuneError, match="not a model that autotune exported"):
        autotune.load_model(tmp_path / "text.so")
    library = ctypes.CDLL(None)._name or deploy.__file__
    with pytest.raises(AutotuneError, match="not a model that autotune exported"):
        autotune.load_model(library)


def test_a_place_that_cannot_be_written_to_is_named(
    exported: tuple[Path, Any, torch.Tensor], tmp_path: Path
) -> None:
    _, model, x = exported
    with pytest.raises(AutotuneError, match="cannot write"):
        autotune.compile(model, (x,), threads=1).export(tmp_path / "no" / "model.so")
