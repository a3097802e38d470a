"""A data folder whose truth is an object store: a cache folder of this machine, which looks as a data folder always does.

All code reads and writes files below a local path; the cache folder has a marker that names the store. What is made here becomes visible
to others when its owner publishes it, and what others published is fetched when it is needed:

* trees (:mod:`.trees`): folders that never change once they are there (rows of a run, a graph, a model version, a training set);
* manifests (:mod:`.manifests`): what runs say of themselves. A run counts when its manifest says ``complete``, and that is put last;
* pointers (:mod:`.pointers`): small files that name what holds now (``CURRENT``, ``ALIASES.json``), moved by compare-and-swap;
* files (:mod:`.files`): event files, labels and the request log, each by itself.

A plain folder has no marker; then there is no cache, no store is asked, and no package for one is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from serving.object_store.connecting import connect, is_url, normal
from serving.object_store.object_store import ObjectStore
from transforms.errors import ConfigError, DataError
from transforms.files import write_bytes
from transforms.locks import lock

__all__ = ["FOLDER", "MARKER", "Cache", "cache_folder", "cache_of", "data_path", "given_place", "safe"]

MARKER = ".object-store.json"
"""The file of a cache folder that names its store."""
FOLDER = "TANDEM_CACHE"
"""The environment variable that says where this machine keeps caches; else ``tandem`` below the user's cache folder."""
_THREADS = 8
_BESIDE = ".objects"
"""The folder of a cache that says which versions its files are of."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def data_path(given: str | Path) -> Path:
    """The local folder for a ``data:`` setting: a path as it is, and the cache folder of a URL. Asks nothing of the store.

    Raises ConfigError for a URL that names no place for data.
    """
    text = str(given)
    return cache_folder(normal(text)) if is_url(text) else Path(given)


def cache_folder(url: str) -> Path:
    """This machine's cache folder of the store at ``url`` (see ``connecting.normal``), with its marker; made if it is not there."""
    base = os.environ.get(FOLDER)
    folder = Path(base).absolute() if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:80].strip("-")
    out = folder / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    marker = out / MARKER
    if not marker.exists():
        try:
            out.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_bytes(marker, json.dumps({"url": url}).encode() + b"\n")
            _cache_of.cache_clear()
        except OSError as error:
            raise ConfigError(f"{out} cannot be made ({error.strerror}); name a folder for copies of {url} by {FOLDER}") from None
    return out


def given_place(data: Path) -> str:
    """How a person names a data folder: the URL of its store, or its path."""
    cache = cache_of(data)
    return str(data) if cache is None else cache.url


def cache_of(data: Path | str) -> Cache | None:
    """The cache that a data folder is; None for a plain folder."""
    return _cache_of(str(data))


@lru_cache(64)
def _cache_of(data: str) -> Cache | None:
    try:
        said = json.loads(Path(data, MARKER).read_text("utf-8"))
        url = normal(str(said["url"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{Path(data, MARKER)} cannot be read; remove the folder: it is a cache") from None
    return Cache(Path(data), url)


def safe(cache: Cache, prefix: str, names: Iterable[str]) -> None:
    """Raises DataError for a name, relative to the data folder, that leads out of it: whoever writes to the store writes no other file."""
    for name in names:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DataError(f"{cache.url}/{prefix} has a name with .. in it; remove that object")


class Cache:
    """The cache folder ``folder`` of the store at ``url``; safe for any number of processes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    @cached_property
    def store(self) -> ObjectStore:
        """The store, connected to when it is first asked for. Raises ConfigError."""
        return connect(self.url)

    @contextmanager
    def index(self, kind: str) -> Iterator[dict[str, Any]]:
        """What is known of the copies of one kind, by key, alone among this machine's processes; kept as the body leaves it."""
        place = self.folder / _BESIDE / f"{kind}.json"
        with lock(place.with_suffix(".lock")):
            entries = self.look(kind)
            before = json.dumps(entries, sort_keys=True)
            try:
                yield entries
            finally:
                if (now := json.dumps(entries, sort_keys=True)) != before:
                    write_bytes(place, now.encode())

    def look(self, kind: str) -> dict[str, Any]:
        """What is known of the copies of one kind, as it was last kept. A damaged index is none: copies are made anew."""
        try:
            found = json.loads((self.folder / _BESIDE / f"{kind}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def all(self, act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``act`` of each item, several at a time, in order. Raises what the first one that failed raised."""
        work = list(items)
        if len(work) < 2:
            return [act(item) for item in work]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="object-store") as pool:
            return list(pool.map(act, work))
