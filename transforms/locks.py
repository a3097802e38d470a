"""Locks between processes: files that the kernel lets go of when their holder ends, however it ends. Light: standard library only.

``lock`` waits for its turn, ``try_lock`` never does. What they lock is the file, not its content, and it stays when the lock is gone.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["between_processes", "lock", "take", "try_lock"]

_LOOK_SECONDS = 0.1


def take(file: IO[str] | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file, until it is closed in every process that has it; whether that was done (always, with ``wait``).

    Several may hold it ``shared``; otherwise one alone does.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock(path: Path, busy: Callable[[], None] = lambda: None, beat: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the file ``path`` alone, for the body. Who must wait for that is told by ``busy`` first, then waits as long as it takes.

    ``beat`` is for who may be asked to end meanwhile: it is called ten times a second of the wait, and what it raises ends it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as held:
        if not take(held):
            busy()
            if beat is None:
                take(held, wait=True)
            else:
                while not take(held):
                    beat()
                    time.sleep(_LOOK_SECONDS)
        yield


@contextmanager
def try_lock(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Whether the file ``path`` could be locked; if so, it is held for the body. Never waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as held:
        yield take(held, shared=shared)


@contextmanager
def between_processes(fd: int) -> Iterator[None]:
    """Hold an open file for the body, alone among processes, those too that inherited it: not among the threads of one."""
    fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
