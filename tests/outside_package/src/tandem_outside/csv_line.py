"""A record format: one line of comma-separated values, in the order of the source's columns; ``\\N`` is null."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from tandem.pipelines.sources.formats.record_format import FormatOptions, RecordFormat
from tandem.transforms.contract import Checked, Now, Origin, check_records
from tandem.transforms.reasons import INVALID_UTF8, MALFORMED

NULL = "\\N"
READ: dict[str, Callable[[str], Any]] = {
    "float64": float,
    "int64": int,
    "timestamp": int,
    "bool": {"true": True, "false": False}.__getitem__,
}


class CsvOptions(FormatOptions):
    delimiter: str = ","


class CsvLine(RecordFormat):
    Options = CsvOptions
    options: CsvOptions

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        records: list[dict[str, Any]] = []
        refused: dict[int, tuple[str, str]] = {}
        dtypes = {self.source.event_time: "timestamp", **{f.name: f.dtype for f in self.source.fields}}
        names = self.source.arrow_schema.names
        for row, payload in enumerate(payloads.to_pylist()):
            records.append({})
            try:
                lines = list(self._reader((payload or b"").decode()))
            except UnicodeDecodeError:
                refused[row] = INVALID_UTF8, "the line is not valid UTF-8"
                continue
            except csv.Error as error:
                refused[row] = MALFORMED, f"no line of comma-separated values: {error}"
                continue
            if len(lines) != 1 or len(lines[0]) != len(names):
                counted = f"{len(lines)} lines" if len(lines) != 1 else f"{len(lines[0])} values"
                refused[row] = MALFORMED, f"{counted} where one line of {len(names)} values should be"
                continue
            records[row] = {n: _value(text, str(dtypes[n])) for n, text in zip(names, lines[0])}
        return check_records(records, refused, self.source, now_us, max_future_us, origin)

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in events.columns]
        out = []
        for row in zip(*(c.to_pylist() for c in columns)):
            line = io.StringIO()
            csv.writer(line, delimiter=self.options.delimiter).writerow([_text(v) for v in row])
            out.append(line.getvalue().removesuffix("\r\n").encode())
        return pa.array(out, pa.binary())

    def sample(self, payloads: Sequence[bytes]) -> list[dict[str, Any]]:
        lines = (line for payload in payloads for line in self._reader(payload.decode(errors="replace")))
        return [{f"column_{n}": None if text == NULL else text for n, text in enumerate(line, 1)} for line in lines]

    def _reader(self, text: str) -> Any:
        return csv.reader(io.StringIO(text, newline=""), delimiter=self.options.delimiter, strict=True)


def _text(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, str):
        return "\\" + value if value.startswith("\\") else value
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _value(text: str, dtype: str) -> Any:
    if text == NULL:
        return None
    if dtype == "string":
        return text.removeprefix("\\")
    try:
        return READ[dtype](text)
    except (ValueError, KeyError):
        return text  # the contract says what is wrong with it
