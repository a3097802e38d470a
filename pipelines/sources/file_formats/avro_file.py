"""Avro object container files, of any codec: the records by the schema that stands in the file, as Arrow columns.

A file is used whole or not at all. Of times and dates the integers are read, not what fits into a calendar of 9,999 years or a day.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines.sources.file_formats.avro_blocks import blocks
from pipelines.sources.file_formats.file_format import FileFormat, Opened, RawBatch, whole
from pipelines.sources.formats.avro_times import has_several, integers, told
from pipelines.sources.formats.avro_weight import UnusableSchema, checked
from transforms.instants import EPOCH, BeyondCalendar

__all__ = ["AvroFile", "container"]

_MAGIC = b"Obj\x01"
_MOST_HEADER_BYTES = 16 << 20
ROWS = 4_096
"""So many records are values of Python at a time."""
_PLAIN = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "bytes": pa.binary(), "string": pa.string(), "enum": pa.string(), "fixed": pa.binary(),
}  # fmt: skip
_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_OTHER: dict[str, pa.DataType] = {"date": pa.date32(), "time-millis": pa.time32("ms"), "time-micros": pa.time64("us"), "uuid": pa.string()}
_ZEROS = {"date": EPOCH.date(), "moment": EPOCH, "local": EPOCH.replace(tzinfo=None), "time": EPOCH.time()}
_MOST_US = 2**63 - 1


class AvroFile(FileFormat):
    """Memory is bounded by a block of the file, which is of :data:`~pipelines.sources.file_formats.avro_blocks.MOST_BYTES` at most, and by
    some thousand records."""

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        return whole(lambda: _decode(opened, min(ROWS, batch_rows)), (Exception,))  # damaged bytes raise anything


def container(f: BinaryIO, reading: Callable[[Any], Any] = integers, **more: Any) -> tuple[dict[str, Any], dict[str, bytes], Iterator[Any]]:
    """The schema of an open file, its metadata, and its records (``more``: fastavro's options), read by what ``reading`` makes of the
    schema: as it is, timestamps are the integers that they are written as. Raises ValueError where it is no Avro container of records, and
    UnusableSchema; damaged bytes raise anything.

    A file's schema is as much its writer's as its bytes are: it is held to what topics' schemas are.
    """
    from fastavro import parse_schema, schemaless_reader
    from fastavro._read_common import HEADER_SCHEMA

    start = f.read(len(_MAGIC))
    if start != _MAGIC:
        raise ValueError(f"it begins with {start!r}, not as an Avro container file does" if start else "the file is empty (0 bytes)")
    header: Any = schemaless_reader(_Behind(f), HEADER_SCHEMA, None)  # type: ignore[arg-type]
    meta: dict[str, bytes] = dict(header["meta"])
    schema = json.loads(meta["avro.schema"])
    if not (isinstance(schema, dict) and schema.get("type") == "record"):
        raise ValueError("its schema is no record")
    named: dict[str, Any] = {}
    parsed: Any = parse_schema(reading(schema), named)
    fewest = checked(parsed, named)
    if not fewest:
        raise UnusableSchema("its records take no bytes")

    def records() -> Iterator[Any]:
        for count, plain in blocks(f, meta.get("avro.codec", b"null").decode(), header["sync"]):
            if count > len(plain) // fewest:
                raise ValueError(f"a block of {len(plain):,} bytes says that it has {count:,} records, of {fewest} bytes at least")
            block = io.BytesIO(plain)
            for _ in range(count):
                yield schemaless_reader(block, parsed, None, **more)
            if block.tell() != len(plain):
                raise ValueError(f"{len(plain) - block.tell():,} bytes of a block are left over")

    return schema, meta, records()


class _Behind:
    """A file behind its magic bytes, for who wants them."""

    def __init__(self, f: BinaryIO) -> None:
        self.first, self.rest = _MAGIC, f

    def read(self, n: int) -> bytes:
        """The next ``n`` bytes, which are those of the beginning or of the rest. Raises ValueError for more than a header has."""
        if self.first:
            found, self.first = self.first, b""
            return found
        if not 0 <= n <= _MOST_HEADER_BYTES:
            raise ValueError(f"its header says that it has a part of {n} bytes")
        return self.rest.read(n)


def _decode(opened: Opened, rows: int) -> Iterator[pa.RecordBatch]:
    with opened() as f:
        # By integers a column is made at once; but where only its values tell what they are, they must tell it.
        schema, _, reader = container(f, lambda schema: told(schema) if has_several(schema) else integers(schema))
        types = {field["name"]: _type_of(field["type"], {}) for field in schema["fields"]}
        several = [name for name, kind in types.items() if kind is None]
        while records := list(islice(reader, rows)):
            # Values of a union stand in one column with those of their own types alone, so that none depends on its neighbours.
            for each in _alike(records, several):
                columns = [_column([r[name] for r in each], kind) for name, kind in types.items()]
                yield pa.RecordBatch.from_arrays(columns, list(types))


def _alike(records: list[Any], several: list[str]) -> Iterator[list[Any]]:
    """Records one after the other of which some fields have values of the same types, or none."""
    if not several:
        yield records
        return
    first, shapes = 0, dict[str, Any]()
    for at, record in enumerate(records):
        own = {name: _shape(record[name]) for name in several if record[name] is not None}
        if any(shapes.get(name, shape) != shape for name, shape in own.items()):
            yield records[first:at]
            first, shapes = at, own
        else:
            shapes |= own
    yield records[first:]


def _shape(value: Any) -> Any:
    """The types that a value is made of."""
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return {repr(_shape(each)) for each in value}
    value = _within(value)
    return type(value), isinstance(value, datetime) and value.tzinfo


def _within(value: Any) -> Any:
    """Something of the same type of Arrow, within the calendar."""
    if isinstance(value, dict):
        return {name: _within(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_within(each) for each in value]
    return _ZEROS[value.kind] if type(value) is BeyondCalendar else value


def _micros(value: Any) -> Any:
    """A value whose moments and times beyond the calendar are in microseconds, as Arrow infers those within."""
    if isinstance(value, dict):
        return {name: _micros(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_micros(each) for each in value]
    if type(value) is not BeyondCalendar:
        return value
    return int(value) if value.kind == "date" else max(-_MOST_US, min(_MOST_US, value.us))


def _type_of(schema: Any, named: dict[str, pa.DataType | None]) -> pa.DataType | None:
    """The Arrow type of a schema; None: only its values tell, as those of a union of several types."""
    if isinstance(schema, list):
        kinds = [_type_of(each, named) for each in schema if each != "null"]
        return kinds[0] if len(kinds) == 1 else pa.null() if not kinds else None
    if isinstance(schema, str):
        return _PLAIN.get(schema, named.get(schema))
    kind, logical = schema["type"], str(schema.get("logicalType", ""))
    found: pa.DataType | None
    if isinstance(kind, (dict, list)):
        return _type_of(kind, named)
    unit = _UNITS.get(logical.rpartition("-")[2]) if "timestamp-" in logical else None
    if unit and kind == "long":
        return pa.timestamp(unit, tz=None if logical.startswith("local-") else "UTC")
    if logical == "decimal" and kind in ("bytes", "fixed") and 0 < schema["precision"] <= 76:
        return (pa.decimal128 if schema["precision"] <= 38 else pa.decimal256)(schema["precision"], schema.get("scale", 0))
    if (kind, logical) in (("int", "date"), ("int", "time-millis"), ("long", "time-micros"), ("string", "uuid")):
        return _OTHER[logical]
    if kind == "array":
        inner = _type_of(schema["items"], named)
        return None if inner is None else pa.list_(inner)
    if kind == "map":
        inner = _type_of(schema["values"], named)
        return None if inner is None else pa.map_(pa.string(), inner)
    if kind in ("record", "error"):
        inner_types = [(field["name"], _type_of(field["type"], named)) for field in schema["fields"]]
        found = None if any(t is None for _, t in inner_types) else pa.struct(inner_types)
    else:
        found = _PLAIN.get(kind, named.get(kind))
    if "name" in schema:
        named[schema["name"]] = found
    return found


def _column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind is not None:
        if pa.types.is_map(kind):
            values = [None if v is None else list(v.items()) for v in values]
        if pa.types.is_string(kind):
            values = [v if v is None or isinstance(v, str) else str(v) for v in values]
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, TypeError, ValueError):
            pass
    try:
        inferred = pa.array([_within(value) for value in values]).type
        return pa.array([_micros(value) for value in values], inferred)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
