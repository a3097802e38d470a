"""A local (or mounted POSIX) folder as an object store: for tests, and as the plainest reading of the contract."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from serving.object_store.object_store import ObjectHead, ObjectStore, Versioned
from transforms.files import is_unfinished, placed
from transforms.locks import lock

__all__ = ["LocalFolder"]


class LocalFolder(ObjectStore):
    """Objects as files. Conditional writes hold a lock file; a version is a hash of the content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.absolute().as_uri()

    def _path(self, key: str) -> Path:
        return self.folder / "objects" / key

    def head(self, key: str) -> ObjectHead | None:
        """See ``ObjectStore``."""
        try:
            with open(self._path(key), "rb") as file:
                stat = os.fstat(file.fileno())
                version = hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return ObjectHead(key, stat.st_size, version, datetime.fromtimestamp(stat.st_mtime, UTC))

    def read(self, key: str) -> Versioned | None:
        """See ``ObjectStore``."""
        try:
            content = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return Versioned(content, hashlib.sha256(content).hexdigest())

    def put(self, key: str, content: bytes) -> str:
        """See ``ObjectStore``."""
        with lock(self.folder / "lock"):
            return self._write(key, content)

    def create(self, key: str, content: bytes) -> str | None:
        """See ``ObjectStore``."""
        with lock(self.folder / "lock"):
            there = self.read(key)
            if there is not None:
                return there.version if there.content == content else None
            return self._write(key, content)

    def replace(self, key: str, content: bytes, version: str) -> str | None:
        """See ``ObjectStore``."""
        with lock(self.folder / "lock"):
            there = self.read(key)
            if there is None or (there.version != version and there.content != content):
                return None
            return self._write(key, content)

    def delete(self, key: str) -> None:
        """See ``ObjectStore``."""
        with lock(self.folder / "lock"), suppress(FileNotFoundError, NotADirectoryError):
            self._path(key).unlink()

    def list(self, prefix: str = "") -> Iterator[ObjectHead]:
        """See ``ObjectStore``."""
        top = self.folder / "objects"
        keys = (path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())
        for key in sorted(k for k in keys if k.startswith(prefix) and not is_unfinished(k.rpartition("/")[2])):
            if (found := self.head(key)) is not None:
                yield found

    def upload(self, key: str, file: Path) -> str:
        """See ``ObjectStore``."""
        with lock(self.folder / "lock"):
            self._place(key, lambda unfinished: shutil.copyfile(file, unfinished))
        head = self.head(key)
        return head.version if head is not None else ""

    def download(self, key: str, file: Path) -> ObjectHead | None:
        """See ``ObjectStore``."""
        try:
            with placed(file) as unfinished:
                shutil.copyfile(self._path(key), unfinished)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return self.head(key)

    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        """See ``ObjectStore``."""
        try:
            with open(self._path(key), "rb") as file:
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def _write(self, key: str, content: bytes) -> str:
        self._place(key, lambda unfinished: unfinished.write_bytes(content))
        return hashlib.sha256(content).hexdigest()

    def _place(self, key: str, fill: Callable[[Path], object]) -> None:
        with placed(self._path(key)) as unfinished:
            fill(unfinished)
