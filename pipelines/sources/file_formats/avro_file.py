"""Avro object container files, of any codec: the records by the schema that stands in the file, as Arrow columns.

A file is used whole or not at all. Of times and dates the integers are read, not what fits into a calendar of 9,999 years or a day. What a
record is read as follows from it and its schema alone: a value that its type cannot hold, an int of 40 bits say, changes nothing of those
beside it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.sources.file_formats.avro_blocks import Overrun, blocks, places
from pipelines.sources.file_formats.file_format import DamagedBehind, FileFormat, FileRange, Look, Opened, RawBatch, one_line, whole
from pipelines.sources.formats.avro_times import has_several, integers, with_times
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
_MOST_PLACES = 10_000
"""Within one type of Arrow; one with more is told by its values."""


class AvroFile(FileFormat):
    """Memory is bounded by a block of the file, which is of :data:`~pipelines.sources.file_formats.avro_blocks.MOST_BYTES` at most, and by
    some thousand records. Files are divided between blocks."""

    divided: ClassVar[bool] = True

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        return whole(lambda: _decode(opened, min(ROWS, batch_rows)), (Exception,))  # damaged bytes raise anything

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Behind sync markers of blocks."""
        try:
            with opened() as f:
                head = _Head(f)
                return places(f, head.sync, f.tell(), most)
        except OSError as e:
            if e.errno is not None:
                raise
            return []
        except Exception:
            return []

    def look(self, opened: Opened, part: FileRange) -> Look:
        """Each record is decoded."""
        at = 0
        try:
            with opened() as f:
                for _ in _Head(f, _read_as).records(part):
                    at += 1
        except Overrun:
            return Look(at, alone=True)
        except DamagedBehind as e:
            return Look(e.rows, one_line(e))
        return Look(at)

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        for batch in _decode(opened, min(ROWS, batch_rows), part):
            yield RawBatch(pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)), rows=batch)
            first += batch.num_rows


class _Head:
    """The header of an open file, which stands at its first block then. Raises ValueError where it is no Avro container of records, and
    UnusableSchema; damaged bytes raise anything.

    A file's schema is as much its writer's as its bytes are: it is held to what topics' schemas are.
    """

    def __init__(self, f: BinaryIO, reading: Callable[[Any], Any] = integers) -> None:
        from fastavro import parse_schema, schemaless_reader
        from fastavro._read_common import HEADER_SCHEMA

        start = f.read(len(_MAGIC))
        if start != _MAGIC:
            raise ValueError(f"it begins with {start!r}, not as an Avro container file does" if start else "the file is empty (0 bytes)")
        header: Any = schemaless_reader(_Behind(f), HEADER_SCHEMA, None)  # type: ignore[arg-type]
        self.file, self.meta, self.sync = f, dict[str, bytes](header["meta"]), header["sync"]
        self.schema: dict[str, Any] = json.loads(self.meta["avro.schema"])
        if not (isinstance(self.schema, dict) and self.schema.get("type") == "record"):
            raise ValueError("its schema is no record")
        named: dict[str, Any] = {}
        self._parsed: Any = parse_schema(reading(self.schema), named)
        self._fewest = checked(self._parsed, named)
        if not self._fewest:
            raise UnusableSchema("its records take no bytes")

    def records(self, part: FileRange | None = None, **more: Any) -> Iterator[Any]:
        """The records of the file's blocks, or of those of a part (``more``: fastavro's options). Raises DamagedBehind, and Overrun."""
        from fastavro import schemaless_reader

        done = 0
        if part is not None:
            self.file.seek(part[0])
        try:
            for count, plain in blocks(self.file, self.meta.get("avro.codec", b"null").decode(), self.sync, part and part[1]):
                if count > len(plain) // self._fewest:
                    size = f"{len(plain):,} bytes"
                    raise ValueError(f"a block of {size} says that it has {count:,} records, of {self._fewest} bytes at least")
                block = io.BytesIO(plain)
                for _ in range(count):
                    yield schemaless_reader(block, self._parsed, None, **more)
                if block.tell() != len(plain):
                    raise ValueError(f"{len(plain) - block.tell():,} bytes of a block are left over")
                done += count
        except Overrun:
            raise
        except Exception as e:
            if isinstance(e, OSError) and e.errno is not None:  # the disk's
                raise
            raise DamagedBehind(e, done) from e


