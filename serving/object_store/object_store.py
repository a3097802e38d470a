"""What every object store can do: whole objects by key, created only where there is none, or replaced only where one is as it was read."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from transforms.errors import ConfigError, DataError

__all__ = ["MAX_BYTES", "ObjectHead", "ObjectStore", "StoreAccessError", "Unreachable", "Versioned"]

MAX_BYTES = 64 << 20
"""The most bytes of an object that is read or written in memory: manifests and pointers; files are uploaded and downloaded."""


class StoreAccessError(ConfigError):
    """The store refuses: no such bucket, no right to it, no credentials."""


class Unreachable(DataError):
    """The store did not answer, or with faults of its own, for as long as is worth to try."""


@dataclass(frozen=True)
class ObjectHead:
    """What a store says of an object. ``version`` is another one after each write that changes it; its text means nothing else."""

    key: str
    size: int
    version: str
    modified: datetime
    """By the store's own clock, with UTC as zone; stores round it to whole seconds or finer."""


@dataclass(frozen=True)
class Versioned:
    """An object's content, and the version that it is of."""

    content: bytes
    version: str


class ObjectStore(ABC):
    """Objects by key: ``/`` in a key is like a folder, but there are none. Safe to use from many threads and processes.

    Writes are atomic: others see the whole object, before or after. What is written is seen by every read and list that begins later.
    Conditional writes count exactly one winner, among machines too. A write whose answer was lost is tried again; so a conditional write
    succeeds also where the object already has exactly the content given: content that must tell writers apart names its writer.

    Every method raises ``StoreAccessError`` (no bucket, no rights) and ``Unreachable`` (after a bounded number of tries), one line each and
    without a secret.
    """

    url: str
    """The place of all keys, as a person writes it."""

    @abstractmethod
    def head(self, key: str) -> ObjectHead | None:
        """What is known of an object; None if there is none."""

    @abstractmethod
    def read(self, key: str) -> Versioned | None:
        """An object and its version, of one moment; None if there is none."""

    @abstractmethod
    def put(self, key: str, content: bytes) -> str:
        """Write an object, whatever was there; its version."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> str | None:
        """Write an object where there is none; its version, or None if there is one (with other content)."""

    @abstractmethod
    def replace(self, key: str, content: bytes, version: str) -> str | None:
        """Write an object that still has this version; its new version, or None if it has another (with other content) or is gone."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectHead]:
        """All objects whose keys begin so, ordered by key. A prefix is taken literally; end it with ``/`` to mean a folder."""

    @abstractmethod
    def upload(self, key: str, file: Path) -> str:
        """As ``put``, of a local file of any size; its version."""

    @abstractmethod
    def download(self, key: str, file: Path) -> ObjectHead | None:
        """Write an object into a local file (of a folder that is there), which is replaced as a whole; None if there is no object."""

    @abstractmethod
    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        """Some bytes of an object of any size, ``length`` of at least 1, which are there; None if there is no object."""

    def now(self) -> datetime:
        """The store's clock, by which leases expire: no machine's own clock counts."""
        key = f"clock/{uuid.uuid4().hex}"
        self.put(key, b"")
        try:
            head = self.head(key)
        finally:
            self.delete(key)
        if head is None:
            raise Unreachable(f"{self.url}: an object that was just written is not there; is something deleting below clock/?")
        return head.modified
