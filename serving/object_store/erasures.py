"""What was erased in a store, told to the machines that have copies of it: each takes its copies away before it uses them again.

An erasure names the trees, files and streams that it changes, files by a hash of their names, which may hold whom it was about. It is put
before anything is changed and again when all is, so a copy that was made in between goes, too; one that was never finished stays until the
next erasure has finished it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from serving.object_store.cache import Cache
from transforms import data_folder

__all__ = ["begin", "finish", "follow"]

_OF_STREAM = ("rows", "late", "before", "tiles", "checkpoints")
"""What of a stream's folder is in the store, too, or goes on from what is."""


def begin(cache: Cache, trees: Iterable[str], files: Iterable[str], streams: Iterable[str]) -> str:
    """Tell what is about to be changed; by which key. What unfinished erasures told is told with it."""
    said: dict[str, Any] = {"trees": {*trees}, "files": {_hash(name) for name in files}, "streams": {*streams}}
    for head in cache.store.list("erasures/"):
        other = _read(cache, head.key)
        for name in said if not other.get("done") else ():
            said[name] |= {*other.get(name, ())}
    key = f"erasures/{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    cache.store.put(key, _content(False, said))
    return key


def finish(cache: Cache, key: str) -> None:
    """All of it is changed. This machine has no older copies of it."""
    said = _read(cache, key)
    version = cache.store.put(key, _content(True, said))
    with cache.index("erasures") as index:
        index[key] = version
    for head in list(cache.store.list("erasures/")):
        if head.key < key and not _read(cache, head.key).get("done"):
            cache.store.delete(head.key)


def follow(cache: Cache) -> None:
    """Take away the copies of what was erased since. A stream asks for it once it holds its lease, as does each of its workers elsewhere:
    an erasure holds that lease, too, so what the stream makes from then on stays."""
    heads = {h.key: h.version for h in cache.store.list("erasures/")}
    if all(cache.look("erasures").get(key) == version for key, version in heads.items()):
        return
    bare = not cache.look("trees") and not cache.look("files") and not data_folder.streams(cache.folder).exists()
    with cache.index("erasures") as index:
        for key, version in heads.items():
            if index.get(key) != version and not bare:
                _take_away(cache, _read(cache, key))
            index[key] = version
        for key in index.keys() - heads.keys():
            del index[key]


def _take_away(cache: Cache, said: dict[str, Any]) -> None:
    with cache.index("trees") as index:
        for tree in said.get("trees", ()):
            shutil.rmtree(cache.folder / tree, ignore_errors=True)
            index.pop(tree, None)
    gone = {*said.get("files", ())}
    with cache.index("files") as index:
        for name in [each for each in index if _hash(each) in gone]:
            (cache.folder / name).unlink(missing_ok=True)
            del index[name]
    for name in said.get("streams", ()):
        for below in _OF_STREAM:
            shutil.rmtree(data_folder.stream(cache.folder, name) / below, ignore_errors=True)
        with cache.index(f"stream-{name}") as index:
            index.clear()


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _read(cache: Cache, key: str) -> dict[str, Any]:
    found = cache.store.read(key)
    said = json.loads(found.content) if found is not None else {}
    return said if isinstance(said, dict) else {}


def _content(done: bool, said: dict[str, Any]) -> bytes:
    parts = {name: sorted(said.get(name, ())) for name in ("trees", "files", "streams")}
    return json.dumps({"done": done, **parts}).encode() + b"\n"
