"""Data as it is, all ways: orders with nested items and money as text, sensors with lists, local times over both changes of the clocks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipelines import workflow
from pipelines.reports.terminal import Steps
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.test_topic_shapes import T0, Record, _times, make_world
from transforms.instants import micros_of

HEAD = """
from tandem.transforms.definitions import Decimal, ElementIndex, Epoch, LastN, Sum, TimeFormat
"""
ORDERS = (
    HEAD
    + """
orders = EventSource(
    name="orders", topic="shop.orders", files="events/orders", explode="items",
    fields=[
        Field("order_id", "string", required=True, path="orderId"), Field("user", "string", required=True, path="user.id"),
        Field("sku", "string", required=True, path="items[].sku"), Field("line", "int64", required=True, path=ElementIndex()),
        Field("cents", "int64", path="items[].price", parse=Decimal(scale=2)), Field("tags", "list<string>", path="items[].tags"),
        Field("shape", "list<float>", path="items[].embedding", length=3),
    ],
    event_time=Field("at", "timestamp", path="ts", parse=Epoch("ms")), tie_breaker="line",
    out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
users = FeatureGroup(
    name="users", source=orders, entity=Entity("user"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), Sum("cents", over=[hours(1), hours(2)]), Last("sku", over=hours(2)), Last("tags", over=hours(1))],
)
skus = FeatureGroup(
    name="skus", source=orders, entity=Entity("sku"), hop=minutes(10), ttl=days(36500),
    aggregates=[Count(over=hours(1)), LastN("shape", n=4, over=hours(2)), Last("shape", over=hours(1))],
)
feast_views(__name__)
"""
)
RIDES = (
    HEAD
    + """
rides = EventSource(
    name="rides", topic="rides", files="events/rides",
    fields=[Field("ride", "int64", required=True, path="Ride ID"), Field("zone", "string", required=True, path=["pickup.zone"])],
    event_time=Field("at", "timestamp", path="Pickup", parse=TimeFormat(
        "%d/%m/%Y %H:%M:%S", zone="Europe/Paris", ambiguous="earlier", missing="later"
    )),
    tie_breaker="ride", out_of_orderness=minutes(1), allowed_lateness=hours(2),
)
zones = FeatureGroup(
    name="zones", source=rides, entity=Entity("zone"), hop=minutes(10), ttl=days(36500), aggregates=[Count(over=[hours(1), hours(3)])],
)
feast_views(__name__)
"""
)


def all_ways(tmp_path: Path, topic: str, source: str, features: str, records: list[Record], bad: dict[str, int], begin: datetime) -> None:
    """Stream and verify; archive what it took, batch over that, and the same rows once more."""
    world = make_world(tmp_path / "world", topic, features)
    world.send(records)
    workflow.apply(world.repo(), None, Steps())
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    first = world.tandem("verify")
    assert first["verdict"] == "proven" and first["problems"] == [] and set(first["values"]["different"]) <= {"too late"}
    assert first["values"]["equal"] > 300
    (done,) = world.tandem("archive")["sources"]
    assert done["rejected"] == bad
    workflow.batch(world.repo(), begin, begin + timedelta(days=4), Steps(), pinned=True)
    against = world.tandem("verify", "--against", "latest")
    assert against["verdict"] == "proven" and against["problems"] == [] and against["values"]["equal"] > 300


@pytest.mark.slow
def test_orders_with_nested_items_and_decimal_money(tmp_path: Path) -> None:
    r = np.random.default_rng(3)
    records: list[Record] = []
    for n, time in enumerate(_times(400, 3)):
        items = [
            {"sku": f"s{r.integers(0, 9)}", "price": f"{r.integers(0, 9999) / 100:.2f}", "tags": ["a", "b"][: n % 3],
             "embedding": [float(v) for v in r.normal(size=3)]} for _ in range(n % 4)
        ]  # fmt: skip
        order = {"orderId": f"o{n}", "ts": time // 1000, "user": {"id": f"u{n % 7}"}, "items": items}
        records.append((None, json.dumps(order).encode(), [], time))
    broken = {"orderId": "x", "ts": records[9][3] // 1000, "user": {"id": "u1"}, "items": [{"sku": "s1"}, {"price": "1.00"}]}
    records.insert(10, (None, json.dumps(broken).encode(), [], records[9][3]))
    all_ways(tmp_path, "shop.orders", "orders", ORDERS, records, {"missing_field": 1}, (T0 - timedelta(days=1)).replace(hour=0))


@pytest.mark.slow
@pytest.mark.parametrize("night", [datetime(2024, 3, 31, tzinfo=UTC), datetime(2024, 10, 27, tzinfo=UTC)])
def test_local_times_over_a_change_of_the_clocks(tmp_path: Path, night: datetime) -> None:
    begin, paris = night - timedelta(hours=3), ZoneInfo("Europe/Paris")
    records: list[Record] = []
    for n in range(500):
        at = begin + timedelta(seconds=50 * n)
        ride = {"Ride ID": n, "pickup.zone": f"z{n % 5}", "Pickup": f"{at.astimezone(paris):%d/%m/%Y %H:%M:%S}", "note": {"x": [1]}}
        records.append((None, json.dumps(ride).encode(), [], micros_of(at)))
    all_ways(tmp_path, "rides", "rides", RIDES, records, {}, (night - timedelta(days=1)).replace(hour=0))
