"""Installs ``tests/outside_package``, the package of a stranger, as pip would anywhere; the fixture ``outside_package`` of all tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["SOURCE", "install"]

SOURCE = Path(__file__).resolve().parent / "outside_package"


def install(folder: Path) -> Path:
    """Build the package and install it (entry points included) into ``folder / "site"``; returns that."""
    source, site = folder / "source", folder / "site"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", str(site)]
    done = subprocess.run([*pip, *options, str(source)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site
