"""Records whose events are the elements of lists in lists: OTLP's logs, readings of channels, against plain loops."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.unit.judged import NOW, as_rows, judged
from transforms import contract, mapping
from transforms.contract import check, check_json, encode_json
from transforms.definitions import ElementIndex, Epoch, EventSource, Field, Number
from transforms.errors import DefinitionError

T = 1_714_557_660_123
LOGS = EventSource(
    "logs",
    [
        Field("host", "string", path="host"), Field("service", "string", path="resources[].attributes.service.text"),
        Field("scope", "string", path="resources[].scopes[].scope.name"), Field("level", "int64", path="resources[].scopes[].logs[].level"),
        Field("status", "int64", path="resources[].scopes[].logs[].attributes.status.number", parse=Number()),
        Field("place", "int64", required=True, path=ElementIndex()),
    ],
    event_time=Field("at", "timestamp", path="resources[].scopes[].logs[].ts", parse=Epoch("ms")),
    tie_breaker="place",
    explode="resources[].scopes[].logs",
)  # fmt: skip


def expected(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Its events by loops."""
    out: list[tuple[Any, ...]] = []
    for resource in record.get("resources") or ():
        for scope in (resource or {}).get("scopes") or ():
            for log in (scope or {}).get("logs") or ():
                of = {e["key"]: e["value"] for e in (resource.get("attributes") or ())}
                own = {e["key"]: e["value"] for e in (log.get("attributes") or ())}
                status = (own.get("status") or {}).get("number")
                named = (scope.get("scope") or {}).get("name")
                out.append((record.get("host"), (of.get("service") or {}).get("text"), named, log.get("level"), status and int(status)))
    return out


def attributes(key: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.fixed_dictionaries({"key": st.sampled_from([key, "x"]), "value": value}), max_size=2)


log = st.fixed_dictionaries(
    {"ts": st.just(T)},
    optional={
        "level": st.integers(0, 3),
        "attributes": attributes("status", st.fixed_dictionaries({"number": st.sampled_from(["1", "2"])})),
    },
)
scope = st.fixed_dictionaries(
    {}, optional={"scope": st.fixed_dictionaries({"name": st.sampled_from("ab")}), "logs": st.one_of(st.none(), st.lists(log, max_size=3))}
)
resource = st.fixed_dictionaries(
    {},
    optional={
        "attributes": attributes("service", st.fixed_dictionaries({"text": st.sampled_from("pq")})),
        "scopes": st.one_of(st.none(), st.lists(st.one_of(st.none(), scope), max_size=3)),
    },
)
logs = st.fixed_dictionaries({}, optional={"host": st.just("h"), "resources": st.one_of(st.none(), st.lists(resource, max_size=3))})


@given(st.lists(logs, min_size=1, max_size=4))
@settings(max_examples=examples(60))
@example([{"resources": [{"scopes": [{"logs": [{"ts": T}]}, {"logs": []}]}]}, {"host": "h"}])
def test_events_are_the_elements_of_the_innermost_lists(records: list[dict[str, Any]]) -> None:
    """As JSON, alone and among others, as columns of Arrow and as its rows; each record's in their order, and numbered."""
    checked = judged(records, LOGS)
    assert checked.reasons.null_count == len(records)
    rows = [list(event.values())[1:] for event in checked.valid.to_pylist()]
    wanted = [expected(record) for record in records]
    assert [tuple(row[:-1]) for row in rows] == [event for each in wanted for event in each]
    assert [row[-1] for row in rows] == [n for each in wanted for n in range(len(each))]
    assert checked.accepted.tolist() == [n for n, each in enumerate(wanted) for _ in each]
    assert checked.empty == sum(not each for each in wanted)
    as_rows(records, LOGS)
    again = check_json(encode_json(checked.valid, LOGS.plain), LOGS, NOW, 0).valid if checked.valid.num_rows else checked.valid
    assert again.equals(checked.valid), "events that were read come back as they are"


GOOD: dict[str, Any] = {"resources": [{"scopes": [{"logs": [{"ts": T}]}, {"logs": [{"ts": T}, {"ts": T, "level": 2}]}]}]}


