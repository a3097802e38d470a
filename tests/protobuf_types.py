"""Protobuf's types for tests, made without its compiler: a file of descriptors from a few words."""

from __future__ import annotations

from typing import Any, TypeAlias

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf import duration_pb2 as duration

Field = descriptor_pb2.FieldDescriptorProto
File: TypeAlias = descriptor_pb2.FileDescriptorProto
GIVEN = (any_pb2, timestamp_pb2, wrappers_pb2, duration, struct_pb2)


def file_of(
    name: str,
    messages: dict[str, dict[str, str]],
    *,
    package: str = "shop",
    enums: dict[str, list[str]] | None = None,
    imports: tuple[str, ...] = (),
    syntax: str = "proto3",
) -> File:
    """A file: message -> field -> type. A type is a scalar's name, ``.full.Name`` of a message, ``enum .full.Name``; before it may stand
    ``optional``, ``repeated``, ``oneof NAME``; ``map KEY TYPE`` is a map. A message ``A.B`` lies within ``A``."""
    file = File(name=name, package=package, syntax=syntax, dependency=imports)
    for enum, values in (enums or {}).items():
        made = file.enum_type.add(name=enum)
        for number, value in enumerate(values):
            made.value.add(name=value, number=number)
    found: dict[str, Any] = {}
    for path, fields in messages.items():
        outer, _, last = path.rpartition(".")
        message = found[path] = found[outer].nested_type.add(name=last) if outer else file.message_type.add(name=last)
        for number, (field, text) in enumerate(fields.items(), 1):
            _field(message, f".{package}.{path}", field, number, text.split())
    return file


def _field(message: Any, full: str, name: str, number: int, words: list[str]) -> None:
    field = message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL)
    if words[0] == "map":
        entry = message.nested_type.add(name="".join(w.capitalize() for w in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _field(entry, "", "key", 1, [words[1]])
        _field(entry, "", "value", 2, words[2:])
        field.label, field.type, field.type_name = Field.LABEL_REPEATED, Field.TYPE_MESSAGE, f"{full}.{entry.name}"
        return
    if words[0] == "repeated":
        field.label = Field.LABEL_REPEATED
        words = words[1:]
    elif words[0] == "optional":
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
        words = words[1:]
    elif words[0] == "oneof":
        known = [o.name for o in message.oneof_decl]
        if words[1] not in known:
            message.oneof_decl.add(name=words[1])
            known.append(words[1])
        field.oneof_index = known.index(words[1])
        words = words[2:]
    if words[0] == "enum":
        field.type, field.type_name = Field.TYPE_ENUM, words[1]
    elif words[0].startswith("."):
        field.type, field.type_name = Field.TYPE_MESSAGE, words[0]
    else:
        field.type = getattr(Field, f"TYPE_{words[0].upper()}")


def classes(*files: File) -> dict[str, Any]:
    """The messages' classes of some files (what is imported first) by full name."""
    pool = descriptor_pool.DescriptorPool()
    for module in GIVEN:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    out = {}
    for file in files:
        left = list(pool.FindFileByName(file.name).message_types_by_name.values())
        while left:
            message = left.pop()
            out[message.full_name] = message_factory.GetMessageClass(message)
            left += message.nested_types
    return out


def descriptor_set(*files: File) -> bytes:
    """As ``protoc --include_imports --descriptor_set_out`` writes it, with the well-known types that are imported."""
    given = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in GIVEN}
    wanted = {name for file in files for name in file.dependency if name in given}
    found = descriptor_pb2.FileDescriptorSet()
    for name in sorted(wanted):
        found.file.add().ParseFromString(given[name])
    found.file.extend(files)
    return bytes(found.SerializeToString())
