"""Lists of objects that a path leads into by a key: the same verdicts as JSON (alone and among others), Arrow, Avro and Protobuf."""

from __future__ import annotations

import decimal
import json
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from tests.examples import examples
from tests.protobuf_types import classes, descriptor_set, file_of
from transforms.contract import Checked, check, check_json, check_records, encode_json
from transforms.definitions import EventSource, Field, Hex

NOW = 1_800_000_000_000_000
T = 1_714_557_660_123_000
SOURCE = EventSource(
    "clicks", [Field("id", "string", required=True), Field("a", "string", path="params.a")], event_time="at", tie_breaker="id",
    topic="clicks",
)  # fmt: skip
NAMES = ["key", "value", "Key", "Value", "name", "type", "optional", "unit"]
BESIDE = {"type", "typeoid", "optional", "default", "position"}
Verdict = tuple[str | None, Any]


def wanted(elements: list[dict[str, Any] | None] | None) -> Verdict:
    """By the words of docs/sources.md."""
    known = [each for each in elements or () if each is not None]
    there = {name for each in known for name in each}
    if there <= {"key", "value"}:
        key, value = "key", "value"
    elif there == {"Key", "Value"}:
        key, value = "Key", "Value"
    elif {"name", "value"} <= there <= {"name", "value", *BESIDE}:
        key, value = "name", "value"
    else:
        return "wrong_type", None
    if any(not isinstance(each.get(key), str | None) for each in known):
        return "wrong_type", None
    found = [each.get(value) for each in known if each.get(key) == "a"]
    return None, found[-1] if found else None


def verdicts(checked: Checked) -> list[Verdict]:
    values = dict(zip(checked.accepted.tolist(), checked.valid["a"].to_pylist(), strict=True))
    return [(reason, values.get(row)) for row, reason in enumerate(checked.reasons.to_pylist())]


def payloads(lists: list[Any]) -> list[bytes]:
    return [json.dumps({"id": "x", "at": T, "params": each}).encode() for each in lists]


def told_by_json(lists: list[Any]) -> list[Verdict]:
    """The verdicts, which are the same alone, among a few and among many."""
    texts = payloads(lists)
    together = verdicts(check_json(texts, SOURCE, NOW, 0))
    assert [verdicts(check_json([text], SOURCE, NOW, 0))[0] for text in texts] == together
    assert verdicts(check_json(pa.array(texts * 40, pa.binary()), SOURCE, NOW, 0)) == together * 40
    return together


keys = st.sampled_from(["a", "b", None])
forms = st.sampled_from([
    {"key", "value"}, {"Key", "Value"}, {"name", "value"}, {"name", "value", "type"}, {"name", "type", "position"}, {"name"}, {"type"},
    {"name", "value", "unit"}, {"Key"}, {"Value"}, {"value"}, {"Key", "value"}, {"key", "type"},
])  # fmt: skip


@st.composite
def lists_of_objects(draw: st.DrawFn) -> list[Any] | None:
    members, out = sorted(draw(forms)), []
    for _ in range(draw(st.integers(0, 3))):
        own = [name for name in members if draw(st.integers(0, 5))]
        out.append(None if not draw(st.integers(0, 5)) else {n: draw(keys) for n in own})
    return out if draw(st.integers(0, 9)) else None


CLICKS = [{"name": "Ann", "position": 1, "type": "x"}]


@given(st.lists(lists_of_objects(), min_size=1, max_size=5))
@settings(max_examples=examples(80))
@example([CLICKS])
@example([[{"type": "t"}], [{"name": "a"}], [{"name": "a", "type": "t"}], [{"name": "a", "value": "1", "type": "t"}]])
@example([[{"Key": "a", "Value": "1"}], [{"Key": "a"}], [{"Key": "a", "Value": None}], [{"Value": "1"}], [{}], [None], []])
@example([[{"name": "a"}, {"value": "1"}], [{"name": "a", "value": "1"}, {"name": None, "value": None}]])
def test_json_alone_and_among_others(lists: list[Any]) -> None:
    assert told_by_json(lists) == [wanted(each) for each in lists]


def test_things_with_a_name_are_no_entries() -> None:
    assert told_by_json([CLICKS] * 100) == [("wrong_type", None)] * 100


