"""Single files by an address: a local path, or the URL of an object. For steps of a job that run on whatever machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.object_store.base import ObjectStore
from serving.object_store.cache import cache_of
from serving.object_store.connecting import connect, is_url
from transforms.errors import DataError

__all__ = ["clear", "fetch_below", "put_file", "reading", "reading_folder", "under", "url_of", "writing"]


def url_of(data: Path) -> str | None:
    """The URL of the object store that a data folder is a cache of; None for a plain folder."""
    return None if (cache := cache_of(data)) is None else cache.url


def _split(address: str) -> tuple[ObjectStore, str]:
    """The store of an object's bucket, and its key there."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return connect(f"{scheme}://{bucket}"), key


def under(address: str, top: str) -> str:
    """What follows ``top`` in an address below it."""
    return address.removeprefix(f"{top}/")


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tandem-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reading(address: str) -> Iterator[Path]:
    """A local file of what stands there: for the body. Raises DataError where there is no such object."""
    if not is_url(address):
        yield Path(address)
        return
    store, key = _split(address)
    with _scratch() as folder:
        path = folder / key.rpartition("/")[2]  # its ending says what it is
        if store.download(key, path) is None:
            raise DataError(f"{address} is gone; put it back, or run the same command again")
        yield path


@contextmanager
def reading_folder(address: str) -> Iterator[Path]:
    """A local folder of all that lies below: for the body."""
    if not is_url(address):
        yield Path(address)
        return
    with _scratch() as folder:
        fetch_below(address, folder)
        yield folder


@contextmanager
def writing(address: str) -> Iterator[Path]:
    """A local path to write to, as a whole, in the body; what was written there is at the address when it ends."""
    if not is_url(address):
        yield Path(address)
        return
    with _scratch() as folder:
        path = folder / address.rpartition("/")[2]
        yield path
        put_file(address, path)


def put_file(address: str, path: Path) -> None:
    """Upload a local file."""
    store, key = _split(address)
    store.upload(key, path)


def fetch_below(address: str, folder: Path) -> None:
    """Copies of all objects below an address, by their names, in a local folder."""
    store, key = _split(address)
    for head in store.list(f"{key}/"):
        name = head.key.removeprefix(f"{key}/")
        if ".." in Path(name).parts or os.path.isabs(name):
            raise DataError(f"{address} has a name with .. in it; remove that object")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(head.key, folder / name)


def clear(address: str) -> None:
    """Delete all objects below an address."""
    store, key = _split(address)
    for head in list(store.list(f"{key}/")):
        store.delete(head.key)
