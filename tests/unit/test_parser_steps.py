"""SECURITY H2: what records of Protobuf, of lists of events and of many headers cost, counted in steps of ours at n and at 2n."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.protobuf_paths import check_paths
from pipelines.sources.formats.record_format import RecordFormat, record_format
from pipelines.sources.kafka import record_batches
from tests.protobuf_types import classes, descriptor_set, file_of
from tests.unit.test_json_body import steps
from tests.unit.test_kafka_records import batch
from transforms.contract import check_json, check_records
from transforms.definitions import ElementIndex, EventSource, Field, Header
from transforms.errors import ConfigError
from transforms.origin import Origin

NOW = 1_700_000_000_000_000
FILE = file_of(
    "shop/order.proto",
    {
        "Order": {
            "id": "string", "at": "int64", "items": "repeated .shop.Item", "labels": "map string string", "scores": "repeated double",
            "names": "repeated string", "inner": ".shop.Order",
        },
        "Item": {"sku": "string", "n": "int64"},
    },
)  # fmt: skip
Order = classes(FILE)["shop.Order"]
SOURCE = EventSource(
    "orders",
    [
        Field("id", "string", required=True), Field("first", "string", path="items[0].sku"), Field("label", "string", path="labels.k1"),
        Field("scores", "list<float>"), Field("names", "list<string>"), Field("inner", "string", path="inner.inner.id"),
    ],
    event_time="at",
    tie_breaker="id",
    topic="orders",
)  # fmt: skip
ITEMS = EventSource(
    "items",
    [Field("id", "string", required=True), Field("line", "int64", path=ElementIndex()), Field("sku", "string", path="items[].sku")],
    event_time="at",
    tie_breaker="id",
    topic="orders",
    explode="items",
)


def order(n: int, **members: Any) -> bytes:
    return bytes(Order(id="a", at=NOW - 1, **members).SerializeToString())


PAYLOADS: dict[str, Callable[[int], list[bytes]]] = {
    "messages in a list": lambda n: [order(n, items=[{"sku": f"s{i}", "n": i} for i in range(n)])],
    "entries of a map": lambda n: [order(n, labels={f"k{i}": "v" for i in range(n)})],
    "numbers": lambda n: [order(n, scores=[0.5] * n)],
    "texts": lambda n: [order(n, names=["x"] * n)],
    "fields that nobody knows": lambda n: [order(n) + b"\xb8\x3e\x01" * n],
    "one field ever again": lambda n: [order(n) + b"\x0a\x01b" * n],
    "a message in pieces": lambda n: [order(n) + b"\x3a\x03\x0a\x01c" * n],
    "many records": lambda n: [order(n, labels={f"k{i}": "v"}) for i in range(n)],
    "broken records": lambda n: [order(n)[:-1] + bytes([i % 256]) for i in range(n)],
}


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RecordFormat]:
    folder = tmp_path_factory.mktemp("descriptors")
    (folder / "orders.desc").write_bytes(descriptor_set(FILE))
    made = {}
    for source in (SOURCE, ITEMS):
        options = {source.name: {"descriptor": "orders.desc", "message": "shop.Order"}}
        settings = KafkaSettings(formats={source.name: "protobuf"}, format_options=options)
        settings.within(folder)
        made[source.name] = record_format(source, settings)
    return made


def twice(work: Callable[[int], Callable[[], Any]], n: int) -> None:
    """Of twice the input it takes at most a little more than twice the steps, and of none of it few."""
    work(n)()  # what is done once
    once, double = steps(work(n)), steps(work(2 * n))
    assert double <= 2.2 * once + 200, (once, double)
    assert once <= 400 * n + 20_000, once


@pytest.mark.parametrize("kind", PAYLOADS)
def test_protobuf(kind: str, readers: dict[str, RecordFormat]) -> None:
    def work(n: int) -> Callable[[], Any]:
        payloads = pa.array(PAYLOADS[kind](n), pa.binary())
        return lambda: readers["orders"].decode(payloads, NOW, 0)

    twice(work, 300)


LISTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "one list": lambda n: [{"items": [{"sku": f"s{i}"} for i in range(n)]}],
    "one of no objects": lambda n: [{"items": list(range(n))}],
    "one whose last is wrong": lambda n: [{"items": [{"sku": "s"}] * (n - 1) + [{"sku": 1}]}],
    "lists of which each is longer": lambda n: [{"items": [{"sku": "s"}] * k} for k in range(int((2 * n) ** 0.5))],
    "lists of other members": lambda n: [{"items": [{f"k{i}": 1}]} for i in range(n)],
}


IN_PROTOBUF = ("one list", "lists of which each is longer")
WAYS = [(kind, way) for kind in LISTS for way in ("json", "records", "protobuf") if way != "protobuf" or kind in IN_PROTOBUF]


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_lists_of_events(kind: str, way: str, readers: dict[str, RecordFormat]) -> None:
    def work(n: int) -> Callable[[], Any]:
        records = [{"id": "a", "at": NOW - 1, **more} for more in LISTS[kind](n)]
        if way == "records":
            return lambda: check_records(records, {}, ITEMS, NOW, 0)
        if way == "json":
            payloads = pa.array([json.dumps(r).encode() for r in records], pa.binary())
            return lambda: check_json(payloads, ITEMS, NOW, 0)
        sent = pa.array([Order(**r).SerializeToString() for r in records], pa.binary())
        return lambda: readers["items"].decode(sent, NOW, 0)

    twice(work, 300)


HEADERS: dict[str, Callable[[int], list[int]]] = {
    "one record of many": lambda n: [n],
    "many records of one": lambda n: [1] * n,
    "one of many among records of one": lambda n: [n // 2] + [1] * (n // 2),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the places that are looked at: what a step does is done for many records at once."""
    looked, varints = 0, record_batches._varints

    def counted(data: Any, at: Any) -> Any:
        nonlocal looked
        looked += len(at)
        return varints(data, at)

    monkeypatch.setattr(record_batches, "_varints", counted)
    places = []

    def work(n: int) -> Callable[[], Any]:
        rows = [(i, (NOW // 1000, None, b"{}", [(f"h{k}", b"x") for k in range(count)])) for i, count in enumerate(HEADERS[kind](n))]
        raw = batch(0, rows)

        def read() -> None:
            nonlocal looked
            looked = 0
            columns = record_batches.decode(raw, 0)
            headers = columns.headers()
            assert len(headers.values) == sum(HEADERS[kind](n))
            places.append((n, looked))

        return read

    twice(work, 400)
    assert all(looked <= 12 * n + 12 for n, looked in places), places


def test_a_header_is_found_in_one_pass() -> None:
    source = EventSource("s", [Field("id", "string", required=True, path=Header("id"))], event_time="at", tie_breaker="id", topic="s")

    def work(n: int) -> Callable[[], Any]:
        origin = Origin.of([None], [[(f"h{k}", b"x") for k in range(n)] + [("id", b"a")]], np.array([NOW]))
        payloads = pa.array([json.dumps({"at": NOW - 1}).encode()], pa.binary())
        return lambda: check_json(payloads, source, NOW, 0, origin)

    once, double = steps(work(400)), steps(work(800))
    assert double <= once + 50


@pytest.mark.parametrize("n", [40, 127])
def test_a_path_as_deep_as_it_may_be(tmp_path: Path, n: int) -> None:
    """Of a message within itself, which is read, and beyond what Protobuf itself reads is null."""
    (tmp_path / "orders.desc").write_bytes(descriptor_set(FILE))
    deep = Field("deep", "string", path=".".join([*["inner"] * n, "id"]))
    source = EventSource("orders", [Field("id", "string", required=True), deep], event_time="at", tie_breaker="id", topic="orders")
    options = {"orders": {"descriptor": "orders.desc", "message": "shop.Order"}}
    settings = KafkaSettings(formats={"orders": "protobuf"}, format_options=options)
    settings.within(tmp_path)
    made = innermost = Order(id="a", at=NOW - 1)
    for _ in range(min(n, 90)):
        innermost = innermost.inner
    innermost.id = "z"
    checked = record_format(source, settings).decode(pa.array([made.SerializeToString()], pa.binary()), NOW, 0)
    assert checked.valid.column(checked.valid.schema.get_field_index("deep")).to_pylist() == ["z" if n <= 90 else None]


def test_a_path_through_packed_messages_costs_its_length() -> None:
    """Each step into an Any may lead into every message that there is: a path of them cost their number to the power of its length."""
    members = {f"M{i}": {"a": ".google.protobuf.Any"} for i in range(30)}
    file = file_of("packed.proto", members, imports=("google/protobuf/any.proto",))
    of = classes(file)["shop.M0"].DESCRIPTOR

    class Packed:
        def named(self, name: str) -> None:
            return None

        def messages(self) -> list[Any]:
            return [classes(file)[f"shop.M{i}"].DESCRIPTOR for i in range(30)]

    fields = [Field("id", "string", required=True), Field("x", "string", path=["a"] * 100 + ["nowhere"])]
    source = EventSource("o", fields, event_time="at", tie_breaker="id", topic="t")
    with pytest.raises(ConfigError, match=r"where no shop\.M0 can have anything"):
        check_paths(of, source, Packed())
