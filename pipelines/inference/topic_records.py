"""The payloads of a topic as records, by the format that they are in: what ``kafka.formats`` says, or what their bytes look like."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines.inference.column_facts import describe
from pipelines.inference.connect_schema import told_by_avro
from pipelines.inference.names import called, identifier, taken_from
from pipelines.inference.sampling import Sample, Steps, json_object, sample_records, types_of
from pipelines.inference.schema_words import avro_places, protobuf_words, words_of
from pipelines.inference.text_dialect import dialect_of, text_records
from pipelines.project.config import KafkaSettings
from pipelines.sources.broker import REPLAYED_TIME
from pipelines.sources.formats.csv_format import CsvFormat
from pipelines.sources.formats.framing import HEADER
from pipelines.sources.formats.json_schema_format import JsonSchemaFormat
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.formats.record_keys import RecordKeys
from pipelines.sources.formats.schema_paths import AvroPlaces, JsonPlaces, Places
from transforms.definitions import Csv, EventSource, Field
from transforms.errors import ConfigError, DataError
from transforms.json_payload import Refused

__all__ = ["header_fields", "key_field", "key_names", "sample_payloads"]

MOST_HEADERS = 12
_NO_FIELD, _NO_TIME = "sampled_key", "sampled_at"
"""Of a source that is not known yet: names that its records do not have, as a format reads what a source names as what it is there."""
_DTYPES: dict[type, str] = {str: "string", int: "int64", float: "float64", bool: "bool"}
_FRAMED = {"AVRO": "avro", "PROTOBUF": "protobuf", "JSON": "json_schema"}


def sample_payloads(
    payloads: Sequence[bytes | None], explode: str | Steps | None = None, *, kafka: KafkaSettings | None = None, name: str = "sampled",
    topic: str = "", form: str | None = None, parts: Sequence[int] | None = None,
) -> tuple[Sample, str]:  # fmt: skip
    """A sample of the records of a topic, and their format; records that are none of it are left out. ``name`` is the source's, whose
    settings of ``kafka`` count; ``parts`` are how many of the payloads came from each partition (default: all from one). Raises DataError
    where no record can be read; ConfigError and RegistryAway."""
    kafka = kafka or KafkaSettings()
    source = EventSource(
        name=name, fields=[Field(_NO_FIELD, "string", required=True)], event_time=_NO_TIME, tie_breaker=_NO_FIELD, topic=topic
    )
    known = [p for p in payloads if p]
    form = form or kafka.formats.get(name) or _looks_like(known, source, kafka)
    types: dict[Steps, pa.DataType] = {}
    words: dict[Steps, tuple[str, ...]] = {}
    places: list[Places] = []
    dialect = None
    records: Sequence[Mapping[str, Any] | None]  # None for what is none; of formats of others these are left out
    if form in ("json", "json_schema"):
        records = [json_object(p[HEADER.size :] if p[0] == 0 else p) for p in known]
        places = _json_places(known, source, kafka) if form == "json_schema" else []
    elif form == "csv":
        lines = b"\n".join(p.rstrip(b"\r\n") for p in known)
        dialect = _dialect(lines[: 1 << 18], topic, source, kafka)
        records = [_line(p.decode(dialect.encoding, "replace"), dialect) for p in known]
    elif form == "avro":
        records, places = _avro(known, source, kafka)
    elif form == "protobuf":
        records, words = _protobuf(known, source, kafka, types)
    else:
        sampled = record_format(source, kafka, form).sample(known)
        if sampled is None:
            raise DataError(f"records in the format {form!r} are known to its package alone; sample a file of events instead")
        records = sampled
    found = [record for record in records if record is not None]
    if not found:
        raise DataError(f"none of the {len(payloads):,} records can be read as {form}; say --format, or sample a file of events instead")
    read = _parts(payloads, parts, records) if len(records) == len(known) else None  # else nobody knows which of them was read
    sample = sample_records(found, explode, dialect, types, read)
    sample.words = words | words_of(sample.columns, places)
    sample.told |= told_by_avro((each.schemas for each in places if isinstance(each, AvroPlaces)), sample.columns)
    return sample, form


def _dialect(lines: bytes, topic: str, source: EventSource, kafka: KafkaSettings) -> Csv:
    """The dialect of a topic's lines: as it looks, but for what the settings of the source say. Raises DataError and ConfigError."""
    said = CsvFormat.options_of(source.name, kafka).model_dump(exclude_unset=True)
    looks = dialect_of(lines, said.get("encoding"), f"topic {topic}", header=False)
    if said.get("delimiter", looks.delimiter) != looks.delimiter and not said.get("columns"):
        raise DataError(f"topic {topic}: kafka.format_options.{source.name} says delimiter {said['delimiter']!r}; say its columns, too")
    return replace(looks, **said)


