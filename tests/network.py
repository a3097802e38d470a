"""Machines that share an object store over a network that can be cut at every step. The store is a folder here, which holds the same
contract as S3 does (``tests/contract/test_object_store.py``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.object_store import cache as caches
from serving.object_store import manifests
from serving.object_store.cache import Cache, cache_of, data_path
from serving.object_store.local_folder import LocalFolder
from serving.object_store.object_store import Unreachable

__all__ = ["URL", "Network", "machines", "network"]

URL = "s3://bucket/lake"


class Network(LocalFolder):
    """The store, over a network that can be cut: so many more writes (and deletions) pass, then nothing does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = URL
        self.passes: int | None = None
        self.writes = 0

    def _tick(self) -> None:
        self.writes += 1
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                raise Unreachable("the store cannot be reached")

    def _place(self, key: str, fill: Any) -> None:
        self._tick()
        super()._place(key, fill)

    def delete(self, key: str) -> None:
        self._tick()
        super().delete(key)


def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``machines(...)("a")``: the data folder as that machine sees it, and from now on this process is that machine."""
    ways: dict[Path, Network] = {}

    def way(cache: Cache) -> Network:
        return ways.setdefault(cache.folder, Network(tmp_path / "stores" / cache.url.rpartition("/")[2]))

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
