"""Locks between processes: files that the kernel lets go of when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["only_one"]


@contextmanager
def only_one(lock: Path) -> Iterator[bool]:
    """Whether nobody else holds the file ``lock``; if so, we do until the end of the body. Never waits."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
