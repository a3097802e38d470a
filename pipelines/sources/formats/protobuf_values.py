"""``google.protobuf.Struct``, ``Value`` and ``ListValue``: JSON inside of a message, read as the fields that ask for its parts.

A value has the kind that its record gives it, and a column has one: what a field is declared as decides. A record with a value of another
kind (:class:`OtherKind`) is judged by itself, with what :func:`plain` makes of it, as the same record of JSON is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa

__all__ = ["OPEN", "OtherKind", "named", "open_message", "plain"]

Get = Callable[[Any], Any]
OPEN = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))
_EXACT = 2.0**53
_TEXT, _NUMBER, _BOOL, _STRUCT, _LIST = "string_value", "number_value", "bool_value", "struct_value", "list_value"


class OtherKind(ValueError):
    """A value that is not of the kind that its field is declared as."""


def plain(message: Any) -> Any:
    """What a message of :data:`OPEN` holds, as JSON is read: numbers that are whole are integers."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Struct":
        return {key: plain(value) for key, value in message.fields.items()}
    if name == "google.protobuf.ListValue":
        return [plain(value) for value in message.values]
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    value = getattr(message, kind)
    if kind in (_STRUCT, _LIST):
        return plain(value)
    return int(value) if kind == _NUMBER and value.is_integer() and abs(value) <= _EXACT else value


def named(value: Any, want: Want) -> Any:
    """A value of :func:`plain` (which is changed) with its parts under the names that ask for them, too."""
    if isinstance(value, dict):
        for name, part in want.parts.items():
            real = part.name or name
            if real in value:
                value[name] = named(value[real], part)
    elif isinstance(value, list) and want.items is not None:
        for each in value:
            named(each, want.items)
    return value


class Want(Protocol):
    """What is read from a value, see :class:`~pipelines.sources.formats.protobuf_columns.Want`."""

    @property
    def dtype(self) -> str | None: ...
    @property
    def parsed(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, Any]: ...
    @property
    def items(self) -> Any: ...
    @property
    def name(self) -> str: ...


def open_message(name: str, want: Want) -> tuple[pa.DataType, Get] | None:
    """The type of what is read from a message of :data:`OPEN`, and what makes it; None where nothing of it is. The maker raises
    :class:`OtherKind`."""
    if name == "google.protobuf.Struct":
        return _struct(want.parts) if want.parts else None
    if name == "google.protobuf.ListValue":
        return _list(want.items) if want.items is not None else None
    return _value(want)


def _value(want: Want) -> tuple[pa.DataType, Get] | None:
    if want.parts:
        return _of_kind(_STRUCT, _struct(want.parts))
    if want.items is not None:
        return _of_kind(_LIST, _list(want.items))
    if want.dtype is None:
        return None
    if want.dtype == "bool":
        return _of_kind(_BOOL, (pa.bool_(), lambda value: value))
    if want.dtype == "int64" and not want.parsed:
        return _of_kind(_NUMBER, (pa.int64(), _whole))
    if (want.dtype == "float64" and not want.parsed) or want.parsed == "Epoch":
        return _of_kind(_NUMBER, (pa.float64(), lambda value: value))
    return _of_kind(_TEXT, (pa.string(), lambda value: value))


def _of_kind(kind: str, made: tuple[pa.DataType, Get] | None) -> tuple[pa.DataType, Get] | None:
    if made is None:
        return None
    convert = made[1]

    def get(message: Any) -> Any:
        found = message.WhichOneof("kind")
        if found is None or found == "null_value":
            return None
        if found != kind:
            raise OtherKind(found)
        return convert(getattr(message, kind))

    return made[0], get


def _whole(value: float) -> int:
    if not value.is_integer() or abs(value) > _EXACT:
        raise OtherKind(repr(value))
    return int(value)


def _struct(parts: Mapping[str, Want]) -> tuple[pa.DataType, Get] | None:
    found = [(name, want.name or name, made) for name, want in parts.items() if (made := _value(want)) is not None]
    if not found:
        return None

    def get(message: Any) -> dict[str, Any]:
        fields, out = message.fields, dict[str, Any]()
        for name, key, (_, make) in found:
            if key in fields:  # to ask for a key that it lacks would add it
                out[name] = make(fields[key])
        return out

    return pa.struct([pa.field(name, kind) for name, _, (kind, _) in found]), get


def _list(want: Want) -> tuple[pa.DataType, Get] | None:
    made = _value(want)
    if made is None:
        return None
    kind, make = made
    return pa.list_(kind), lambda message: [make(value) for value in message.values]
