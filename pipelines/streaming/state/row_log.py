"""The stream's own record: every row it emitted and every event that came too late, appended below ``data/stream/<name>/``.

``rows/<group>/`` and ``late/<source>/`` hold segments, one writer each. A segment is open (``*.log``: frames of Arrow IPC messages, each
with length and checksum) and later sealed (``*.parquet`` of the same stem, which DuckDB or Polars read by glob): when it is
large or old, when its writer closes, or at the next start if the writer was killed.

**What holds.** What :meth:`RowLog.append` returned from survives the crash of any process; what :meth:`RowLog.sync` returned from survives
a power loss too, and is in the object store where the data folder is a cache of one, whichever process of this machine appended it. A
frame that a crash left unfinished is recognised and dropped, all before it is read. A stream that repeats work after a crash appends the
same rows again: readers get all of them, and :func:`newest` keeps what counts.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake.data_files import fsync_folder
from pipelines.streaming.state.log_segments import LeftSegments, frame_head, log_failed, read_open, seal_file
from pipelines.streaming.state.stream_link import link_of
from pipelines.streaming.state.stream_objects import PART, stem_of
from transforms.definitions import CREATED, EVENT_TIMESTAMP, FINGERPRINT, REVISION, TIMESTAMP, EventSource, FeatureGroup
from transforms.errors import DataError, StoreError
from transforms.hashing import shard_of
from transforms.locks import take

__all__ = ["RowLog", "beginnings", "logged", "newest", "read_earlier", "read_late", "read_rows", "scan_rows"]


@dataclass
class _Segment:
    path: Path
    handle: int
    schema: pa.Schema
    opened: float
    size: int = 0
    dirty: bool = True
    head: bytes = b""
    sent: int = 0
    """Up to where it is in the object store, in so many ``parts``."""
    parts: int = 0


@dataclass
class RowLog:
    """The writer of a process; any number of them, in any processes, may write the same folder at once. Safe for many threads, as long as
    each shard is used by one at a time: no two shards share a segment.

    ``seal_bytes`` and ``seal_seconds``: the size and age at which a segment is sealed.
    """

    folder: Path
    seal_bytes: int = 32 << 20
    seal_seconds: float = 3600.0
    clock: Callable[[], float] = time.monotonic
    _open: dict[tuple[str, int], _Segment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        # Names sort by time: readers get the rows of a shard in the order they were appended.
        self._link = link_of(self.folder)
        self._count = count(1)
        self._sealed: dict[int, list[Path]] = {}
        self._incarnation = f"{now:%Y%m%dT%H%M%S%f}-{os.getpid()}-{secrets.token_hex(3)}"
        self._left = LeftSegments(self.folder, self._incarnation)

    def append(self, place: str, shard: int, batch: pa.RecordBatch) -> None:
        """Append a batch to ``place`` (``rows/<group>``, ``late/<source>``). Raises StoreError (a full disk), then nothing is appended."""
        if not batch.num_rows:
            return
        segment = self._open.get((place, shard))
        if segment is not None and (
            not batch.schema.equals(segment.schema) or segment.size >= self.seal_bytes or self.clock() - segment.opened >= self.seal_seconds
        ):
            self._seal(place, shard)
            segment = None
        if segment is None:
            segment = self._begin(place, shard, batch.schema)
        payload = batch.serialize()
        self._write(segment, frame_head(payload), payload)

    def _begin(self, place: str, shard: int, schema: pa.Schema) -> _Segment:
        path = self.folder / place / f"{self._incarnation}-s{shard:04d}-{next(self._count):06d}.log"
        handle = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            take(handle)  # held while this process lives: who gets it seals what a dead one left
            told = schema.serialize()
            segment = _Segment(path, handle, schema, self.clock(), head=frame_head(told) + told.to_pybytes())
            self._write(segment, frame_head(told), told)
            segment.sent = segment.size
        except (OSError, StoreError) as error:
            if handle >= 0:
                os.close(handle)
                path.unlink(missing_ok=True)
            raise error if isinstance(error, StoreError) else log_failed(path, error) from None
        self._open[place, shard] = segment
        return segment

    @staticmethod
    def _write(segment: _Segment, head: bytes, payload: pa.Buffer) -> None:
        try:
            for data in (memoryview(head), memoryview(payload)):
                done = 0
                while done < len(data):
                    done += os.write(segment.handle, data[done:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(segment.handle, segment.size)  # the next append must not stand behind half a frame
            raise log_failed(segment.path, error) from None
        segment.size += len(head) + payload.size
        segment.dirty = True

    def sync(self, shard: int) -> None:
        """Force to disk (and have in the object store) all that this machine appended of a shard: this process, and those that were at it
        before and ended before they could, or have not ended yet. Raises StoreError."""
        self._left.settle(shard)
        for segment in self._of(shard).values():
            if segment.dirty:
                try:
                    os.fsync(segment.handle)
                    fsync_folder(segment.path.parent)
                except OSError as error:
                    raise log_failed(segment.path, error) from None
                segment.dirty = False
        self._send(shard)

    def _of(self, shard: int) -> dict[str, _Segment]:
        """Place -> the open segment of a shard."""
        return {place: segment for (place, number), segment in list(self._open.items()) if number == shard}

    def _send(self, shard: int) -> None:
        """Have in the object store what this process appended."""
        if self._link is None:
            return
        for segment in self._of(shard).values():
            if segment.size > segment.sent:
                try:
                    frames = os.pread(segment.handle, segment.size - segment.sent, segment.sent)
                except OSError as error:
                    raise log_failed(segment.path, error) from None
                self._link.send_part(segment.path, segment.parts + 1, segment.head + frames)
                segment.sent, segment.parts = segment.size, segment.parts + 1
        sealed = self._sealed.get(shard, [])
        while sealed:
            self._link.send_sealed(sealed[0])
            del sealed[0]

    def seal_old(self, shard: int) -> None:
        """Seal the segments of a shard that are large or old enough. Raises StoreError."""
        now = self.clock()
        for place, segment in self._of(shard).items():
            if segment.size >= self.seal_bytes or now - segment.opened >= self.seal_seconds:
                self._seal(place, shard)

    def _seal(self, place: str, shard: int) -> None:
        segment = self._open[place, shard]
        seal_file(segment.path)
        self._sealed.setdefault(shard, []).append(segment.path.with_suffix(".parquet"))
        del self._open[place, shard]
        os.close(segment.handle)

    def close(self) -> None:
        """Seal everything; nobody appends any more. What cannot be sealed now (a full disk) stays as it is, readable, for the next start;
        what cannot be sent now is sent by whoever next vouches for this shard on this machine."""
        for (place, shard), segment in list(self._open.items()):
            with suppress(StoreError):
                self._seal(place, shard)
                continue
            os.close(segment.handle)
        self._open.clear()
        for shard in list(self._sealed):
            with suppress(StoreError):
                self._send(shard)


# -------------------------------------------------------------------------------------------------------------- readers


def read_rows(folder: Path, group: FeatureGroup | str) -> pa.Table:
    """Every row of a group that the stream ever appended, oldest writer first, below the job's folder ``data/stream/<name>``.

    Columns as batch's offline rows: keys, event timestamp, aggregates, revision, the graph's outputs, fingerprint, creation time.
    Rows of graphs with other outputs have nulls where the column is not theirs. The stream may be running.
    """
    name = group if isinstance(group, str) else group.name
    none = pa.schema([]) if isinstance(group, str) else pa.schema([*group.row_schema, (FINGERPRINT, pa.string()), (CREATED, TIMESTAMP)])
    return _read(_here(folder, "rows", name), none)


def read_earlier(folder: Path, group: FeatureGroup) -> Iterator[pa.Table]:
    """The rows of a group that streams of before appended, which were moved aside when the stream began anew: a table for each that has
    the group's keys, the newest first."""
    if (link := link_of(folder)) is not None:
        link.have_aside(f"rows/{group.name}")
    keys = {f.name: f.arrow_type for f in group.key_fields}
    for aside in sorted((folder / "before").glob("*"), reverse=True):
        rows = _read(aside / "rows" / group.name, pa.schema([]))
        if rows.num_rows and all(n in rows.schema.names and rows.schema.field(n).type == t for n, t in keys.items()):
            yield rows


