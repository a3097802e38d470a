"""Where the types of Protobuf's messages come from: a file of descriptors, or a registry. Nothing of either is compiled or run: both give
descriptors, which Protobuf's own library checks and reads by, each schema in a pool of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import DecodeError

from pipelines.sources.formats.schema_registry import RegisteredSchema, Registry
from transforms.errors import ConfigError

__all__ = ["MessageTypes", "UnusableSchema", "from_file", "from_registry", "header_end", "indexes", "message_class"]

MOST_FILES = 100
"""Files that one schema may import, directly or not."""
MOST_BYTES = 4 << 20
"""Of a schema with all of its imports."""
MOST_INDEXES = 32
"""How deep a record's header may name a message."""
_MODULES = (any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_GIVEN = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in _MODULES}
"""What every schema may import without bringing it."""


class UnusableSchema(Exception):
    """No message can be read by this schema; the message is the reason."""


class MessageTypes:
    """The messages of one file, of what it imports, and of what else came with it."""

    def __init__(self, pool: descriptor_pool.DescriptorPool, file: FileDescriptor, files: list[FileDescriptor]) -> None:
        self.pool, self.file, self.files = pool, file, files

    def messages(self) -> Iterator[Descriptor]:
        """All of the files that came, those within others too."""
        left = [m for file in self.files for m in file.message_types_by_name.values()]
        while left:
            found = left.pop(0)
            left += found.nested_types
            yield found

    def at(self, indexes: tuple[int, ...]) -> Descriptor:
        """The message that a record's header names: the first index is of the file's messages, each next one of those within. Raises
        UnusableSchema."""
        within = list(self.file.message_types_by_name.values())
        found: Descriptor | None = None
        for index in indexes:
            if not 0 <= index < len(within):
                raise UnusableSchema(f"it has no message at index {'.'.join(map(str, indexes))}")
            found = within[index]
            within = list(found.nested_types)
        if found is None:
            raise UnusableSchema("no message of it is named")
        return found

    def named(self, name: str) -> Descriptor | None:
        """The message of this full name, if there is one."""
        try:
            return self.pool.FindMessageTypeByName(name)
        except KeyError:
            return None


def message_class(of: Descriptor) -> Any:
    """The class of a message's objects."""
    return message_factory.GetMessageClass(of)


def from_file(path: Path, key: str) -> MessageTypes:
    """The types of a FileDescriptorSet as ``protoc --include_imports --descriptor_set_out`` writes it, of its last file. ``key`` is the
    setting that names it. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}; correct the path") from None
    found = descriptor_pb2.FileDescriptorSet()
    try:
        found.ParseFromString(data)
        if not found.file:
            raise ValueError("it holds no files")
        files = {file.name: file.SerializeToString() for file in found.file}
        return _types(found.file[-1].name, files)
    except (DecodeError, UnusableSchema, ValueError, TypeError) as error:
        made = "protoc --include_imports --descriptor_set_out"
        raise ConfigError(f"{key}: {path} holds no descriptors: {_short(error)}; make it with {made}={path.name} YOUR.proto") from None


def from_registry(registered: RegisteredSchema, registry: Registry) -> MessageTypes:
    """The types of a registered schema and of those that it refers to. Raises UnusableSchema; RegistryAway and ConfigError as the registry,
    and ConfigError for one that gives schemas as text alone."""
    if registered.kind != "PROTOBUF":
        raise UnusableSchema(f"it is {registered.kind}, not Protobuf")
    files: dict[str, bytes] = {}
    top = "schema.proto"
    left = [(top, registered)]
    while left:
        name, schema = left.pop()
        if name in files:
            continue
        files[name] = _decoded(schema.text, name if name != top else "", registry)
        if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES:
            raise UnusableSchema(f"it imports more than {MOST_FILES} files, or {MOST_BYTES:,} bytes of them")
        for reference in schema.references:
            if reference.name in files or reference.name in _GIVEN:
                continue
            found = registry.version(reference.subject, reference.version, serialized=True)
            if found is None:
                raise UnusableSchema(f"it imports version {reference.version} of {reference.subject}, which the registry does not know")
            if found.kind != "PROTOBUF":
                raise UnusableSchema(f"it imports {reference.subject}, which is {found.kind}, not Protobuf")
            left.append((reference.name, found))
    return _types(top, files)


def _decoded(text: str, name: str, registry: Registry) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        what = f" of {name}" if name else ""
        raise ConfigError(
            f"the registry at {registry.url} gives a Protobuf schema{what} as text, not in the requested serialized form; name a"
            " file of descriptors: kafka.format_options.<source>.descriptor"
        ) from None


def _types(top: str, files: dict[str, bytes]) -> MessageTypes:
    """Put files into a pool, what they import first. Raises UnusableSchema."""
    pool, done = descriptor_pool.DescriptorPool(), dict[str, bool]()
    parsed: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def load(name: str) -> descriptor_pb2.FileDescriptorProto:
        if name not in parsed:
            data = files.get(name, _GIVEN.get(name))
            if data is None:
                raise UnusableSchema(f"it imports {name}, which is not there")
            try:
                parsed[name] = descriptor_pb2.FileDescriptorProto.FromString(data)
            except DecodeError:
                raise UnusableSchema("it is no description of a Protobuf file") from None
            parsed[name].name = name  # as others import it
        return parsed[name]

    def add(top: str) -> None:
        left = [top]
        while left:
            name = left[-1]
            if done.get(name):
                left.pop()
                continue
            missing = [other for other in load(name).dependency if not done.get(other)]
            if missing:
                if any(other in done for other in missing):
                    raise UnusableSchema("its imports go in a circle")
                done[name] = False
                left += missing
                continue
            try:
                pool.AddSerializedFile(parsed[name].SerializeToString())
                pool.FindFileByName(name)
            except (TypeError, KeyError) as error:
                raise UnusableSchema(f"it is no valid Protobuf schema: {_short(error)}") from None
            done[name] = True
            left.pop()

    add(top)
    for other in (*files, *_GIVEN):  # what may be packed into an Any need not be imported
        with suppress(UnusableSchema):
            add(other)
    return MessageTypes(pool, pool.FindFileByName(top), [pool.FindFileByName(name) for name in files if done.get(name)])


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def header_end(value: bytes) -> int:
    """Where the message begins behind Confluent's header: a zero byte, the schema's id, which of its messages; 0: it is none."""
    try:
        count, at = _varint(value, 5)
        if not 0 <= count <= MOST_INDEXES:
            return 0
        for _ in range(count):
            index, at = _varint(value, at)
            if index < 0:
                return 0
        return at
    except IndexError:
        return 0


def indexes(head: bytes) -> tuple[int, ...]:
    """Which message a header names, as :meth:`MessageTypes.at` takes it."""
    count, at = _varint(head, 5)
    found = []
    for _ in range(count):
        index, at = _varint(head, at)
        found.append(index)
    return tuple(found) or (0,)  # the first message is written as no index


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint and the position after it. Raises IndexError."""
    value = shift = 0
    while shift < 35:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise IndexError