def test_entries_whose_values_are_there_are_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = payloads([[{"name": "a", "value": "1", "type": "t"}, {"name": "b", "value": None, "type": "t"}]] * 200)
    monkeypatch.setattr("transforms.contract.parse_json", lambda payload: pytest.fail("read record by record"))
    assert verdicts(check_json(pa.array(texts, pa.binary()), SOURCE, NOW, 0)) == [(None, "1")] * 200


def rows_of(params: pa.Array) -> pa.RecordBatch:
    n = len(params)
    return pa.RecordBatch.from_arrays([pa.array(["x"] * n), pa.array([T] * n), params], ["id", "at", "params"])


def as_payloads(rows: pa.RecordBatch, source: EventSource = SOURCE) -> list[str | None]:
    """The reasons, which are the same of rows, of each alone, of their values, and of the payloads that a dead letter keeps."""
    checked = check(rows, source, NOW, 0)
    reasons: list[str | None] = checked.reasons.to_pylist()
    again = check_json(encode_json(rows, source), source, NOW, 0)
    assert again.reasons.to_pylist() == reasons and again.valid.to_pylist() == checked.valid.to_pylist()
    assert [check(rows.slice(n, 1), source, NOW, 0).reasons[0].as_py() for n in range(len(rows))] == reasons
    values = check_records(rows.to_pylist(), {}, source, NOW, 0)
    assert values.reasons.to_pylist() == reasons and values.valid.to_pylist() == checked.valid.to_pylist()
    return reasons


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.lists(st.lists(st.none() | st.fixed_dictionaries(dict.fromkeys(NAMES, keys)))))
@settings(max_examples=examples(60))
def test_rows_of_arrow(members: set[str], lists: list[Any]) -> None:
    """The members are those of the type."""
    given_ = [[each and {n: each[n] for n in members} for each in one] for one in lists]
    rows = rows_of(pa.array(given_, pa.list_(pa.struct([(n, pa.string()) for n in sorted(members)]))))
    assert as_payloads(rows) == [wanted(one)[0] for one in given_]


SETS = [set(some) for size in range(1, 5) for some in combinations(NAMES, size)]


def test_records_of_avro() -> None:
    """As fastavro reads them: a record has all members of its schema."""
    for members in SETS:
        entry = {"type": "record", "name": "Entry", "fields": [{"name": n, "type": ["null", "string"]} for n in sorted(members)]}
        schema = parse_schema({"type": "record", "name": "Click", "fields": [
            {"name": "id", "type": "string"}, {"name": "at", "type": "long"}, {"name": "params", "type": {"type": "array", "items": entry}},
        ]})  # fmt: skip
        one: list[dict[str, Any] | None] = [dict.fromkeys(members, "a"), dict.fromkeys(members)]
        out = BytesIO()
        schemaless_writer(out, schema, {"id": "x", "at": T, "params": one})
        read: Any = schemaless_reader(BytesIO(out.getvalue()), schema, None)
        assert verdicts(check_records([read], {}, SOURCE, NOW, 0)) == [wanted(one)], members


TYPES = ["string", "int64", "optional string", "repeated string"]


def told_by_protobuf(members: dict[str, str], elements: list[dict[str, Any]], source: EventSource = SOURCE) -> list[Verdict]:
    enums = {"Kind": ["a", "b"]} if "enum .shop.Kind" in members.values() else {}
    file = file_of("shop/click.proto", {
        "Click": {"id": "string", "at": "int64", "params": "repeated .shop.Click.Param"}, "Click.Param": members,
    }, enums=enums)  # fmt: skip
    made = classes(file)["shop.Click"](id="x", at=T)
    for each in elements:
        made.params.add(**each)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "clicks.desc").write_bytes(descriptor_set(file))
        kafka = KafkaSettings(formats={"clicks": "protobuf"}, format_options={"clicks": {"descriptor": "clicks.desc"}})
        kafka.within(Path(folder))
        return verdicts(record_format(source, kafka).decode(pa.array([made.SerializeToString()], pa.binary()), NOW, 0))


def test_messages_of_protobuf() -> None:
    """Where a list is no map, its elements are shown to be none, whichever members they have."""
    for members in SETS:
        if len(members) < 4:
            found = told_by_protobuf(dict.fromkeys(sorted(members), "string"), [dict.fromkeys(members, "a")])
            assert found == told_by_json([[dict.fromkeys(members, "a")]]), members


