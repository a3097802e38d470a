"""The files of a stream's row log: open segments (frames of Arrow IPC messages, each with length and checksum), and how they are sealed."""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.data_files import fsync_folder, replaced
from pipelines.streaming.state.stream_link import StreamLink, link_of
from pipelines.streaming.state.stream_objects import PART, stem_of
from transforms.errors import StoreError
from transforms.locks import take

__all__ = [
    "LeftSegments",
    "frame_head",
    "log_failed",
    "open_rows",
    "read_open",
    "seal_file",
    "seal_leftovers",
    "seal_parts",
    "write_sealed",
]

_HEAD = struct.Struct("<4sII")
_MAGIC = b"TRL1"
_TICK_SECONDS = 2.0
"""Of the time of a folder's last change, on any file system: what changes later than that has another one."""


def frame_head(payload: pa.Buffer) -> bytes:
    """What stands before a payload; with it, a frame."""
    return _HEAD.pack(_MAGIC, payload.size, zlib.crc32(payload))


def frames_of(data: memoryview) -> Iterator[memoryview]:
    """The payloads of the whole frames, up to the first that is torn."""
    at = 0
    while at + _HEAD.size <= len(data):
        magic, length, crc = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        payload = data[at : at + length]
        if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != crc:
            return
        at += length
        yield payload


def read_open(path: Path) -> pa.Table | None:
    """What an open segment holds; None for nothing. Its writer may be at work."""
    frames = frames_of(memoryview(path.read_bytes()))
    head = next(frames, None)
    if head is None:
        return None
    schema = pa.ipc.read_schema(pa.py_buffer(head))
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(frame), schema) for frame in frames], schema=schema)


def seal_file(path: Path) -> None:
    """Turn an open segment into a Parquet file on disk, then remove it. Raises StoreError; the segment then stays."""
    sealed = path.with_suffix(".parquet")
    try:
        table = None if sealed.is_file() else read_open(path)  # it is there: killed before the segment was removed
        if table is not None and table.num_rows:
            write_sealed(table, sealed)
        path.unlink()
    except OSError as error:
        raise log_failed(path, error) from None


def open_rows(paths: Sequence[Path]) -> pa.Table | None:
    """What the open segments, or the parts of one, hold together; None for nothing."""
    tables = [table for path in paths if (table := read_open(path)) is not None]
    return pa.concat_tables(tables) if tables else None


def write_sealed(table: pa.Table, sealed: Path) -> None:
    """Write the rows of a segment as the file that is sealed."""
    with replaced(sealed, durable=True) as out:
        told = [f.name for f in table.schema if not pa.types.is_floating(f.type)]  # a dictionary of floats is larger than they are
        pq.write_table(
            table.combine_chunks(),
            out,
            compression="zstd",
            version="2.6",
            coerce_timestamps="us",
            row_group_size=65_536,
            use_dictionary=told,
        )


def seal_parts(folder: Path) -> None:
    """Of the log in the object store, whose copies are here: make a sealed segment of the parts that a writer left which is gone, and put
    it in their place. For one who holds the stream. Raises StoreError."""
    link = link_of(folder)
    assert link is not None
    parts: dict[Path, list[Path]] = {}
    for path in sorted([*folder.glob(f"rows/*/*{PART}"), *folder.glob(f"late/*/*{PART}")]):
        parts.setdefault(path.with_name(f"{stem_of(path.name)}.parquet"), []).append(path)
    for sealed, paths in parts.items():
        if (table := open_rows(paths)) is not None and not sealed.exists():
            write_sealed(table, sealed)
        link.send_sealed(sealed)
        for path in paths:
            path.unlink()


