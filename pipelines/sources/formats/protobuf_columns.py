"""Messages of Protobuf as Arrow columns: those that a source's fields name, and of nested messages no more than they need.

What a value becomes:

* numbers, booleans, text and bytes are themselves; unsigned 64 bits stay unsigned, so the contract says what does not fit.
* An enum is the name of its value (of aliases the first), or its number where the field is an int64; a number that has no name is its
  decimal text.
* A field that its message does not have is null where Protobuf can tell (``optional``, messages, ``oneof``, proto2 without a default),
  else the type's zero, as for every reader of proto3.
* ``google.protobuf``: Timestamp is a timestamp (nanoseconds floored to microseconds), Duration whole microseconds (seconds for a float64),
  wrappers are what they hold, or null; ``google.type.Date`` is a date. Any other message is a struct, such as ``google.type.Decimal`` with
  its text in ``value``. Struct, Value and ListValue are the JSON that they hold (:mod:`~pipelines.sources.formats.protobuf_values`): a path
  goes through the keys of a Struct. A path goes into the message that an ``Any`` packs, see
  :mod:`~pipelines.sources.formats.protobuf_any`.
* ``repeated`` is a list, a map a struct of those of its keys that are asked for. So is a list of entries (messages of a text ``key`` and a
  ``value``, or as :func:`transforms.nested.entry_names` has them) of which keys are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from pipelines.sources.formats.protobuf_any import Types, any_message
from pipelines.sources.formats.protobuf_values import OPEN, named, open_message, plain
from pipelines.sources.formats.protobuf_wants import Want
from transforms.errors import ConfigError
from transforms.nested import entry_names

__all__ = ["Column", "columns_of", "entry_of", "enum_names", "everything", "is_map", "is_repeated"]

Get = Callable[[Any], Any]
"""A message -> the value of one of its fields, None where it is null. A text of proto2 may be no UTF-8: bytes, or UnicodeDecodeError."""
Made = tuple[pa.DataType, Get | None, Get | None]
"""A type of Arrow, what makes its values (None: they are that already), and of values that may be of another kind what makes them as they
are (None: none may)."""

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
"""A message that is read as a whole, which a field of the contract cannot be."""


@dataclass(frozen=True)
class Column:
    """One column of the rows: how to read it from a message, and its type in Arrow. Where ``whatever`` is given ``get`` may raise
    OtherKind, and Refused; ``whatever`` gives what is there."""

    name: str
    type: pa.DataType
    get: Get
    whatever: Get | None = None

    def loosely(self, message: Any) -> Any:
        """The value as a record of its own has it, of whatever kind it is."""
        return pa.array([self.get(message)], self.type).to_pylist()[0] if self.whatever is None else self.whatever(message)


def columns_of(message: Descriptor, asked: Mapping[str, Want], types: Types | None = None) -> list[Column]:
    """The columns for the fields that a message has; names that it does not have are left out. ``types``: what may be packed; None: packed
    messages are not looked into."""
    found = ((name, of, want) for name, want in asked.items() if (of := message.fields_by_name.get(want.name or name)) is not None)
    return [Column(name, *_field(of, want, types)) for name, of, want in found]


def everything(message: Descriptor, depth: int = 4, most: int = 2_000) -> dict[str, Want]:
    """All fields of a message and of those within, ``depth`` deep; of maps and Structs none, whose keys are unknown. The first ``most``
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
        out[of.name] = Want(items=want) if is_repeated(of) else want
    return out


def _field(of: FieldDescriptor, want: Want, types: Types | None) -> tuple[pa.DataType, Get, Get | None]:
    if is_map(of):
        return _map(of, want, types)
    if not is_repeated(of):
        kind, convert, whatever = _value(of, want, types)
    elif want.parts and want.items is None and entry_of(of) is not None:
        return _map(of, want, types)
    else:
        items = want.items or (_no_entry(of) if want.parts else Want())
        kind, convert, whatever = _value(of, items, types)
        kind = pa.list_(kind)
    return kind, _reading(of, convert), None if whatever is None else _reading(of, whatever)


def _no_entry(of: FieldDescriptor) -> Want:
    """What shows of the elements of a list that is read by keys, and of which :func:`entry_of` makes no map, that they are no entries;
    where a key or value is left out, that nothing stands at any key."""
    fields = {} if of.message_type is None else dict(of.message_type.fields_by_name)
    names = entry_names(fields)
    if names is None or any(fields[name].enum_type or fields[name].message_type for name in names[:1] if name in fields):
        return Want()
    return Want(parts={name: Want() for name in names if name in fields})


def enum_names(of: EnumDescriptor) -> dict[int, str]:
    """The names of an enum's numbers, of aliases the first, as all of Protobuf prints them."""
    return {value.number: value.name for value in list(of.values)[::-1]}


