"""Small files that say what holds now, such as which graph is applied: read from the store, moved by compare-and-swap."""

from __future__ import annotations

import re

from serving.object_store.cache import Cache, safe
from transforms.errors import DataError
from transforms.files import write_bytes

__all__ = ["move", "refresh"]

_POINTERS = re.compile(r"graphs/APPLYING\.json|graphs/[^/]+/CURRENT|models/[^/]+/ALIASES\.json")
"""No other object becomes a file here: who may write to the store still hands out no key to this machine's server."""


def refresh(cache: Cache) -> list[str]:
    """Have all pointers as they are now; the paths (relative to the data folder) of those that had moved."""
    with cache.index("pointers") as index:
        heads = {h.key.removeprefix("pointers/"): h.version for h in cache.store.list("pointers/")}
        safe(cache, "pointers/", heads)
        if odd := [path for path in heads if not _POINTERS.fullmatch(path)]:
            raise DataError(f"{cache.url}/pointers/{odd[0]} is not a pointer known to this version of Tandem; remove it")
        moved = [path for path, version in heads.items() if index.get(path) != version or not _as_known(cache, path, index)]
        found = cache.all(lambda path: cache.store.read(f"pointers/{path}"), moved)
        for path, there in zip(moved, found, strict=True):
            if there is None:
                continue
            _write(cache, path, there.content)
            index[path] = there.version
            index[f"{path} is"] = bool(there.content)
        return moved


def _as_known(cache: Cache, path: str, index: dict[str, object]) -> bool:
    """A copy that somebody removed, or one that should not be there, is made anew."""
    return (cache.folder / path).exists() == bool(index.get(f"{path} is", True))


def _write(cache: Cache, path: str, content: bytes) -> None:
    if content:
        write_bytes(cache.folder / path, content)
    else:
        (cache.folder / path).unlink(missing_ok=True)


def move(cache: Cache, path: str, content: bytes) -> None:
    """Have the pointer ``path`` say ``content`` (empty: there is none), if it still says what this machine read last.

    Raises DataError where another one has moved it meanwhile: what was decided was decided by what holds no more.
    """
    with cache.index("pointers") as index:
        known = index.get(path)
        made = cache.store.create(f"pointers/{path}", content) if known is None else cache.store.replace(f"pointers/{path}", content, known)
        if made is None:
            raise DataError(f"{cache.url}/{path} was moved by another machine meanwhile; run the same command again")
        _write(cache, path, content)
        index[path] = made
        index[f"{path} is"] = bool(content)