@pytest.mark.parametrize("kind", ["int64", "bytes", "enum .shop.Kind", "repeated string", ".shop.Click"])
@pytest.mark.parametrize(("key", "value"), [("key", "value"), ("Key", "Value"), ("name", "value")])
def test_keys_of_messages_that_are_no_texts(key: str, value: str, kind: str) -> None:
    source = replace(SOURCE, fields=[SOURCE.fields[0], Field("a", "string", path="params.a.deep")])
    for each in (SOURCE, source):
        assert told_by_protobuf({key: kind, value: ".shop.Click"}, [{}, {}], each)[0][0] == "wrong_type"


def test_values_of_entries_that_are_no_texts() -> None:
    assert told_by_protobuf({"name": "string", "value": "string", "type": "int64"}, [{"name": "a", "value": "1"}]) == [(None, "1")]
    assert told_by_protobuf({"name": "string", "value": "optional string"}, [{"name": "a"}]) == [(None, None)]


DAY = date(2024, 5, 1)
KEYS: list[tuple[pa.DataType, Any]] = [
    (pa.bool_(), True), (pa.float64(), 7.5), (pa.float64(), float("nan")), (pa.timestamp("us"), datetime(2024, 5, 1)),
    (pa.timestamp("us", "UTC"), datetime(2024, 5, 1, tzinfo=UTC)), (pa.decimal128(5, 0), decimal.Decimal(7)), (pa.date64(), DAY),
    (pa.binary(), b"a"), (pa.binary(), b"\xff"), (pa.duration("s"), 7),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=str)
def test_what_a_dead_letter_keeps_of_other_keys_is_refused_again(kind: pa.DataType, key: Any) -> None:
    """Maps and entries whose keys no path names, as themselves and within lists, structs and maps."""
    of_map, (k,) = pa.map_(kind, pa.string()), pa.array([key], kind).to_pylist()
    text = str(k) if not isinstance(k, bytes) else k.decode("latin-1")
    pairs = [(key, "v")]
    entry = pa.list_(pa.struct([("Key", kind), ("Value", pa.string())]))
    shapes: list[tuple[pa.DataType, list[Any], list[Any]]] = [
        (of_map, [pairs, [], None], [text]), (pa.list_(of_map), [[pairs], [[]], [], [None]], [0, text]),
        (pa.list_(of_map), [[pairs], [[]], []], [text]), (pa.struct([("m", of_map)]), [{"m": pairs}, {"m": None}], ["m", text]),
        (pa.map_(pa.string(), of_map), [[("m", pairs)], []], ["m", text]), (of_map, [pairs, []], [0]), (of_map, [pairs, []], []),
        (entry, [[{"Key": key, "Value": "v"}], [{"Key": None, "Value": "v"}], []], [text]),
        (pa.list_(pa.map_(pa.string(), pa.string())), [[[("key", "a"), ("value", "v")]], [[]], []], ["a"]),
    ]  # fmt: skip
    for shape, values, path in shapes:
        source = replace(SOURCE, fields=[SOURCE.fields[0], Field("a", "string", path=["params", *path])])
        rows = rows_of(pa.array(values, shape))
        checked = check(rows, source, NOW, 0)
        again = check_json(encode_json(rows, source), source, NOW, 0)
        assert again.reasons.to_pylist() == checked.reasons.to_pylist(), (shape, path)
        assert checked.reasons[0].as_py() == "wrong_type"


def test_bytes_of_entries_are_spelled_as_their_field_reads_them() -> None:
    kind = pa.list_(pa.struct([("Key", pa.string()), ("Value", pa.binary())]))
    source = replace(SOURCE, fields=[SOURCE.fields[0], Field("a", "string", path="params.a", parse=Hex())])
    rows = rows_of(pa.array([[{"Key": "a", "Value": b"\xff\x00"}], []], kind))
    again = check_json(encode_json(rows, source), source, NOW, 0)
    assert again.valid.to_pylist() == check(rows, source, NOW, 0).valid.to_pylist() and again.reasons.null_count == 2
    assert np.array_equal(again.accepted, [0, 1])
