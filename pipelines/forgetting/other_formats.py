"""A subject's records in event files of text with delimiters, Avro and Arrow: found as their source reads them, and taken out.

What stays is as it was: lines byte for byte, records of Avro with their schema, metadata and codec; batches of Arrow with their schema
and metadata, uncompressed.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipelines.forgetting.column_types import names_in
from pipelines.forgetting.file_bytes import PART_BYTES, packing, text_parts
from pipelines.forgetting.key_values import column_holds
from pipelines.forgetting.subject import Subject
from pipelines.lake.data_files import replaced
from pipelines.sources.file_formats.avro_file import container
from pipelines.sources.file_formats.compressed_file import opened
from pipelines.sources.file_formats.csv_file import CsvFile
from pipelines.sources.file_formats.file_format import COMPRESSED, RawBatch, UnreadableFileError, columns_of, format_of, native
from pipelines.sources.file_records import read, unread
from transforms.definitions import Csv, EventSource, Field

__all__ = ["is_other", "named_columns", "other_holds", "read_with_keys", "without_records"]

ARROW = (".arrow", ".arrows", ".ipc", ".feather")
_NEVER = 1 << 62
_RECORDS = 1_000
_ROWS = 4_096
_ANY = EventSource(name="searched", fields=[Field("key", "string", required=True)], event_time="at", tie_breaker="key")
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def _plain(path: Path) -> str:
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def _lines(path: Path, source: EventSource | None) -> Csv | None:
    """The dialect of a file of lines; None: it is none."""
    dialect = None if source is None else source.file_format
    return dialect if dialect is not None and _plain(path) in dialect.suffixes else None


def is_other(path: Path, source: EventSource) -> bool:
    """Whether a file is one of the source's events in a format of this module."""
    return not unread(path.name, source) and (_lines(path, source) is not None or _plain(path) in (".avro", *ARROW))


def named_columns(path: Path, source: EventSource) -> Sequence[str]:
    """The columns of an event file of these formats, also those that are no fields, and the fields of records in them. Raises
    UnreadableFileError."""
    if _lines(path, source):
        return CsvFile(source).names(lambda: opened(path))
    if _plain(path) == ".avro":
        try:
            with opened(path) as f:
                return [*_avro_names(container(f)[0])]
        except Exception as error:  # damaged bytes raise anything
            raise UnreadableFileError(str(error)) from error
    with _arrow(path) as (reader, _):
        return [*names_in(pa.struct(list(reader.schema)))]


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[Any, bool]]:
    """The reader of an Arrow file, and whether it is of the file format."""
    with opened(path) as f:
        as_file = f.read(6) == b"ARROW1"
    with opened(path) as f, native(f) as source:
        yield (pa.ipc.open_file(source) if as_file else pa.ipc.open_stream(source)), as_file


