"""Shapes that other systems write, read with nothing but what ``tandem infer`` says of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.inference.infer_source import infer_files, infer_topic
from pipelines.project.config import KafkaSettings
from pipelines.sources.event_files import events, list_files
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from tests.protobuf_types import classes, descriptor_set, file_of
from transforms.definitions import EventSource

N = 300
T0 = datetime(2024, 5, 1, 10, tzinfo=UTC)
NOW = 2 * 10**15


def at(n: int) -> datetime:
    return T0 + timedelta(seconds=37 * n, milliseconds=7 * n)


def ms(n: int) -> int:
    return (at(n) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def z(n: int) -> str:
    return at(n).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(data: Path, text: str, name: str) -> list[dict[str, Any]]:
    """The events that the definition takes, all of which it must."""
    values: dict[str, Any] = {}
    exec(compile("\n".join(line for line in text.splitlines() if "feast_views" not in line), f"{name}.py", "exec"), values)
    source: EventSource = values[name]
    out: list[dict[str, Any]] = []
    for file in list_files(data, source, None, None, hashes=False):
        for valid, letters in events(file.path, source, NOW, 0, name=file.name, batch_rows=1_000, partitions=file.partitions):
            assert letters.num_rows == 0, letters.to_pylist()[:2]
            out += valid.to_pylist()
    return out


def inferred(tmp_path: Path, records: list[dict[str, Any]] | bytes, **more: Any) -> tuple[str, list[dict[str, Any]]]:
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    if isinstance(records, bytes):
        (folder / "a.csv").write_bytes(records)
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    text = infer_files(folder, name="things", data=tmp_path, group=True, **more).text
    return text, read(tmp_path, text, "things")


def stripe(n: int) -> dict[str, Any]:
    charge = {
        "id": f"ch_{n}", "amount": 100 + n, "currency": "usd", "customer": f"cus_{n % 20}", "created": ms(n) // 1000 - 5,
        "metadata": {"order_id": str(n), "campaign.source": "mail"} if n % 3 else {}, "refunds": {"data": []},
    }  # fmt: skip
    return {"id": f"evt_{n}", "api_version": "2024-04-10", "created": ms(n) // 1000, "type": "charge.succeeded", "data": {"object": charge}}


def mongo(n: int) -> dict[str, Any]:
    return {
        "_id": {"$oid": f"{n:024x}"}, "createdAt": {"$date": z(n)}, "total": {"$numberDecimal": f"{n / 100:.2f}"},
        "qty": {"$numberInt": str(n % 9)}, "seq": {"$numberLong": str(2**40 + n)}, "user": {"since": {"$date": z(0)}},
        "seen": {"$date": {"$numberLong": str(ms(n))}},
    }  # fmt: skip


def sap(n: int) -> dict[str, Any]:
    return {"VBELN": f"{n:010}", "ERDAT": f"/Date({ms(n)}+0120)/", "NETWR": f"{n / 100:.2f}", "KUNNR": f"{n % 20:010}"}


def dotnet(n: int) -> dict[str, Any]:
    ticks = (at(n) - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10
    return {"OrderId": f"{n:08x}", "TimestampUtc": ticks, "CustomerId": n % 20, "Amount": n / 4}


def segment(n: int) -> dict[str, Any]:
    properties = {"order_id": f"o{n}", "total": n / 4, "products": [{"id": "p"}]} if n % 2 else {"product_id": f"p{n % 20}"}
    return {"anonymousId": f"a{n % 20}", "messageId": f"m{n}", "originalTimestamp": z(n), "properties": properties, "receivedAt": z(n + 1),
            "sentAt": z(n), "timestamp": z(n), "userId": None if n % 2 else f"u{n % 20}"}  # fmt: skip


def postgres(n: int) -> dict[str, Any]:
    return {"id": n, "created": str(at(n)).replace("+00:00", "+00"), "user": f"u{n % 20}", "visitor": "x"}


def bigquery(n: int) -> dict[str, Any]:
    when = f"{at(n):%Y-%m-%d %H:%M:%S}" + (f".{at(n).microsecond:06}" if at(n).microsecond else "") + " UTC"
    return {"event_date": "20240501", "event_timestamp": when, "user_pseudo_id": f"{n % 20}.1714557660", "value": "1.25"}


SHAPES: dict[str, tuple[Callable[[int], dict[str, Any]], str, tuple[str, ...]]] = {
    "stripe": (stripe, "customer", ('Field("api_version", "string"', 'path=["data", "object", "metadata", "campaign.source"]')),
    "mongo": (mongo, "id", (
        'Field("created_at", "timestamp", path="createdAt.$date")', 'Field("id", "string", required=True, path="_id.$oid")',
        'Field("total", "float64", required=True, path="total.$numberDecimal", parse=Decimal(scale=2)',
        'Field("qty", "int64", required=True, path="qty.$numberInt", parse=Number()',
        'Field("seen", "timestamp", required=True, path="seen.$date.$numberLong", parse=Epoch("ms", text=True)')),
    "sap": (sap, "kunnr", ('event_time=Field("erdat", "timestamp", path="ERDAT", parse=Epoch("ms", text=True))',)),
    "dotnet": (dotnet, "customer_id", ('event_time=Field("timestamp_utc", "timestamp", path="TimestampUtc", parse=Epoch("ticks"))',)),
    "segment": (segment, "anonymous_id", ('event_time="timestamp"', "properties.products: a list of objects")),
    "postgres": (postgres, "user", ('event_time=Field("created", "timestamp", parse=IsoTime())',)),
    "bigquery": (bigquery, "user_pseudo_id", ('Field("event_timestamp_value", "timestamp", path="event_timestamp", parse=IsoTime())',)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_records_of_other_systems(tmp_path: Path, name: str) -> None:
    make, entity, expected = SHAPES[name]
    text, found = inferred(tmp_path, [make(n) for n in range(N)])
    for part in expected:
        assert part in text, text
    assert f'entity=Entity("{entity}")' in text or f'_{entity}")' in text, text
    assert len(found) == N
    whole = timedelta(seconds=1) if name == "stripe" else timedelta(milliseconds=1)
    assert all(abs(next(iter(event.values())) - at(n)) < whole for n, event in enumerate(found))


def change(n: int, nested: bool) -> dict[str, Any]:
    row = {"order_id": 1000 + n % 150, "customer_id": n % 30, "amount": base64.b64encode((1000 + n).to_bytes(2, "big")).decode(),
           "status": "NEW", "order_date": 19_844 + n % 3}  # fmt: skip
    op = "r" if n < 20 else "cud"[n % 3]
    source = {"connector": "mysql", "ts_ms": ms(n), "db": "shop", "table": "orders", "file": "bin.003", "pos": 1000 + 7 * n, "gtid": None}
    made = {
        "before": None if op in "cr" else row, "after": None if op == "d" else row, "source": source, "op": op, "ts_ms": ms(n) + 350,
        "transaction": None,
    }  # fmt: skip
    return {"schema": {"type": "struct", "fields": [{"field": "before"}]}, "payload": made} if nested else made


@pytest.mark.parametrize("nested", [False, True])
def test_changes_of_rows(tmp_path: Path, nested: bool) -> None:
    """Debezium's envelope, with Kafka Connect's schema around it and without: deletes are passed over."""
    records = [change(n, nested) for n in range(N)]
    text, found = inferred(tmp_path, records)
    inside = "payload." if nested else ""
    for part in (
        'where=col("op").isin(["c", "r", "u"])', f'path="{inside}source.ts_ms", parse=Epoch("ms"))', 'tie_breaker="source_pos"',
        f'Field("order_id", "int64", required=True, path="{inside}after.order_id"', 'entity=Entity("customer_id")',
        f'Field("order_date", "timestamp", required=True, path="{inside}after.order_date", parse=Date())', "unscaled=True",
    ):  # fmt: skip
        assert part in text, text
    assert "transaction" not in text and "before_" not in text and f"What a row was before is at {inside}before" in text
    kept = [n for n in range(N) if n < 20 or "cud"[n % 3] != "d"]
    assert [event["order_id"] for event in found] == [1000 + n % 150 for n in kept]
    assert [event["changed_at"] for event in found] == [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms(n)) for n in kept]


@pytest.mark.parametrize("nested", [False, True])
def test_the_key_of_changes_is_what_they_are_about(nested: bool) -> None:
    broker = MemoryBroker()
    broker.create_topic("shop.orders", 1)
    payloads = [json.dumps(change(n, nested)).encode() for n in range(N)]
    keys: list[dict[str, Any]] = [{"order_id": 1000 + n % 150} for n in range(N)]
    texts: list[bytes | None] = [json.dumps({"schema": {}, "payload": key} if nested else key).encode() for key in keys]
    broker.append("shop.orders", 0, payloads, texts, [[]] * N, [0] * N)
    text = infer_topic(broker.open_reader(), "shop.orders", group=True).text
    assert 'entity=Entity("order_id"),  # other candidates: customer_id' in text


@pytest.mark.parametrize(
    ("key", "field"),
    [
        (lambda n: f"sensor-{n % 7}".encode(), 'Field("key", "string", path=RecordKey())'),
        (lambda n: json.dumps({"deviceId": n % 7, "id": n}).encode(), 'Field("device_id", "int64", path=RecordKey("deviceId"))'),
        (lambda n: (n % 7).to_bytes(8, "big"), 'Field("key", "int64", path=RecordKey(), parse=BigEndian())'),
        (lambda n: str(n).encode(), ""),  # the id, which the payload has
        (lambda n: json.dumps({"id": n}).encode(), ""),
        (lambda n: None, ""),
        (lambda n: b"\xff" * (n % 7 + 1), ""),
    ],
)
def test_what_stands_in_keys_alone_is_said(key: Callable[[int], bytes | None], field: str) -> None:
    broker = MemoryBroker()
    broker.create_topic("readings", 1)
    payloads = [json.dumps({"id": n, "at": z(n), "value": n / 4}).encode() for n in range(N)]
    broker.append("readings", 0, payloads, [key(n) for n in range(N)], [[]] * N, [0] * N)
    text = infer_topic(broker.open_reader(), "readings").text
    said = "# The records' keys hold what no field above does: "
    assert (said + field in text) if field else said not in text


def test_records_that_only_look_like_changes(tmp_path: Path) -> None:
    records = [{"id": n, "op": "c", "ts": z(n), "after": {"x": n}, "source": "web"} for n in range(N)]
    text, _ = inferred(tmp_path, records)
    assert "Debezium" not in text and 'path="after.x"' in text


def german(x: float) -> str:
    return f"{x:,.2f}".translate(str.maketrans(",.", ".,"))


def ship(n: int) -> str:
    return f"{at(n):%d/%m/%Y %H:%M:%S};{219_000_000 + n % 20};57,{n:03};{n / 4:.2f};\n".replace(".", ",")


TEXTS: dict[str, tuple[str, Callable[[int], str], str, str, float]] = {
    "german": (
        "Buchungstag;Käufer;Betrag;Beleg Nr.\n", lambda n: f"{at(n):%d.%m.%Y %H:%M};Müller {n % 20};{german(n * 41.25)};{n}\n",
        "latin-1", 'Csv(delimiter=";", decimal=",", thousands=".", encoding="iso8859-1")', 41.25,
    ),
    "excel": (
        "Order ID,When,Amount\r\n", lambda n: f'{n},{at(n):%m/%d/%Y %H:%M},"{n * 41.25:,.2f}"\r\n',
        "utf-16", 'Csv(thousands=",", encoding="utf-16")', 41.25,
    ),
    "swiss": (
        "id;ts;amount\n", lambda n: f"{n};{z(n)};{n * 1234.5:,.2f}\n".replace(",", "'"), "utf-8-sig", """thousands="'")""", 1234.5,
    ),
    "ships": ("# Timestamp;MMSI;Latitude;SOG;Heading\n", ship, "utf-8", 'Csv(delimiter=";", decimal=",")', 0.25),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_with_delimiters_of_other_countries(tmp_path: Path, name: str) -> None:
    head, line, encoding, dialect, step = TEXTS[name]
    text, found = inferred(tmp_path, (head + "".join(map(line, range(N)))).encode(encoding))
    assert dialect in text, text
    amounts = next(values for values in ([e.get(k) for e in found] for k in ("betrag", "amount", "sog")) if values[0] is not None)
    assert amounts == [n * step for n in range(N)]


def test_days_before_months_are_asked_for_only_where_nobody_can_tell(tmp_path: Path) -> None:
    lines = "".join(f"{n},{T0 + timedelta(days=n):%d/%m/%Y %H:%M:%S},u{n % 20}\n" for n in range(N))
    text, _ = inferred(tmp_path, f"id,ts,user\n{lines}".encode())
    assert 'TimeFormat("%d/%m/%Y %H:%M:%S"' in text and "month/day" not in text


def test_a_feed_of_vehicles(tmp_path: Path) -> None:
    """GTFS-realtime: each entity of a message is an event, at its own time."""
    file = file_of(
        "gtfs-realtime.proto",
        {
            "FeedMessage": {"header": ".transit_realtime.Header", "entity": "repeated .transit_realtime.Entity"},
            "Header": {"timestamp": "uint64"}, "Entity": {"id": "string", "vehicle": ".transit_realtime.Vehicle"},
            "Vehicle": {"trip": ".transit_realtime.Trip", "status": "enum .transit_realtime.Status", "timestamp": "uint64"},
            "Trip": {"trip_id": "string"},
        },
        package="transit_realtime", enums={"Status": ["INCOMING_AT", "STOPPED_AT"]}, syntax="proto2",
    )  # fmt: skip
    payloads = []
    for n in range(N // 10):
        feed = classes(file)["transit_realtime.FeedMessage"]()
        feed.header.timestamp = ms(n) // 1000 + 60
        for k in range(10):
            feed.entity.add(id=f"v{k}", vehicle={"trip": {"trip_id": f"t{k}"}, "status": k % 2, "timestamp": ms(n) // 1000 + k})
        payloads.append(feed.SerializeToString())
    (tmp_path / "feed.desc").write_bytes(descriptor_set(file))
    options = {"vehicles": {"descriptor": str(tmp_path / "feed.desc"), "message": "transit_realtime.FeedMessage"}}
    broker = MemoryBroker()
    broker.create_topic("vehicles", 1)
    broker.append("vehicles", 0, payloads, [None] * len(payloads), [[]] * len(payloads), [0] * len(payloads))
    text = infer_topic(broker.open_reader(), "vehicles", kafka=KafkaSettings(format_options=options), explode="entity").text
    values: dict[str, Any] = {}
    exec(compile(text, "vehicles.py", "exec"), values)
    kafka = KafkaSettings(format_options=options, formats={"vehicles": "protobuf"})
    found = record_format(values["vehicles"], kafka).decode(pa.array(payloads, pa.binary()), NOW, 0).valid.to_pylist()
    assert len(found) == N and found[13]["timestamp"] == datetime.fromtimestamp(ms(1) // 1000 + 3, UTC)
    assert found[13]["status"] == "STOPPED_AT" and found[13]["header_timestamp"] > found[13]["timestamp"]
