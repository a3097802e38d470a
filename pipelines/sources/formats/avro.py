"""Decoding Avro records by the schema that they were written with, into values that the contract can judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader

from pipelines.sources.formats.schema_registry import RegisteredSchema, Registry
from transforms.definitions import EventSource

__all__ = ["Decoder", "UnusableSchema", "decoder"]

HEADER_BYTES = 5
MOST_REFERENCES = 100

Decoder = Callable[[bytes], dict[str, Any]]
"""A framed message -> field values. Raises UnicodeDecodeError, or anything else, for bytes that are no such record."""

# Microseconds per unit of Avro's timestamps, as (times, divided by).
_UNITS = {
    f"{local}timestamp-{unit}": scale
    for local in ("", "local-")
    for unit, scale in (("millis", (1000, 1)), ("micros", (1, 1)), ("nanos", (1, 1000)))
}
_SCALED = {name: scale for name, scale in _UNITS.items() if scale != (1, 1)}
_ONE_BYTE_OR_MORE = {"boolean", "int", "long", "float", "double", "bytes", "string", "enum", "array", "map"}


class UnusableSchema(Exception):
    """No record of this schema can be an event; says why."""


def decoder(registered: RegisteredSchema, registry: Registry, source: EventSource) -> Decoder:
    """What decodes the records of a schema for a source. Raises UnusableSchema; RegistryAway and ConfigError as the registry."""
    named: dict[str, Any] = {}
    schema = _load(registered, registry, named, [])
    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error"):
        raise UnusableSchema("it is not the schema of a record")
    if not isinstance(schema.get("fields"), list):
        raise UnusableSchema("it is no Avro schema: a record without fields")
    scales = _plain(schema, source)
    try:
        parsed: Any = parse_schema(schema, named)
    except Exception as error:  # of any kind: the text is somebody else's
        raise UnusableSchema(f"it is no Avro schema: {' '.join(str(error).split())[:200]}") from None
    _least_bytes(parsed, named, [], {})

    def decode(message: bytes) -> dict[str, Any]:
        buffer = BytesIO(message)
        buffer.seek(HEADER_BYTES)
        record: dict[str, Any] = schemaless_reader(buffer, parsed, None)  # type: ignore[assignment]
        if buffer.tell() != len(message):
            raise ValueError(f"{len(message) - buffer.tell()} bytes are left over")
        for name, (times, by) in scales:
            if type(value := record[name]) is int:
                record[name] = value * times // by
        return record

    return decode


def _load(registered: RegisteredSchema, registry: Registry, named: dict[str, Any], seen: list[tuple[str, int]]) -> Any:
    """A schema as JSON; what it refers to is parsed into ``named`` before."""
    if registered.kind != "AVRO":
        raise UnusableSchema(f"it is {registered.kind}, not Avro")
    for reference in registered.references:
        place = (reference.subject, reference.version)
        if place in seen:
            continue
        seen.append(place)
        if len(seen) > MOST_REFERENCES:
            raise UnusableSchema(f"it refers to more than {MOST_REFERENCES} other schemas")
        found = registry.version(*place)
        if found is None:
            raise UnusableSchema(f"it refers to version {reference.version} of {reference.subject}, which the registry does not know")
        inner = _load(found, registry, named, seen)
        try:
            parse_schema(inner, named)
        except Exception as error:
            raise UnusableSchema(f"{reference.subject}, which it refers to, is no Avro schema: {str(error)[:200]}") from None
    try:
        return json.loads(registered.text)
    except (ValueError, RecursionError):
        raise UnusableSchema("its text is not JSON") from None


def _plain(schema: dict[str, Any], source: EventSource) -> list[tuple[str, tuple[int, int]]]:
    """Have timestamps and UUIDs of the source's fields decoded as the numbers and texts that they are; what to scale, by field.

    Other logical types stay: a date or a decimal is none of the contract's types, and is refused as such.
    """
    dtypes = {source.event_time: "timestamp", **{f.name: f.dtype for f in source.fields}}
    scales = []
    for field in schema["fields"]:
        if not isinstance(field, dict):
            continue
        dtype = dtypes.get(str(field.get("name")))
        kinds = field.get("type")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if not isinstance(kind, dict):
                continue
            logical = kind.get("logicalType")
            if dtype == "timestamp" and logical in _UNITS:
                del kind["logicalType"]
                if logical in _SCALED:
                    scales.append((str(field["name"]), _SCALED[logical]))
            elif dtype == "string" and logical == "uuid":
                del kind["logicalType"]
    return scales


def _least_bytes(schema: Any, named: dict[str, Any], within: list[str], done: dict[str, int]) -> int:
    """The fewest bytes that a value takes. Raises UnusableSchema for schemas that a few bytes could keep busy for ever.

    Those are a record within itself, to any depth (the decoder would run out of stack, and take the process with it), and an array
    of values that take no bytes (its length is not bounded by that of the record).
    """
    if isinstance(schema, list):
        for branch in schema:
            _least_bytes(branch, named, within, done)
        return 1
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(kind, (dict, list)):
        return _least_bytes(kind, named, within, done)
    if isinstance(schema, str) and schema in named:
        if schema in within:
            raise UnusableSchema(f"{schema} holds itself, to any depth")
        return done[schema] if schema in done else _least_bytes(named[schema], named, within, done)
    if kind in ("record", "error"):
        name = schema["name"]
        fewest = sum(_least_bytes(f["type"], named, [*within, name], done) for f in schema["fields"])
        done[name] = fewest
        return fewest
    if kind == "array":
        if not _least_bytes(schema["items"], named, within, done):
            raise UnusableSchema("it has an array of values that take no bytes")
    elif kind == "map":
        _least_bytes(schema["values"], named, within, done)
    elif kind == "fixed":
        return int(schema["size"])
    return 1 if kind in _ONE_BYTE_OR_MORE else 0
