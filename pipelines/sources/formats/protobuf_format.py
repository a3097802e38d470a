"""Records in Protobuf: in Confluent's framing (a zero byte, the schema's id, which of its messages), by a schema registry or a file of
descriptors, and plain messages by such a file. Their fields are read as :mod:`~pipelines.sources.formats.protobuf_columns` says.

A record is read by the schema that it was written with, so what a later version adds is read where it is there. Protobuf's own library
reads: it bounds depth and lengths, and a message costs what its bytes do; no more than :data:`CHUNK_BYTES` of messages are held at a time.
The verdict on a record depends on the record and its schema alone.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from pydantic import model_validator

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.fault_injection import PROTOBUF_KINDS, break_protobuf
from pipelines.sources.formats.protobuf_columns import Column, columns_of
from pipelines.sources.formats.protobuf_paths import check_paths
from pipelines.sources.formats.protobuf_schemas import (
    MessageTypes,
    UnusableSchema,
    from_file,
    from_registry,
    header_end,
    indexes,
    message_class,
)
from pipelines.sources.formats.protobuf_values import OtherKind
from pipelines.sources.formats.protobuf_wants import asked_apart, wanted
from pipelines.sources.formats.record_format import FormatOptions, RecordFormat
from pipelines.sources.formats.schema_registry import RegisteredSchema
from pipelines.sources.formats.verdicts import merged, refusals
from transforms.contract import Checked, Now, check, check_records
from transforms.definitions import EventSource
from transforms.errors import ConfigError
from transforms.json_payload import Refused
from transforms.origin import Origin
from transforms.reasons import INVALID_UTF8, MALFORMED, UNKNOWN_SCHEMA
from transforms.rules import now_of

__all__ = ["ProtobufFormat", "ProtobufOptions"]

CHUNK_BYTES = 2 << 20
_ID = struct.Struct(">I")
_NO_TEXT = (UnicodeDecodeError, pa.ArrowInvalid)
_TYPES = {"string": "STRING", "int64": "INT64", "float64": "DOUBLE", "bool": "BOOL", "timestamp": "INT64"}


class ProtobufOptions(FormatOptions):
    """``descriptor``: a FileDescriptorSet (``protoc --include_imports --descriptor_set_out``), relative to the repository, instead of a
    registry. ``message``: the full name of the message; needed where the descriptor's file has several."""

    descriptor: Path | None = None
    message: str | None = None

    @model_validator(mode="after")
    def _named(self) -> ProtobufOptions:
        if self.message is not None and not self.message.strip("."):
            raise ValueError("message is empty; write its full name, such as shop.Click")
        return self


class _Reader:
    """Reads the messages of one type."""

    def __init__(self, name: str, made: Any, columns: list[Column]) -> None:
        self.name, self.made, self.columns = name, made, columns
        self.schema = pa.schema([pa.field(c.name, c.type) for c in columns])


