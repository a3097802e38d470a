"""A package of somebody else, installed beside Tandem: that it can be, and that nothing in Tandem names it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.outside import SOURCE

ROOT = Path(__file__).resolve().parents[2]


def test_it_installs_and_imports(outside_package: Path) -> None:
    found = importlib.import_module("tandem_outside")
    assert found.__file__ is not None and Path(found.__file__).is_relative_to(outside_package)
    assert importlib.metadata.version("tandem-outside") == "1.0.0"


def test_tandem_does_not_know_it() -> None:
    files = [p for top in ("transforms", "pipelines", "serving", "tandem") for p in (ROOT / top).rglob("*.py")]
    assert files and not [p for p in files if "tandem_outside" in p.read_text("utf-8")]


def test_its_own_tests_pass(outside_package: Path, tmp_path: Path) -> None:
    """They subclass the contract suites that ship, and run where nothing of this checkout's tests is."""
    shutil.copytree(SOURCE / "tests", tmp_path / "tests")
    env = {**os.environ, "PYTHONPATH": str(outside_package)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "failed" not in done.stdout