def _parts(payloads: Sequence[bytes | None], parts: Sequence[int] | None, records: Sequence[Mapping[str, Any] | None]) -> list[int]:
    """How many records of each partition were read; ``records`` are those of the payloads that are not empty."""
    sizes = parts or [len(payloads)]
    each = iter(records)
    read = [p is not None and len(p) > 0 and next(each) is not None for p in payloads]
    ends = list(itertools.accumulate(sizes))
    return [sum(read[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _line(text: str, dialect: Csv) -> Mapping[str, Any] | None:
    """The record that a payload of lines is; None for one of several, or of none."""
    found = list(text_records(io.StringIO(text.rstrip("\r\n"), newline=""), dialect))
    return found[0] if len(found) == 1 else None


def key_names(keys: Sequence[bytes | None], kafka: KafkaSettings | None, name: str) -> dict[str, str]:
    """The members of records' keys that are objects, with the dtypes that they may have: of JSON, with Kafka Connect's schema around it or
    not, or in a registry's framing. Raises ConfigError and RegistryAway."""
    source = EventSource(name=name, fields=[Field("key", "string", required=True)], event_time="at", tie_breaker="key")
    opened, found = RecordKeys(source, kafka or KafkaSettings()).opened, dict[str, str]()
    for key in keys:
        if not key:
            continue
        try:
            held: Any = opened(key) if key[0] == 0 and len(key) > HEADER.size else json_object(key)
        except Refused:
            continue
        if isinstance(held, dict):
            inside = held["payload"] if set(held) == {"schema", "payload"} else held
            for member, value in inside.items() if isinstance(inside, dict) else ():
                if type(value) in _DTYPES:
                    found.setdefault(member, _DTYPES[type(value)])
    return found


def key_field(keys: Sequence[bytes | None], names: Mapping[str, str], sample: Sample) -> str:
    """A field for what stands in records' keys and nowhere in their payloads, as a definition has it; "" where there is no such thing.
    ``names`` are those of :func:`key_names`."""
    here = {called(steps)[-1] for steps in sample.columns}
    for name, dtype in names.items():
        if name not in here:
            return f'Field({json.dumps(identifier(name))}, "{dtype}", path=RecordKey({json.dumps(name)}))'
    known = [key for key in keys if key]
    if names or not known:
        return ""
    try:
        texts = {key.decode() for key in known}
    except UnicodeDecodeError:
        texts = set()
    if any(not text.isprintable() for text in texts) or not texts:
        same = {len(key) for key in known}
        return 'Field("key", "int64", path=RecordKey(), parse=BigEndian())' if len(same) == 1 and same <= {4, 8} else ""
    held = any(texts <= {str(value) for value in values} for values in sample.columns.values())
    return "" if held else 'Field("key", "string", path=RecordKey())'


def header_fields(headers: Iterable[Sequence[tuple[str, bytes | None]]], taken: Collection[str]) -> list[str]:
    """A field for each of the first :data:`MOST_HEADERS` headers that hold texts or times, as a definition has it. ``taken`` are names of
    fields that there are."""
    values: dict[str, list[bytes]] = {}
    for name, value in itertools.chain.from_iterable(headers):
        if value and name and name != REPLAYED_TIME and (name in values or len(values) < MOST_HEADERS):
            values.setdefault(name, []).append(value)
    used = set(taken)
    lines = []
    for name, found in values.items():
        if all(_is_text(value) for value in found):
            dtype, parse = _header_type(name, [value.decode() for value in found])
            lines.append(f'Field({json.dumps(taken_from((name,), used))}, "{dtype}", path=Header({json.dumps(name)}){parse})')
    return lines


def _header_type(name: str, texts: list[str]) -> tuple[str, str]:
    """The dtype and the rest of a field of a header: times as they are printed (``ce_time`` of CloudEvents), or text."""
    told = describe((name,), list(texts), None, False, ".", None)
    if told.dtype != "timestamp" or told.parse.startswith("Epoch"):
        return "string", ""
    return "timestamp", f", parse={told.parse}" if told.parse else ""


def _is_text(value: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return value.decode().isprintable()
    return False


def _looks_like(payloads: Sequence[bytes], source: EventSource, kafka: KafkaSettings) -> str:
    """JSON where some record is an object, else by the registry's word, else lines where they are text."""
    if any(json_object(p) is not None for p in payloads):
        return "json"
    framed = next((p for p in payloads if p[0] == 0 and len(p) > HEADER.size), None)
    if framed is not None:
        if not kafka.schema_registry:
            raise ConfigError(
                "its records begin as those of a schema registry do, with a zero byte and a schema's id: set kafka.schema_registry"
            )
        from pipelines.sources.formats.avro_format import AvroFormat

        found = AvroFormat(source, kafka).registry.schema(HEADER.unpack_from(framed)[1])
        if found is not None:
            return _FRAMED.get(found.kind, found.kind.lower())
    if kafka.format_options.get(source.name, {}).get("descriptor"):
        return "protobuf"
    try:
        text = b"".join(payloads[:100]).decode()
    except UnicodeDecodeError:
        text = "\0"
    if (payloads and text.isprintable()) or "\t" in text:
        return "csv"
    raise DataError(
        f"none of the {len(payloads):,} records is a JSON object or a line of text; say --format avro or protobuf, with"
        " kafka.schema_registry or a descriptor in kafka.format_options"
    )


def _json_places(payloads: Sequence[bytes], source: EventSource, kafka: KafkaSettings) -> list[Places]:
    """The schemas of records in JSON Schema's framing, where a registry tells them."""
    if not kafka.schema_registry:
        return []
    registry, out = JsonSchemaFormat(source, kafka).registry, list[Places]()
    for number in sorted({HEADER.unpack_from(p)[1] for p in payloads if p[0] == 0 and len(p) > HEADER.size}):
        found = registry.schema(number)
        with suppress(ValueError, RecursionError):
            out += [] if found is None or found.kind != "JSON" else [JsonPlaces(json.loads(found.text))]
    return out


def _avro_places(form: Any) -> list[Places]:
    """The schema that records are read by: the reader's, where one is set, or else each that one was written with."""
    from pipelines.sources.formats.avro_schemas import load_schema

    if (reader := form.readers_schema()) is not None:
        return [avro_places(reader[0], dict(reader[1]))]
    out: list[Places] = []
    for number in form.decoders:
        named: dict[str, Any] = {}
        out.append(avro_places(load_schema(form.registry.schema(number), form.registry, named, []), named))
    return out


def _avro(payloads: Sequence[bytes], source: EventSource, kafka: KafkaSettings) -> tuple[list[dict[str, Any] | None], list[Places]]:
    """As the stream reads them, with the aliases and defaults of a reader's schema where one is set; and the schemas."""
    from pipelines.sources.formats.avro_format import AvroFormat

    form, out = AvroFormat(source, kafka), list[dict[str, Any] | None]()
    for payload in payloads:
        decode = "" if payload[0] or len(payload) <= HEADER.size else form.decoder_of(HEADER.unpack_from(payload)[1])
        try:
            out.append(None if isinstance(decode, str) else decode(payload))
        except Exception:  # whatever odd bytes do to the decoder, it is the record that is none
            out.append(None)
    if wrong := [told for told in form.decoders.values() if isinstance(told, str)]:
        raise DataError(wrong[0])
    return out, _avro_places(form)


def _protobuf(
    payloads: Sequence[bytes], source: EventSource, kafka: KafkaSettings, types: dict[Steps, pa.DataType]
) -> tuple[list[dict[str, Any] | None], dict[Steps, tuple[str, ...]]]:
    from pipelines.sources.formats.protobuf_columns import columns_of, everything
    from pipelines.sources.formats.protobuf_format import ProtobufFormat

    form, columns, out = ProtobufFormat(source, kafka), dict[str, Any](), list[dict[str, Any] | None]()
    messages: dict[str, Any] = {}
    for payload in payloads:
        message = form.message(payload)
        if message is None:
            out.append(None)
            continue
        own = columns.get(message.DESCRIPTOR.full_name)
        if own is None:
            messages[message.DESCRIPTOR.full_name] = message.DESCRIPTOR
            own = columns[message.DESCRIPTOR.full_name] = columns_of(message.DESCRIPTOR, everything(message.DESCRIPTOR))
            for column in own:
                types_of(column.type, (column.name,), types)
        record = {column.name: pa.array([column.get(message)], column.type)[0].as_py() for column in own}
        out.append(_together(record, _open_members(message)))
    return out, protobuf_words(messages.values())


def _open_members(message: Any, depth: int = 4) -> dict[str, Any]:
    """What stands in the maps and Structs of a message, whose keys no schema tells, and of those within it. Maps of messages are left."""
    from google.protobuf.json_format import MessageToDict

    from pipelines.sources.formats.protobuf_columns import enum_names, is_map, is_repeated

    found: dict[str, Any] = {}
    for of, value in message.ListFields():
        if is_map(of):
            kind = of.message_type.fields_by_name["value"]
            names = {} if kind.enum_type is None else enum_names(kind.enum_type)
            if kind.message_type is None:
                found[of.name] = {str(key): names.get(each, each) for key, each in value.items()}
        elif of.message_type is None or is_repeated(of):
            continue
        elif of.message_type.full_name == "google.protobuf.Struct":
            found[of.name] = MessageToDict(value)
        elif depth > 1 and (inner := _open_members(value, depth - 1)):
            found[of.name] = inner
    return found


def _together(record: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A record with further members, of objects in it too."""
    for name, value in more.items():
        held = record.get(name)
        record[name] = _together(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return record
