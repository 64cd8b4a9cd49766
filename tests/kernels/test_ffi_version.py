"""A version of TVM's interface that ends the process is refused in words."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from autotune import Gemm, load_kernel
from autotune.errors import AutotuneError
from autotune.interchange.metaschedule import export_metaschedule
from autotune.kernels.alignment import check_ffi

BROKEN = ("0.1.15", "0.1.15.post2", "0.2.0", "1.0")


@pytest.mark.parametrize("version", BROKEN)
def test_versions_that_cannot_write_modules_are_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    log = tmp_path / "empty.jsonl"
    log.touch()
    says = rf"apache-tvm-ffi {version} ends the process.*<0\.1\.15"
    with pytest.raises(AutotuneError, match=says), pytest.warns(match="default"):
        load_kernel(log, Gemm(4, 8, 5), threads=1, fallback="default")
    with pytest.raises(AutotuneError, match=says):
        export_metaschedule([], tmp_path)


@pytest.mark.parametrize("version", ["0.1.14.post0", "0.1.14.post1", "0.1.14"])
def test_those_that_can_are_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    check_ffi()


def test_the_installed_one_can() -> None:
    check_ffi()
