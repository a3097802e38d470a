"""Text files with a record per line and a delimiter between its values, in the dialect that the source declares.

A file is judged record by record, with the line as the dead letter's payload. Nothing is guessed: a file whose columns are not the source's
is unreadable as a whole, and the reason says what was seen. So is one that is not in the declared encoding (other than UTF-8, where
the contract judges each text).
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from pipelines.sources.file_formats.cells import cell, typed_column
from pipelines.sources.file_formats.csv_lines import Record, Splitter
from pipelines.sources.file_formats.file_format import FileFormat, FileRange, Look, Opened, RawBatch, UnreadableFileError, columns_of
from pipelines.sources.file_formats.json_lines_file import CHUNK_BYTES, MAX_LINE_BYTES
from pipelines.sources.file_formats.line_parts import line_count, line_parts, section
from pipelines.sources.file_formats.transcoded import marked_encoding, transcoded
from transforms.definitions import EventSource
from transforms.file_formats import Csv
from transforms.reasons import MALFORMED

__all__ = ["CsvFile"]

_DELIMITERS = {",": "','", ";": "';'", "\t": r"'\t'", "|": "'|'"}


class CsvFile(FileFormat):
    """Row numbers are those of the lines that records begin in, from 0 up; the header counts. Files in UTF-8 are divided between lines, if
    no record has more than one: whether a quote opens a value or closes one may depend on all lines before it."""

    declared: ClassVar[type | None] = Csv
    divided: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def __init__(self, source: EventSource) -> None:
        super().__init__(source)
        assert isinstance(source.file_format, Csv)
        self.dialect = source.file_format
        self.splitter = Splitter(self.dialect)

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        if not self._ascii_like:
            with self._utf8(opened) as f:  # damage shows where it lies, and a file is used whole or not at all
                while f.read(1 << 20):
                    pass
        with self._utf8(opened) as f:
            yield from self._batches(f, batch_rows, given)

    @property
    def _ascii_like(self) -> bool:
        """Whether a line ends where a byte says so, and the bytes before it do not matter."""
        return self.dialect.encoding in ("utf-8", "ascii")

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Between lines behind the header."""
        if not self._ascii_like:
            return []
        try:
            with self._utf8(opened) as f:
                self.wanted(self._begin(f) or (), {})
                return line_parts(f, f.tell(), most)
        except UnreadableFileError:
            return []

    def look(self, opened: Opened, part: FileRange) -> Look:
        """How many lines it has, and whether each can be read by itself."""
        with self._part(opened, part) as lines:
            if not part[0]:
                self._skip(lines)
            numbers = line_count(lines) + (0 if part[0] else self.dialect.skip)
        if self.splitter.quote is None:
            return Look(numbers)
        with self._part(opened, part) as lines:
            if not part[0]:
                self._begin(lines)
            return Look(numbers, alone=not self.splitter.one_line_each(lines, MAX_LINE_BYTES))

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        names = self.names(opened)
        with self._part(opened, part) as lines:
            if not part[0]:
                yield from self._batches(lines, batch_rows, given)
            else:
                records = self.splitter.records(lines, first, MAX_LINE_BYTES)
                yield from self._of(records, names, self.wanted(names, given), batch_rows)

    @contextmanager
    def _part(self, opened: Opened, part: FileRange) -> Iterator[BinaryIO]:
        with section(opened, part) if part[0] else self._utf8(lambda: section(opened, part)) as lines:
            yield lines

    @contextmanager
    def _utf8(self, opened: Opened) -> Iterator[BinaryIO]:
        """The file's bytes in UTF-8, without a byte order mark."""
        with opened() as f:
            start = f.read(4)
        encoding = self.dialect.encoding
        marked = marked_encoding(start)
        if marked is not None and not encoding.startswith(marked):
            raise UnreadableFileError(
                f"it begins with the byte order mark of {marked.upper()}, and {encoding} is declared; declare Csv(encoding={marked!r})"
            )
        with opened() as f:
            if encoding in ("utf-8", "ascii"):
                if start.startswith(codecs.BOM_UTF8):
                    f.read(len(codecs.BOM_UTF8))
                yield f
            else:
                with transcoded(f, encoding, "as is declared", "declare its encoding") as text:
                    yield text

    def _skip(self, f: BinaryIO) -> None:
        for _ in range(self.dialect.skip):
            f.readline(MAX_LINE_BYTES)

    def _begin(self, f: BinaryIO) -> Sequence[str] | None:
        """Read up to the first record; the names of the values of a line. None: nothing was logged, not even a header."""
        self._skip(f)
        if not self.dialect.header:
            return self.dialect.columns
        first = next(self.splitter.records(f, 0, MAX_LINE_BYTES), None)
        return None if first is None else self._header(first[1], first[2])

    def _batches(self, f: BinaryIO, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        self._skip(f)
        records = self.splitter.records(f, self.dialect.skip, MAX_LINE_BYTES)
        names: Sequence[str] = self.dialect.columns
        if self.dialect.header:
            first = next(records, None)
            if first is None:
                return  # nothing was logged, not even a header
            names = self._header(first[1], first[2])
        yield from self._of(records, names, self.wanted(names, given), batch_rows)

    def _of(
        self, records: Iterator[Record], names: Sequence[str], wanted: list[tuple[int, str, str]], batch_rows: int
    ) -> Iterator[RawBatch]:
        held = 0
        waiting: list[Record] = []
        for record in records:
            waiting.append(record)
            held += len(record[1])
            if len(waiting) >= batch_rows or held >= CHUNK_BYTES:
                yield from self.typed(waiting, names, wanted)
                waiting, held = [], 0
        if waiting:
            yield from self.typed(waiting, names, wanted)

    def names(self, opened: Opened) -> Sequence[str]:
        """The names of the values of a line: as the dialect has them, or the file's header. Raises UnreadableFileError."""
        if not self.dialect.header:
            return self.dialect.columns
        with self._utf8(opened) as f:
            return self._begin(f) or ()

    def _header(self, line: bytes, wrong: str) -> list[str]:
        try:
            if wrong:
                raise ValueError(wrong)
            return [name.strip() for name in self.splitter.values(line)]
        except ValueError as error:
            raise UnreadableFileError(f"its header {_shown(line)} cannot be read: {error}; correct the file or Csv(quote=...)") from None

    def wanted(self, names: Sequence[str], given: Mapping[str, Any]) -> list[tuple[int, str, str]]:
        """(position, column, type) of the columns to read. Raises UnreadableFileError where the file is not of the declared dialect."""
        columns = columns_of(self.source)
        found = [(at, name, columns[name]) for at, name in enumerate(names) if name in columns]
        seen = ", ".join(repr(name)[:40] for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        if not found:
            shown = "its header has" if self.dialect.header else "declared are"
            other = [text for mark, text in _DELIMITERS.items() if len(names) == 1 and mark != self.dialect.delimiter and mark in names[0]]
            fix = f"declare Csv(delimiter={other[0]})" if other else "correct Csv(delimiter=, header=, columns=) or the names of the fields"
            raise UnreadableFileError(
                f"none of the columns of source {self.source.name!r} ({', '.join(list(columns)[:5])}) is in it: with delimiter"
                f" {self.dialect.delimiter!r} {shown} {seen}; {fix}"
            )
        if len({name for _, name, _ in found}) < len(found):
            twice = next(name for _, name, _ in found if list(names).count(name) > 1)
            raise UnreadableFileError(f"its header has the column {repr(twice)[:40]} more than once; give each a name of its own")
        return found

    def typed(self, records: list[Record], names: Sequence[str], wanted: list[tuple[int, str, str]]) -> Iterator[RawBatch]:
        """The records as Arrow rows, and as values those that need a look at each; ``wanted`` of :meth:`wanted`."""
        n, width = len(records), len(names)
        delimiter, quote, escape = self.splitter.delimiter, self.splitter.quote, self.splitter.escape
        refused: dict[int, tuple[str, str]] = {}
        simple: list[int] = []
        others: list[int] = []
        rows: list[list[str | None]] = []
        for i, (_, text, wrong) in enumerate(records):
            if wrong:
                refused[i] = MALFORMED, wrong
            elif (
                (quote is None or quote not in text)
                and (escape is None or escape not in text)
                and not any(byte in text for byte in (b"\r", b"\n", b"\0"))  # Arrow's parser takes a zero byte for a quote that is none
            ):
                if (count := text.count(delimiter) + 1) == width:
                    simple.append(i)
                else:
                    refused[i] = MALFORMED, _counted(count, width)
            else:
                try:
                    values = self.splitter.cells(text)
                    if len(values) != width:
                        raise ValueError(_counted(len(values), width))
                    rows.append(values)
                    others.append(i)
                except ValueError as error:
                    refused[i] = MALFORMED, str(error)
        parts = [self._simple([records[i][1] for i in simple], width, wanted)] if simple else []
        if others:
            parts.append(self._others(rows, wanted))
        order = np.argsort(np.array([*simple, *others], dtype=np.int64), kind="stable")
        places = np.array([*simple, *others], dtype=np.int64)[order]
        texts = [pa.concat_arrays([p[k] for p in parts]).take(pa.array(order)) for k in range(len(wanted))] if parts else []
        numbers = np.array([number for number, _, _ in records], dtype=np.int64)
        lines = pa.array([text for _, text, _ in records], pa.binary())
        typed = [typed_column(text, dtype, self.dialect) for text, (_, _, dtype) in zip(texts, wanted, strict=bool(texts))]
        good = np.logical_and.reduce([mask for _, mask in typed]) if typed else np.zeros(0, dtype=bool)
        if good.any():
            keep = pa.array(good)
            batch = pa.RecordBatch.from_arrays([array for array, _ in typed], [name for _, name, _ in wanted])
            at = pa.array(places[good])
            yield RawBatch(pa.array(numbers).take(at), rows=batch if good.all() else batch.filter(keep), payloads=lines.take(at))
        if good.all() and not refused:
            return
        values_of: dict[int, dict[str, Any]] = {}
        for k in np.flatnonzero(~good).tolist():
            one = {}
            for text, (_, name, dtype) in zip(texts, wanted, strict=True):
                raw = text[k].as_py()
                one[name] = cell(None if raw is None else raw.decode("utf-8", "surrogateescape"), dtype, self.dialect)
            values_of[int(places[k])] = one
        rest = sorted([*values_of, *refused])
        assert len(rest) + int(good.sum()) == n
        yield RawBatch(
            pa.array(numbers[rest]),
            payloads=lines.take(pa.array(rest, pa.int64())),
            values=[values_of.get(i, {}) for i in rest],
            refused={k: refused[i] for k, i in enumerate(rest) if i in refused},
        )

    def _simple(self, lines: list[bytes], width: int, wanted: list[tuple[int, str, str]]) -> list[pa.Array]:
        """The wanted columns of lines without quotes, each of the right number of values."""
        data = b"\n".join(lines) + b"\n"
        names = [str(i) for i in range(width)]
        chosen = [str(at) for at, _, _ in wanted]
        table = pc.read_csv(
            io.BytesIO(data),
            pc.ReadOptions(column_names=names, use_threads=False, block_size=max(len(data), 1 << 16)),
            pc.ParseOptions(delimiter=self.dialect.delimiter, quote_char=False, double_quote=False, ignore_empty_lines=False),
            pc.ConvertOptions(
                column_types=dict.fromkeys(chosen, pa.binary()), include_columns=chosen, check_utf8=False,
                null_values=list(self.dialect.nulls), strings_can_be_null=True,
            ),
        )  # fmt: skip
        assert table.num_rows == len(lines)
        return [_one(column) for column in table.columns]

    def _others(self, rows: list[list[str | None]], wanted: list[tuple[int, str, str]]) -> list[pa.Array]:
        return [
            pa.array([None if (v := row[at]) is None else v.encode("utf-8", "surrogateescape") for row in rows], pa.binary())
            for at, _, _ in wanted
        ]


def _counted(count: int, width: int) -> str:
    return f"it has {count} values, where there are {width} columns"


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