@pytest.mark.parametrize(
    ("resources", "reason", "detail"),
    [
        (7, "wrong_type", "7 at resources is no list, of which the source's events are the elements"),
        ([{}, {"scopes": {}}], "wrong_type",
         "an object at resources[].scopes is no list, of which the source's events are the elements (element 1 of resources)"),
        ([{"scopes": [{"logs": []}, {"logs": "x"}]}], "wrong_type",
         "'x' at resources[].scopes[].logs is no list, of which the source's events are the elements (element 1 of resources[0].scopes)"),
        ([{"scopes": [5]}], "wrong_type",
         "5 at resources[].scopes[] is not an object, as the path resources[].scopes[].logs needs (element 0 of resources[0].scopes)"),
        ([{"scopes": [{"logs": [{"ts": T}, {"ts": T, "level": "x"}]}]}], "wrong_type",
         "level='x' is no int64 (element 1 of resources[0].scopes[0].logs)"),
        ([{"scopes": []}, {"scopes": [{"scope": {"name": 7}, "logs": [{"ts": T}]}]}], "wrong_type",
         "scope=7 is no string; the field's parse=Text() reads it (element 0 of resources[1].scopes)"),
        ([{"scopes": [{"scope": {"name": 7}, "logs": []}]}], None, None),
        ([{"scopes": [{"logs": [{}]}]}], "missing_timestamp", "at is missing or null (element 0 of resources[0].scopes[0].logs)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(resources: Any, reason: str | None, detail: str | None) -> None:
    """One element that is wrong is its whole record's fault, and nobody else's; what no event has is nobody's."""
    checked = judged([GOOD, {"resources": resources}, GOOD], LOGS)
    assert checked.reasons.to_pylist() == [None, reason, None] and checked.details.to_pylist()[1] == detail
    assert checked.accepted.tolist() == [0, 0, 0, 2, 2, 2]


def test_lists_of_lists_have_elements_too() -> None:
    grid = EventSource(
        "cells", [Field("x", "int64", required=True, path="grid[][].x"), Field("n", "int64", required=True, path=ElementIndex())],
        event_time=Field("at", "timestamp", path="ts", parse=Epoch("ms")), tie_breaker="n", explode="grid[]",
    )  # fmt: skip
    records: list[dict[str, Any]] = [{"ts": T, "grid": [[{"x": 1}], [], [{"x": 2}, {"x": 3}]]}, {"ts": T, "grid": [None, [{"x": 4}]]}]
    assert [event["x"] for event in judged(records, grid).valid.to_pylist()] == [1, 2, 3, 4]
    as_rows(records, grid)


def test_columns_of_every_kind_of_list() -> None:
    """Large lists, lists of one length and slices of them, as a file has them."""
    inner = pa.struct([("v", pa.float32())])
    source = EventSource(
        "samples",
        [Field("name", "string", path="channels[].name"), Field("v", "float64", path="channels[].samples[].v"),
         Field("n", "int64", required=True, path=ElementIndex())],
        event_time=Field("at", "timestamp", path="ts", parse=Epoch("ms")), tie_breaker="n", explode="channels[].samples",
    )  # fmt: skip
    rows = [[{"name": "a", "samples": [{"v": 1.5}, {"v": 2.5}]}, {"name": "b", "samples": [{"v": n}, {"v": None}]}] for n in range(3)]
    for outer in (pa.list_, pa.large_list):
        for samples in (pa.list_(inner), pa.large_list(inner), pa.list_(inner, 2)):
            kind = outer(pa.struct([("name", pa.string()), ("samples", samples)]))
            batch = pa.RecordBatch.from_arrays([pa.array([T] * 3), pa.array(rows, kind)], ["ts", "channels"])
            for first in range(3):
                found = check(batch.slice(first), source, NOW, 0).valid.to_pylist()
                wanted = [(c, v, i) for n in range(first, 3) for c, v, i in (("a", 1.5, 0), ("a", 2.5, 1), ("b", n, 2), ("b", None, 3))]
                assert [(e["name"], e["v"], e["n"]) for e in found] == wanted


def test_they_are_read_by_columns() -> None:
    payloads = pa.array([json.dumps({**GOOD, "host": f"h{n}"}).encode() for n in range(200)], pa.binary())
    with mock.patch.object(contract, "parse_json", side_effect=AssertionError):
        found = check_json(payloads, LOGS, NOW, 0).valid
    assert found.num_rows == 600 and found["place"].to_pylist()[:4] == [0, 1, 2, 0]


def test_what_events_repeat_is_bounded_through_all_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record's own text, and that of a list around, count for each of the innermost elements."""
    monkeypatch.setattr(mapping, "MAX_REPEATED_BYTES", 1_000)
    few = {"host": "h" * 100, "resources": [{"scopes": [{"logs": [{"ts": T}] * 3}] * 3}]}
    many = {"host": "h", "resources": [{"scopes": [{"scope": {"name": "s" * 100}, "logs": [{"ts": T}] * 4}] * 3}]}
    checked = judged([few, many, GOOD], LOGS)
    assert checked.reasons.to_pylist() == [None, "too_long", None]
    assert checked.details.to_pylist()[1] == (
        "its 12 events would repeat 101 bytes of the record each, 1,212 together, above the limit of 1,000"
    )


@pytest.mark.parametrize(
    ("explode", "path"), [("a[].b", "a[].c[].x"), ("a[].b", "b[].x"), ("a", "a[].b[].x"), ("a[].b", "a[].b[].c[].x"), (None, "a[].b[].x")]
)
def test_fields_stand_in_the_lists_that_are_exploded(explode: str | None, path: str) -> None:
    with pytest.raises(DefinitionError, match=r"explode names .*, but field 'x' is .*; make both the same list"):
        EventSource(
            "s", [Field("id", "string", required=True), Field("x", "string", path=path)], event_time="at", tie_breaker="id", explode=explode
        )
