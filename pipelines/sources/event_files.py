"""Event logs on disk: which files a run reads, and their rows as valid events and dead letters.

Parquet (``*.parquet``) and JSON lines (``*.jsonl``, ``*.json``: one object per line), on a local or mounted file system.

* A **Parquet file** is used whole or not at all. Parquet has no checksum of the whole, and damage may lie behind rows that
  read well, so a file is decoded to its end before its first row is handed out: small files once, into memory; larger ones
  a second time, which keeps memory bounded and costs that second reading. Damage that still decodes cannot be noticed here;
  the run's manifest holds each file's hash.
  A file of 0 bytes is damaged; a proper file of 0 rows is fine.
* A **JSON-lines file** is judged line by line: a line cut off at the end of the file is one malformed line. Blank lines are
  skipped but counted in row numbers. A file of 0 bytes is an empty log. A line above 16 MiB is one reject, and its dead
  letter keeps the first 64 KiB of it.
* A file that cannot be opened or read for reasons outside of it (it is gone, no permission, a disk error) is no bad data:
  the ``OSError`` is raised, and nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake.files import sha256
from transforms.contract import DEAD_LETTER_SCHEMA, Checked, check, check_json, dead_letters, encode_json
from transforms.definitions import EventSource, micros
from transforms.errors import DataError
from transforms.instants import micros_of
from transforms.reasons import UNREADABLE_FILE

__all__ = ["DEAD_LETTER_SCHEMA", "EventFile", "RawBatch", "UnreadableFileError", "events", "list_files", "read"]

SUFFIXES = (".parquet", ".jsonl", ".json")
SMALL_BYTES = 64 << 20
"""A Parquet file with no more bytes of uncompressed columns is decoded once, into memory."""
MAX_LINE_BYTES = 16 << 20
KEPT_OF_LONG_LINE = 64 << 10
CHUNK_BYTES = 32 << 20
"""A batch of lines ends at this size, whatever ``batch_rows`` says."""


class UnreadableFileError(DataError):
    """A file is damaged or not of its format."""


@dataclass(frozen=True)
class EventFile:
    """One file of an event log: ``path`` to open, ``name`` relative to the data folder, ``size`` in bytes, the hex SHA-256
    of its bytes ("" when not asked for), and the day of its ``date=YYYY-MM-DD`` folder, if it lies in one."""

    path: str
    name: str
    size: int
    sha256: str
    date: date | None = None


@dataclass(frozen=True)
class RawBatch:
    """N records as they lie in a file: Arrow ``rows``, or ``payloads`` (binary) of lines; exactly one of both is set.

    ``numbers`` (int64, length N) are their 0-based row or line numbers in the file. ``too_long`` maps positions in the batch
    to the full length of lines of which ``payloads`` holds only the beginning.
    """

    numbers: pa.Array
    rows: pa.RecordBatch | None = None
    payloads: pa.Array | None = None
    too_long: dict[int, int] | None = None


def list_files(
    data_dir: str | os.PathLike[str], source: EventSource, start_us: int | None, end_us: int | None, *, hashes: bool = True
) -> list[EventFile]:
    """The files of a source's log that may hold events of ``[start_us, end_us)`` (UTC microseconds; None: open), by name.

    Looks through ``data_dir / source.files`` and its folders. A ``date=YYYY-MM-DD`` folder of another day is not entered;
    files outside of such folders are always listed. Names that start with ``.`` or ``_`` are ignored. An event in the
    folder of a day that is not its own is seen only by runs that read that day. ``hashes`` reads each file once for its
    SHA-256. Raises DataError when the folder does not exist or the source has none.
    """
    if not source.files:
        raise DataError(f"source {source.name!r} has no files; give its definition files='events/{source.name}'")
    root = Path(data_dir)
    top = root / source.files
    if not top.is_dir():
        raise DataError(f"source {source.name!r}: there is no folder {top}; put its events there, or correct files= or data:")

    def raise_it(error: OSError) -> None:
        raise error

    found: list[EventFile] = []
    for folder, folders, names in os.walk(top, onerror=raise_it):
        folders[:] = [f for f in folders if not f.startswith((".", "_")) and _overlaps(_day_of(f), start_us, end_us)]
        inner = Path(folder).relative_to(root)
        day = next((d for part in reversed(inner.parts) if (d := _day_of(part))), None)
        for name in names:
            if not name.startswith((".", "_")) and name.endswith(SUFFIXES):
                path = Path(folder) / name
                digest = sha256(path) if hashes else ""
                found.append(EventFile(str(path), (inner / name).as_posix(), path.stat().st_size, digest, day))
    return sorted(found, key=lambda f: f.name)


def read(path: str | os.PathLike[str], source: EventSource, batch_rows: int = 65_536) -> Iterator[RawBatch]:
    """The records of one file, unjudged, in order, in batches of at most ``batch_rows``; memory is bounded by a batch of
    lines or a row group. Raises UnreadableFileError, before the first batch, for a damaged file; OSError as in the module's text."""
    if batch_rows < 1:
        raise DataError(f"source {source.name!r}: batches of {batch_rows} rows; give at least 1")
    with open(path, "rb") as f:
        yield from _read_parquet(f, batch_rows) if str(path).endswith(".parquet") else _read_lines(f, batch_rows)


