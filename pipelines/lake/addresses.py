"""Single files by an address: a local path, or the URL of an object. For steps of a job that run on whatever machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


def _nothing(address: str, path: Path) -> None:
    pass


@contextmanager
def _local(address: str, before: Callable[[str, Path], None] = _nothing, after: Callable[[str, Path], None] = _nothing) -> Iterator[Path]:
    """The path itself; of a URL a path in a folder of its own, ``before`` and ``after`` the body."""
    if not is_url(address):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / address.rpartition("/")[2]  # its ending says what it is
        before(address, path)
        yield path
        after(address, path)


def reading(address: str) -> AbstractContextManager[Path]:
    """A local file of what stands there: for the body. Raises DataError where there is no such object."""
    return _local(address, before=_get_file)


def reading_folder(address: str) -> AbstractContextManager[Path]:
    """A local folder of all that lies below: for the body."""
    return _local(address, before=fetch_below)


def writing(address: str) -> AbstractContextManager[Path]:
    """A local path to write to, as a whole, in the body; what was written there is at the address when it ends."""
    return _local(address, after=put_file)


def _get_file(address: str, path: Path) -> None:
    store, key = _split(address)
    if store.download(key, path) is None:
        raise DataError(f"{address} is gone; put it back, or run the same command again")


def put_file(address: str, path: Path) -> None:
    """Upload a local file."""
    store, key = _split(address)
    store.upload(key, path)


def fetch_below(address: str, folder: Path) -> None:
    """Copies of all objects below an address, by their names, in a local folder."""
    store, key = _split(address)
    folder.mkdir(parents=True, exist_ok=True)
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
