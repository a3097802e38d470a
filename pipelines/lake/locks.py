"""Locks between processes: files that the kernel lets go of when their holder ends, however it ends. Light: standard library only."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone", "only_one"]


@contextmanager
def alone(folder: Path, say: Callable[[str], None], waiting: str) -> Iterator[None]:
    """One process at a time in ``folder``; the others say ``waiting`` and wait. The hold ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