def events(
    path: str | os.PathLike[str], source: EventSource, now_us: int, max_future_us: int, *, name: str = "", batch_rows: int = 65_536
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The events of one file: pairs of a valid batch (``source.arrow_schema``) and the dead letters beside it
    (``DEAD_LETTER_SCHEMA``), either of which may have no rows.

    ``name`` is what the dead letters call the file (default: ``path``); ``now_us`` and ``max_future_us`` as in
    :func:`transforms.contract.check`. An unreadable file is one pair: no events, and one dead letter without row and payload.
    A reject's payload is the line itself, or :func:`transforms.contract.encode_json` of all columns of the Parquet row; its
    row numbers are those of :class:`RawBatch`.
    """
    file = name or str(path)
    try:
        for raw in read(path, source, batch_rows):
            if raw.rows is not None:
                checked = check(raw.rows, source, now_us, max_future_us)
                payloads = encode_json(raw.rows.take(pa.array(checked.rejected))) if len(checked.rejected) else pa.array([], pa.binary())
            else:
                assert raw.payloads is not None
                checked = _check_lines(raw, source, now_us, max_future_us)
                payloads = raw.payloads.take(pa.array(checked.rejected))
            yield checked.valid, dead_letters(source, checked, payloads, file=file, rows=raw.numbers)
    except UnreadableFileError as e:
        one = {"source": source.name, "file": file, "reason": UNREADABLE_FILE, "detail": str(e)}
        letter = pa.RecordBatch.from_arrays([pa.array([one.get(f.name)], f.type) for f in DEAD_LETTER_SCHEMA], schema=DEAD_LETTER_SCHEMA)
        yield pa.RecordBatch.from_arrays([pa.array([], f.type) for f in source.arrow_schema], schema=source.arrow_schema), letter


def _day_of(folder: str) -> date | None:
    if not folder.startswith("date="):
        return None
    try:
        return datetime.strptime(folder, "date=%Y-%m-%d").date() if len(folder) == 15 else None
    except ValueError:
        return None  # not a day: a folder as any other


def _overlaps(day: date | None, start_us: int | None, end_us: int | None) -> bool:
    if day is None:
        return True
    first = micros_of(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return (end_us is None or first < end_us) and (start_us is None or first + micros(timedelta(days=1)) > start_us)


def _read_parquet(f: BinaryIO, batch_rows: int) -> Iterator[RawBatch]:
    try:
        if os.fstat(f.fileno()).st_size == 0:
            raise UnreadableFileError("the file is empty (0 bytes)")
        parquet = pq.ParquetFile(f)
        meta = parquet.metadata
        small = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) <= SMALL_BYTES
        batches: Iterator[pa.RecordBatch]
        if small:
            batches = iter(list(_decode(parquet, batch_rows)))
        else:
            for _ in _decode(parquet, batch_rows):
                pass
            batches = _decode(parquet, batch_rows)
    except OSError as e:
        if e.errno is not None:  # the disk's error; those of the format carry no number
            raise
        raise UnreadableFileError(_one_line(e)) from e
    except (pa.ArrowException, ValueError, MemoryError) as e:
        raise UnreadableFileError(_one_line(e)) from e
    at = 0
    for batch in batches:
        yield RawBatch(pa.array(np.arange(at, at + batch.num_rows, dtype=np.int64)), rows=batch)
        at += batch.num_rows


def _decode(parquet: pq.ParquetFile, batch_rows: int) -> Iterator[pa.RecordBatch]:
    # Not iter_batches: in pyarrow 10 that crashes on damaged columns of unequal length, where this raises.
    for group in range(parquet.num_row_groups):
        yield from parquet.read_row_group(group).to_batches(batch_rows)


def _read_lines(f: BinaryIO, batch_rows: int) -> Iterator[RawBatch]:
    lines: list[bytes] = []
    numbers: list[int] = []
    too_long: dict[int, int] = {}
    number, held = -1, 0
    while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        length = len(line)
        if length > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := f.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
                length += len(rest)
            too_long[len(lines)] = length + len(rest.rstrip(b"\n"))
            line = line[:KEPT_OF_LONG_LINE]
        else:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line.strip():
                continue
        lines.append(line)
        numbers.append(number)
        held += len(line)
        if len(lines) >= batch_rows or held >= CHUNK_BYTES:
            yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)
            lines, numbers, too_long, held = [], [], {}, 0
    if lines:
        yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)


def _check_lines(raw: RawBatch, source: EventSource, now_us: int, max_future_us: int) -> Checked:
    assert raw.payloads is not None
    if not raw.too_long:
        return check_json(raw.payloads, source, now_us, max_future_us)
    lines: list[bytes | None] = raw.payloads.to_pylist()
    for at in raw.too_long:
        lines[at] = None  # its beginning might be an object by itself; it is a reject whatever it holds
    checked = check_json(lines, source, now_us, max_future_us)
    details = checked.details.to_pylist()
    for at, length in raw.too_long.items():
        details[at] = f"the line is {length} bytes long, above the limit of {MAX_LINE_BYTES}; the payload is its beginning"
    return replace(checked, details=pa.array(details, pa.string()))


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
