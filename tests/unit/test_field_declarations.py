"""What a field may say of where it stands and how it is read: mistakes are one line, and what says none of it keeps its fingerprint."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from transforms.definitions import (
    Base64,
    BigEndian,
    Count,
    Date,
    Decimal,
    ElementIndex,
    Entity,
    Enum,
    Epoch,
    EventSource,
    FeatureGroup,
    Field,
    Header,
    Hex,
    Number,
    RecordKey,
    RecordTimestamp,
    TimeFormat,
    hours,
    minutes,
)
from transforms.errors import DefinitionError
from transforms.places import path_of, path_text


def orders(event_time: str | Field = "at", **changes: Any) -> EventSource:
    fields = changes.pop("fields", [])
    return EventSource("orders", [Field("id", "string", required=True), *fields], event_time=event_time, tie_breaker="id", **changes)


def group(source: EventSource) -> FeatureGroup:
    return FeatureGroup("traffic", source, Entity("id"), minutes(5), hours(1), [Count(over=hours(1))])


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("user.id", ("user", "id")),
        ("items[0].sku", ("items", 0, "sku")),
        ("items[-1]", ("items", -1)),
        ("items[].sku", ("items", "[]", "sku")),
        ("a[1][2]", ("a", 1, 2)),
        ("Order Date", ("Order Date",)),
        ("VendorID", ("VendorID",)),
        (["user.id", 3, "a[b"], ("user.id", 3, "a[b")),
        ('payload["shop.Order"].id', ("payload", "shop.Order", "id")),
        ('["user.id"]', ("user.id",)),
        ('a["b[0]"][1]["c]"]', ("a", "b[0]", 1, "c]")),
        ("""a['x"y.z'].b""", ("a", 'x"y.z', "b")),
        ("""a["it's.so"]""", ("a", "it's.so")),
    ],
)
def test_paths(text: Any, steps: tuple[Any, ...]) -> None:
    assert path_of("x", text) == steps
    if isinstance(text, str):
        assert path_text(steps) == text


@pytest.mark.parametrize(
    "path",
    [
        "", ".a", "a.", "a..b", "[0]", "[].a", "a[x]", "a]", "a[1", "a[0]b", "a.[0]", 'a[""]', 'a["b"]c', 'a["b',
        'a.["b"]', """a["b']""", [], [0], ["a", ""], ["a", 1.5], 7,
    ],
)  # fmt: skip
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(DefinitionError, match=r"field 'x': path .*") as error:
        Field("x", "string", path=path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Field("x", path="a.b"), "give it one"),
        (lambda: Field("x", "string", path=RecordTimestamp()), "gives timestamp"),
        (lambda: Field("x", "string", path=ElementIndex()), "gives int64"),
        (lambda: Field("x", "list<string>", path=Header("h")), "gives one value"),
        (lambda: Field("x", "string", parse=Epoch("ms")), "Epoch gives timestamp"),
        (lambda: Field("x", "string", parse=Decimal(2)), "Decimal gives float64 or int64"),
        (lambda: Field("x", "timestamp", parse="ms"), "no way to read a value"),  # type: ignore[arg-type]
        (lambda: Field("x", "int64", value=3), "no expression"),  # type: ignore[arg-type]
        (lambda: Field("x", "list<object>"), "is none of"),  # type: ignore[arg-type]
        (lambda: Field("x", "list<float64>", min=0), "min and max need"),
        (lambda: Header(""), "write the header's name"),
        (lambda: Epoch("min"), "none of s, ms, us, ns"),  # type: ignore[arg-type]
        (lambda: Epoch("s", text=1), "neither True nor False"),  # type: ignore[arg-type]
        (lambda: TimeFormat("yesterday"), "none of datetime.strptime"),
        (lambda: TimeFormat("%Q %Y", "UTC"), "datetime.strptime"),
        (lambda: TimeFormat("%d/%m %H:%M", "UTC"), "no year"),
        (lambda: TimeFormat("%Y-%m-%d"), "reads no zone"),
        (lambda: TimeFormat("%Y-%m-%d%z", "UTC"), "drop zone="),
        (lambda: TimeFormat("%Y-%m-%d", "Paris"), "no time zone of the IANA"),
        (lambda: TimeFormat("%Y-%m-%d", "UTC", ambiguous="both"), "none of 'earlier'"),  # type: ignore[arg-type]
        (lambda: Decimal(16), "0 to 15"),
        (lambda: Decimal(True), "0 to 15"),
        (lambda: Enum({}), "no mapping"),
        (lambda: Enum({1.5: "a"}), "key 1.5"),
        (lambda: Field("x", "int64", parse=Enum({"a": 1, "b": "c"})), "maps 'b' to 'c'"),
        (lambda: Field("x", "int64", parse=Hex(text=True)), "gives string"),
        (lambda: orders(Field("at", "string")), "'timestamp'"),
        (lambda: orders(fields=[Field("sku", "string", path="items[].sku")]), "names no list"),
        (lambda: orders(explode="lines", fields=[Field("sku", "string", path="items[].sku")]), "the list 'lines'"),
        (lambda: orders(fields=[Field("n", "int64", path=ElementIndex())]), "is not given"),
        (lambda: Field("x", "string", path=RecordKey("items[].sku")), "a key has no elements"),
        (
            lambda: orders(explode="items[].parts", fields=[Field("order_id", "string", required=True, path="parts[].id")]),
            "make both the same",
        ),
        (lambda: orders(where=True), "no expression"),
        (lambda: Field("tandem_event", "string"), "taken by Tandem"),
    ],
)
def test_mistakes_are_one_line(make: Callable[[], object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_source_knows_what_it_maps() -> None:
    plain = orders(fields=[Field("amount", "float64"), Field("tags", "list<string>")])
    assert not plain.mapped and plain.plain is plain and plain.arrow_schema.metadata is None
    assert plain.arrow_schema.field("tags").type == pa.list_(pa.string())
    assert Field("e", "list<float>").dtype == "list<float64>"
    mapped = orders(Field("at", "timestamp", path="ts", parse=Epoch("ms")), explode="items", fields=[
        Field("sku", "string", path="items[].sku"), Field("n", "int64", path=ElementIndex()), Field("tenant", "string", path=Header("t")),
    ])  # fmt: skip
    assert mapped.mapped and mapped.event_time == "at" and mapped.needs_origin and not plain.needs_origin
    assert mapped.arrow_schema == mapped.plain.arrow_schema and not mapped.plain.mapped
    assert mapped.arrow_schema.metadata == {b"tandem_event": b"orders"}
    for same in (replace(mapped, topic="t"), pickle.loads(pickle.dumps(mapped))):
        assert same.event_time == "at" and same.event_time_field == mapped.event_time_field and same.explode == ("items",)
    hash(mapped)


def test_only_what_is_used_is_in_the_fingerprint() -> None:
    """The fields of a definition without any of this are told as ever: their hashes are pinned in test_fingerprints_pinned too."""
    bare = group(orders(fields=[Field("amount", "float64", min=0)])).canonical()["source"]
    assert bare == {
        "name": "orders",
        "event_time": "at",
        "tie_breaker": "id",
        "delay": 0,
        "fields": [["id", "string", True, None, None, None], ["amount", "float64", False, 0, None, None]],
    }
    # under its own name is where a field stands anyway, and an event time that says no more than its name is one
    said = orders(Field("at", "timestamp"), fields=[Field("amount", "float64", min=0, path="amount")])
    assert group(said).canonical()["source"] == bare and not said.mapped


@pytest.mark.parametrize(
    "field",
    [
        Field("x", "string", path="a.b"),
        Field("x", "string", path=["a.b"]),
        Field("x", "string", path="a[0]"),
        Field("x", "string", path=["a", "0"]),
        Field("x", "string", path=RecordKey()),
        Field("x", "string", path=RecordKey("id")),
        Field("x", "string", path=Header("a")),
        Field("x", "string", path=Header("b")),
        Field("x", "string", parse=Hex()),
        Field("x", "string", parse=Base64()),
        Field("x", "string", parse=Base64(text=True)),
        Field("x", "string", parse=Enum({1: "a"})),
        Field("x", "string", parse=Enum({"1": "a"})),
    ],
)
def test_every_way_to_read_a_field_has_a_hash_of_its_own(field: Field) -> None:
    others = [
        Field("x", "string"),
        Field("x", "string", path=RecordKey()),
        Field("x", "string", path="a.b"),
        Field("x", "string", path="a[0]"),
        Field("x", "string", path=Header("a")),
        Field("x", "string", parse=Hex()),
        Field("x", "string", parse=Base64()),
        Field("x", "string", parse=Enum({"1": "a"})),
    ]
    mine = group(orders(fields=[field])).definition_hash()
    assert all((group(orders(fields=[other])).definition_hash() == mine) == (other == field) for other in others)


def test_units_zones_and_scales_are_in_the_hash() -> None:
    ways = [
        Epoch("s"), Epoch("ms"), Epoch("ms", text=True), Date(), TimeFormat("%Y", "UTC"), TimeFormat("%Y", "Europe/Paris"),
        TimeFormat("%Y", "UTC", ambiguous="later"), TimeFormat("%Y", "UTC", missing="later"),
    ]  # fmt: skip
    hashes = {group(orders(Field("at", "timestamp", parse=way))).definition_hash() for way in ways}
    numbers = [Decimal(1), Decimal(2), Number(), BigEndian(), None]
    hashes |= {group(orders(fields=[Field("n", "int64", parse=way)])).definition_hash() for way in numbers}
    assert len(hashes) == len(ways) + len(numbers)
