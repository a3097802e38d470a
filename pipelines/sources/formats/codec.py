"""How a source's records are encoded: bytes to verdicts, and events to bytes.

JSON is :func:`transforms.contract.check_json`. Avro is Confluent's framing (a zero byte, the schema's id as four bytes big-endian, the
record in Avro's binary form) with schemas from a registry. A record is decoded by the schema it was written with; what its
values mean is then the contract's business, as for every other carrier. So a writer's schema may leave out optional fields, add
others, reorder and widen types: a field that is missing, of another type, or a number that does not fit exactly is a reject of that
record with the contract's own reason. (Avro's resolution against a reader's schema would call all of these by one error, round
a long into a double, and refuse a record that only has another name.) Timestamps of any of Avro's units become microseconds.

The verdict on a record depends on the record and its schema alone. A registry that is away is waited for (RegistryAway): a
verdict is never made of a failure of ours.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pyarrow as pa

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.avro import Decoder, UnusableSchema, decoder
from pipelines.sources.formats.schema_registry import Registry
from transforms.contract import Checked, Now, check_json, check_records
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.reasons import INVALID_UTF8, MALFORMED, UNKNOWN_SCHEMA

__all__ = ["Checker", "checker", "encoder"]

Checker = Callable[[pa.Array, Now, int], Checked]
"""(payloads: binary [N], null for a tombstone; now_us: one or int64 [N]; max_future_us) -> the verdicts."""

_HEADER = struct.Struct(">bI")


def checker(source: EventSource, kafka: KafkaSettings) -> Checker:
    """The judge of a source's payloads, by ``kafka.formats``. It may be used by one thread at a time; nothing is asked of a
    registry before the first payload needs it.

    Raises ConfigError for a source in Avro without ``kafka.schema_registry``. The judge raises RegistryAway (call again) while the
    registry does not answer, and ConfigError when it refuses us or is no schema registry.
    """
    if kafka.formats.get(source.name, "json") == "json":
        return lambda payloads, now_us, max_future_us: check_json(payloads, source, now_us, max_future_us)
    return _AvroChecker(source, _registry(kafka))


class _AvroChecker:
    def __init__(self, source: EventSource, registry: Registry) -> None:
        self.source, self.registry = source, registry
        self.decoders: dict[int, Decoder | str] = {}

    def __call__(self, payloads: pa.Array, now_us: Now, max_future_us: int) -> Checked:
        records: list[dict[str, Any]] = []
        refused: dict[int, tuple[str, str]] = {}
        known = self.decoders
        values = payloads.cast(pa.large_binary()).to_numpy(zero_copy_only=False).tolist()
        for row, value in enumerate(values):  # fastavro takes one record at a time
            record: dict[str, Any] = {}
            if not value:
                refused[row] = MALFORMED, "there is no payload" if value is None else "the payload is empty"
            elif value[0] != 0 or len(value) < _HEADER.size:
                refused[row] = MALFORMED, f"not a Confluent message: 0x{value[:5].hex()} at its beginning is no zero byte and schema id"
            else:
                number = _HEADER.unpack_from(value)[1]
                decode = known.get(number)
                if decode is None:
                    decode = self._find(number)
                if isinstance(decode, str):
                    refused[row] = UNKNOWN_SCHEMA, decode
                else:
                    try:
                        record = decode(value)
                    except UnicodeDecodeError as error:
                        refused[row] = INVALID_UTF8, f"a text of the Avro record (schema {number}) is not valid UTF-8: {error.reason}"
                    except Exception as error:  # whatever random bytes do to the decoder, it is the record that is bad
                        refused[row] = MALFORMED, f"not a record of Avro schema {number}: {_short(error)}"
            records.append(record)
        return check_records(records, refused, self.source, now_us, max_future_us)

    def _find(self, number: int) -> Decoder | str:
        """The decoder for a schema's id, or why there is none. An unknown id is asked for again later: it may be on its way."""
        found = self.registry.schema(number)
        if found is None:
            return f"schema {number} is not known to the registry"
        try:
            self.decoders[number] = decoder(found, self.registry, self.source)
        except UnusableSchema as error:
            self.decoders[number] = f"schema {number}: {error}"
        return self.decoders[number]


def encoder(kafka: KafkaSettings, sources: dict[str, EventSource]) -> Callable[[EventSource, Checked, pa.Array], pa.Array]:
    """What makes the payloads of events: Avro for ``sources``, whose schemas it registers as ``<topic>-value``; others stay as they are.

    Called with (source, verdict on N events, their JSON payloads) it returns N payloads. An event that the contract refuses keeps its
    JSON: a schema has no room for what does not fit it. Raises RegistryAway and ConfigError.
    """
    from fastavro import parse_schema, schemaless_writer

    from transforms.schemas import avro_schema

    registry = _registry(kafka)
    schemas = {name: avro_schema(source) for name, source in sources.items()}
    ids = {name: registry.register(f"{source.topic}-value", schemas[name]) for name, source in sources.items()}
    parsed = {name: parse_schema(schema) for name, schema in schemas.items()}

    def encode(source: EventSource, checked: Checked, payloads: pa.Array) -> pa.Array:
        if source.name not in parsed:
            return payloads
        header, schema = _HEADER.pack(0, ids[source.name]), parsed[source.name]
        valid = checked.valid
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in valid.columns]
        out: list[bytes | None] = payloads.to_pylist() if valid.num_rows < len(payloads) else [None] * len(payloads)
        rows = zip(*(c.to_pylist() for c in columns), strict=True)
        for row, values in zip(checked.accepted.tolist(), rows, strict=True):
            buffer = BytesIO()
            buffer.write(header)
            schemaless_writer(buffer, schema, dict(zip(valid.schema.names, values, strict=True)))
            out[row] = buffer.getvalue()
        return pa.array(out, pa.binary())

    return encode


def _registry(kafka: KafkaSettings) -> Registry:
    if not kafka.schema_registry:
        raise ConfigError("kafka.schema_registry is missing; sources in Avro need it: name its address, e.g. http://127.0.0.1:8081")
    return Registry(kafka.schema_registry, kafka.schema_registry_username, kafka.schema_registry_password, kafka.ssl_cafile)


def _short(error: Exception) -> str:
    text = re.sub(r" (from )?<[^>]*>", "", " ".join(str(error).split()))  # no addresses of objects: a detail repeats exactly
    return f"{type(error).__name__}{': ' if text else ''}{text[:120]}"
