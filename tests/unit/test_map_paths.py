"""Paths into maps, and into lists of entries that are maps: the same as JSON, as rows of Arrow and among others."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import date
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.unit.judged import NOW, as_rows, judged
from transforms import contract
from transforms.contract import check, check_json, encode_json
from transforms.definitions import (
    Epoch,
    EventSource,
    Field,
)

T = 1_714_557_660_123

PARAMS = EventSource(
    "visits",
    [
        Field("visit", "string", required=True), Field("page", "string", path="params.page.text"),
        Field("session", "int64", path="params.session.number"), Field("label", "string", path="labels.team"),
        Field("first", "string", path="params[0].key"), Field("dotted", "string", path=["labels", "a.b"]),
    ],
    event_time=Field("at", "timestamp", parse=Epoch("ms")),
    tie_breaker="visit",
)  # fmt: skip
entry_values = st.one_of(st.none(), st.fixed_dictionaries({}, optional={"text": st.text(max_size=2), "number": st.integers(-3, 3)}))
entries = st.lists(
    st.one_of(
        st.none(), st.fixed_dictionaries({}, optional={"key": st.sampled_from(["page", "session", "other", None]), "value": entry_values})
    ),
    max_size=4,
)
labels = st.one_of(
    st.none(),
    st.lists(st.fixed_dictionaries({"key": st.sampled_from(["team", "a.b", ""]), "value": st.sampled_from(["x", "y", None])}), max_size=3),
    st.dictionaries(st.sampled_from(["team", "a.b"]), st.text(max_size=2)),
    st.lists(st.one_of(st.integers(), st.just({"key": 5, "value": "x"}), st.just({"key": "team", "value": "x", "more": 1})), max_size=2),
)
visits = st.fixed_dictionaries(
    {"visit": st.just("v"), "at": st.just(T)}, optional={"params": st.one_of(st.none(), entries), "labels": labels}
)


@given(st.lists(visits, min_size=1, max_size=5))
@settings(max_examples=examples(80))
@example([{"visit": "v", "at": T, "labels": [0]}, {"visit": "v", "at": T, "labels": []}])
@example(
    [{"visit": "v", "at": T, "labels": [{"key": 5, "value": "x"}]}, {"visit": "v", "at": T, "labels": [{"key": None, "value": "x"}, None]}]
)
def test_maps_that_stand_as_lists_of_entries(records: list[dict[str, Any]]) -> None:
    """GA4's event_params: a list of objects with a key and a value is the map that it is, as JSON, as rows and among others."""
    together = judged(records, PARAMS)
    for row, record in enumerate(records):
        of = {e["key"]: e.get("value") or {} for e in record.get("params") or () if e is not None and e.get("key")}
        if together.reasons[row].as_py() is None:
            (got,) = together.valid.filter(pa.array(together.accepted == row)).to_pylist()
            assert (got["page"], got["session"]) == (of.get("page", {}).get("text"), of.get("session", {}).get("number"))
    as_rows(records, PARAMS)


OTHERS = EventSource(
    "changes",
    [
        Field("id", "int64", required=True, path="columns.id"), Field("who", "string", path="columns.name"),
        Field("env", "string", path="Tags.env"),
        Field("note", "string", path="notes.gift"),
    ],
    event_time=Field("at", "timestamp", parse=Epoch("ms")),
    tie_breaker="id",
)  # fmt: skip
column = st.one_of(
    st.none(),
    st.fixed_dictionaries({"name": st.just("id"), "value": st.integers(0, 9)}, optional={"type": st.just("bigint")}),
    st.fixed_dictionaries({"name": st.just("name"), "type": st.just("text")}, optional={"value": st.sampled_from(["a", None])}),
)
tag = st.fixed_dictionaries({}, optional={"Key": st.sampled_from(["env", "x", None]), "Value": st.sampled_from(["prod", None])})
note = st.one_of(
    st.fixed_dictionaries({}, optional={"name": st.sampled_from(["gift", "x", None]), "value": st.sampled_from(["y", None])}),
    st.sampled_from([{"name": 5, "value": "y"}, {"name": "gift", "value": "y", "price": 1}, {"key": "gift", "value": "y"}, 7]),
)
changes = st.fixed_dictionaries(
    {"at": st.just(T), "columns": st.lists(column, max_size=4)},
    optional={"Tags": st.lists(tag, max_size=3), "notes": st.lists(note, max_size=2)},
)


@given(st.lists(changes, min_size=1, max_size=4))
@settings(max_examples=examples(60))
@example([{"at": T, "columns": [{"name": "id", "value": 1}], "notes": [{"name": "gift", "value": "y"}, {"key": "gift", "value": "z"}]}])
@example([{"at": T, "columns": [{"name": "id", "value": 1, "type": "bigint"}], "Tags": [{"Key": "env", "Value": "prod"}]}] * 4)
def test_entries_as_others_write_them(records: list[dict[str, Any]]) -> None:
    """The columns of wal2json, tags of AWS, notes and headers with a name: the same as JSON, as rows and among others."""
    together = judged(records, OTHERS)
    for row, record in enumerate(records):
        if together.reasons[row].as_py() is None:
            (got,) = together.valid.filter(pa.array(together.accepted == row)).to_pylist()
            of = {e["name"]: e.get("value") for e in record["columns"] if e}
            env = {e["Key"]: e.get("Value") for e in record.get("Tags", ()) if e.get("Key")}.get("env")
            note = {e["name"]: e.get("value") for e in record.get("notes", ()) if e.get("name")}.get("gift")
            assert (got["id"], got["who"], got["env"], got["note"]) == (of.get("id"), of.get("name"), env, note)
    as_rows(records, OTHERS)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64(), pa.date32()])
