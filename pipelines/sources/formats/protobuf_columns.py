"""Messages of Protobuf as Arrow columns: those that a source's fields name, and of nested messages no more than they need.

What a value becomes:

* numbers, booleans, text and bytes are themselves; unsigned 64 bits stay unsigned, so the contract says what does not fit.
* An enum is the name of its value, or its number where the field is an int64; a number that has no name is its decimal text.
* A field that its message does not have is null where Protobuf can tell (``optional``, messages, ``oneof``, proto2 without a default),
  else the type's zero, as for every reader of proto3.
* ``google.protobuf``: Timestamp is a timestamp (nanoseconds floored to microseconds), Duration whole microseconds (seconds for a float64),
  wrappers are what they hold, or null; ``google.type.Date`` is a date. Any other message is a struct, such as ``google.type.Decimal`` with
  its text in ``value``. Struct, Value and ListValue are the JSON that they hold (:mod:`~pipelines.sources.formats.protobuf_values`): a path
  goes through the keys of a Struct. ``Any`` is not unpacked: it has ``type_url`` and ``value``.
* ``repeated`` is a list, a map a struct of those of its keys that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from operator import attrgetter
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from pipelines.sources.formats.protobuf_values import OPEN, open_message, plain
from transforms.definitions import EventSource
from transforms.places import EACH, Path

__all__ = ["Column", "Want", "columns_of", "everything", "wanted"]

Get = Callable[[Any], Any]
"""A message -> the value of one of its fields, None where it is null. A text of proto2 may be no UTF-8: bytes, or UnicodeDecodeError."""

_INT64 = 2**63 - 1
_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: pa.int64(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT32: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT64: pa.uint64(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float64(),
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
}
_WRAPPERS = {
    f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}
_SINGLE = ("google.protobuf.Timestamp", "google.protobuf.Duration", "google.type.Date")
_OPAQUE = pa.struct([pa.field("fields", pa.null())])
"""A message that is asked for as a whole, which no field of the contract can be."""


@dataclass
class Want:
    """What is asked of a value: its ``dtype`` as a field of the contract, or some of its parts by name; ``items`` of a list's elements."""

    dtype: str | None = None
    parsed: str = ""
    """How a field reads it: the name of its ``parse``."""
    parts: dict[str, Want] = field(default_factory=dict)
    items: Want | None = None


@dataclass(frozen=True)
class Column:
    """One column of the rows: how to read it from a message, and its type in Arrow. ``get`` of a column with parts of a Struct may raise
    OtherKind; ``whatever`` gives what is there."""

    name: str
    type: pa.DataType
    get: Get
    whatever: Get | None = None


def wanted(source: EventSource) -> dict[str, Want]:
    """What a source asks of its messages, by the names of their fields."""
    root = Want()
    for f in source.all_fields:
        if f.value is None and (f.path is None or isinstance(f.path, tuple)):
            leaf = _step(root, f.path or (f.name,))
            leaf.dtype, leaf.parsed = f.dtype, "" if f.parse is None else type(f.parse).__name__
            if f.dtype is not None and f.dtype.startswith("list<"):
                leaf.items = Want(f.dtype[5:-1])
    if source.explode is not None:
        _step(root, (*source.explode_path, EACH))
    return root.parts


def _step(want: Want, path: Path) -> Want:
    """What is asked of the value at a path below another."""
    for step in path:
        if isinstance(step, int) or step == EACH:
            want.items = want = want.items or Want()
        else:
            want = want.parts.setdefault(step, Want())
    return want


def columns_of(message: Descriptor, asked: Mapping[str, Want]) -> list[Column]:
    """The columns for the fields that a message has; names that it does not have are left out."""
    found = ((of, want) for name, want in asked.items() if (of := message.fields_by_name.get(name)) is not None)
    return [Column(of.name, *_field(of, want), _whatever(of)) for of, want in found]


def _whatever(of: FieldDescriptor) -> Get | None:
    """Of a field whose message is JSON inside: all that it holds."""
    if of.message_type is None or of.message_type.full_name not in OPEN:
        return None
    read, name = attrgetter(of.name), of.name
    if _repeated(of):
        return lambda message: [plain(value) for value in read(message)]
    return lambda message: plain(read(message)) if message.HasField(name) else None


def everything(message: Descriptor, depth: int = 4, most: int = 2_000) -> dict[str, Want]:
    """All fields of a message and of those within, ``depth`` deep; of maps and Structs none, as nobody knows their keys. The first ``most``
    of them: a message of a hundred messages of its own kind has a hundred million."""
    left = [most]
    return _everything(message, depth, left)


def _everything(message: Descriptor, depth: int, left: list[int]) -> dict[str, Want]:
    out = {}
    for of in message.fields:
        inner = of.message_type
        if left[0] <= 0 or (inner is not None and (inner.GetOptions().map_entry or depth < 2)):
            continue
        left[0] -= 1
        if inner is not None and inner.full_name in OPEN:
            continue
        known = inner is None or inner.full_name in _WRAPPERS or inner.full_name in _SINGLE
        want = Want() if known else Want(parts=_everything(inner, depth - 1, left))
        out[of.name] = Want(items=want) if _repeated(of) else want
    return out


