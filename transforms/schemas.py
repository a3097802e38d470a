"""Schemas for others, derived from the definitions: TFMD for TensorFlow tools, JSON Schema and Avro for producers.

Producers' schemas describe an event as :mod:`transforms.contract` accepts it; the contract stays the judge, for neither
language can say everything (Avro has no ranges; JSON Schema cannot refuse NaN, which is no JSON anyway).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from transforms.definitions import EventSource, FeatureGroup, Field
from transforms.fields import LIST_TYPES, MAX_ELEMENTS
from transforms.instants import TIME_TEXT

__all__ = ["avro_schema", "group_schema", "json_schema", "source_schema", "tfmd_schema"]

_INT64 = 2**63


def _tfmd_type(kind: pa.DataType) -> int:
    if pa.types.is_floating(kind):
        return int(schema_pb2.FLOAT)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return int(schema_pb2.BYTES)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        return int(schema_pb2.INT)
    raise TypeError(f"an Arrow column of type {kind} has no TFMD type; use numbers, strings, booleans, timestamps or lists of them")


def tfmd_schema(schema: pa.Schema, fields: Iterable[Field] = ()) -> schema_pb2.Schema:
    """The TFMD schema of an Arrow schema, column by column.

    A column that is not nullable is present in every row and has the shape [1]; a nullable one may be missing; a list is
    present with any number of values. Booleans and timestamps (microseconds) are INT. ``fields`` adds ranges and domains.
    Raises TypeError for a column type that TFMD does not know.
    """
    known = {f.name: f for f in fields}
    out = schema_pb2.Schema()
    for column in schema:
        is_list = pa.types.is_list(column.type)
        inner = column.type.value_type if is_list else column.type
        feature = out.feature.add(name=column.name, type=_tfmd_type(inner))
        if is_list:
            length = known[column.name].length if column.name in known else None
            feature.value_count.min = length or 0
            if length is not None:
                feature.value_count.max = length
        elif column.nullable:
            feature.value_count.min = feature.value_count.max = 1
            feature.presence.min_count = 0
        else:
            feature.shape.dim.add(size=1)
            feature.presence.min_fraction = 1.0
            feature.presence.min_count = 1
        if pa.types.is_boolean(inner):
            feature.bool_domain.SetInParent()
        if column.name in known:
            _add_domain(feature, known[column.name])
    return out


def _add_domain(feature: schema_pb2.Feature, f: Field) -> None:
    if f.description:
        feature.annotation.comment.append(f.description)
    if f.dtype == "string" and f.domain is not None:
        feature.string_domain.name = f.name
        feature.string_domain.value.extend(f.domain)
    elif f.dtype == "int64" and (f.domain is not None or f.min is not None or f.max is not None):
        low, high = _int_range(f)
        feature.int_domain.min = max(low, -_INT64)
        feature.int_domain.max = min(high, _INT64 - 1)
    elif f.dtype == "float64":
        feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        if f.min is not None:
            feature.float_domain.min = f.min
        if f.max is not None:
            feature.float_domain.max = f.max


def _int_range(f: Field) -> tuple[int, int]:
    """The least and greatest whole number that the field may hold."""
    low = -_INT64 if f.min is None else int(-(-f.min // 1))
    high = _INT64 - 1 if f.max is None else int(f.max // 1)
    if f.domain is not None:
        low, high = max(low, min(f.domain)), min(high, max(f.domain))
    return low, high


def source_schema(source: EventSource) -> schema_pb2.Schema:
    """The TFMD schema of a source's valid events, with ranges and domains."""
    return tfmd_schema(source.arrow_schema, source.fields)


def group_schema(group: FeatureGroup) -> schema_pb2.Schema:
    """The TFMD schema of a group's aggregates: the inputs of its preprocessing function."""
    return tfmd_schema(pa.schema([f.arrow_field for f in group.features]))


_JSON: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int64": {"type": "integer", "minimum": -_INT64, "maximum": _INT64 - 1},
    "float64": {"type": "number"},
    "bool": {"type": "boolean"},
}


def _json_time(least: int | None) -> dict[str, Any]:
    """A timestamp in JSON: whole microseconds, or ISO 8601 text with a zone."""
    number: dict[str, Any] = {"type": "integer"}
    if least is not None:
        number["minimum"] = least
    return {"anyOf": [number, {"type": "string", "pattern": f"^{TIME_TEXT}$"}]}


def _json_type(f: Field) -> dict[str, Any]:
    if f.dtype == "timestamp":
        return _json_time(None)
    if f.dtype in LIST_TYPES:
        limits = {"maxItems": MAX_ELEMENTS} if f.length is None else {"minItems": f.length, "maxItems": f.length}
        return {"type": "array", "items": _JSON[f.dtype[5:-1]], **limits}
    return dict(_JSON[f.dtype or ""])


def json_schema(source: EventSource) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one event as a JSON object. Further keys are allowed: the contract ignores them."""
    when = _json_time(1)
    when["description"] = "Event time: microseconds since 1970 in UTC, or ISO 8601 text with a zone."
    properties: dict[str, Any] = {source.event_time: when}
    for f in source.fields:
        entry = _json_type(f)
        if f.min is not None:
            entry["minimum"] = max(f.min, entry.get("minimum", f.min))
        if f.max is not None:
            entry["maximum"] = min(f.max, entry.get("maximum", f.max))
        if f.domain is not None:
            entry["enum"] = list(f.domain)
        text = _describe(f)
        if not f.required:
            entry = {"anyOf": [entry, {"type": "null"}]}
        if text:
            entry["description"] = text
        properties[f.name] = entry
    out: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": source.name,
        "type": "object",
        "properties": properties,
        "required": [source.event_time, *(f.name for f in source.fields if f.required)],
        "additionalProperties": True,
    }
    if source.description:
        out["description"] = source.description
    return out


_AVRO: dict[str, Any] = {
    "string": "string",
    "int64": "long",
    "float64": "double",
    "bool": "boolean",
    "timestamp": {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(source: EventSource) -> dict[str, Any]:
    """The Avro schema (a record) of one event; optional fields are a union with null, null by default."""
    fields: list[dict[str, Any]] = [{"name": source.event_time, "type": _AVRO["timestamp"], "doc": "Event time, UTC."}]
    for f in source.fields:
        dtype = f.dtype or ""
        kind = {"type": "array", "items": _AVRO[dtype[5:-1]]} if dtype in LIST_TYPES else _AVRO[dtype]
        entry: dict[str, Any] = {"name": f.name, "type": kind} if f.required else {"name": f.name, "type": ["null", kind], "default": None}
        if text := _describe(f):
            entry["doc"] = text
        fields.append(entry)
    out: dict[str, Any] = {"type": "record", "name": source.name, "namespace": "tandem", "fields": fields}
    if source.description:
        out["doc"] = source.description
    return out


def _describe(f: Field) -> str:
    return " ".join(part for part in (f.description, f"[{f.unit}]" if f.unit else "") if part)
