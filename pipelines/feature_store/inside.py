"""Feast finds a repository's files by the working directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["inside"]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With ``folder`` as the working directory; that and ``sys.path`` are as before afterwards."""
    before, paths = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = paths
