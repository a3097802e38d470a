"""Reading and hashing files of the data folder. What writes them so that readers see them whole, old or new, is of
:mod:`transforms.files`, and here under the same names. Light: standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transforms.files import fsync_folder, replaced, sha256, write_bytes, write_json, write_text

__all__ = [
    "FileState", "as_the_users", "file_state", "file_version", "fsync_folder", "hide_from_others", "json_digest", "name_below", "read_json",
    "replaced", "sha256", "sha256_of_start", "write_bytes", "write_json", "write_text",
]  # fmt: skip

FileState = tuple[int, int, int, int, int]
"""See :func:`file_state`."""
_users_mask: int | None = None
"""The umask that the command was started with; None: nothing has changed it."""


def hide_from_others(mask: int) -> None:
    """Take this umask for all that this process and its children write."""
    global _users_mask
    _users_mask = os.umask(mask)


@contextmanager
def as_the_users() -> Iterator[None]:
    """Within, files and folders get the modes that the user's own do: for code that is written for them (a repository, a workflow), which
    colleagues and images read. It is of the whole process: not beside a thread that writes data."""
    if _users_mask is None:
        yield
        return
    before = os.umask(_users_mask)
    try:
        yield
    finally:
        os.umask(before)


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none, or it cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def file_version(path: str | os.PathLike[str]) -> tuple[int, str]:
    """A file's size, and what is another one after it was written to, or replaced; (0, "") where there is none. It is the same on each
    machine that mounts the file, as its number in the file system need not be."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0, ""
    return stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}"


def file_state(path: Path) -> FileState:
    """What is another one, on this machine, after a file was written to, or another took its place, also one of the same size that was
    given its time of change (as ``cp -p``, ``rsync`` and ``tar`` do)."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256_of_start(path: Path, size: int) -> str:
    """The SHA-256 of the first ``size`` bytes of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def name_below(data: Path, path: Path) -> str:
    """A path as runs and reports say it: relative to the data folder if it is below that."""
    return path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path)


def json_digest(value: Any) -> str:
    """The SHA-256 of a JSON-able value, in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
