"""Records in Avro: Confluent's framing (a zero byte, the schema's id as four bytes big-endian, the record in Avro's binary form).

A record is decoded by the schema it was written with; what its values mean is then the contract's business, as for every other
format. So a writer's schema may leave out optional fields, add others, reorder and widen types: a field that is missing, of another
type, or a number that does not fit exactly is a reject of that record with the contract's own reason. (Avro's resolution against a
reader's schema would call all of these by one error, round a long into a double, and refuse a record that only has another name.)
Aliases and defaults of a reader's schema count where one is given (:mod:`pipelines.sources.formats.avro_resolution`).
Timestamps of any of Avro's units become microseconds.

The verdict on a record depends on the record and its schema alone. A registry that is away is waited for (RegistryAway): a verdict
is never made of a failure of ours.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.avro_resolution import Fill, filler, resolved
from pipelines.sources.formats.avro_schemas import load_schema
from pipelines.sources.formats.avro_times import MOMENTS, with_times
from pipelines.sources.formats.avro_weight import UnusableSchema, checked
from pipelines.sources.formats.fault_injection import AVRO_KINDS, break_avro
from pipelines.sources.formats.record_format import FormatOptions, RecordFormat
from pipelines.sources.formats.schema_paths import AvroPlaces, check_fields
from pipelines.sources.formats.schema_registry import RegisteredSchema, Registry, RegistryAway
from transforms.contract import Checked, Now, check_records
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.origin import Origin
from transforms.reasons import INVALID_UTF8, MALFORMED, UNKNOWN_SCHEMA

__all__ = ["AvroFormat", "Decoder", "decoder"]

_HEADER = struct.Struct(">bI")

Decoder = Callable[[bytes], dict[str, Any]]
"""A framed message -> field values. Raises UnicodeDecodeError, or anything else, for bytes that are no such record."""

_SCALED = {name: scale for name, scale in MOMENTS.items() if scale != (1, 1)}


class AvroOptions(FormatOptions):
    """``reader``: the reader's schema, whose aliases and defaults count: a file of Avro's JSON, relative to the repository, or
    ``latest``, the newest version of the subject ``<topic>-value``."""

    reader: str | None = None


class AvroFormat(RecordFormat):
    """Confluent's framing, and schemas of a registry. Writing, the source's own schema is registered as ``<topic>-value``."""

    needs_schema_registry = True
    Options = AvroOptions
    options: AvroOptions

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        super().__init__(source, kafka)
        self.decoders: dict[int, Decoder | str] = {}
        self._written: tuple[bytes, Any] | None = None
        self._reader: tuple[Any, dict[str, Any]] | None = None
        if self.options.reader not in (None, "latest"):
            self._reader = _schema_file(kafka.repository / str(self.options.reader), f"kafka.format_options.{source.name}.reader"), {}

    def readers_schema(self) -> tuple[Any, dict[str, Any]] | None:
        """The reader's schema, and the named types that it refers to. Raises RegistryAway, ConfigError."""
        if self._reader is None and self.options.reader is not None:
            subject = f"{self.source.topic}-value"
            found = self.registry.version(subject)
            if found is None:
                raise ConfigError(f"kafka.format_options.{self.source.name}.reader: the registry has no subject {subject}; name a file")
            named: dict[str, Any] = {}
            try:
                self._reader = load_schema(found, self.registry, named, []), named
            except UnusableSchema as error:
                raise ConfigError(f"kafka.format_options.{self.source.name}.reader: the newest {subject} cannot be used: {error}") from None
        return self._reader

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """Each record by the schema it was written with; one that is not known yet is fetched."""
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
                    decode = self.decoder_of(number)
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
        return check_records(records, refused, self.source, now_us, max_future_us, origin)

    def decoder_of(self, number: int) -> Decoder | str:
        """The decoder for a schema's id, or why there is none. An unknown id is requested again later: it may be registered soon."""
        found = self.registry.schema(number)
        if found is None:
            return f"schema {number} is not known to the registry"
        try:
            self.decoders[number] = decoder(found, self.registry, self.source, self.readers_schema())
        except UnusableSchema as error:
            self.decoders[number] = f"schema {number}: {error}"
        return self.decoders[number]

    def check_schema(self, say: Callable[[str], None]) -> str:
        """See the base class: by the newest schema of ``<topic>-value``, and by the reader's, which has names of its own."""
        subject = f"{self.source.topic}-value"
        found, named = self.registry.version(subject), dict[str, Any]()
        if found is None:
            return ""
        try:
            parsed: Any = parse_schema(with_times(load_schema(found, self.registry, named, [])), named)
            both = [parsed]
            if (reader := self.readers_schema()) is not None:
                both.append(parse_schema(with_times(reader[0]), own := dict(reader[1])))
                named = {**own, **named}
        except Exception as error:  # of any kind: the text is somebody else's
            if isinstance(error, (ConfigError, RegistryAway)):
                raise
            raise ConfigError(f"the newest schema of {subject} is not an Avro schema: {_short(error)}; register one that is") from None
        check_fields(self.source, AvroPlaces(both, named), f"the newest schema of {subject}", say)
        return subject

    def prepare_to_encode(self) -> None:
        """Register the source's schema."""
        from transforms.schemas import avro_schema

        schema = avro_schema(self.source)
        number = self.registry.register(f"{self.source.topic}-value", schema)
        self._written = _HEADER.pack(0, number), parse_schema(schema)

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """Each event by the source's own schema; registers that if it is not yet. Raises RegistryAway and ConfigError."""
        if self._written is None:
            self.prepare_to_encode()
        assert self._written is not None
        header, schema = self._written
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in events.columns]
        out: list[bytes] = []
        for values in zip(*(c.to_pylist() for c in columns), strict=True):
            buffer = BytesIO()
            buffer.write(header)
            schemaless_writer(buffer, schema, dict(zip(events.schema.names, values, strict=True)))
            out.append(buffer.getvalue())
        return pa.array(out, pa.binary())

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """In one of all the ways of :mod:`pipelines.sources.formats.fault_injection`."""
        return break_avro(AVRO_KINDS[dice % len(AVRO_KINDS)], payload, key, dice // len(AVRO_KINDS))


def _short(error: Exception) -> str:
    text = re.sub(r" (from )?<[^>]*>", "", " ".join(str(error).split()))  # no addresses of objects: a detail repeats exactly
    return f"{type(error).__name__}{': ' if text else ''}{text[:120]}"


def _schema_file(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise ConfigError(f"{key}: {path} cannot be read: {why}; name a file of an Avro schema, or write latest") from None


def decoder(
    registered: RegisteredSchema, registry: Registry, source: EventSource, reader: tuple[Any, dict[str, Any]] | None = None
) -> Decoder:
    """What decodes the records of a schema for a source, with the aliases and defaults of the reader's schema. Raises
    UnusableSchema; RegistryAway and ConfigError as the registry."""
    named: dict[str, Any] = {}
    schema = load_schema(registered, registry, named, [])
    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error"):
        raise UnusableSchema("it is not the schema of a record")
    if not isinstance(schema.get("fields"), list):
        raise UnusableSchema("it is not an Avro schema: a record without fields")
    try:
        fill = filler(resolved(schema, *reader) if reader is not None else Fill())
        scales = _plain(schema, source)
        schema = with_times(schema)
    except RecursionError:
        raise UnusableSchema("it is not an Avro schema: nested too deep") from None
    try:
        parsed: Any = parse_schema(schema, named)
    except Exception as error:  # of any kind: the text is somebody else's
        raise UnusableSchema(f"it is not an Avro schema: {' '.join(str(error).split())[:200]}") from None
    checked(parsed, named)

    def decode(message: bytes) -> dict[str, Any]:
        buffer = BytesIO(message)
        buffer.seek(_HEADER.size)
        record: dict[str, Any] = schemaless_reader(buffer, parsed, None)  # type: ignore[assignment]
        if buffer.tell() != len(message):
            raise ValueError(f"{len(message) - buffer.tell()} bytes are left over")
        for name, (times, by) in scales:
            if type(value := record[name]) is int:
                record[name] = value * times // by
        if fill is not None:
            fill(record)
        return record

    return decode


def _plain(schema: dict[str, Any], source: EventSource) -> list[tuple[str, tuple[int, int]]]:
    """Have timestamps of the source's fields decoded as the numbers that they are, which is quicker; what to scale, by field.

    Other logical types stay, for :mod:`pipelines.sources.formats.avro_times`, for the contract, and for what a field's ``parse`` says; so
    do timestamps beside other types than null, of which a number may be the other's.
    """
    dtypes = {f.name: f.dtype for f in source.all_fields if f.path is None and f.parse is None}
    scales = []
    for field in schema["fields"]:
        if not isinstance(field, dict):
            continue
        dtype = dtypes.get(str(field.get("name")))
        kinds = field.get("type")
        kinds = [kind for kind in kinds if kind != "null"] if isinstance(kinds, list) else [kinds]
        kind = kinds[0] if len(kinds) == 1 else None
        if isinstance(kind, dict) and dtype == "timestamp" and (logical := kind.get("logicalType")) in MOMENTS:
            del kind["logicalType"]
            if logical in _SCALED:
                scales.append((str(field["name"]), _SCALED[logical]))
    return scales
