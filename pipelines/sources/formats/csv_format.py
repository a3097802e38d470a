"""Records that are a line of delimited values each, read as the lines of text files are, in the same dialects."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.project.config import KafkaSettings
from pipelines.sources.file_formats.csv_file import CsvFile
from pipelines.sources.file_formats.file_format import UnreadableFileError, columns_of
from pipelines.sources.formats.record_format import FormatOptions, RecordFormat
from pipelines.sources.formats.verdicts import merged
from transforms.contract import Checked, Now, check, check_records
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DefinitionError
from transforms.file_formats import Csv
from transforms.origin import Origin
from transforms.rules import now_of

__all__ = ["CsvFormat", "CsvOptions"]


class CsvOptions(FormatOptions):
    """The dialect, as of :class:`transforms.file_formats.Csv`; what is not given is as the source's ``file_format`` has it, where that is
    one. ``columns`` are the names of a line's values, in order (default: those of ``file_format``, or else the event time and the fields
    as they are declared, each by the name that it has in the line)."""

    delimiter: str = ","
    columns: tuple[str, ...] = ()
    quote: str | None = '"'
    escape: str | None = None
    nulls: tuple[str, ...] = ("",)
    decimal: str = "."
    thousands: str | None = None
    true: tuple[str, ...] = ("true",)
    false: tuple[str, ...] = ("false",)
    encoding: str = "utf-8"


class CsvFormat(RecordFormat):
    """A line per record; no header. Written, a null is the first of ``nulls``: a text that is one of these reads back as null."""

    Options = CsvOptions
    options: CsvOptions

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        super().__init__(source, kafka)
        files = source.file_format
        if files is not None:  # what is not set for the topic is as in files
            of_files = {name: getattr(files, name) for name in self.Options.model_fields}
            self.options = CsvOptions(**{**of_files, **self.options.model_dump(exclude_unset=True)})
        given = self.options.model_dump()
        beside = {f.name for f in source.all_fields if f.path is not None and not isinstance(f.path, tuple)}
        self._names = given.pop("columns") or tuple(name for name in columns_of(source) if name not in beside)
        try:
            dialect = Csv(header=False, columns=self._names, **given)
            self._encoding = dialect.encoding
            self._lines = CsvFile(replace(source, file_format=dialect, table=None, files=""))
            self._wanted = self._lines.wanted(self._names, {})
        except (DefinitionError, UnreadableFileError) as error:
            raise ConfigError(f"kafka.format_options.{source.name}: {error}") from None

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """Lines by columns; those with quotes or odd values one by one."""
        records = []
        for row, value in enumerate(payloads.cast(pa.large_binary()).to_pylist()):
            text, wrong = self._utf8(value or b"")
            line = text.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").removesuffix(b"\r")
            wrong = wrong if line else "there is no payload" if value is None else "the payload is empty"
            records.append((row, line, wrong))
        parts = []
        for raw in self._lines.typed(records, self._names, self._wanted) if records else ():
            rows = raw.numbers.to_numpy(zero_copy_only=False)
            now, beside = now_of(now_us, rows), None if origin is None else origin.take(rows)
            if raw.rows is not None:
                checked = check(raw.rows, self.source, now, max_future_us, beside)
            else:
                checked = check_records(raw.values or [], raw.refused or {}, self.source, now, max_future_us, beside)
            parts.append((np.asarray(rows, np.int64), checked))
        return merged(parts, self.source)

    def _utf8(self, payload: bytes) -> tuple[bytes, str]:
        """A line in UTF-8, and what is wrong with it ("": nothing seen yet)."""
        if self._encoding in ("utf-8", "ascii"):
            return payload, ""
        try:
            return payload.decode(self._encoding).encode("utf-8", "surrogatepass"), ""
        except UnicodeDecodeError as error:
            return payload, f"it is not {self._encoding}, as is declared: {error.reason} at byte {error.start}"

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """Lines of the declared columns; raises ConfigError where one of an event's is none of them."""
        if lacks := [name for name in events.schema.names if name not in self._names]:
            raise ConfigError(
                f"the lines of source {self.source.name!r} have no {lacks[0]!r} ({', '.join(self._names[:8])}); events cannot be written as"
                " such lines: correct kafka.format_options, or replay them as json"
            )
        given = dict(zip(events.schema.names, events.columns, strict=True))
        columns = []
        for name in self._names:
            column = given.get(name, pa.nulls(events.num_rows))
            plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            columns.append([self._text(value) for value in plain.to_pylist()])
        o, out = self.options, []
        for values in zip(*columns, strict=True):
            line = io.StringIO(newline="")
            csv.writer(
                line, delimiter=o.delimiter, quotechar=o.quote, escapechar=o.escape, lineterminator="\r\n",
                quoting=csv.QUOTE_MINIMAL if o.quote else csv.QUOTE_NONE,
            ).writerow(values)  # fmt: skip
            out.append(self._bytes(line.getvalue().removesuffix("\r\n")))
        return pa.array(out, pa.binary())

    def _bytes(self, line: str) -> bytes:
        try:
            return line.encode(self._encoding)
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"kafka.format_options.{self.source.name}.encoding: {self._encoding} has no {line[error.start]!r}; use utf-8, which has all"
            ) from None

    def _text(self, value: Any) -> str:
        if value is None:
            return self.options.nulls[0] if self.options.nulls else ""
        if isinstance(value, bool):
            return (self.options.false, self.options.true)[value][0]
        return value if isinstance(value, str) else repr(value).replace(".", self.options.decimal)

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """Empty, absent, with a value too many, or cut off within its first value."""
        return (b"", None, payload + self.options.delimiter.encode() + b"x", b"\xff" + payload[: dice % 3])[dice % 4]
