"""Files that readers see whole, old or new, never in part; and hashes of files. Light: standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["fsync_folder", "json_digest", "read_json", "replaced", "sha256", "sha256_of_start", "write_bytes", "write_json", "write_text"]


@contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of ``path`` when the body ends, and is gone when it raises.

    Readers see the old content or the new. ``durable``: it outlives a power loss once this has ended. Safe against other threads and
    processes that do the same: the last one's content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(unfinished, "wb") as out:
            yield out
            if durable:
                out.flush()
                os.fsync(out.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """See ``replaced``."""
    with replaced(path, durable=durable) as out:
        out.write(content)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """See ``replaced``; UTF-8."""
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: Path, value: Any, *, indent: int | None = 2, durable: bool = False) -> None:
    """See ``replaced``; what JSON does not know becomes text."""
    write_text(path, json.dumps(value, indent=indent, default=str) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none, or it cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fsync_folder(folder: Path) -> None:
    """Force a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_start(path: Path, size: int) -> str:
    """The SHA-256 of the first ``size`` bytes of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """The SHA-256 of a JSON-able value, in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