def is_map(of: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return of.message_type is not None and bool(of.message_type.GetOptions().map_entry)


def entry_of(of: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """Key and value of a map's entries, or of a list's elements that are such: each of a text as key and a value. None: these are none."""
    parts = {} if of.message_type is None else dict(of.message_type.fields_by_name)
    names = ("key", "value") if is_map(of) else entry_names(parts)
    if names is None or not parts.keys() >= {*names}:
        return None
    key, value = (parts[name] for name in names)
    return (key, value) if is_map(of) or (key.type == FieldDescriptor.TYPE_STRING and not is_repeated(key)) else None


def _asks(of: str, want: Want, dtype: str) -> bool:
    """Whether a value whose type depends on its use is read as ``dtype``. Raises ConfigError where it is read as several."""
    if dtype in want.asked and len(want.asked) > 1:
        one, other = want.asked[dtype], next(name for kind, name in want.asked.items() if kind != dtype)
        raise ConfigError(
            f"the fields {one!r} and {other!r} read one value of Protobuf, {of}, as {' and as '.join(want.asked)}; give both one dtype"
        )
    return want.dtype == dtype


def _reading(of: FieldDescriptor, convert: Get | None) -> Get:
    """What reads a field of a message."""
    read, name = attrgetter(of.name), of.name
    if is_repeated(of):
        if convert is None:
            return lambda message: list(read(message))
        each = convert
        return lambda message: [each(value) for value in read(message)]
    if of.has_presence and not (of.message_type is None and of.has_default_value):
        if convert is None:
            return lambda message: read(message) if message.HasField(name) else None
        made = convert
        return lambda message: made(read(message)) if message.HasField(name) else None
    if convert is None:
        return read
    plainly = convert
    return lambda message: plainly(read(message))


def is_repeated(of: FieldDescriptor) -> bool:
    """Whether a field has any number of values."""
    return bool(getattr(of, "is_repeated", None) if hasattr(of, "is_repeated") else of.label == FieldDescriptor.LABEL_REPEATED)


def _value(of: FieldDescriptor, want: Want, types: Types | None) -> Made:
    """What is made of a field's one value."""
    if of.enum_type is not None:
        if _asks(of.enum_type.full_name, want, "int64"):
            return pa.int64(), None, None
        names = enum_names(of.enum_type)
        return pa.string(), lambda number: names.get(number) or str(number), None
    if of.message_type is not None:
        return _message(of.message_type, want, types)
    if of.type == FieldDescriptor.TYPE_STRING:
        return pa.string(), None, None
    if of.type == FieldDescriptor.TYPE_BYTES:
        return pa.binary(), None, None
    return _KINDS[of.cpp_type], None, None


def _message(of: Descriptor, want: Want, types: Types | None) -> Made:
    if of.full_name in _WRAPPERS:
        kind, convert, _ = _value(of.fields_by_name["value"], want, types)
        return kind, (lambda message: message.value) if convert is None else (lambda message: convert(message.value)), None
    if of.full_name == "google.protobuf.Timestamp" and not want.parts:
        return pa.timestamp("us", "UTC"), lambda message: _fits(message.seconds * 1_000_000 + message.nanos // 1000), None
    if of.full_name == "google.protobuf.Duration" and not want.parts:
        if _asks(of.full_name, want, "float64"):
            return pa.float64(), lambda message: message.seconds + message.nanos / 1e9, None
        return pa.int64(), lambda message: _fits(message.seconds * 1_000_000 + message.nanos // 1000), None
    if of.full_name == "google.type.Date" and not want.parts:
        return pa.date32(), _date, None
    if of.full_name in OPEN:
        return *(open_message(of.full_name, want) or (_OPAQUE, lambda message: {})), lambda message: named(plain(message), want)
    if of.full_name == "google.protobuf.Any" and types is not None and want.parts:
        own = columns_of(of, want.parts)
        return any_message(own, want.parts, types, lambda o, w: columns_of(o, w, types), lambda o, w: _message(o, w, types))
    columns = columns_of(of, want.parts, types)
    if not columns:
        return _OPAQUE, lambda message: {}, None
    parts = [(column.name, column.get) for column in columns]
    loose = any(column.whatever is not None for column in columns)
    return (
        pa.struct([pa.field(c.name, c.type) for c in columns]),
        lambda message: {name: get(message) for name, get in parts},
        (lambda message: {c.name: c.loosely(message) for c in columns}) if loose else None,
    )


def _map(of: FieldDescriptor, want: Want, types: Types | None) -> tuple[pa.DataType, Get, Get | None]:
    """Of a map, or of a list of entries, the keys that are read; each has its own type."""
    entry = entry_of(of)
    assert entry is not None
    keyed, value = entry
    real = is_map(of)
    read = attrgetter(of.name) if real else _by_key(of, keyed)
    found: list[tuple[str, Any, Made]] = []
    for text, part in want.parts.items():
        key = _key(keyed, part.name or text)
        if key is not None:
            found.append((text, key, _value(value, part, types) if real else _field(value, part, types)))
    if not found:
        return _OPAQUE, lambda message: {}, None

    def reading(loosely: bool) -> Get:
        def get(message: Any) -> dict[str, Any]:
            pairs, out = read(message), dict[str, Any]()
            for text, key, (kind, convert, whatever) in found:
                if key in pairs:  # to ask a map of messages for a key that it lacks would add it
                    made = pairs[key] if convert is None or (loosely and whatever is not None) else convert(pairs[key])
                    if loosely:
                        made = pa.array([made], kind).to_pylist()[0] if whatever is None else whatever(pairs[key])
                    out[text] = made
            return out

        return get

    loose = any(whatever is not None for _, _, (_, _, whatever) in found)
    return pa.struct([pa.field(text, kind) for text, _, (kind, _, _) in found]), reading(False), reading(True) if loose else None


def _by_key(of: FieldDescriptor, keyed: FieldDescriptor) -> Get:
    """What reads a list of entries as a mapping: key -> the last entry that has it."""
    entries, key = attrgetter(of.name), _reading(keyed, None)

    def read(message: Any) -> dict[Any, Any]:
        return {k.decode() if isinstance(k := key(entry), bytes) else k: entry for entry in entries(message)}

    return read


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