def beginnings(folder: Path) -> frozenset[str]:
    """A name for each time that the stream in ``folder`` began anew, as far as what it had logged before is still there. One that appears
    between two looks at the log says that they were of different streams. Raises StoreError."""
    found = {path.name for path in (folder / "before").glob("*")}
    return frozenset(found | (link.beginnings() if (link := link_of(folder)) is not None else set()))


def read_late(folder: Path, source: EventSource | str) -> pa.Table:
    """Every event of a source that came too late (:func:`pipelines.streaming.stages.coders.late_schema`). Repeated work appends again."""
    if isinstance(source, str):
        return _read(_here(folder, "late", source), pa.schema([]))
    from pipelines.streaming.stages.coders import late_schema

    return _read(_here(folder, "late", source.name), late_schema(source))


def scan_rows(folder: Path, group: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a group a segment at a time, oldest writer first; the last ones of writers at work come last. ``columns``: those of these
    that a segment has (None: all)."""
    return _segments(_here(folder, "rows", group), columns)


def _here(folder: Path, kind: str, name: str) -> Path:
    """The folder of a place of the log, with copies of what other machines appended."""
    if (link := link_of(folder)) is not None:
        link.have_log(f"{kind}/{name}")
    return folder / kind / name


def _segments(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    done: set[str] = set()
    while True:
        found = {p.stem: p for p in folder.glob("[!.]*.log")}
        found.update({p.stem: p for p in folder.glob("[!.]*.parquet")})  # sealed, but the open one is not removed yet
        found.update({p.stem: p for p in folder.glob(f"[!.]*{PART}") if stem_of(p.name) not in found})
        todo = sorted(set(found) - done)
        if not todo:
            return
        for stem in todo:
            try:
                opened = found[stem].suffix in (".log", PART)
                table = read_open(found[stem]) if opened else pq.ParquetFile(found[stem]).read(columns)
            except FileNotFoundError:  # sealed meanwhile: the next look finds it
                continue
            done.add(stem)
            if table is not None:
                yield table if columns is None else table.select([n for n in columns if n in table.schema.names])


def _read(folder: Path, empty: pa.Schema) -> pa.Table:
    tables = list(_segments(folder))
    if not tables:
        return empty.empty_table()
    try:
        schema = pa.unify_schemas([t.schema.remove_metadata() for t in tables])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{folder}: rows of definitions that do not fit together ({str(error).splitlines()[0]}); move the older files away"
        ) from None
    return pa.concat_tables([_fitted(t, schema) for t in tables])


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [table.column(f.name) if f.name in table.schema.names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def newest(rows: pa.Table, group: FeatureGroup) -> pa.Table:
    """Per (keys, event timestamp) the row with the highest revision, of equals the one created last, of equals the last one.

    Sorted by (keys, event timestamp).
    """
    if not rows.num_rows:
        return rows
    keys = [*group.entity.keys, EVENT_TIMESTAMP]
    order = {**{k: rows.column(k) for k in keys}, REVISION: rows.column(REVISION), CREATED: rows.column(CREATED)}
    place = pa.table({**order, "place": pa.array(np.arange(rows.num_rows))})
    by = pc.sort_indices(place, sort_keys=[(n, "ascending") for n in place.schema.names])
    sorted_ = rows.take(by)
    last = np.zeros(rows.num_rows, bool)
    last[-1] = True
    for name in keys:
        column = sorted_.column(name).combine_chunks()
        last[:-1] |= pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
    return sorted_.filter(pa.array(last))


def logged(folder: Path, group: FeatureGroup, fingerprint: str, shard: int, shards: int | None) -> Iterator[pa.RecordBatch]:
    """The rows of a shard (all, if their number is not known) that stand in the row log and stem from the graph ``fingerprint``."""
    for table in scan_rows(folder, group.name):
        for rows in table.filter(pc.equal(table.column(FINGERPRINT), fingerprint)).to_batches():
            if shards is not None and rows.num_rows:
                rows = rows.filter(pa.array(shard_of([rows.column(k) for k in range(len(group.entity.keys))], shards) == shard))
            if rows.num_rows:
                yield rows