class ProtobufFormat(RecordFormat):
    """Protobuf, by ``kafka.schema_registry`` or ``descriptor``. Writing, a message made of the source's own fields is registered as
    ``<topic>-value``, or the one of the descriptor is filled by the names of its fields."""

    Options = ProtobufOptions
    options: ProtobufOptions

    def __init__(self, source: EventSource, kafka: KafkaSettings) -> None:
        super().__init__(source, kafka)
        self._asked = asked_apart(source)
        self._wanted = wanted(self._asked)
        self._readers: dict[bytes, _Reader | str] = {}
        self._schemas: dict[int, MessageTypes | str] = {}
        self._file: MessageTypes | None = None
        self._plain: _Reader | None = None
        self._written: tuple[bytes, Any] | None = None
        if self.options.descriptor is None:
            self.open_registry(kafka)
        else:
            key = f"kafka.format_options.{source.name}.descriptor"
            self._file = from_file(kafka.repository / self.options.descriptor, key)
            message = self._of_file(self._file)
            check_paths(message, source, self._file)
            self._plain = self._reader(message, self._file)

    def _of_file(self, file: MessageTypes) -> Any:
        """The message of the descriptor file. Raises ConfigError."""
        name, key = self.options.message, f"kafka.format_options.{self.source.name}.message"
        own = [m.full_name for m in file.file.message_types_by_name.values()]
        if name is None and len(own) == 1:
            name = own[0]
        if name is None:
            raise ConfigError(f"{key} is missing; {self.options.descriptor} has several messages: {', '.join(own[:20]) or 'none'}")
        found = file.named(name.strip("."))
        if found is None:
            raise ConfigError(f"{key}: {name!r} is not in {self.options.descriptor}; it has {', '.join(own[:20]) or 'none'}")
        return found

    def _reader(self, message: Any, types: MessageTypes) -> _Reader:
        columns = columns_of(message, self._wanted, types) or [
            Column("", pa.null(), lambda message: None)
        ]  # rows without fields are rows too
        return _Reader(message.full_name, message_class(message), columns)

    def decode(self, payloads: pa.Array, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
        """Records of one schema together, by columns."""
        refused: dict[int, tuple[str, str]] = {}
        groups: dict[int, tuple[_Reader, list[int], list[bytes]]] = {}
        known = self._readers
        for row, value in enumerate(payloads.cast(pa.large_binary()).to_pylist()):
            if not value:
                refused[row] = MALFORMED, "there is no payload" if value is None else "the payload is empty"
                continue
            if value[0]:  # no message begins with a zero byte, and every header does
                if self._plain is None:
                    refused[row] = MALFORMED, f"not a Confluent message: 0x{value[:5].hex()} at its beginning is no zero byte and schema id"
                    continue
                found: _Reader | str = self._plain
                body = value
            else:
                end = 6 if value[5:6] == b"\x00" else header_end(value)
                if not end:
                    refused[row] = MALFORMED, f"not a Confluent message: 0x{value[:16].hex()} at its beginning names no schema and message"
                    continue
                head, body = value[:end], value[end:]
                found = known.get(head) or self._find(head)
            if isinstance(found, str):
                refused[row] = UNKNOWN_SCHEMA, found
                continue
            group = groups.get(id(found))
            if group is None:
                group = groups[id(found)] = found, [], []
            group[1].append(row)
            group[2].append(body)
        parts = []
        for reader, rows, bodies in groups.values():
            odd: dict[int, dict[str, Any]] = {}
            good, batch = _read(reader, rows, bodies, refused, odd)
            if odd:
                apart = np.array(list(odd), np.int64)
                beside = None if origin is None else origin.take(apart)
                parts.append((apart, check_records(list(odd.values()), {}, self._asked, now_of(now_us, apart), max_future_us, beside)))
            beside = None if origin is None else origin.take(good)
            parts.append((good, check(batch, self._asked, now_of(now_us, good), max_future_us, beside)))
        parts.append(refusals(refused, self.source, now_us, max_future_us))
        return merged(parts, self.source)

    def message(self, payload: bytes) -> Any:
        """One record as the message that it is, by the schema that it was written with; None where it is none of a known schema. Raises
        RegistryAway and ConfigError."""
        end = 0 if not payload or payload[0] else 6 if payload[5:6] == b"\x00" else header_end(payload)
        found: _Reader | str | None = self._find(payload[:end]) if end else self._plain if payload and payload[0] else None
        if not isinstance(found, _Reader):
            return None
        try:
            return found.made.FromString(payload[end:])
        except DecodeError:
            return None

    def _find(self, head: bytes) -> _Reader | str:
        """What reads the records with this header, or why nothing does. An unknown id is requested again later."""
        if self._file is not None:
            assert self._plain is not None
            self._readers[head] = self._plain
            return self._plain
        number = _ID.unpack_from(head, 1)[0]
        types = self._schemas.get(number)
        if types is None:
            found = self.registry.schema(number, serialized=True)
            if found is None:
                return f"schema {number} is not known to the registry"
            try:
                types = from_registry(found, self.registry)
            except UnusableSchema as error:
                types = f"schema {number}: {error}"
            self._schemas[number] = types
        made: _Reader | str
        if isinstance(types, str):
            made = types
        else:
            try:
                message = types.at(indexes(head))
                made = self._reader(message, types)
                if self.options.message not in (None, message.full_name):
                    made = f"schema {number}: a record of {message.full_name}, not of {self.options.message}"
            except UnusableSchema as error:
                made = f"schema {number}: {error}"
        self._readers[head] = made
        return made

    def check_schema(self, say: Callable[[str], None]) -> str:
        """See the base class: by the newest schema of ``<topic>-value``; by a descriptor it is checked as the format is made."""
        subject = f"{self.source.topic}-value"
        found = None if self._file is not None else self.registry.version(subject, serialized=True)
        if found is None:
            return ""
        try:
            types = from_registry(found, self.registry)
            name = self.options.message
            message = types.at((0,)) if name is None else types.named(name.strip("."))
        except UnusableSchema as error:
            raise ConfigError(f"the newest schema of {subject} cannot be used: {error}; register one that can") from None
        if message is None:
            raise ConfigError(f"kafka.format_options.{self.source.name}.message: {name!r} is not in the newest schema of {subject}")
        check_paths(message, self.source, types)
        return subject

    # ---------------------------------------------------------------------------------------------------------------- writing

    def prepare_to_encode(self) -> None:
        """Register the source's schema, where there is a registry."""
        if self._plain is not None:
            self._written = b"", self._plain.made
            return
        file = _own_schema(self.source)
        text = base64.b64encode(file.SerializeToString()).decode()
        number = self.registry.register(f"{self.source.topic}-value", text, "PROTOBUF")
        types = from_registry(_registered(text), self.registry)
        self._written = b"\x00" + _ID.pack(number) + b"\x00", message_class(types.at((0,)))

    def encode(self, events: pa.RecordBatch) -> pa.Array:
        """Each event as a message; registers the schema if it is not yet. Raises RegistryAway and ConfigError."""
        if self._written is None:
            self.prepare_to_encode()
        assert self._written is not None
        header, made = self._written
        fields = made.DESCRIPTOR.fields_by_name
        if lacks := [name for name in events.schema.names if name not in fields]:
            raise ConfigError(f"message {made.DESCRIPTOR.full_name} has no field {lacks[0]!r}; events cannot be written as one")
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in events.columns]
        out: list[bytes] = []
        for values in zip(*(c.to_pylist() for c in columns), strict=True):
            message = made()
            for name, value in zip(events.schema.names, values, strict=True):
                if value is not None:
                    _set(message, fields[name], value)
            out.append(header + message.SerializeToString())
        return pa.array(out, pa.binary())

    def damaged(self, payload: bytes, key: bytes, dice: int) -> bytes | None:
        """In one of all the ways of :mod:`pipelines.sources.formats.fault_injection`."""
        return break_protobuf(PROTOBUF_KINDS[dice % len(PROTOBUF_KINDS)], payload, key, dice // len(PROTOBUF_KINDS))


def _read(
    reader: _Reader, rows: list[int], bodies: list[bytes], refused: dict[int, tuple[str, str]], odd: dict[int, dict[str, Any]]
) -> tuple[Any, pa.RecordBatch]:
    """The rows whose bodies are messages, and their columns; the others are added to ``refused``, and those with values that are not of
    their columns' kinds to ``odd``, as they are."""
    good: list[int] = []
    batches: list[pa.RecordBatch] = []
    parse, at = reader.made.FromString, 0
    while at < len(bodies):
        messages, size = [], 0
        while at < len(bodies) and size < CHUNK_BYTES:
            body, row = bodies[at], rows[at]
            at, size = at + 1, size + len(body)
            try:
                messages.append(parse(body))
                good.append(row)
            except DecodeError:
                refused[row] = MALFORMED, f"not a message of {reader.name}: its bytes are none, or a text in it is not UTF-8"
        try:
            batches.append(_batch(reader, messages))
        except (*_NO_TEXT, OtherKind, Refused):  # proto2 does not look at its texts when it reads
            kept = []
            begin = len(good) - len(messages)
            for row, message in zip(good[begin:], messages, strict=True):
                try:
                    batches.append(_batch(reader, [message]))
                    kept.append(row)
                except (*_NO_TEXT, OtherKind, Refused) as error:
                    try:
                        if not isinstance(error, OtherKind):
                            raise
                        odd[row] = {c.name: c.loosely(message) for c in reader.columns}
                    except Refused as why:
                        refused[row] = why.reason, why.detail
                    except _NO_TEXT:
                        refused[row] = INVALID_UTF8, f"a text of the message {reader.name} is not valid UTF-8"
            good[begin:] = kept
    table = pa.Table.from_batches(batches, reader.schema).combine_chunks()
    found = table.to_batches()
    return np.array(good, np.int64), found[0] if found else _batch(reader, [])


def _batch(reader: _Reader, messages: list[Any]) -> pa.RecordBatch:
    arrays = [pa.array(list(map(column.get, messages)), column.type) for column in reader.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=reader.schema)


def _registered(text: str) -> Any:
    return RegisteredSchema(text, "PROTOBUF", ())


def _own_schema(source: EventSource) -> descriptor_pb2.FileDescriptorProto:
    """A message of the source's own fields, ``tandem.<Source>``: times are microseconds, what may be null is ``optional``."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{source.name}.proto", package="tandem", syntax="proto3")
    message = file.message_type.add(name="".join(word.capitalize() for word in source.name.split("_")))
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = [(source.event_time, "timestamp", True), *((f.name, str(f.dtype), f.required) for f in source.fields)]
    for number, (name, dtype, required) in enumerate(fields, 1):
        made = message.field.add(name=name, number=number, type=getattr(kinds, f"TYPE_{_TYPES[dtype]}"), label=kinds.LABEL_OPTIONAL)
        if not required:
            made.proto3_optional, made.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
    return file


def _set(message: Any, of: Any, value: Any) -> None:
    """Put an event's value into a message's field: enums by their names, times into Timestamp."""
    if of.message_type is not None:
        part = getattr(message, of.name)
        part.SetInParent()
        if of.message_type.full_name == "google.protobuf.Timestamp":
            part.seconds, part.nanos = value // 1_000_000, value % 1_000_000 * 1000
        else:
            _set(part, of.message_type.fields_by_name["value"], value)
    elif of.enum_type is not None and isinstance(value, str):
        setattr(message, of.name, of.enum_type.values_by_name[value].number)
    else:
        setattr(message, of.name, value)
