"""Single files by an address: a local path, or the URL of an object. For steps of a job that run on whatever machine."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipelines.lake.data_files import file_version, sha256_of_start
from serving.object_store.cache import cache_of
from serving.object_store.connecting import connect, is_url
from serving.object_store.object_store import ObjectStore
from transforms.errors import DataError

__all__ = ["ObjectFile", "ObjectGone", "clear", "fetch_below", "opening", "put_file", "reading", "reading_folder", "unchanged"]
__all__ += ["under", "url_of", "writing"]


_PIECE = 4 << 20
"""So much of an object is asked for at once, where less is read."""


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


Start = tuple[int, str]
"""So many bytes at the beginning of a file, and their SHA-256."""


@contextmanager
def unchanged(address: str, version: str, start: Start | None = None) -> Iterator[None]:
    """The body reads what stands there, of this version ("": nobody noted it, and nothing is compared): of a local file, by
    :func:`pipelines.lake.data_files.file_version`; of an object, the store's. Raises DataError where it has another one before the body
    or after it, whatever the body did or raised; not of a local file that still begins as ``start`` says, of which the body reads no
    more."""
    if not version:
        yield
        return
    _compare(address, version, start)
    try:
        yield
    except Exception as error:  # perhaps of bytes that belong to two versions
        _compare(address, version, start, error)
        raise
    _compare(address, version, start)


def _compare(address: str, version: str, start: Start | None, error: Exception | None = None) -> None:
    if is_url(address):
        store, key = _split(address)
        now = "" if (head := store.head(key)) is None else head.version
    else:
        size, now = file_version(address)
        if now != version and start is not None and size > start[0] and _begins(address, now, start):
            return
    if now != version:
        raise _changed(address) from error


@lru_cache(256)
def _begins(address: str, version: str, start: Start) -> bool:
    """Whether a local file of this version begins with the bytes that it had: each part of one that grows asks."""
    return sha256_of_start(Path(address), start[0]) == start[1]


def _changed(address: str) -> DataError:
    return DataError(
        f"{address} was changed, replaced or removed while the job read it; run the same command again, when nobody writes to it"
    )


@contextmanager
def reading(address: str, version: str = "", start: Start | None = None) -> Iterator[Path]:
    """A local file of what stands there: for the body. Raises DataError where there is no such object, and as :func:`unchanged` does."""
    if not is_url(address):
        with unchanged(address, version, start):
            yield Path(address)
        return

    def fetch(address: str, path: Path) -> None:
        if _get_file(address, path) != version and version:
            raise _changed(address)

    with _local(address, before=fetch) as path:
        yield path


def reading_folder(address: str) -> AbstractContextManager[Path]:
    """A local folder of all that lies below: for the body."""
    return _local(address, before=fetch_below)


@contextmanager
def opening(address: str, size: int | None = None) -> Iterator[BinaryIO]:
    """A file of ``size`` bytes (None: as it is), open for reading: of a URL only what is read comes here. Raises DataError where there is
    no such object."""
    if not is_url(address):
        with open(address, "rb") as f:
            yield f
        return
    store, key = _split(address)
    if size is None:
        if (head := store.head(key)) is None:
            raise _gone(address)
        size = head.size
    with io.BufferedReader(cast(Any, ObjectFile(store, key, size, address)), _PIECE) as found:
        yield cast(BinaryIO, found)


class ObjectGone(DataError):
    """There is no such object any more."""


def _gone(address: str) -> ObjectGone:
    return ObjectGone(f"{address} is gone; put it back, or run the same command again")


class ObjectFile(io.RawIOBase):
    """An object of ``size`` bytes as a file, unbuffered: each read is a request. Raises :class:`ObjectGone`; ``address``: the object's."""

    def __init__(self, store: ObjectStore, key: str, size: int, address: str) -> None:
        self.store, self.key, self.size, self.address, self.at = store, key, size, address, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence])
        return self.at

    def tell(self) -> int:
        """The place."""
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        length = min(len(buffer), self.size - self.at)
        if length <= 0:
            return 0
        block = self.store.read_range(self.key, self.at, length)
        if block is None:
            raise _gone(self.address)
        if len(block) != length:  # not the end of the file, which is known
            raise _changed(self.address)
        buffer[:length] = block
        self.at += length
        return length


def writing(address: str) -> AbstractContextManager[Path]:
    """A local path to write to, as a whole, in the body; what was written there is at the address when it ends."""
    return _local(address, after=put_file)


def _get_file(address: str, path: Path) -> str:
    """Its version."""
    store, key = _split(address)
    if (head := store.download(key, path)) is None:
        raise _gone(address)
    return head.version


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
