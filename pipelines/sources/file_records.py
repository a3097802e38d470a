"""The records of one event file, unjudged, and what its folders say of all of them.

* How bytes become records is the business of the file's format (:mod:`pipelines.sources.file_formats`), found by the suffix of its name.
* A **compressed** file (``.gz``, ``.zst``, ``.bz2``) is used whole or not at all, as its checksum stands at its end: it is decompressed
  once to look, and once more to use it, in bounded memory.
* A **folder** ``name=value`` above a file is a column of all its records that have none of that name (Hive partitioning): text,
  percent-decoded; ``__HIVE_DEFAULT_PARTITION__`` is null. The value of a field that is a number or a boolean is read as one.
* A file that cannot be opened or read for reasons outside of it (it is gone, no permission, a disk error) is no bad data:
  the ``OSError`` is raised, and nothing is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from pipelines.project.extensions import FILE_FORMATS
from pipelines.sources.file_formats.cells import typed_text
from pipelines.sources.file_formats.compressed_file import look_through, opened
from pipelines.sources.file_formats.file_format import (
    COMPRESSED,
    FileFormat,
    FileRange,
    Opened,
    RawBatch,
    UnreadableFileError,
    columns_of,
    format_of,
)
from pipelines.sources.file_formats.json_lines_file import MAX_LINE_BYTES
from pipelines.sources.file_formats.line_parts import section
from transforms.contract import Checked, Now, check, check_json, check_records, encode_json
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.file_formats import Csv
from transforms.mapping import TooMuchAtOnce

__all__ = ["Partitions", "RawBatch", "UnreadableFileError", "divided", "judged", "partitions_of", "payloads_of", "read", "read_part"]
__all__ += ["sent", "unread"]

_NULL = "__HIVE_DEFAULT_PARTITION__"

Partitions = Sequence[tuple[str, str | None]]
"""What the folders above a file say: (name, value), outermost first; None is null."""


def partitions_of(folders: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """What folders named ``name=value`` say, outermost first; of a name that is there twice the inner one."""
    found: dict[str, str | None] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _NULL else unquote(value)
    return tuple(found.items())


def unread(name: str, source: EventSource) -> str:
    """Why a file of this name is none that the source's events are read from; "": it is one."""
    found, packed = _format(name, source)
    if found is None:
        mine = [f".{s}" for s in FILE_FORMATS.own if s not in ("csv", "tsv", "txt")]
        dialect = source.file_format.suffixes if isinstance(source.file_format, Csv) else ()
        return f"none of {', '.join([*mine, *dialect])}, those of lines also with {', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"
    if packed and not found.packed:
        return f"{found.title} in another compression; decompress it, as {found.title} compresses itself"
    if found.declared is not None and not isinstance(source.file_format, found.declared):
        return f"its dialect is not declared; say file_format={found.declared.__name__}(...) at the source to read it"
    return ""


def _format(name: str, source: EventSource) -> tuple[type[FileFormat] | None, bool]:
    """The format of a file's name, and whether it is compressed as a whole."""
    low = name.lower()
    packed = low.endswith(COMPRESSED)
    if packed:
        low = low.rpartition(".")[0]
    if isinstance(source.file_format, Csv) and low.endswith(tuple(source.file_format.suffixes)):
        return format_of(".csv"), packed
    return format_of(os.path.splitext(low)[1]), packed


def read(
    path: str | os.PathLike[str], source: EventSource, batch_rows: int = 65_536, partitions: Partitions = (), most: int | None = None
) -> Iterator[RawBatch]:
    """The records of one file, unjudged, in order, in batches of at most ``batch_rows``; memory is bounded by a batch of
    lines or a row group. Fields of ``source`` that a record has not are taken from ``partitions``. ``most``: of a file of lines, which
    others may append to, these many bytes are read.

    Raises UnreadableFileError, before the first batch, for a damaged file; OSError as in the module's text."""
    if batch_rows < 1:
        raise DataError(f"source {source.name!r}: batches of {batch_rows} rows; give at least 1")
    given = _said(source, partitions)
    found, packed = _format(str(path), source)
    if found is None or (packed and not found.packed) or unread(str(path), source):
        raise DataError(f"{path} is no event file: {unread(str(path), source)}")
    if packed:
        look_through(path)
    whole = partial(opened, path)
    for raw in found(source).read(whole if most is None else partial(section, whole, (0, most)), batch_rows, given):
        yield _given(raw, given)


