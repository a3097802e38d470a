"""``google.protobuf.Any``: a message packed into another, beside the name of its type. A path goes into it:

* ``["payload", "shop.Order", "id"]``: of the type with this full name; null where another is packed, whether it is known or not.
* ``payload.id``: of whichever type is packed; null where that has no such field. A type that none of the schema's files has is
  ``unknown_schema``: nobody knows what the field is there.
* ``payload.type_url`` and ``payload.value`` are what the Any has itself; ``["payload", "@type"]`` is the former, as in Protobuf's JSON.

Types are those of the files of the schema: of a file of descriptors all that are in it, of a registry the schema and its references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import pyarrow as pa
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from pipelines.sources.formats.protobuf_values import OtherKind
from transforms.json_payload import Refused
from transforms.reasons import MALFORMED, UNKNOWN_SCHEMA

__all__ = ["Types", "any_message"]

Get = Callable[[Any], Any]


class Types(Protocol):
    """The messages that may be packed."""

    def named(self, name: str) -> Descriptor | None:
        """The message of this full name, if there is one."""

    def messages(self) -> Iterable[Descriptor]:
        """All of the schema's own files."""


def any_message(
    own: list[Any],
    parts: Mapping[str, Any],
    types: Types,
    columns_of: Callable[[Descriptor, Mapping[str, Any]], list[Any]],
    message: Callable[[Descriptor, Any], tuple[pa.DataType, Get | None, Get | None]],
) -> tuple[pa.DataType, Get, Get]:
    """The type of what is read from an Any, and what makes it, strictly and of whatever kind it is. ``own`` are columns of the Any itself;
    ``columns_of`` gives those of a message, ``message`` what is made of one as a whole. Both makers raise Refused: what is packed is of a
    type that is not known, or none of its type."""
    named = {name: (of, message(of, want)) for name, want in parts.items() if (of := types.named(want.name or name)) is not None}
    taken = {column.name for column in own} | set(named) | {"@type"}
    kinds: dict[str, pa.DataType] = {}
    by_type: dict[str, list[Any]] = {}
    asked = {name: want for name, want in parts.items() if name not in taken}
    for of in types.messages():
        by_type[of.full_name] = columns = columns_of(of, asked)
        for column in columns:
            kinds.setdefault(column.name, column.type)

    def reading(loosely: bool) -> Get:
        def get(packed: Any) -> dict[str, Any]:
            out: dict[str, Any] = {column.name: column.get(packed) for column in own}
            name = packed.type_url.rpartition("/")[2]
            if "@type" in parts:
                out["@type"] = packed.type_url
            if not name or not (asked or name in named):
                return out
            inside = _unpacked(packed, name, types)
            if name in named:
                kind, convert, whatever = named[name][1]
                if not loosely:
                    out[name] = inside if convert is None else convert(inside)
                else:
                    made = pa.array([inside if convert is None else convert(inside)], kind).to_pylist()[0] if whatever is None else None
                    out[name] = made if whatever is None else whatever(inside)
            for column in by_type.get(name, ()):
                if loosely:
                    out[column.name] = column.loosely(inside)
                elif column.type != kinds[column.name]:
                    raise OtherKind(name)
                else:
                    out[column.name] = column.get(inside)
            return out

        return get

    fields = [(column.name, column.type) for column in own] + [(name, kind) for name, (_, (kind, _, _)) in named.items()]
    if "@type" in parts:
        fields.append(("@type", pa.string()))
    return pa.struct([*fields, *kinds.items()]), reading(False), reading(True)


def _unpacked(packed: Any, name: str, types: Types) -> Any:
    """The message inside. Raises Refused."""
    of = types.named(name)
    if of is None:
        raise Refused(UNKNOWN_SCHEMA, f"a google.protobuf.Any packs a {name[:200]}, which none of the schema's files has")
    try:
        return GetMessageClass(of).FromString(packed.value)
    except DecodeError:
        raise Refused(MALFORMED, f"a google.protobuf.Any packs no {name[:200]}, as its type_url says: its bytes are none") from None
