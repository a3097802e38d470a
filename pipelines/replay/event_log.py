"""A source's event log as a replay reads it: slice after slice of event time, whatever the order of its files.

Files in ``date=`` folders are read when their day comes. Others may hold any day, so they are read once beforehand and put
by day into a temporary folder. A day of more than :data:`LARGE_BYTES` goes the same way by hours. So no more than such
a slice is in memory at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.replay.schedule import identities
from pipelines.sources.event_files import EventFile, PassedOver, UnreadableFileError, inventory, read
from pipelines.sources.file_records import judged_parts, sent
from pipelines.sources.formats.record_format import RecordFormat
from transforms.contract import Checked
from transforms.definitions import EventSource
from transforms.instants import micros_of
from transforms.reasons import REASONS

__all__ = ["EventLog", "Slice", "bytes_of"]

DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
LARGE_BYTES = 256 << 20
"""An estimate of payloads; a day with more is cut into hours."""
_PARQUET_TO_JSON = 10
_UNTRUSTED = pa.array([r for r in REASONS if "timestamp" in r or r in ("malformed", "invalid_utf8")])

SCHEMA = pa.schema([
    pa.field("payload", pa.large_binary()),
    pa.field("key", pa.large_binary(), nullable=False),
    pa.field("time", pa.int64(), nullable=False),
    pa.field("id", pa.uint64(), nullable=False),
])  # fmt: skip
"""One row per event: payload, record key, event time in microseconds, identity. An event whose time the contract refuses is
given the time of a neighbour: it is sent among those it lies with."""


@dataclass(frozen=True)
class Slice:
    """The events of ``[start_us, end_us)``, in no order, by source; a few may lie outside (in another day's folder than their own)."""

    start_us: int
    end_us: int
    events: dict[str, pa.Table]


def bytes_of(column: pa.Array) -> pa.Array:
    """A column of strings or integers as the bytes of record keys: text in UTF-8, integers in decimal."""
    return column.cast(pa.string()).cast(pa.large_binary())


class EventLog:
    """The events of ``[start_us, end_us)`` (None: open) of some sources below ``data``. Raises DataError without their folders.

    The contract is asked at ``now_us`` which event times to trust; what it refuses is sent all the same. The payloads
    are those of a source's format in ``formats``; without one the JSON lines as they are, the canonical JSON of Parquet rows.
    ``passed_over`` names, by source, what lies in the folders and is not sent; unreadable files join it when their turn comes.
    """

    def __init__(
        self,
        data: Path,
        sources: list[EventSource],
        start_us: int | None,
        end_us: int | None,
        *,
        now_us: int,
        max_future_us: int,
        formats: Mapping[str, RecordFormat] | None = None,
    ) -> None:
        self.sources, self.start_us, self.end_us = sources, start_us, end_us
        self.now_us, self.max_future_us, self.formats = now_us, max_future_us, dict(formats or {})
        found = {s.name: inventory(data, s, start_us, end_us, hashes=False) for s in sources}
        self.files = {n: f.files for n, f in found.items()}
        self.passed_over = {n: f.passed_over for n, f in found.items()}

    def span(self) -> tuple[int | None, int | None]:
        """The range, as far as it was given or the ``date=`` folders tell it; None: only the files know."""
        dates = [f.date for files in self.files.values() for f in files]
        days = [_midnight(d) for d in dates if d is not None]
        start, end = self.start_us, self.end_us
        if days and None not in dates:
            start, end = start if start is not None else min(days), end if end is not None else max(days) + DAY_US
        return start, end

    def slices(self) -> Iterator[Slice]:
        """The slices in order of time; empty ones are left out."""
        with tempfile.TemporaryDirectory(prefix="tandem-replay-") as folder:
            spool = _Spool(Path(folder) / "days")
            for source in self.sources:
                for file in self.files[source.name]:
                    if file.date is None:
                        spool.add(source.name, DAY_US, self._read(file, source, self.start_us or 0))
            spool.flush()
            days = {_midnight(f.date) for files in self.files.values() for f in files if f.date is not None} | spool.buckets()
            for day in sorted(days):
                yield from self._day(day, spool, Path(folder) / "hours")

    def _day(self, day: int, spool: _Spool, folder: Path) -> Iterator[Slice]:
        dated = {s.name: [f for f in self.files[s.name] if f.date and _midnight(f.date) == day] for s in self.sources}
        size = sum(f.size * (_PARQUET_TO_JSON if f.path.endswith(".parquet") else 1) for files in dated.values() for f in files)
        parts = {s: self._parts(s, dated[s.name], day, spool) for s in self.sources}
        if size + spool.bytes_in(day) <= LARGE_BYTES:
            events = {s.name: t for s, tables in parts.items() if (t := pa.concat_tables([_EMPTY, *tables])).num_rows}
            if events:
                yield Slice(day, day + DAY_US, events)
            return
        hours = _Spool(folder / str(day))
        for source, tables in parts.items():
            hours.add(source.name, HOUR_US, tables, day, day + DAY_US - 1)
        hours.flush()
        for hour in sorted(hours.buckets()):
            events = {s.name: t for s in self.sources if (t := pa.concat_tables([_EMPTY, *hours.read(s.name, hour)])).num_rows}
            yield Slice(hour, hour + HOUR_US, events)

    def _parts(self, source: EventSource, files: list[EventFile], day: int, spool: _Spool) -> Iterator[pa.Table]:
        for file in files:
            yield from self._read(file, source, day)
        yield from spool.read(source.name, day)

    def _read(self, file: EventFile, source: EventSource, default_us: int) -> Iterator[pa.Table]:
        """The events of a file that lie in the range, or whose time cannot be read. A file that cannot be read has none."""
        try:
            yield from self._records(file, source, default_us)
        except UnreadableFileError as error:
            self.passed_over[source.name].append(PassedOver(file.name, f"unreadable: {error}"))

    def _records(self, file: EventFile, source: EventSource, default_us: int) -> Iterator[pa.Table]:
        whole = read(file.path, source, partitions=file.partitions)
        for raw, checked in (part for each in whole for part in judged_parts(each, source, self.now_us, self.max_future_us)):
            payloads = sent(raw, source)
            if source.name in self.formats:
                payloads = self.formats[source.name].from_log(checked, payloads)
            unknown = pc.is_in(checked.reasons, value_set=_UNTRUSTED).to_numpy(zero_copy_only=False)
            times = checked.times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            inside = _within(times, self.start_us, self.end_us) & ~unknown
            times = np.where(unknown, times[inside].min() if inside.any() else default_us, times)
            inside |= unknown
            ids = identities(source.name, file.name, raw.numbers.to_numpy(zero_copy_only=False))
            columns = [payloads.cast(pa.large_binary()), _keys(source, checked), pa.array(times), pa.array(ids)]
            table = pa.Table.from_arrays(columns, schema=SCHEMA)
            yield table if inside.all() else table.filter(pa.array(inside))


def _keys(source: EventSource, checked: Checked) -> pa.Array:
    """The tie-breaker of each record's (first) event; empty for those without a valid one, of which it may be anything."""
    mine = bytes_of(checked.valid.column(checked.valid.schema.get_field_index(source.tie_breaker)))
    if len(mine) == len(checked.reasons) and checked.records is None:
        return mine
    place = np.full(len(checked.reasons), len(mine))
    place[checked.accepted[::-1]] = np.arange(len(mine))[::-1]  # of several events of a record its first one's
    return pa.concat_arrays([mine, pa.array([b""], pa.large_binary())]).take(pa.array(place))


_EMPTY = pa.Table.from_arrays([pa.array([], f.type) for f in SCHEMA], schema=SCHEMA)


def _midnight(day: date) -> int:
    return micros_of(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _within(times: npt.NDArray[np.int64], start_us: int | None, end_us: int | None) -> npt.NDArray[np.bool_]:
    inside = np.ones(len(times), dtype=bool)
    if start_us is not None:
        inside &= times >= start_us
    if end_us is not None:
        inside &= times < end_us
    return inside


class _Spool:
    """Events put aside on disk by bucket of time, as Arrow files; what is not written yet is bounded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting: dict[tuple[str, int], list[pa.Table]] = {}
        self.size: dict[int, int] = {}
        self.held = self.written = 0

    def add(self, source: str, width: int, tables: Iterator[pa.Table], low: int | None = None, high: int | None = None) -> None:
        """Put tables into buckets of ``width`` microseconds; times outside of [low, high] go into the outermost bucket."""
        for table in tables:
            times = table.column("time").to_numpy()
            bucket = (times if low is None else np.clip(times, low, high)) // width * width
            for number in np.unique(bucket).tolist():
                part = table.filter(pa.array(bucket == number))
                self.waiting.setdefault((source, number), []).append(part)
                self.size[number] = self.size.get(number, 0) + part.nbytes
            self.held += table.nbytes
            if self.held > LARGE_BYTES // 4:
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for (source, bucket), tables in self.waiting.items():
            path = self.folder / source / str(bucket) / f"{self.written:08d}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.written += 1
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                writer.write_table(pa.concat_tables(tables))
        self.waiting, self.held = {}, 0

    def buckets(self) -> set[int]:
        """The beginnings of all buckets that hold something."""
        return set(self.size)

    def bytes_in(self, bucket: int) -> int:
        """About how much a bucket holds."""
        return self.size.get(bucket, 0)

    def read(self, source: str, bucket: int) -> Iterator[pa.Table]:
        """What was put into a bucket; its files are removed."""
        for path in sorted((self.folder / source / str(bucket)).glob("*.arrow")):
            with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
                yield reader.read_all()
            path.unlink()
