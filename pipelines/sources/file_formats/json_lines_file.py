"""JSON: one object per line, or records in any other form that :mod:`pipelines.sources.file_formats.json_documents` knows. A file of lines
is judged line by line, so one that was cut off ends with one malformed line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from pipelines.sources.file_formats.file_format import FileFormat, FileRange, Look, Opened, RawBatch
from pipelines.sources.file_formats.json_documents import KEPT_OF_LONG_LINE, MAX_LINE_BYTES, divided_text, has_documents
from pipelines.sources.file_formats.line_parts import line_count, line_parts, section
from pipelines.sources.file_formats.transcoded import marked_encoding, transcoded

__all__ = ["CHUNK_BYTES", "KEPT_OF_LONG_LINE", "MAX_LINE_BYTES", "JsonLinesFile", "json_texts"]

CHUNK_BYTES = 32 << 20
"""A batch of records ends at this size, whatever ``batch_rows`` says."""


class JsonLinesFile(FileFormat):
    """A byte order mark before the first line is taken off. Blank lines are skipped but counted in row numbers. A record above 16 MiB is
    one reject, whose dead letter keeps the first 64 KiB. Files are divided between lines, where their records are lines of UTF-8; in other
    forms row numbers are those of records. UTF-16 and UTF-32 are known by their byte order marks, and such a file is used whole or not at
    all."""

    divided: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        encoding, documents = _form(opened)
        if encoding:
            with _utf8(opened, encoding) as f:
                while f.read(1 << 20):  # damage shows where it lies
                    pass
        with _utf8(opened, encoding) as f:
            yield from _batches(_documents(f) if documents else _lines(f, 0), batch_rows, given)

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Between lines."""
        if any(_form(opened)):
            return []
        with opened() as f:
            return line_parts(f, 0, most)

    def look(self, opened: Opened, part: FileRange) -> Look:
        """How many lines it has."""
        with section(opened, part) as lines:
            return Look(line_count(lines))

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with section(opened, part) as lines:
            yield from _batches(_lines(lines, first), batch_rows, given)


def json_texts(opened: Opened) -> Iterator[bytes]:
    """The texts of a JSON file's records, as a source reads them, long ones as their beginnings. Raises UnreadableFileError."""
    encoding, documents = _form(opened)
    with _utf8(opened, encoding) as f:
        for _, text, _ in _documents(f) if documents else _lines(f, 0):
            yield text


def _form(opened: Opened) -> tuple[str, bool]:
    """The encoding of a JSON file ("": UTF-8), and whether its records are no lines."""
    with opened() as f:
        start = f.read(4)
        encoding = marked_encoding(start)
        if encoding is None:
            return "", has_documents(f, start)
    with _utf8(opened, encoding) as f:
        return encoding, has_documents(f)


@contextmanager
def _utf8(opened: Opened, encoding: str) -> Iterator[BinaryIO]:
    with opened() as f:
        if not encoding:
            yield f
        else:
            with transcoded(f, encoding, "as its byte order mark says", "write it again, best as UTF-8") as text:
                yield text


Numbered = tuple[int, bytes, int]
"""A record's number in its file, its text, and how long it is, where that is above the limit (else 0)."""


def _documents(f: BinaryIO) -> Iterator[Numbered]:
    number = 0
    for text, length, record in divided_text(f):
        if record:
            yield number, text.removeprefix(codecs.BOM_UTF8).strip(), length if length > MAX_LINE_BYTES else 0
            number += 1


def _lines(f: BinaryIO, first: int) -> Iterator[Numbered]:
    """The lines of an open file, of which the next has the number ``first``, without blank ones."""
    number = first - 1
    while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not number:
            line = line.removeprefix(codecs.BOM_UTF8)
        length = len(line)
        if length > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := f.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
                length += len(rest)
            yield number, line[:KEPT_OF_LONG_LINE], length + len(rest.rstrip(b"\n"))
        else:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line.strip():
                yield number, line, 0


def _batches(records: Iterable[Numbered], batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
    texts: list[bytes] = []
    numbers: list[int] = []
    too_long: dict[int, int] = {}
    held = 0
    for number, text, length in records:
        if length:
            too_long[len(texts)] = length
        texts.append(_with(text, given) if given and not length else text)
        numbers.append(number)
        held += len(texts[-1])
        if len(texts) >= batch_rows or held >= CHUNK_BYTES:
            yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(texts, pa.binary()), too_long=too_long)
            texts, numbers, too_long, held = [], [], {}, 0
    if texts:
        yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(texts, pa.binary()), too_long=too_long)


def _with(line: bytes, given: Mapping[str, Any]) -> bytes:
    """A JSON object with what its folders say, where it has no such key; anything else as it is."""
    text = line.lstrip()
    if not text.startswith(b"{"):
        return line
    missing = {name: value for name, value in given.items() if b"\\" in text or f'"{name}"'.encode() in text}
    if missing:  # it may have the key: only its reader knows
        try:
            there = json.loads(text)
        except (ValueError, RecursionError):
            return line
        given = {name: value for name, value in given.items() if name not in there}
    if not given:
        return line
    rest = text[1:]
    added = json.dumps(dict(given), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
    return added[:-1] + (b"" if rest.lstrip().startswith(b"}") else b",") + rest