def seal_leftovers(folder: Path) -> int:
    """Seal the segments below a job's folder whose writers are gone; the number of them. Safe while others write or do the same."""
    count, link = 0, link_of(folder)
    for path in sorted([*folder.glob("rows/*/*.log"), *folder.glob("late/*/*.log")]):
        with _held(path) as held:
            if held:
                seal_file(path)
                if link is not None:
                    link.send_sealed(path.with_suffix(".parquet"))
                count += 1
    for path in (*folder.glob("rows/*/.*.parquet.*"), *folder.glob("late/*/.*.parquet.*")):
        if not _alive(int(path.name.partition(".parquet.")[2].partition(".")[0])):  # .<name>.<process>.<thread>: killed while it sealed
            path.unlink(missing_ok=True)
    return count


class LeftSegments:
    """What other processes of this machine appended to the log of the stream in ``folder``: workers that ended before they could force it
    to disk (and send it to the object store), or have not ended yet. A checkpoint vouches for their rows, too, once their work is gone on
    from. ``own``: how the names of the files begin that are not asked for; ``clock`` is monotonic. Safe for many threads."""

    def __init__(self, folder: Path, own: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.own, self.link, self.clock = folder, own, link_of(folder), clock
        self._there: dict[Path, set[str]] = {}
        """Place -> files that the object store is known to have."""
        self._copied: dict[Path, int] = {}
        self._changed: dict[Path, tuple[int, float]] = {}
        """Place -> when it was changed last, by the file system's time, and since when that is known."""
        self._quiet: dict[Path, int] = {}
        """Place -> the same, of places where all is settled: a log of years is not listed for each checkpoint."""
        self._lock = threading.Lock()

    def settle(self, shard: int) -> None:
        """Have all that they appended of a shard on disk, and in the object store. Raises StoreError."""
        with self._lock:
            for place in sorted([*self.folder.glob("rows/*"), *self.folder.glob("late/*")]):
                while not self._settle(place, f"-s{shard:04d}-"):
                    pass

    def _settle(self, place: Path, shard: str) -> bool:
        """Whether all was seen; else a file changed its name meanwhile."""
        changed, now = place.stat().st_mtime_ns, self.clock()
        if self._quiet.get(place) == changed:
            return True
        if self._changed.get(place, (0, 0.0))[0] != changed:
            self._changed[place] = changed, now
        at_work = False
        others = sorted(name for name in os.listdir(place) if not name.startswith((".", self.own)))
        for path in [place / name for name in others if name.endswith(".log")]:
            with _held(path) as held:
                if held:
                    seal_file(path)
                    others.append(path.with_suffix(".parquet").name)
                elif not path.exists():
                    return False
                else:
                    at_work = True
                    if shard in path.name:
                        self._force(path)
        if self.link is not None:
            self._send(self.link, place, [name for name in others if name.endswith(".parquet")])
        if not at_work and now - self._changed[place][1] >= _TICK_SECONDS:
            self._quiet[place] = changed
        return True

    def _force(self, path: Path) -> None:
        """Of a segment whose writer may be at work."""
        try:
            with open(path, "rb") as file:
                data = file.read() if self.link is not None else b""
                os.fsync(file.fileno())
            fsync_folder(path.parent)
        except FileNotFoundError:
            return  # sealed, and so on disk; in the object store the next time
        except OSError as error:
            raise log_failed(path, error) from None
        if self.link is not None and len(data) != self._copied.get(path):
            self.link.send_part(path, 0, data)  # a number that its writer does not use
            self._copied[path] = len(data)

    def _send(self, link: StreamLink, place: Path, sealed: list[str]) -> None:
        at = place.relative_to(self.folder).as_posix()
        known = self._there.setdefault(place, set())
        if not known.issuperset(sealed):
            for name in link.unsent(at, sealed):
                link.send_sealed(place / name)
            known.update(sealed)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether this process is now the only one at a segment: its writer is gone and nobody else seals it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield take(handle) and path.exists()
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def log_failed(path: Path, error: OSError) -> StoreError:
    """What the system said of a file of the log, in one line."""
    return StoreError(f"row log {path}: {error.strerror or error}; free its disk or correct its permissions, nothing was lost")
