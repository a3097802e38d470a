"""Reading and hashing files of the data folder. What writes them so that readers see them whole, old or new, is of
:mod:`transforms.files`, and here under the same names. Light: standard library only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transforms.files import fsync_folder, replaced, sha256, write_bytes, write_json, write_text

__all__ = ["fsync_folder", "json_digest", "read_json", "replaced", "sha256", "sha256_of_start", "write_bytes", "write_json", "write_text"]


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none, or it cannot be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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
