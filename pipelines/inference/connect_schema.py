"""What Kafka Connect says of members that look like numbers and texts: in the schema that its JSON converter writes beside each record,
and in names that its Avro converter adds to schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.parsing import Date, Decimal, Epoch, Parse

__all__ = ["ReadAs", "is_described", "told_by_avro", "told_types"]

Steps = tuple[Any, ...]
MOST_DEPTH = 16
_CONNECT, _DEBEZIUM = "org.apache.kafka.connect.data.", "io.debezium.time."


@dataclass(frozen=True)
class ReadAs:
    """How a member is read: a field's dtype and ``parse``, and that as a definition has it."""

    dtype: str
    parse: Parse
    text: str


_DAYS = ReadAs("timestamp", Date(), "Date()")
_MOMENTS = {unit: ReadAs("timestamp", Epoch(unit), f'Epoch("{unit}")') for unit in ("ms", "us", "ns")}
_NAMED = {
    f"{_CONNECT}Date": _DAYS, f"{_DEBEZIUM}Date": _DAYS, f"{_CONNECT}Timestamp": _MOMENTS["ms"], f"{_DEBEZIUM}Timestamp": _MOMENTS["ms"],
    f"{_DEBEZIUM}MicroTimestamp": _MOMENTS["us"], f"{_DEBEZIUM}NanoTimestamp": _MOMENTS["ns"],
}  # fmt: skip


def is_described(record: Mapping[str, Any]) -> bool:
    """Whether a record says of what type it is, and then what it holds."""
    return record.keys() == {"schema", "payload"} and isinstance(record["schema"], Mapping) and "type" in record["schema"]


def told_types(records: Sequence[Mapping[str, Any]]) -> dict[Steps, ReadAs]:
    """How members of described records are read, by their place; those of which schemas say different things are left out."""
    seen: list[Any] = []
    found: dict[Steps, set[ReadAs]] = {}
    for record in records:
        if is_described(record) and record["schema"] not in seen and len(seen) < MOST_DEPTH:
            seen.append(record["schema"])
            _walk(record["schema"], ("payload",), found)
    return _agreed(found)


def told_by_avro(schemas: Iterable[tuple[Any, Mapping[str, Any]]], columns: Iterable[Steps]) -> dict[Steps, ReadAs]:
    """The same of records in Avro: of their schemas, as fastavro parsed them, and the named ones that these refer to. Only of the places of
    ``columns``: a type that others name, or that names itself, stands at any number of places."""
    wanted = {steps[:n] for steps in columns for n in range(len(steps) + 1)}
    found: dict[Steps, set[ReadAs]] = {}
    for schema, named in schemas:
        _walk_avro(schema, named, (), wanted, found)
    return _agreed(found)


def _agreed(found: Mapping[Steps, set[ReadAs]]) -> dict[Steps, ReadAs]:
    return {steps: next(iter(each)) for steps, each in found.items() if len(each) == 1}


def _walk_avro(schema: Any, named: Mapping[str, Any], at: Steps, wanted: set[Steps], found: dict[Steps, set[ReadAs]]) -> None:
    if isinstance(schema, list):
        schema = next((each for each in schema if each != "null"), None) if len(schema) <= 2 else None
    if isinstance(schema, str):
        schema = named.get(schema)
    if not isinstance(schema, Mapping):
        return
    name = schema.get("connect.name")
    if isinstance(name, str) and name in _NAMED and "logicalType" not in schema:
        found.setdefault(at, set()).add(_NAMED[name])
    for field in schema.get("fields", ()):
        if (steps := (*at, field["name"])) in wanted:
            _walk_avro(field["type"], named, steps, wanted, found)


def _walk(schema: Any, at: Steps, found: dict[Steps, set[ReadAs]]) -> None:
    if not isinstance(schema, Mapping) or len(at) > MOST_DEPTH:
        return
    told = _read_as(schema)
    if told is not None:
        found.setdefault(at, set()).add(told)
    fields = schema.get("fields")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, Mapping) and isinstance(field.get("field"), str):
            _walk(field, (*at, field["field"]), found)


def _read_as(schema: Mapping[str, Any]) -> ReadAs | None:
    name = schema.get("name")
    if name == f"{_CONNECT}Decimal":
        parameters = schema.get("parameters")
        scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
        if isinstance(scale, str) and scale.isdecimal() and int(scale) <= 15:
            return ReadAs("float64", Decimal(scale=int(scale), unscaled=True), f"Decimal(scale={int(scale)}, unscaled=True)")
        return None
    return _NAMED.get(name) if isinstance(name, str) else None
