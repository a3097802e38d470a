"""Files of a stream's saved tiles: ``data/stream/<name>/tiles/shard-0000/*.tiles``. All reading and writing of them is here.

A file is frames, each with its length before it: a head (plain values), then tiles of one group each, compressed Arrow IPC. It is written
once, whole and on disk, under a name of its own, and never changed; a checkpoint names it with its size and SHA-256
(:class:`TileFile`), so what was damaged, cut off, replaced or lost since is found when it is read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines.lake.data_files import replaced
from pipelines.streaming.stages.plain_bytes import dumps, loads
from pipelines.streaming.state.stream_link import link_of
from transforms.errors import DataError, StoreError

__all__ = ["FORMAT", "Kind", "TileFile", "TileStore"]

FORMAT = 1
"""Of the files; rises too when what a tile's columns hold changes its meaning."""
_MAGIC = "tandem tiles"
_LENGTH = struct.Struct("<Q")
ROWS = 100_000
"""Tiles in a frame at most."""
FOREIGN_SECONDS = 600.0
"""How long a file that no checkpoint names is left alone where another process wrote it: that may be about to name it."""
ENDING = ".tiles"

Kind = Literal["base", "snapshot", "delta"]
Groups = Mapping[str, Iterable[pa.RecordBatch]]


@dataclass(frozen=True)
class TileFile:
    """A file as a checkpoint names it. ``kind``: ``delta`` adds to the files before it; ``snapshot`` holds all that they hold; ``base``
    too, but what the files before it hold does not lead to it."""

    name: str
    kind: Kind
    sha256: str
    size: int

    def to_json(self) -> list[Any]:
        """As a checkpoint has it."""
        return [self.name, self.kind, self.sha256, self.size]

    @classmethod
    def from_json(cls, value: Any) -> TileFile:
        """The inverse. Raises DataError."""
        try:
            name, kind, sha256, size = value
            if kind in ("base", "snapshot", "delta") and Path(name).name == name and isinstance(sha256, str):
                return cls(name, kind, sha256, int(size))
        except (TypeError, ValueError):
            pass
        raise DataError(f"a checkpoint names {str(value)[:100]!r}, which is no file of saved tiles")


class TileStore:
    """The saved tiles of one stream. Any number of processes may use it at once: each writes files of its own.

    Where the data folder is a cache of an object store, a file that was put is in the store too, and is fetched from it."""

    def __init__(self, folder: Path) -> None:
        """``folder``: the stream's."""
        self.folder = Path(folder) / "tiles"
        self.link = link_of(Path(folder))
        self._own = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._count = 0

    def _path(self, shard: int, name: str = "") -> Path:
        return self.folder / f"shard-{shard:04d}" / name

    def put(self, shard: int, kind: Kind, head: Any, tiles: Groups) -> TileFile:
        """Write a file; when this returns it is on disk as a whole. Raises StoreError (a full disk), then nothing is there."""
        self._count += 1
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{self._own}-{self._count:06d}{ENDING}"
        digest, size = hashlib.sha256(), 0
        path = self._path(shard, name)
        try:
            with replaced(path, durable=True) as out:
                for frame in _frames(head, tiles):
                    for piece in (_LENGTH.pack(len(frame)), frame):
                        out.write(piece)
                        digest.update(piece)
                        size += len(piece)
        except OSError as error:
            raise StoreError(f"saved tiles {path}: {error.strerror or error}; free its disk or correct its permissions") from None
        if self.link is not None:
            self.link.send(path)
        return TileFile(name, kind, digest.hexdigest(), size)

    def get(self, shard: int, file: TileFile) -> tuple[Any, dict[str, list[pa.RecordBatch]]]:
        """The head of a file, and its tiles by group. Raises DataError for one that is not as it was written."""
        head, *rest = self._read(shard, file)
        tiles: dict[str, list[pa.RecordBatch]] = {}
        for frame in rest:
            name, data = loads(bytes(frame))
            tiles.setdefault(name, []).extend(pa.ipc.open_stream(data))
        return self._head(shard, file, head), tiles

    def head(self, shard: int, file: TileFile) -> Any:
        """The head of a file all of whose bytes are right. Raises as :meth:`get`."""
        return self._head(shard, file, next(iter(self._read(shard, file)), memoryview(b"")))

    def _head(self, shard: int, file: TileFile, frame: memoryview) -> Any:
        path = self._path(shard, file.name)
        try:
            magic, number, head = loads(bytes(frame))
            if magic != _MAGIC:
                raise ValueError("another beginning")
        except (DataError, TypeError, ValueError):
            raise DataError(f"saved tiles {path} are no such file, though the checkpoint names it") from None
        if number != FORMAT:
            raise DataError(f"saved tiles {path} were written by another version of Tandem (format {number})")
        return head

    def _read(self, shard: int, file: TileFile) -> Iterator[memoryview]:
        path = self._path(shard, file.name)
        if self.link is not None:
            self.link.have(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"saved tiles {path} cannot be read ({error.strerror})") from None
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise DataError(f"saved tiles {path} are damaged: their bytes are not those that the checkpoint names")
        view, at = memoryview(data), 0
        while at < len(view):
            (length,) = _LENGTH.unpack_from(view, at)
            at += _LENGTH.size
            yield view[at : at + length]
            at += length

    def shards(self) -> list[int]:
        """The shards that have files."""
        return sorted(int(p.name.removeprefix("shard-")) for p in self.folder.glob("shard-*") if p.is_dir())

    def names(self, shard: int) -> list[str]:
        """The files of a shard, oldest first."""
        return sorted(p.name for p in self._path(shard).glob(f"[!.]*{ENDING}"))

    def delete(self, shard: int, name: str) -> None:
        """Delete a file; nothing happens if it is gone."""
        self._path(shard, name).unlink(missing_ok=True)
        if self.link is not None:
            self.link.drop(self._path(shard, name))

    def forget(self, first: int = 0) -> None:
        """Delete all of shard ``first`` and those above it."""
        for shard in self.shards():
            if shard >= first:
                shutil.rmtree(self._path(shard), ignore_errors=True)
                if self.link is not None:
                    self.link.drop(self._path(shard))

    def clean(self, shard: int, named: bytes, present: Iterable[TileFile]) -> None:
        """Delete the files of a shard that neither stand in ``named`` (the bytes of its checkpoints) nor are ``present``: at once where
        this object wrote them, after :data:`FOREIGN_SECONDS` else."""
        keep, before = {file.name for file in present}, time.time() - FOREIGN_SECONDS
        for path in self._path(shard).glob(f"*{ENDING}*"):
            own = f"-{self._own}-" in path.name and not path.name.startswith(".")
            with suppress(OSError):
                if path.name not in keep and path.name.encode() not in named and (own or path.stat().st_mtime < before):
                    path.unlink()
                    if self.link is not None and path.suffix == ENDING and not path.name.startswith("."):
                        self.link.drop(path)


def _frames(head: Any, tiles: Groups) -> Iterator[bytes]:
    yield dumps((_MAGIC, FORMAT, head))
    for name, batches in tiles.items():
        for batch in batches:
            for first in range(0, batch.num_rows, ROWS):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
                    writer.write_batch(batch.slice(first, ROWS))
                yield dumps((name, sink.getvalue().to_pybytes()))
