"""Keys of records in a schema registry's framing (Avro, Protobuf, JSON Schema), as Python has what they hold.

What a key is, its schema says, whatever the format of its record's payload: Kafka Connect and Debezium have a converter for each of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.avro_weight import UnusableSchema
from pipelines.sources.formats.framing import HEADER
from pipelines.sources.formats.protobuf_wants import wanted_of_keys
from pipelines.sources.formats.schema_registry import RegisteredSchema, Registry, registry_of
from transforms.definitions import EventSource
from transforms.json_payload import Refused, parse_json
from transforms.reasons import INVALID_UTF8, MALFORMED, UNKNOWN_SCHEMA

__all__ = ["RecordKeys"]

MOST_KEPT = 4_096
"""Keys come again: so many are not read anew."""
LONGEST_KEPT = 256
"""Bytes of a key that is kept. Whoever writes to the topic chooses them, and what is kept is in memory until others come."""

Read = Callable[[bytes], Any]
"""A key with its framing -> what it holds. Raises Refused."""


class RecordKeys:
    """Reads the keys of one source's records by ``kafka.schema_registry``; requested when the first key needs one. Without a
    registry a key in JSON is read all the same, as the schema of such a record is not looked at either."""

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        self._source = source
        self._registry: Registry | None = registry_of(kafka) if kafka.schema_registry else None
        self._known: dict[int, Read | str] = {}
        self._kept = lru_cache(MOST_KEPT)(self._opened)

    def opened(self, key: bytes) -> Any:
        """What a key holds: an object, or one value. Raises Refused; RegistryAway and ConfigError as the registry."""
        return self._kept(key) if len(key) <= LONGEST_KEPT else self._opened(key)

    def _opened(self, key: bytes) -> Any:
        number = HEADER.unpack_from(key)[1]
        if self._registry is None:
            try:
                return _json(key)
            except Refused:
                why = "is in a schema registry's framing; set kafka.schema_registry, which says how it is read"
                raise Refused(UNKNOWN_SCHEMA, why) from None
        read = self._known.get(number) or self._find(number, self._registry)
        if isinstance(read, str):
            raise Refused(UNKNOWN_SCHEMA, f"is of {read}")
        return read(key)

    def _find(self, number: int, registry: Registry) -> Read | str:
        """What reads the keys of a schema, or why nothing does. An unknown id is requested again later: it may be registered soon."""
        found = registry.schema(number)
        if found is None:
            return f"schema {number}, which is not known to the registry"
        made = self._known[number] = self._reader(number, found, registry)
        return made

    def _reader(self, number: int, found: RegisteredSchema, registry: Registry) -> Read | str:
        if found.kind == "JSON":
            return _json
        return _avro(number, registry) if found.kind == "AVRO" else _protobuf(number, registry, self._source)


def _json(key: bytes) -> Any:
    body = key[HEADER.size :]
    if body[:1] == b"{":
        return parse_json(body)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(MALFORMED, "is no JSON behind its schema's id") from None
    if isinstance(found, str) and not found.isascii():
        _check_text(found)
    return found


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(INVALID_UTF8, "is not valid UTF-8") from None


def _avro(number: int, registry: Registry) -> Read | str:
    from fastavro import schemaless_reader

    from pipelines.sources.formats.avro_schemas import written_by

    try:
        schema = written_by(number, registry, member="key")
    except UnusableSchema as error:
        return f"schema {number}: {error}"

    def read(key: bytes) -> Any:
        buffer = BytesIO(key)
        buffer.seek(HEADER.size)
        try:
            found: Any = schemaless_reader(buffer, schema, None)
        except UnicodeDecodeError:
            raise Refused(INVALID_UTF8, "is not valid UTF-8") from None
        except Exception:  # whatever random bytes do to the decoder, it is the key that is bad
            raise Refused(MALFORMED, f"is nothing of Avro schema {number}") from None
        if buffer.tell() != len(key):
            raise Refused(MALFORMED, f"is nothing of Avro schema {number}: {len(key) - buffer.tell()} bytes are left over")
        return found["key"]

    return read


def _protobuf(number: int, registry: Registry, source: EventSource) -> Read | str:
    from google.protobuf.message import DecodeError

    from pipelines.sources.formats.protobuf_columns import columns_of
    from pipelines.sources.formats.protobuf_schemas import (
        UnusableSchema,
        from_registry,
        header_end,
        indexes,
        message_class,
    )

    registered = registry.schema(number, serialized=True)
    if registered is None:
        return f"schema {number}, which is not known to the registry"
    try:
        types = from_registry(registered, registry)
    except UnusableSchema as error:
        return f"schema {number}: {error}"
    made: dict[bytes, tuple[Any, list[Any]]] = {}
    asked = wanted_of_keys(source)

    def read(key: bytes) -> Any:
        end = header_end(key)
        if not end:
            raise Refused(MALFORMED, f"names no message of schema {number}")
        try:
            if key[:end] not in made:
                message = types.at(indexes(key[:end]))
                made[key[:end]] = message_class(message), columns_of(message, asked, types)
            of, columns = made[key[:end]]
            found = of.FromString(key[end:])
            return {column.name: column.loosely(found) for column in columns}
        except UnusableSchema as error:
            raise Refused(UNKNOWN_SCHEMA, f"is of schema {number}: {error}") from None
        except UnicodeDecodeError:
            raise Refused(INVALID_UTF8, "is not valid UTF-8") from None
        except DecodeError:
            raise Refused(MALFORMED, f"is no message of schema {number}") from None

    return read
