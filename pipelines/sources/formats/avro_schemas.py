"""Avro's schemas from a registry, with those that they refer to."""

from __future__ import annotations

import json
from typing import Any

from fastavro import parse_schema

from pipelines.sources.formats.avro_times import with_times
from pipelines.sources.formats.avro_weight import UnusableSchema, checked
from pipelines.sources.formats.schema_registry import RegisteredSchema, Registry

__all__ = ["load_schema", "written_by"]

MOST_REFERENCES = 100


def load_schema(registered: RegisteredSchema, registry: Registry, named: dict[str, Any], seen: list[tuple[str, int]]) -> Any:
    """A schema as JSON; what it refers to is parsed into ``named`` before. ``seen`` are the (subject, version) of those that were. Raises
    UnusableSchema; RegistryAway and ConfigError as the registry."""
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
        inner = load_schema(found, registry, named, seen)
        try:
            parse_schema(with_times(inner), named)
        except Exception as error:
            raise UnusableSchema(f"{reference.subject}, which it refers to, is not an Avro schema: {str(error)[:200]}") from None
    try:
        return json.loads(registered.text)
    except (ValueError, RecursionError):
        raise UnusableSchema("its text is not JSON") from None


def written_by(number: int, registry: Registry, member: str | None = None) -> Any:
    """The schema of an id, as fastavro takes it; None where the registry knows none. With a ``member``, that of a record of this one field,
    whose bytes are the same: keys need be no records. Raises UnusableSchema, RegistryAway, ConfigError."""
    found, named = registry.schema(number), dict[str, Any]()
    if found is None:
        return None
    try:
        schema = with_times(load_schema(found, registry, named, []))
        if member is not None:
            schema = {"type": "record", "name": "tandem.One", "fields": [{"name": member, "type": schema}]}
        parsed = parse_schema(schema, named)
        checked(parsed, named)
        return parsed
    except UnusableSchema:
        raise
    except Exception as error:  # of any kind: the text is somebody else's
        raise UnusableSchema(f"it is not an Avro schema: {' '.join(str(error).split())[:200]}") from None
