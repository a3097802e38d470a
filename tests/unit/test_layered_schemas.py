"""Schemas in which types name types: a few lines stand for a million places, and are read in steps that grow as the lines do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor

from pipelines.inference.connect_schema import told_by_avro
from pipelines.inference.schema_words import avro_places, protobuf_words, words_of
from pipelines.sources.file_formats.avro_file import AvroFile
from pipelines.sources.formats.schema_paths import JsonPlaces
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("k", "string", required=True)], event_time="at", tie_breaker="k", files="events/orders")
WIDTH = 4
DAY = {"type": "int", "connect.name": "io.debezium.time.Date"}


def calls(of: Callable[[], Any]) -> int:
    """How many functions are called."""
    count = 0

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        of()
    finally:
        sys.setprofile(before)
    return count


def layered(levels: int) -> dict[str, Any]:
    """A record of four records (or null) of four records, and so on; each is told once, and named where it stands again."""
    schema: dict[str, Any] = {"type": "record", "name": f"L{levels}", "fields": [{"name": "day", "type": DAY}]}
    for level in range(levels - 1, 0, -1):
        kinds = [schema, *[f"L{level + 1}"] * (WIDTH - 1)]
        fields = [{"name": f"f{i}", "type": ["null", kind], "default": None} for i, kind in enumerate(kinds)]
        schema = {"type": "record", "name": f"L{level}", "fields": [*fields, {"name": "day", "type": DAY}]}
    return schema


def test_what_avro_tells_is_looked_for_where_columns_are() -> None:
    def told(schema: Any) -> Any:
        return told_by_avro([avro_places(schema, {}).schemas], [("day",), ("f3", "f1", "day"), ("f2",), ("f9", "day")])

    told(layered(2))  # imports
    assert calls(lambda: told(layered(10))) < 3 * calls(lambda: told(layered(5)))
    found = told(layered(10))
    assert {steps: each.text for steps, each in found.items()} == {("day",): "Date()", ("f3", "f1", "day"): "Date()"}


def test_a_record_within_itself() -> None:
    fields = [{"name": f"f{i}", "type": ["null", "L"]} for i in range(3)]
    schema = avro_places({"type": "record", "name": "L", "fields": [*fields, {"name": "day", "type": DAY}]}, {}).schemas
    deep = ("f1",) * 12
    assert calls(lambda: told_by_avro([schema], [(*deep, *deep, "day")])) < 3 * calls(lambda: told_by_avro([schema], [(*deep, "day")]))
    assert list(told_by_avro([schema], [(*deep, "day")])) == [(*deep, "day")]


def test_words_of_json_schemas_that_refer_to_each_other() -> None:
    def places(levels: int) -> JsonPlaces:
        named: dict[str, Any] = {f"l{i}": {"anyOf": [{"$ref": f"#/$defs/l{i + 1}"} for _ in range(WIDTH)]} for i in range(1, levels)}
        named[f"l{levels}"] = {"enum": ["a", "b"]}
        return JsonPlaces({"properties": {"word": {"$ref": "#/$defs/l1"}}, "$defs": named})

    places(2).words_at(("word",))  # imports, and what is kept between calls
    assert calls(lambda: places(10).words_at(("word",))) < 3 * calls(lambda: places(5).words_at(("word",)))
    assert words_of([("word",)], [places(10)]) == {("word",): ("a", "b")}
    itself: Any = {"anyOf": [{"$ref": "#/properties/word"}, {"enum": ["a"]}, {"$ref": "#/properties/word"}]}
    assert JsonPlaces({"properties": {"word": itself}}).words_at(("word",)) == ["a"]
    chain = {f"l{i}": {"$ref": f"#/$defs/l{i + 1}"} for i in range(3_000)} | {"l3000": {"const": "a"}}
    assert JsonPlaces({"properties": {"word": {"$ref": "#/$defs/l0"}}, "$defs": chain}).words_at(("word",)) == ["a"]


def test_words_of_messages_within_messages() -> None:
    """Of too many places those at the top are known: they were the last that were looked at."""

    def message(levels: int) -> Descriptor:
        file = descriptor_pb2.FileDescriptorProto(name=f"{levels}.proto", package="p", syntax="proto3")
        file.enum_type.add(name="State").value.add(name="OPEN", number=0)
        for level in range(1, levels + 1):
            made = file.message_type.add(name=f"L{level}")
            for i in range(WIDTH if level < levels else 0):
                made.field.add(name=f"f{i}", number=i + 1, type=11, label=1, type_name=f".p.L{level + 1}")
            made.field.add(name="state", number=9, type=14, label=1, type_name=".p.State")
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        found: Descriptor = pool.FindMessageTypeByName("p.L1")
        return found

    few, many = message(6), message(12)
    assert calls(lambda: protobuf_words([many])) < 3 * calls(lambda: protobuf_words([few]))
    for each in (few, many):
        words = protobuf_words([each])
        assert words[("state",)] == words[("f3", "state")] == words[("f3", "f3", "state")] == ("OPEN",)


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_files_of_types_with_a_million_places_are_read(tmp_path: Path, codec: str) -> None:
    """They cannot be one type of Arrow: their values tell it."""
    moment = {"type": "long", "logicalType": "timestamp-micros"}

    def rows(levels: int) -> list[Any]:
        fields = [{"name": "k", "type": "string"}, {"name": "at", "type": moment}, {"name": "deep", "type": ["null", layered(levels)]}]
        path = tmp_path / f"{levels}.avro"
        records = [{"k": "a", "at": 7, "deep": {"f1": None, "f2": {"day": 2}, "day": 1}}, {"k": "b", "at": 8, "deep": None}]
        with path.open("wb") as f:
            fastavro.writer(f, {"type": "record", "name": "O", "fields": fields}, records, codec)
        batches = AvroFile(SOURCE).read(lambda: path.open("rb"), 65_536, {})
        return [row for batch in batches if batch.rows is not None for row in batch.rows.to_pylist()]

    rows(2)
    assert calls(lambda: rows(9)) < 3 * calls(lambda: rows(5))
    for levels in (5, 9):
        found = rows(levels)
        assert [(r["k"], r["at"].microsecond) for r in found] == [("a", 7), ("b", 8)] and found[1]["deep"] is None
        assert found[0]["deep"]["day"] == 1 and found[0]["deep"]["f2"]["day"] == 2 and found[0]["deep"]["f1"] is None
