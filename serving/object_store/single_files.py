"""Files that stand each for itself: event files (the users' own), labels, the request log. The same names in the store and in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving.object_store.cache import Cache, safe
from serving.object_store.object_store import ObjectHead
from transforms.errors import DataError

__all__ = ["check_shared", "pull", "push", "remove"]


def _below(folder: str) -> str:
    return f"{folder.strip('/')}/"


def pull(cache: Cache, folder: str, wanted: Callable[[str], bool] = lambda name: True, *, strict: bool = True) -> None:
    """Have copies of the files below ``folder`` (relative to the data folder) whose names are ``wanted``, as they are in the store now.

    ``strict``: raises DataError for a file of the cache that is not in the store: what others do not see must not be read here.
    """
    prefix = _below(folder)
    with cache.index("files") as index:
        heads = {h.key: h for h in cache.store.list(prefix) if wanted(h.key) and not h.key.endswith("/")}
        safe(cache, prefix, heads)
        for key in [k for k in index if k.startswith(prefix) and wanted(k) and k not in heads]:
            (cache.folder / key).unlink(missing_ok=True)
            del index[key]
        stale = [h for key, h in heads.items() if index.get(key, [])[:1] != [h.version] or index[key][1:] != _stat(cache.folder / key)]
        found = cache.all(lambda head: _download(cache, head), stale)
        for head, version in zip(stale, found, strict=True):
            if version is not None:
                index[head.key] = [version, *_stat(cache.folder / head.key)]
        there = set(index)
    if strict:
        _refuse_own(cache, prefix, wanted, there)


def check_shared(cache: Cache, folder: str, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Raises DataError as a strict :func:`pull` does, for who has no copies made."""
    prefix = _below(folder)
    with cache.index("files") as index:
        there = {*index, *(head.key for head in cache.store.list(prefix))}
    _refuse_own(cache, prefix, wanted, there)


def _refuse_own(cache: Cache, prefix: str, wanted: Callable[[str], bool], there: set[str]) -> None:
    """Raises DataError for a wanted file that is not ``there``, in the store."""
    own = [name for name in _names(cache, prefix) if name not in there and wanted(name)]
    if own:
        more = f" and {len(own) - 1:,} more files are" if len(own) > 1 else " is"
        raise DataError(
            f"{cache.folder / own[0]}{more} not in {cache.url}; upload what others are to see too, and remove it from the cache"
        )


def push(cache: Cache, folder: str, *, removals: bool = False, new: bool = True) -> int:
    """Upload what is new or changed below ``folder``; the number of files.

    ``removals``: remove from the store what is gone here, for who has looked that all of the store's files are here, and then removed some.
    Without ``new``: what the store never had stays here.
    """
    prefix = _below(folder)
    with cache.index("files") as index:
        here = _names(cache, prefix)
        changed = [name for name in here if (new or name in index) and index.get(name, [])[1:] != _stat(cache.folder / name)]

        def upload(name: str) -> list[object]:
            stat = _stat(cache.folder / name)
            return [cache.store.upload(name, cache.folder / name), *stat]

        for name, entry in zip(changed, cache.all(upload, changed), strict=True):
            index[name] = entry
        for name in [n for n in index if removals and n.startswith(prefix) and n not in here]:
            cache.store.delete(name)
            del index[name]
    return len(changed)


def remove(cache: Cache, name: str) -> None:
    """Delete a file of the store, and its copy."""
    with cache.index("files") as index:
        cache.store.delete(name)
        (cache.folder / name).unlink(missing_ok=True)
        index.pop(name, None)


def _names(cache: Cache, prefix: str) -> dict[str, None]:
    top = cache.folder / prefix
    found = (p for p in sorted(top.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(cache.folder).as_posix(): None for p in found}


def _stat(path: Path) -> list[object]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _download(cache: Cache, head: ObjectHead) -> str | None:
    path = cache.folder / head.key
    path.parent.mkdir(parents=True, exist_ok=True)
    got = cache.store.download(head.key, path)
    return None if got is None else got.version