def _avro_names(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            fields = each.get("fields", [])
            yield from (f["name"] for f in fields)
            waiting += [f["type"] for f in fields] + [each.get(inner) for inner in ("type", "items", "values")]


def without_records(path: Path, subject: Subject, source: EventSource, dry_run: bool = False) -> int:
    """Rewrite an event file without the subject's records, in one step; how many there were. Raises UnreadableFileError for a file that
    cannot be read, or not be written as it is."""
    asked, read_as = subject.within(path), read_with_keys(source, [name for name, _ in subject.keys])

    def found() -> Iterator[tuple[int, int]]:
        return (each for raw in read(path, read_as, _ROWS) for each in _found(raw, asked))

    count = sum(1 for _ in found())
    if count and not dry_run:
        dialect = _lines(path, source)
        try:
            with replaced(path.resolve(), durable=True, as_before=True) as out, packing(path, out) as packed:
                if dialect is not None:
                    _without_lines(path, dialect, _Gone(found()), packed)
                else:
                    (_without_avro if _plain(path) == ".avro" else _without_batches)(path, _Gone(found()), packed)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise UnreadableFileError(f"its other records cannot be written again: {' '.join(str(error).split())[:200]}") from error
    return count


class _Gone:
    """Which lines or records go, asked in their order: by the first of some, and how many these are."""

    def __init__(self, spans: Iterator[tuple[int, int]]) -> None:
        self.spans, self.begin, self.end = spans, -1, -1

    def __contains__(self, at: int) -> bool:
        while self.end <= at:
            self.begin, lines = next(self.spans, (_NEVER, 1))
            self.end = self.begin + lines
        return self.begin <= at


def read_with_keys(source: EventSource, keys: Sequence[str]) -> EventSource:
    """The source, reading of a file of lines also the columns of keys that it reads no field from (any more): each as a field of a free
    name, since what a file's columns are called is no name of a field. Raises DefinitionError."""
    read_from = columns_of(source)
    more = [name for name in keys if name not in read_from]
    if source.file_format is None or not more:
        return source
    free = "k" * (1 + max(len(f.name) for f in source.all_fields))
    return replace(source, fields=[*source.fields, *(Field(f"{free}{n}", "string", path=[name]) for n, name in enumerate(more))])


def _found(raw: RawBatch, subject: Subject) -> Iterator[tuple[int, int]]:
    """Of each record that is about the subject its number, and how many lines it has."""
    refused = raw.refused or {}
    if raw.rows is not None:
        mine = subject.rows(pa.Table.from_batches([raw.rows]), made=False)
    else:
        mine = np.array([i not in refused and _is_about(v, subject) for i, v in enumerate(raw.values or [])], bool)
    # Of a line that cannot be read there are bytes alone.
    lines: list[bytes | None] = raw.payloads.to_pylist() if raw.payloads is not None else [None] * len(mine)
    for i, (number, line) in enumerate(zip(raw.numbers.to_pylist(), lines, strict=True)):
        if mine[i] or (line is not None and i in refused and subject.stands_in(line)):
            yield number, 1 + (line or b"").count(b"\n")


def _is_about(values: dict[str, Any], subject: Subject) -> bool:
    return subject.is_in(values) or any(subject.reads(s, values) for s in subject.sources)


def _without_lines(path: Path, dialect: Csv, gone: _Gone, out: BinaryIO) -> None:
    plain = dialect.encoding in ("utf-8", "ascii")
    encoder = codecs.getincrementalencoder(dialect.encoding)()
    with opened(path) as f, nullcontext(f) if plain else io.TextIOWrapper(f, dialect.encoding, newline="\n") as lines:
        number = 0
        while line := lines.readline(PART_BYTES):  # of a long line a part
            if number not in gone:
                out.write(line if isinstance(line, bytes) else encoder.encode(line))
            number += line.endswith(b"\n") if isinstance(line, bytes) else line.endswith("\n")


def _without_avro(path: Path, gone: _Gone, out: BinaryIO) -> None:
    import fastavro

    with opened(path) as f:
        schema, meta, reader = container(f, return_record_name=True)
        kept = _readable((record for at, record in enumerate(reader) if at not in gone), schema)
        codec = meta.get("avro.codec", b"null").decode()
        own = {key: value.decode() for key, value in meta.items() if not key.startswith("avro.")}
        # Of timestamps the integers were read, and are written as they are.
        fastavro.writer(out, schema, kept, codec=codec, metadata=own)


def _readable(records: Iterator[Any], schema: Any) -> Iterator[Any]:
    """The records, in which nothing is read as another thing than it is written as. Raises ValueError."""
    import fastavro

    while some := list(islice(records, _RECORDS)):
        written = io.BytesIO()
        fastavro.writer(written, schema, some)
        written.seek(0)
        if list(container(written, return_record_name=True)[2]) != some:
            raise ValueError("a union of several types would be read as another one")
        yield from some


def _without_batches(path: Path, gone: _Gone, out: BinaryIO) -> None:
    at = 0
    with _arrow(path) as (reader, as_file):
        made = pa.ipc.new_file if as_file else pa.ipc.new_stream
        with made(out, reader.schema, options=pa.ipc.IpcWriteOptions(unify_dictionaries=as_file)) as writer:
            for batch in (reader.get_batch(i) for i in range(reader.num_record_batches)) if as_file else reader:
                stays = np.array([at + i not in gone for i in range(batch.num_rows)], bool)
                at += batch.num_rows
                for part in pa.Table.from_batches([batch]).filter(pa.array(stays)).to_batches():
                    writer.write_batch(part)


def other_holds(path: Path, subject: Subject, source: EventSource | None) -> bool | None:
    """Whether the subject's values stand in a file of these formats, decoded; None for another file, or one that cannot be read."""
    dialect = _lines(path, source)
    if dialect is not None and dialect.encoding not in ("utf-8", "ascii"):
        with opened(path) as f:
            return subject.stands_in_parts(text_parts(f, dialect.encoding))
    found = format_of(_plain(path)) if _plain(path) in (".avro", *ARROW) else None
    if found is None:
        return None
    try:
        left = dict(subject.keys)
        for raw in found(_ANY).read(lambda: opened(path), _ROWS, {}):
            assert raw.rows is not None
            table = pa.Table.from_batches([raw.rows])
            left = {n: v for n, v in left.items() if not any(column_holds(column, n, v) for column in table.columns)}
        return not left
    except UnreadableFileError:
        return None
