"""The wheel holds the whole package and works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # From a copy, so that no build folder is left in the checkout.
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unwanted)
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def run(site: Path, folder: Path, *arguments: str) -> str:
    """Run Python outside the checkout with the unpacked wheel first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_imports_its_search_package_from_outside_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    printed = run(
        installed, tmp_path, "-c", "import autotune.search as s; print(s.__file__, *s.SEARCHERS)"
    )
    assert printed.startswith(str(installed))
    assert "gbfs" in printed


def test_the_wheel_installs_no_top_level_name_but_its_own(installed: Path) -> None:
    names = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert names - {"bin"} == {"autotune"}


def test_the_wheel_tunes_a_product(installed: Path, tmp_path: Path) -> None:
    shape = ("-m", "33", "-n", "48", "-k", "20", "--threads", "1", "--trials", "3")
    result = json.loads(run(installed, tmp_path, "-m", "autotune", "gemm", *shape, "--json"))
    assert result["trials"]["measured"] == 3
    assert (tmp_path / "tuned.jsonl").exists()


def test_the_wheel_has_the_c_source_of_exported_libraries(installed: Path) -> None:
    assert (installed / "autotune" / "deploy" / "runtime.c").is_file()
