"""What tests of several files start from, made once for all processes of a run (pytest-xdist)."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

__all__ = ["made_once"]

T = TypeVar("T")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What ``make`` returns, given an empty folder: the first process that asks makes it, the others wait and get a copy (by pickle).

    The folder is the same for all, so nobody may change what is in it.
    """
    base = factory.getbasetemp()
    home = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    kept = home / f"{name}.pickle"
    with open(home / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.with_suffix(".new").write_bytes(pickle.dumps(make(factory.mktemp(name))))
            kept.with_suffix(".new").rename(kept)
    made: T = pickle.loads(kept.read_bytes())
    return made
