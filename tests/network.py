"""Machines that share an object store over a network that can be cut at every step. The store is a folder here, which holds the same
contract as S3 does (``tests/contract/test_object_store.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from serving.object_store import cache as caches
from serving.object_store import manifests
from serving.object_store.cache import Cache, cache_of, data_path
from serving.object_store.local_folder import LocalFolder
from serving.object_store.object_store import ObjectHead, ObjectStore, Unreachable, Versioned

__all__ = ["URL", "Network", "machines", "network"]

URL = "s3://bucket/lake"


def backend(tmp_path: Path, name: str) -> ObjectStore:
    """What is behind the network; ``tests/scale/test_kills_on_stores.py`` has a server there."""
    return LocalFolder(tmp_path / "stores" / name)


class Network(ObjectStore):
    """A store over a network that can be cut: so many more writes (and deletions) pass, then none does."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.url = URL
        self.passes: int | None = None
        self.writes = 0
        self._copies: TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """A folder with what the store holds now, each object as a file below ``objects/``."""
        if isinstance(self.store, LocalFolder):
            return self.store.folder
        self._copies = TemporaryDirectory(prefix="objects-")
        for head in self.store.list():
            file = Path(self._copies.name) / "objects" / head.key
            file.parent.mkdir(parents=True, exist_ok=True)
            self.store.download(head.key, file)
        return Path(self._copies.name)

    def _tick(self) -> None:
        self.writes += 1
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                raise Unreachable("the store cannot be reached")

    def head(self, key: str) -> ObjectHead | None:
        return self.store.head(key)

    def read(self, key: str) -> Versioned | None:
        return self.store.read(key)

    def put(self, key: str, content: bytes) -> str:
        self._tick()
        return self.store.put(key, content)

    def create(self, key: str, content: bytes) -> str | None:
        self._tick()
        return self.store.create(key, content)

    def replace(self, key: str, content: bytes, version: str) -> str | None:
        self._tick()
        return self.store.replace(key, content, version)

    def delete(self, key: str) -> None:
        self._tick()
        self.store.delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectHead]:
        return self.store.list(prefix)

    def upload(self, key: str, file: Path) -> str:
        self._tick()
        return self.store.upload(key, file)

    def download(self, key: str, file: Path) -> ObjectHead | None:
        return self.store.download(key, file)

    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        return self.store.read_range(key, start, length)


def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``machines(...)("a")``: the data folder as that machine sees it, and from now on this process is that machine."""
    ways: dict[Path, Network] = {}

    def way(cache: Cache) -> Network:
        return ways.setdefault(cache.folder, Network(backend(tmp_path, cache.url.rpartition("/")[2])))

    def see(name: str, url: str = URL) -> Path:
        monkeypatch.setenv(caches.FOLDER, str(tmp_path / name))
        return data_path(url)

    monkeypatch.setattr(Cache, "store", property(way))
    monkeypatch.setattr(manifests, "_FRESH_SECONDS", 0.0)
    return see


def network(data: Path) -> Network:
    """A machine's way to the store."""
    found = cache_of(data)
    assert found is not None and isinstance(found.store, Network)
    return found.store
