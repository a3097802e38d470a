"""A reader's schema of Avro over that of a writer: aliases and defaults, those of enums for words that the reader does not know, too.

The record is still decoded by the schema that it was written with: names play no part in its bytes, so the writer's fields are given the
reader's names beforehand, and what the writer does not have is filled in behind. Types are not converted here: what widens exactly does so
by the contract, and what does not is refused by it instead of being rounded. A field that the reader does not have stays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.sources.formats.avro_times import time_value

__all__ = ["Fill", "filler", "resolved"]

_MOST_DEPTH = 64


@dataclass
class Fill:
    """What a record lacks, by name, and what the records within its fields lack; ``items``: those within a list or a map. Of an enum
    ``symbols``, the reader's, and ``unknown``, what it has for all others."""

    defaults: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Fill] = field(default_factory=dict)
    items: Fill | None = None
    symbols: frozenset[str] = frozenset()
    unknown: str = ""

    def __bool__(self) -> bool:
        return bool(self.defaults or self.fields or self.items or self.symbols)


def resolved(writer: Any, reader: Any, known: Mapping[str, Any]) -> Fill:
    """Rename the fields of a writer's schema (JSON, in place) as the reader has them, and what is then to be filled in. ``known``: named
    types of the reader that are defined elsewhere, by name."""
    enums = {name: each for name, each in _named(writer, {}).items() if each.get("type") == "enum"}
    return _resolve(writer, reader, {**known, **_named(reader, {})}, enums, 0)


def _named(schema: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The named types within a schema, by full name and by the last word of it."""
    if isinstance(schema, list):
        for branch in schema:
            _named(branch, found)
    elif isinstance(schema, dict):
        if name := schema.get("name"):
            full = str(name) if "." in str(name) else f"{schema.get('namespace', '')}.{name}".strip(".")
            found |= {full: schema, str(name).rpartition(".")[2]: schema}
        for inner in (schema.get("type"), schema.get("items"), schema.get("values"), *(f.get("type") for f in _fields(schema))):
            if isinstance(inner, (dict, list)):
                _named(inner, found)
    return found


def _fields(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = schema.get("fields")
    return [f for f in fields if isinstance(f, dict)] if isinstance(fields, list) else []


def _resolve(writer: Any, reader: Any, known: Mapping[str, Any], enums: Mapping[str, Any], depth: int) -> Fill:
    """``enums``: those of the writer, by name, as a schema defines each only once."""
    writer, reader = _one(writer), _one(known.get(reader, reader) if isinstance(reader, str) else reader)
    if isinstance(reader, str):
        reader = known.get(reader, reader)
    if isinstance(writer, str):
        writer = enums.get(writer, writer)
    fill = Fill()
    if depth > _MOST_DEPTH or not isinstance(writer, dict) or not isinstance(reader, dict):
        return fill
    kind = writer.get("type")
    if kind in ("array", "map"):
        part = "items" if kind == "array" else "values"
        inner = _resolve(writer.get(part), reader.get(part), known, enums, depth + 1)
        fill.items = inner or None
        return fill
    if kind == reader.get("type") == "enum" and isinstance(reader.get("default"), str):
        fill.symbols, fill.unknown = frozenset(map(str, reader.get("symbols") or ())), reader["default"]
    if kind not in ("record", "error"):
        return fill
    mine = {str(f.get("name")): f for f in _fields(writer)}
    for want in _fields(reader):
        name = str(want.get("name"))
        written = next((alias for alias in (name, *map(str, want.get("aliases") or ())) if alias in mine), None)
        if written is not None:
            mine[written]["name"] = name
            if inner := _resolve(mine[written].get("type"), want.get("type"), known, enums, depth + 1):
                fill.fields[name] = inner
        elif "default" in want:
            fill.defaults[name] = _default(want.get("type"), want["default"])
    return fill


def _one(schema: Any) -> Any:
    """Of a union the one branch beside null that may hold fields; anything else as it is."""
    if not isinstance(schema, list):
        inner = schema.get("type") if isinstance(schema, dict) else None
        return inner if isinstance(inner, dict) else schema
    open_ = [branch for branch in schema if branch != "null"]
    return _one(open_[0]) if len(open_) == 1 else None


def _default(kind: Any, value: Any) -> Any:
    """A default's JSON as a value: of a union, that of its first branch; bytes are written as text, a character per byte."""
    kind = kind[0] if isinstance(kind, list) and kind else kind
    name = kind.get("type") if isinstance(kind, dict) else kind
    if name in ("bytes", "fixed") and isinstance(value, str):
        return value.encode("latin-1", "replace")
    if isinstance(kind, dict) and type(value) is int:
        return time_value(str(name), str(kind.get("logicalType")), value)
    return value


def filler(fill: Fill) -> Callable[[dict[str, Any]], None] | None:
    """What puts the defaults into a decoded record; None: there are none."""
    if not fill:
        return None

    def put(value: Any, by: Fill) -> Any:
        if isinstance(value, list):
            return [put(each, by.items) for each in value] if by.items else value
        if isinstance(value, dict):
            if by.items:
                value |= {key: put(each, by.items) for key, each in value.items()}
            for name, default in by.defaults.items():
                value[name] = copy.deepcopy(default) if isinstance(default, (dict, list)) else default
            for name, inner in by.fields.items():
                if name in value:
                    value[name] = put(value[name], inner)
        return by.unknown if by.symbols and isinstance(value, str) and value not in by.symbols else value

    def filled(record: dict[str, Any]) -> None:
        put(record, fill)

    return filled