def _field(of: FieldDescriptor, want: Want) -> tuple[pa.DataType, Get]:
    read, name = attrgetter(of.name), of.name
    if of.message_type is not None and of.message_type.GetOptions().map_entry:
        return _map(of, want)
    kind, convert = _value(of, want.items or Want() if _repeated(of) else want)
    if _repeated(of):
        if convert is None:
            return pa.list_(kind), lambda message: list(read(message))
        each = convert
        return pa.list_(kind), lambda message: [each(value) for value in read(message)]
    if of.has_presence and not (of.message_type is None and of.has_default_value):
        if convert is None:
            return kind, lambda message: read(message) if message.HasField(name) else None
        made = convert
        return kind, lambda message: made(read(message)) if message.HasField(name) else None
    if convert is None:
        return kind, read
    plain = convert
    return kind, lambda message: plain(read(message))


def _repeated(of: FieldDescriptor) -> bool:
    return bool(getattr(of, "is_repeated", None) if hasattr(of, "is_repeated") else of.label == FieldDescriptor.LABEL_REPEATED)


def _value(of: FieldDescriptor, want: Want) -> tuple[pa.DataType, Get | None]:
    """The type of a field's one value, and what makes it of what the message holds; None: it is that."""
    if of.enum_type is not None:
        if want.dtype == "int64":
            return pa.int64(), None
        names = {value.number: value.name for value in of.enum_type.values}
        return pa.string(), lambda number: names.get(number) or str(number)
    if of.message_type is not None:
        return _message(of.message_type, want)
    if of.type == FieldDescriptor.TYPE_STRING:
        return pa.string(), None
    if of.type == FieldDescriptor.TYPE_BYTES:
        return pa.binary(), None
    return _KINDS[of.cpp_type], None


def _message(of: Descriptor, want: Want) -> tuple[pa.DataType, Get]:
    if of.full_name in _WRAPPERS:
        kind, convert = _value(of.fields_by_name["value"], want)
        return kind, (lambda message: message.value) if convert is None else (lambda message: convert(message.value))
    if of.full_name == "google.protobuf.Timestamp" and not want.parts:
        return pa.timestamp("us", "UTC"), lambda message: _fits(message.seconds * 1_000_000 + message.nanos // 1000)
    if of.full_name == "google.protobuf.Duration" and not want.parts:
        if want.dtype == "float64":
            return pa.float64(), lambda message: message.seconds + message.nanos / 1e9
        return pa.int64(), lambda message: _fits(message.seconds * 1_000_000 + message.nanos // 1000)
    if of.full_name == "google.type.Date" and not want.parts:
        return pa.date32(), _date
    if of.full_name in OPEN:
        return open_message(of.full_name, want) or (_OPAQUE, lambda message: {})
    columns = columns_of(of, want.parts)
    if not columns:
        return _OPAQUE, lambda message: {}
    parts = [(column.name, column.get) for column in columns]
    return pa.struct([pa.field(c.name, c.type) for c in columns]), lambda message: {name: get(message) for name, get in parts}


def _map(of: FieldDescriptor, want: Want) -> tuple[pa.DataType, Get]:
    """Of a map, the keys that are asked for."""
    read, entry = attrgetter(of.name), of.message_type
    value, keyed = entry.fields_by_name["value"], entry.fields_by_name["key"]
    found: list[tuple[str, Any, pa.DataType, Get | None]] = []
    for text, part in want.parts.items():
        key = _key(keyed, text)
        if key is not None:
            found.append((text, key, *_value(value, part)))
    if not found:
        return _OPAQUE, lambda message: {}

    def get(message: Any) -> dict[str, Any]:
        pairs, out = read(message), dict[str, Any]()
        for text, key, _, convert in found:
            if key in pairs:  # to ask a map of messages for a key that it lacks would add it
                out[text] = pairs[key] if convert is None else convert(pairs[key])
        return out

    return pa.struct([pa.field(text, kind) for text, _, kind, _ in found]), get


def _key(of: FieldDescriptor, text: str) -> Any:
    if of.type == FieldDescriptor.TYPE_STRING:
        return text
    if of.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text)
    try:
        number = int(text)
    except ValueError:
        return None
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }.get(of.cpp_type, (-_INT64 - 1, _INT64))
    return number if low <= number <= high else None


def _date(message: Any) -> date | None:
    """A whole date; null where its year, month or day is left out."""
    try:
        return date(message.year, message.month, message.day)
    except ValueError:
        return None


def _fits(us: int) -> int:
    """Saturated at the ends of int64: no time that the contract takes is there."""
    return max(-_INT64, min(_INT64, us))