def divided(name: str, source: EventSource) -> FileFormat | None:
    """The format of a file of this name, if such a file may be read in parts."""
    found, packed = _format(name, source)
    return found(source) if found is not None and found.divided and not packed and not unread(name, source) else None


def read_part(
    form: FileFormat,
    opened: Opened,
    part: FileRange,
    first: int,
    source: EventSource,
    batch_rows: int = 65_536,
    partitions: Partitions = (),
) -> Iterator[RawBatch]:
    """As :func:`read`, of one part of a file whose format :func:`divided` gave."""
    given = _said(source, partitions)
    for raw in form.read_part(opened, part, first, batch_rows, given):
        yield _given(raw, given)


def _said(source: EventSource, partitions: Partitions) -> dict[str, Any]:
    """Field -> what the folders say of it."""
    dtypes = columns_of(source)
    return {name: typed_text(value, dtypes[name]) for name, value in partitions if name in dtypes and value is not None}


def _given(raw: RawBatch, given: Mapping[str, Any]) -> RawBatch:
    if raw.values is not None and given:
        return replace(raw, values=[{**given, **one} for one in raw.values])
    batch = raw.rows
    if batch is None:
        return raw
    for name, value in given.items():
        if name not in batch.schema.names:
            column = pa.array([value], pa.string() if isinstance(value, str) else None)
            repeated = column.take(pa.array(np.zeros(batch.num_rows, np.int64)))
            batch = pa.RecordBatch.from_arrays([*batch.columns, repeated], [*batch.schema.names, name])
    return replace(raw, rows=batch)


def judged(raw: RawBatch, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """The contract's verdict on N records, whatever their form; as :func:`transforms.contract.check`."""
    if raw.rows is not None:
        return check(raw.rows, source, now_us, max_future_us)
    if raw.values is not None:
        return check_records(raw.values, raw.refused or {}, source, now_us, max_future_us)
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


def judged_parts(raw: RawBatch, source: EventSource, now_us: int, max_future_us: int) -> Iterator[tuple[RawBatch, Checked]]:
    """As :func:`judged`, in parts where the events of all records would be too large together: the records of each, and the verdicts."""
    waiting = [raw]
    while waiting:
        part = waiting.pop()
        try:
            yield part, judged(part, source, now_us, max_future_us)
        except TooMuchAtOnce:
            n = len(part.numbers)
            waiting += [_some(part, n // 2, n), _some(part, 0, n // 2)]


def _some(raw: RawBatch, first: int, last: int) -> RawBatch:
    """Its records from ``first`` to before ``last``."""

    def of(found: Mapping[int, Any] | None) -> dict[int, Any] | None:
        return None if found is None else {at - first: what for at, what in found.items() if first <= at < last}

    n = last - first
    return RawBatch(
        raw.numbers.slice(first, n),
        None if raw.rows is None else raw.rows.slice(first, n),
        None if raw.payloads is None else raw.payloads.slice(first, n),
        of(raw.too_long),
        None if raw.values is None else raw.values[first:last],
        of(raw.refused),
    )


def payloads_of(raw: RawBatch, rows: pa.Array, source: EventSource) -> pa.Array:
    """What some records (positions, int64) were, for dead letters: the line itself, or the JSON of all columns."""
    if raw.payloads is not None:
        return raw.payloads.take(rows)
    assert raw.rows is not None
    return encode_json(raw.rows.take(rows), source) if len(rows) else pa.array([], pa.binary())


def sent(raw: RawBatch, source: EventSource) -> pa.Array:
    """The payload of each of N records as JSON (binary [N]), for a topic; one that could not be read keeps what it was."""
    if raw.rows is not None:
        return encode_json(raw.rows, source)
    assert raw.payloads is not None
    if raw.values is None:
        return raw.payloads
    out = raw.payloads.to_pylist()
    for row, values in enumerate(raw.values):
        if row not in (raw.refused or {}):
            out[row] = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return pa.array(out, pa.binary())