def test_maps_by_numbers_and_days(kind: pa.DataType) -> None:
    """Keys are the texts that they are, as the same rows have them as JSON, which a replay sends."""
    days = pa.types.is_date32(kind)
    keys: list[Any] = [date(2024, 5, 1), date(1969, 12, 31)] if days else [1, 2**63 + 5 if pa.types.is_uint64(kind) else -7]
    pairs = pa.map_(kind, pa.string())
    column = pa.array([[(keys[0], "a"), (keys[1], "b"), (keys[0], "c")], None, [], [(keys[1], None)]], pairs)
    source = EventSource(
        "days", [Field("id", "int64", required=True), *(Field(n, "string", path=["m", str(k)]) for n, k in zip("xy", keys, strict=True))],
        event_time=Field("at", "timestamp", parse=Epoch("ms")), tie_breaker="id",
    )  # fmt: skip
    batch = pa.RecordBatch.from_arrays([pa.array([T] * 4), pa.array(range(4)), column], ["at", "id", "m"])
    wanted = [("c", "b"), (None, None), (None, None), (None, None)]
    for first in range(4):
        valid = check(batch.slice(first), source, NOW, 0).valid
        assert list(zip(valid["x"].to_pylist(), valid["y"].to_pylist(), strict=True)) == wanted[first:]
    again = check_json(encode_json(batch, source), source, NOW, 0).valid
    assert list(zip(again["x"].to_pylist(), again["y"].to_pylist(), strict=True)) == wanted
    wrong = replace(source, fields=[source.fields[0], Field("x", "int64", path=["m", str(keys[0])])])
    assert check(batch, wrong, NOW, 0).details.to_pylist()[0] == "x='c' is no int64"


def test_entries_of_lists_of_every_type_and_slice() -> None:
    kind = pa.struct([("key", pa.large_string()), ("value", pa.struct([("text", pa.string())]))])
    given = [
        [{"key": "page", "value": {"text": "a"}}, {"key": "page", "value": {"text": "b"}}],
        None,
        [],
        [{"key": "x", "value": None}, None],
    ]
    source = replace(PARAMS, fields=PARAMS.fields[:2])
    for made in (pa.list_(kind), pa.large_list(kind)):
        batch = pa.RecordBatch.from_arrays(
            [pa.array([T] * 5), pa.array(list("uvwxy")), pa.array([*given, [{"key": "page", "value": {"text": "c"}}]], made)],
            ["at", "visit", "params"],
        )
        for first in range(5):
            got = check(batch.slice(first), source, NOW, 0)
            assert got.valid.column("page").to_pylist() == ["b", None, None, None, "c"][first:]


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()])
def test_keys_of_maps_and_entries_may_be_words_of_a_dictionary(index: pa.DataType) -> None:
    """As the same rows are as JSON, which a replay sends."""
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], index), pa.array(["page", "other"]))
    texts = pa.StructArray.from_arrays([pa.array(["a", "b", "c", "d"])], ["text"])
    ends, source = pa.array([0, 2, 3, 4], pa.int32()), replace(PARAMS, fields=PARAMS.fields[:2])
    entries_column = pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays([words, texts], ["key", "value"]))
    made = [entries_column]
    with suppress(pa.ArrowException, TypeError):  # a null key, which no map has
        made.append(pa.MapArray.from_arrays(ends, words.fill_null("other"), texts))
    for params in made:
        batch = pa.RecordBatch.from_arrays([pa.array([T] * 3), pa.array(list("uvw")), params], ["at", "visit", "params"])
        for first in range(3):
            got = check(batch.slice(first), source, NOW, 0)
            assert got.reasons.to_pylist() == [None] * (3 - first)
            assert got.valid.column("page").to_pylist() == ["a", None, "d"][first:]


@pytest.mark.parametrize("form", ["list", "map"])
def test_slices_look_at_their_own_entries_alone(form: str) -> None:
    """A table that is read in slices costs what it costs in one piece."""
    n = 64
    value = pa.struct([("text", pa.string())])
    kind = pa.map_(pa.string(), value) if form == "map" else pa.list_(pa.struct([("key", pa.string()), ("value", value)]))
    rows = [[("page", {"text": "a"})] if form == "map" else [{"key": "page", "value": {"text": "a"}}]] * n
    batch = pa.RecordBatch.from_arrays([pa.array([T] * n), pa.array(["v"] * n), pa.array(rows, kind)], ["at", "visit", "params"])
    source = replace(PARAMS, fields=PARAMS.fields[:2])
    with mock.patch.object(pc, "equal", wraps=pc.equal) as equal:
        for first in range(n):
            assert check(batch.slice(first, 1), source, NOW, 0).valid.column("page").to_pylist() == ["a"]
    assert sum(len(call.args[0]) for call in equal.call_args_list) == n


def test_entries_are_read_by_columns() -> None:
    record = {"visit": "v", "at": T, "params": [{"key": "page", "value": {"text": "a"}}, {"key": "session", "value": {"number": 7}}]}
    payloads = pa.array([json.dumps({**record, "at": T + n}).encode() for n in range(200)], pa.binary())
    with mock.patch.object(contract, "parse_json", side_effect=AssertionError):
        found = check_json(payloads, PARAMS, NOW, 0).valid
    assert found.num_rows == 200 and found.column("page").to_pylist()[0] == "a" and found.column("session").to_pylist()[0] == 7
