"""Files that readers see whole, old or new, never in part: the one place that puts a file in another's place. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["fsync_folder", "is_unfinished", "placed", "replaced", "sha256", "write_bytes", "write_json", "write_text"]

_UNFINISHED = re.compile(r"\..+\.\d+\.\d+")


@contextmanager
def placed(path: Path, *, durable: bool = False, mode: int | None = None, as_before: bool = False) -> Iterator[Path]:
    """The path of a file beside ``path``, for the body to make: it takes that one's place when the body ends, and is gone when it raises.

    Readers see the old content or the new. ``durable``: it outlives a power loss once this has ended. ``mode``: it is there, empty and with
    these permissions, when the body begins. ``as_before``: it gets the owner and the permissions of the file that it replaces, as far as
    the system lets this process set them. Safe against other threads and processes that do the same: the last one's content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        if mode is not None:
            unfinished.unlink(missing_ok=True)
            os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode))
        yield unfinished
        if as_before and path.exists():
            _take_over(unfinished, path.stat())
        if durable:
            _fsync(unfinished)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def _take_over(made: Path, before: os.stat_result) -> None:
    """Set the owner and the permissions of a file where they differ. What does so may not be allowed (another's file, a superuser without
    the right, users of a namespace or of NFS that are mapped) or not be known to the file system: the content matters more."""
    now = made.stat()
    if (now.st_mode ^ before.st_mode) & 0o777:
        with suppress(OSError):
            os.chmod(made, before.st_mode & 0o777)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):
            os.chown(made, before.st_uid, before.st_gid)


@contextmanager
def replaced(path: Path, *, durable: bool = False, mode: int | None = None, as_before: bool = False) -> Iterator[IO[bytes]]:
    """As :func:`placed`, opened for writing."""
    with placed(path, durable=durable, mode=mode, as_before=as_before) as unfinished, open(unfinished, "wb") as out:
        yield out


def is_unfinished(name: str) -> bool:
    """Whether this is the name of a file that :func:`placed` makes; one that is old was left by a process that was killed."""
    return _UNFINISHED.fullmatch(name) is not None


def write_bytes(path: Path, content: bytes, *, durable: bool = False, mode: int | None = None) -> None:
    """See :func:`placed`."""
    with replaced(path, durable=durable, mode=mode) as out:
        out.write(content)


def write_text(path: Path, text: str, *, durable: bool = False, mode: int | None = None) -> None:
    """See :func:`placed`; UTF-8."""
    write_bytes(path, text.encode(), durable=durable, mode=mode)


def write_json(path: Path, value: Any, *, indent: int | None = 2, durable: bool = False) -> None:
    """See :func:`placed`; what JSON does not know becomes text."""
    write_text(path, json.dumps(value, indent=indent, default=str) + "\n", durable=durable)


def fsync_folder(folder: Path) -> None:
    """Force a folder's entries to disk."""
    _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