def container(f: BinaryIO, reading: Callable[[Any], Any] = integers, **more: Any) -> tuple[dict[str, Any], dict[str, bytes], Iterator[Any]]:
    """The schema of an open file, its metadata, and its records (``more``: fastavro's options), read by what ``reading`` makes of the
    schema: as it is, timestamps are the integers that they are written as. Raises what :class:`_Head` does."""
    head = _Head(f, reading)
    return head.schema, head.meta, head.records(**more)


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


def _read_as(schema: Any) -> Any:
    # By integers a column is made at once; but where only its values tell what they are, they must tell it.
    fields = schema.get("fields")
    large = isinstance(fields, list) and any(_is_large(f.get("type")) for f in fields if isinstance(f, dict))
    return with_times(schema) if large or has_several(schema) else integers(schema)


def _decode(opened: Opened, rows: int, part: FileRange | None = None) -> Iterator[pa.RecordBatch]:
    with opened() as f:
        head = _Head(f, _read_as)
        types = {f["name"]: None if _is_large(f["type"]) else _type_of(f["type"], {}) for f in head.schema["fields"]}
        several = [name for name, kind in types.items() if kind is None]
        reader = head.records(part)
        while records := list(islice(reader, rows)):
            # Values of a union stand in one column with those of their own types alone, so that none depends on its neighbours.
            for each in _alike(records, several):
                yield from _batches(each, types)


def _batches(records: list[Any], types: Mapping[str, pa.DataType | None]) -> Iterator[pa.RecordBatch]:
    """Records as columns; those with a value that its type cannot hold apart from the others."""
    alone = len(records) == 1
    columns = [_column([r[name] for r in records], kind, alone) for name, kind in types.items()]
    if all(column is not None for column in columns):
        yield pa.RecordBatch.from_arrays(columns, list(types))
        return
    half = len(records) // 2
    yield from _batches(records[:half], types)
    yield from _batches(records[half:], types)


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


def _is_large(schema: Any) -> bool:
    """Whether a type has more places than :data:`_MOST_PLACES` when what it names stands at each place that names it, as in Arrow's types:
    four fields of a record with four fields of a record, and so on, are a million columns at the tenth."""
    return _places(schema, {}) > _MOST_PLACES


def _places(schema: Any, named: dict[str, int]) -> int:
    if isinstance(schema, list):
        return sum(_places(each, named) for each in schema)
    if not isinstance(schema, dict):
        return named.get(schema, 1) if isinstance(schema, str) else 1
    fields = schema.get("fields")
    inner = [f.get("type") for f in fields if isinstance(f, dict)] if isinstance(fields, list) else []
    count = sum(_places(each, named) for each in (schema.get("type"), schema.get("items"), schema.get("values"), *inner))
    if isinstance(schema.get("name"), str):
        named[schema["name"]] = count
    return count


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


def _form(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What makes a value one that Arrow takes as this type: maps in it, at any depth, are lists of pairs; None: it is one already."""
    if pa.types.is_map(kind):
        inner = _form(kind.item_type)
        return lambda v: [(key, each if inner is None or each is None else inner(each)) for key, each in v.items()]
    if pa.types.is_list(kind):
        inner = _form(kind.value_type)
        return None if inner is None else lambda v: [None if each is None else inner(each) for each in v]
    if pa.types.is_struct(kind):
        forms = {field.name: form for field in kind if (form := _form(field.type)) is not None}
        return None if not forms else lambda v: {**v, **{n: form(v[n]) for n, form in forms.items() if v[n] is not None}}
    return None


def _column(values: list[Any], kind: pa.DataType | None, alone: bool) -> pa.Array | None:
    """Values as a column of a type, or, where only they tell it, of theirs; None where one cannot be of the type, and is not ``alone``."""
    if kind is not None:
        form = _form(kind)
        try:
            return pa.array(values if form is None else [None if v is None else form(v) for v in values], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if not alone:
                return None
    try:
        inferred = pa.array([_within(value) for value in values]).type
        return pa.array([_micros(value) for value in values], inferred)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in values], pa.string())
