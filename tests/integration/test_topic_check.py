"""``tandem check --only topics``: the contract on the newest records of topics, and the fields that stand nowhere in them."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from pipelines.sources.memory import MemoryBroker
from pipelines.training import topic_check
from pipelines.training.project_check import check_project
from tests.integration.test_topic_shapes import SECOND, T0, Record, World, make_world
from tests.protobuf_types import file_of
from tests.schema_registry import schema_registry
from transforms.instants import micros_of

VISITS = """
visits = EventSource(
    name="visits", topic="web.visits", files="events/visits", explode="pages",
    fields=[
        Field("visit", "string", required=True, path="visitId"), Field("user", "string", required=True, path=RecordKey("user.id")),
        Field("shop", "string", path=RecordKey("shop.id")), Field("tenant", "string", path=Header("x-tenent")),
        Field("country", "string", path="user.countrycode"), Field("url", "string", path="pages[].URL"),
        Field("seconds", "float64", path="pages[].seconds"), Field("first", "string", path="tags[0]"),
    ],
    event_time="at", tie_breaker="visit",
)
users = FeatureGroup(
    name="users", source=visits, entity=Entity("user"), hop=minutes(5), ttl=days(365), aggregates=[Count(over=hours(1))],
)
feast_views(__name__)
"""
CLICKS = """
clicks = EventSource(
    name="clicks", topic="web.clicks",
    fields=[Field("click", "string", required=True, path="clickId"), Field("user", "string", required=True, path="who.id"),
            Field("country", "string", path="who.country")],
    event_time="at", tie_breaker="click",
)
users = FeatureGroup(
    name="users", source=clicks, entity=Entity("user"), hop=minutes(5), ttl=days(365), aggregates=[Count(over=hours(1))],
)
feast_views(__name__)
"""


def visits(numbers: Sequence[int], **more: Any) -> list[Record]:
    out: list[Record] = []
    for n in numbers:
        at = micros_of(T0) + n * SECOND
        value = {"visitId": f"v{n}", "at": at, "user": {"country_code": "NO"}, "pages": [{"url": "/a", "seconds": 1.5}], **more}
        out.append((b'{"user": {"id": "u1"}}', json.dumps(value).encode(), [("x-tenant", b"acme")], at))
    return out


def checked(world: World) -> tuple[list[str], list[str]]:
    """What is said, and what is wrong."""
    said: list[str] = []
    return said, check_project(world.repo(), said.append, parts=["topics"])


def test_fields_that_stand_nowhere_and_what_the_contract_says(tmp_path: Path) -> None:
    world = make_world(tmp_path, "web.visits", VISITS)
    assert checked(world) == (["topic web.visits: no records yet"], [])
    at = micros_of(T0)
    odd: list[Record] = [(b"{}", b"{broken", [], at), (b'{"user": {"id": "u1"}}', None, [], at), *visits([99], pages=[])]
    world.send([*visits(range(40)), *odd])
    said, problems = checked(world)
    assert problems == []
    assert said == [
        "source visits: field country is null in all events: there is nothing at 'user.countrycode'; write path='user.country_code', where"
        " something does",
        "source visits: field url is null in all events: there is nothing at 'pages[].URL'; write path='pages[].url', where something does",
        "source visits: field shop is null in all of 40 events read: look whether anything stands at 'shop.id' in records' keys,"
        " and correct path= or drop the field",
        "source visits: field tenant is null in all of 40 events read: look whether anything stands in header 'x-tenent', and correct path="
        " or drop the field",
        "topic web.visits: of the newest 43 records 40 events accepted, rejected: 1 malformed, 1 of no event, 1 tombstones",
    ]


def test_the_newest_records_of_every_partition_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_check, "NEWEST", 50)
    world = make_world(tmp_path, "web.visits", VISITS)
    world.send([*visits(range(100), user={"countrycode": "NO"}), *visits(range(100, 160))])
    said, _ = checked(world)
    assert said[-1] == "topic web.visits: of the newest 50 records 50 events accepted, rejected: none"
    assert "'user.country_code', where something does" in said[0], "older ones had it"


def test_what_is_wrong_is_one_line_and_nothing_is_waited_for(tmp_path: Path) -> None:
    world = make_world(tmp_path, "web.visits", VISITS)
    world.send(visits(range(30), visitId=None))
    _, problems = checked(world)
    assert problems == ["source 'visits': its contract accepts none of the newest 30 records of web.visits (30 missing_field)"]
    assert isinstance(world.broker, MemoryBroker)
    world.broker.pause()
    _, problems = checked(world)
    assert len(problems) == 1 and "is paused" in problems[0]
    world.broker.resume()
    world.broker.delete_topic("web.visits")
    _, problems = checked(world)
    assert len(problems) == 1 and "there is no topic 'web.visits'" in problems[0]


@pytest.mark.parametrize(
    ("rest", "taken", "told"),
    [
        ({}, True, "rejected: none, 20 filtered"),
        ({"broken": 1}, True, "rejected: 1 malformed, 20 filtered"),
        ({"gone": 3}, True, "rejected: none, 20 filtered, 3 tombstones"),
        ({"empty": 25}, True, "rejected: none, 20 filtered, 25 of no event"),
        ({"empty": 2, "broken": 22}, True, "rejected: 22 malformed, 20 filtered, 2 of no event"),
        ({"broken": 21, "gone": 9}, False, "21 malformed, 20 filtered, 9 tombstones"),
        ({"bad": 1}, False, "1 missing_field, 20 filtered"),
        ({"bad": 2, "broken": 1, "gone": 1}, False, "2 missing_field, 1 malformed, 20 filtered, 1 tombstones"),
    ],
    ids=lambda value: " ".join(f"{n} {what}" for what, n in value.items()) or "none" if isinstance(value, dict) else "",
)
def test_a_source_is_judged_by_the_records_that_are_for_it(tmp_path: Path, rest: dict[str, int], taken: bool, told: str) -> None:
    """A topic of many kinds of records, of which the newest may well be of others."""
    filtered = VISITS.replace('event_time="at"', 'event_time="at", where=col("country") == "SE"')
    world = make_world(tmp_path, "web.visits", f"from tandem.transforms.definitions import col\n{filtered}")
    at = micros_of(T0)
    kinds: dict[str, list[Record]] = {
        "broken": [(b"{}", b"{broken", [], at)],
        "gone": [(b'{"user": {"id": "u1"}}', None, [], at)],
        "empty": visits([99], pages=[]),
        "bad": visits([98], visitId=None, user={"countrycode": "SE"}),
    }
    world.send([*visits(range(20), user={"countrycode": "NO"}), *(record for kind, n in rest.items() for record in kinds[kind] * n)])
    said, problems = checked(world)
    n = 20 + sum(rest.values())
    if taken:
        assert (said, problems) == ([f"topic web.visits: of the newest {n} records 0 events accepted, {told}"], [])
    else:
        assert (said, problems) == ([], [f"source 'visits': its contract accepts none of the newest {n} records of web.visits ({told})"])


def test_records_of_a_schema_registry(tmp_path: Path) -> None:
    who = {"type": "record", "name": "Who", "fields": [{"name": "id", "type": "string"}, {"name": "Country", "type": "string"}]}
    schema: dict[str, Any] = {
        "type": "record", "name": "Click",
        "fields": [{"name": "clickId", "type": "string"}, {"name": "at", "type": "long"}, {"name": "who", "type": who}],
    }  # fmt: skip
    with schema_registry() as registry:
        world = make_world(tmp_path, "web.clicks", CLICKS, schema_registry=registry.url, formats={"clicks": "avro"})
        number = registry.register("web.clicks-value", json.dumps(schema))
        records: list[Record] = []
        for n in range(30):
            out = io.BytesIO(struct.pack(">bI", 0, number))
            out.seek(0, io.SEEK_END)
            value = {"clickId": f"c{n}", "at": micros_of(T0) + n, "who": {"id": "u", "Country": "NO"}}
            schemaless_writer(out, parse_schema(schema), value)
            records.append((None, out.getvalue(), [], micros_of(T0) + n))
        world.send(records)
        said, problems = checked(world)
    assert problems == []
    assert said == [
        "source clicks: field country is null in all events: there is nothing at 'who.country'; write path='who.Country', where something"
        " does",
        "topic web.clicks: of the newest 30 records 30 events accepted, rejected: none",
    ]


AFTER = '        Field("amount", "float64", path="after.amuont"),'
CHANGES = """
changes = EventSource(
    name="changes", topic="shop.orders",
    fields=[
        Field("order_id", "int64", required=True, path="after.id"), Field("user", "string", path=Header("x-user")),
PLACE
    ],
    event_time=Field("at", "timestamp", path="ts_ms", parse=Epoch("ms")), tie_breaker="order_id",
)
users = FeatureGroup(
    name="users", source=changes, entity=Entity("order_id"), hop=minutes(5), ttl=days(365), aggregates=[Count(over=hours(1))],
)
feast_views(__name__)
"""


def registered(form: str) -> tuple[str, str]:
    """The newest schema of a topic of changes, and its kind."""
    if form == "avro":
        row = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}, {"name": "amount", "type": "double"}]}
        fields = [{"name": "after", "type": ["null", row]}, {"name": "ts_ms", "type": "long"}]
        return json.dumps({"type": "record", "name": "Envelope", "fields": fields}), "AVRO"
    if form == "json_schema":
        member: dict[str, Any] = {"type": "object", "properties": {"id": {}, "amount": {}}, "additionalProperties": False}
        return json.dumps({"type": "object", "properties": {"after": {"oneOf": [{"type": "null"}, member]}, "ts_ms": {}}}), "JSON"
    messages = {"Envelope": {"after": ".shop.Envelope.Row", "ts_ms": "int64"}, "Envelope.Row": {"id": "int64", "amount": "double"}}
    file = file_of("orders.proto", messages)
    return base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF"


@pytest.mark.parametrize("form", ["avro", "json_schema", "protobuf"])
def test_a_topic_without_records_is_checked_by_its_schema(tmp_path: Path, form: str) -> None:
    right = f"from tandem.transforms.definitions import Epoch\n{CHANGES}".replace("PLACE", AFTER.replace("amuont", "amount"))
    with schema_registry() as registry:
        settings: dict[str, Any] = {"schema_registry": registry.url, "formats": {"changes": form}}
        world = make_world(tmp_path / "right", "shop.orders", right, **settings)
        assert checked(world) == (["topic shop.orders: no records yet"], []), "nothing is registered yet"
        registry.register("shop.orders-value", *registered(form))
        known = "topic shop.orders: no records yet; by the newest schema of shop.orders-value something can stand where its fields do"
        assert checked(world) == ([known], [])
        world = make_world(tmp_path / "wrong", "shop.orders", right.replace("after.amount", "after.amuont"), **settings)
        said, (problem,) = checked(world)
        assert said == [] and problem.startswith("source 'changes': field 'amount' stands at after.amuont, where no ")
        assert problem.endswith("can have anything; write path='after.amount'")
        registry.stop()
        said, (problem,) = checked(world)
        assert f"the schema registry at {registry.url} does not answer" in problem
