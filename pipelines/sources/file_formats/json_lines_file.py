"""JSON lines: one object per line. A file is judged line by line, so one that was cut off ends with one malformed line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from pipelines.sources.file_formats.file_format import FileFormat, Look, Opened, RawBatch, Stretch
from pipelines.sources.file_formats.line_parts import line_count, line_parts, section

__all__ = ["CHUNK_BYTES", "KEPT_OF_LONG_LINE", "MAX_LINE_BYTES", "JsonLinesFile"]

MAX_LINE_BYTES = 16 << 20
KEPT_OF_LONG_LINE = 64 << 10
CHUNK_BYTES = 32 << 20
"""A batch of lines ends at this size, whatever ``batch_rows`` says."""


class JsonLinesFile(FileFormat):
    """A byte order mark before the first line is taken off. Blank lines are skipped but counted in row numbers. A line above 16 MiB is one
    reject, whose dead letter keeps the first 64 KiB. Files are divided between lines."""

    divided: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with opened() as f:
            yield from _records(f, 0, batch_rows, given)

    def parts(self, opened: Opened, most: int) -> list[Stretch]:
        """Between lines."""
        with opened() as f:
            return line_parts(f, 0, most)

    def look(self, opened: Opened, part: Stretch) -> Look:
        """How many lines it has."""
        with section(opened, part) as lines:
            return Look(line_count(lines))

    def read_part(self, opened: Opened, part: Stretch, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with section(opened, part) as lines:
            yield from _records(lines, first, batch_rows, given)


def _records(f: BinaryIO, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
    """The lines of an open file, of which the next has the number ``first``."""
    lines: list[bytes] = []
    numbers: list[int] = []
    too_long: dict[int, int] = {}
    number, held = first - 1, 0
    while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not number:
            line = line.removeprefix(codecs.BOM_UTF8)
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
            if given:
                line = _with(line, given)
        lines.append(line)
        numbers.append(number)
        held += len(line)
        if len(lines) >= batch_rows or held >= CHUNK_BYTES:
            yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)
            lines, numbers, too_long, held = [], [], {}, 0
    if lines:
        yield RawBatch(pa.array(numbers, pa.int64()), payloads=pa.array(lines, pa.binary()), too_long=too_long)


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
