"""Shapes that other systems write, read with nothing but what ``tandem infer`` says of them."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inference.infer_source import infer_files, infer_topic
from pipelines.inference.schema_words import categories
from pipelines.project.config import KafkaSettings
from pipelines.sources.event_files import events, list_files
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from tests.protobuf_types import classes, descriptor_set, file_of
from transforms.definitions import EventSource, Field, Header

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
    assert "transaction" not in text and "before_" not in text and f"what was deleted is at {inside}before." in text
    kept = [n for n in range(N) if n < 20 or "cud"[n % 3] != "d"]
    assert [event["order_id"] for event in found] == [1000 + n % 150 for n in kept]
    assert [event["changed_at"] for event in found] == [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms(n)) for n in kept]


def of_maxwell(n: int) -> tuple[dict[str, Any], bool]:
    kind = ("insert", "update", "delete", "bootstrap-start")[n % 4]
    row = {"id": n % 50, "who": f"w{n % 20}"} if kind != "bootstrap-start" else {}
    return {"database": "shop", "table": "t", "type": kind, "ts": ms(n) // 1_000, "xid": n, "data": row}, n % 4 < 2


def of_mongo(n: int) -> tuple[dict[str, Any], bool]:
    """Updates have no document unless it is asked for, and none where it is gone meanwhile; of replacements there are some without."""
    kind = ("insert", "update", "delete", "replace")[n % 4]
    whole = kind == "insert" or (kind == "replace" and n % 8 == 3)
    more = {"fullDocument": {"_id": {"$oid": f"{n:024x}"}, "id": n % 50, "who": f"w{n % 20}"} if whole else None}
    at = {"clusterTime": {"$timestamp": {"t": ms(n) // 1_000, "i": 1}}}
    return {"_id": {"_data": f"82{n:05X}"}, "operationType": kind, **at, "documentKey": {"_id": {"$oid": f"{n:024x}"}}, **more}, whole


def of_golden_gate(n: int) -> tuple[dict[str, Any], bool]:
    row = {"id": n % 50, "who": f"w{n % 20}"}
    rows = {"after": row} if n % 3 else {"before": row}
    return {"table": "S.T", "op_type": "DIU"[n % 3], "op_ts": z(n), "pos": f"{n:09d}", **rows}, n % 3 > 0


def of_dynamo(n: int) -> tuple[dict[str, Any], bool]:
    row = {"id": {"N": str(n % 50)}, "who": {"S": f"w{n % 20}"}}
    inside = {"ApproximateCreationDateTime": ms(n) // 1_000, "Keys": {"id": row["id"]}, "SequenceNumber": str(10**20 + n)}
    return {
        "eventID": f"{n:05d}",
        "eventName": "INSERT" if n % 3 else "REMOVE",
        "dynamodb": {**inside, **({"NewImage": row} if n % 3 else {})},
    }, n % 3 > 0


def of_canal(n: int) -> tuple[dict[str, Any], bool]:
    """A list of rows each, of which there is one here."""
    kind = ("INSERT", "UPDATE", "DELETE", "ALTER")[n % 4]
    row = {"id": str(n), "who": f"w{n % 20}", "amount": f"{n}.50"}
    ddl = kind == "ALTER"
    return {
        "data": None if ddl else [row], "old": [{"amount": "1.00"}] if kind == "UPDATE" else None, "database": "shop", "table": "t",
        "type": kind, "es": ms(n), "ts": ms(n) + 40, "id": n, "isDdl": ddl, "pkNames": None if ddl else ["id"], "sql": "",
        "mysqlType": None if ddl else {"id": "bigint"}, "sqlType": None if ddl else {"id": -5},
    }, n % 4 < 2  # fmt: skip


def of_wal2json(n: int) -> tuple[dict[str, Any], bool]:
    """Its second format: the columns of a row as a list, and a record each for the begin and the end of a transaction."""
    kind = "BIUDC"[n % 5]
    columns = [
        {"name": "id", "type": "bigint", "value": n % 50}, {"name": "who", "type": "text", "value": None if n % 10 == 1 else f"w{n % 20}"},
        {"name": "name", "type": "text", "value": "n", "optional": True},
    ]  # fmt: skip
    told = {"action": kind, "xid": n // 5, "timestamp": f"{at(n):%Y-%m-%d %H:%M:%S.%f}+00", "lsn": f"0/{n:06X}"}
    if kind in "BC":
        return told, False
    row = {"identity": columns[:1]} if kind == "D" else {"columns": columns}
    return {**told, "schema": "public", "table": "t", **row}, kind != "D"


@pytest.mark.parametrize("made", [of_canal, of_maxwell, of_mongo, of_golden_gate, of_dynamo, of_wal2json])
def test_changes_as_others_write_them(tmp_path: Path, made: Callable[[int], tuple[dict[str, Any], bool]]) -> None:
    """What has no row after it, such as a delete, is no event, and no dead letter either."""
    records, whole = zip(*(made(n) for n in range(N)), strict=True)
    text, found = inferred(tmp_path, records)
    assert "# Changes of rows, as " in text, text
    assert [int(event["changed_at"].timestamp()) for event in found] == [ms(n) // 1_000 for n in range(N) if whole[n]]


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


def test_the_time_of_cloud_events_stands_in_a_header() -> None:
    """In their binary mode the payload is the data alone; the field that is told reads it."""
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    headers: list[list[tuple[str, bytes | None]]] = [[("ce_id", b"%d" % n), ("ce_time", z(n).encode())] for n in range(N)]
    broker.append("orders", 0, [b'{"total":%d}' % n for n in range(N)], [None] * N, headers, [0] * N)
    text = infer_topic(broker.open_reader(), "orders").text
    told = 'Field("ce_time", "timestamp", path=Header("ce_time"))'
    assert told in text and 'Field("ce_id", "string", path=Header("ce_id"))' in text and "no record holds a time" in text
    when = Field("ce_time", "timestamp", path=Header("ce_time"))
    source = EventSource("orders", [Field("total", "int64", required=True)], event_time=when, tie_breaker="total")
    fetched = broker.open_reader().poll("orders", 0, 0, N, 0)
    checked = record_format(source, KafkaSettings()).judge(fetched.payloads, NOW, 0, fetched.origin(source))
    assert checked.valid["ce_time"].to_pylist() == [at(n) for n in range(N)]


def test_headers_that_are_texts_are_fields_in_a_comment() -> None:
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    payloads = [json.dumps({"id": n, "at": z(n), "x_tenant": 1}).encode() for n in range(3)]
    headers: list[list[tuple[str, bytes | None]]] = [[("x-tenant", b"eu"), ("span", bytes([0, 255])), ("none", None), ('a"\n', b"1")]] * 3
    broker.append("orders", 0, payloads, [None] * 3, headers, [0] * 3)
    text = infer_topic(broker.open_reader(), "orders").text
    told = text[text.index("# The records' headers may be fields, too:") :].splitlines()
    assert told[1:] == [
        '#     Field("x_tenant_2", "string", path=Header("x-tenant")),', '#     Field("a", "string", path=Header("a\\"\\n")),',
    ]  # fmt: skip


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


HEADERS = {
    "a delimiter at the end of each line": ("id|at|v|\n", lambda n: f"{n}|{z(n)}|{n / 4}|\n", "v"),
    "a column without a name": ("Trip ID,Start,,v\n", lambda n: f"t{n},{z(n)},x,{n / 4}\n", "v"),
    "a name twice": ("id,at,ok,v,ok\n", lambda n: f"t{n},{z(n)},a,{n / 4},b\n", "v"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_spreadsheets(tmp_path: Path, name: str) -> None:
    head, line, field = HEADERS[name]
    text, found = inferred(tmp_path, (head + "".join(map(line, range(N)))).encode())
    assert [e[field] for e in found] == [n / 4 for n in range(N)] and "header=False" not in text and '"ok"' not in text


WRITTEN: dict[str, tuple[Callable[[datetime], Any], str]] = {
    "nginx": (lambda t: f"{t:%d/%b/%Y:%H:%M:%S} +0000", 'TimeFormat("%d/%b/%Y:%H:%M:%S %z")'),
    "apache": (lambda t: f"[{t:%d/%b/%Y:%H:%M:%S} +0000]", 'TimeFormat("[%d/%b/%Y:%H:%M:%S %z]")'),
    "http": (lambda t: f"{t:%a, %d %b %Y %H:%M:%S} GMT", 'TimeFormat("%a, %d %b %Y %H:%M:%S GMT", zone="UTC")'),
    "mail": (lambda t: f"{t:%a, %d %b %Y %H:%M:%S} +0000".replace(", 0", ", "), 'TimeFormat("%a, %d %b %Y %H:%M:%S %z")'),
    "twitter": (lambda t: f"{t:%a %b %d %H:%M:%S} +0000 {t:%Y}", 'TimeFormat("%a %b %d %H:%M:%S %z %Y")'),
    "java.util.Date": (lambda t: f"{t:%a %b %d %H:%M:%S} UTC {t:%Y}", 'TimeFormat("%a %b %d %H:%M:%S UTC %Y", zone="UTC")'),
    "ctime": (lambda t: f"{t:%a %b %e %H:%M:%S %Y}", 'TimeFormat("%a %b %d %H:%M:%S %Y", zone="UTC")'),
    "am and pm": (lambda t: f"{t:%m/%d/%Y %I:%M:%S %p}", 'TimeFormat("%m/%d/%Y %I:%M:%S %p", zone="UTC")'),
    "a month's name": (lambda t: f"{t:%d %B %Y %H:%M:%S}", 'TimeFormat("%d %'),
    "oracle": (lambda t: f"{t:%d-%b-%y %I.%M.%S.%f %p}".upper(), 'TimeFormat("%d-%b-%y %I.%M.%S.%f %p", zone="UTC")'),
    "db2": (lambda t: f"{t:%Y-%m-%d-%H.%M.%S.%f}", 'TimeFormat("%Y-%m-%d-%H.%M.%S.%f", zone="UTC")'),
    "digits": (lambda t: f"{t:%Y%m%d%H%M%S}", 'TimeFormat("%Y%m%d%H%M%S", zone="UTC")'),
    "digits and milliseconds": (lambda t: f"{t:%Y%m%d%H%M%S%f}"[:-3], 'TimeFormat("%Y%m%d%H%M%S%f", zone="UTC")'),
    "iso's basic form": (lambda t: f"{t:%Y%m%dT%H%M%S}Z", "IsoTime()"),
    "java": (lambda t: f"{t + timedelta(hours=2):%Y-%m-%dT%H:%M:%S.%f}+02:00[Europe/Paris]", "IsoTime()"),
    "go": (lambda t: f"{t:%Y-%m-%d %H:%M:%S.%f}000 +0000 UTC", "IsoTime()"),
}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_times_as_they_are_written(tmp_path: Path, name: str, lines: bool) -> None:
    write, parse = WRITTEN[name]
    if lines:
        records: Any = ("id|when|v\n" + "".join(f"i{n}|{write(at(n))}|{n / 4}\n" for n in range(N))).encode()
    else:
        records = [{"id": f"i{n}", "when": write(at(n)), "v": n / 4} for n in range(N)]
    text, found = inferred(tmp_path, records)
    assert f'Field("when", "timestamp", parse={parse}' in text, text
    exact = "%f" in parse or "IsoTime" in parse
    told = [at(n) if exact else at(n).replace(microsecond=0) for n in range(N)]
    assert [e["when"] for e in found] == ([t.replace(microsecond=0) for t in told] if name == "iso's basic form" else told)


def test_moments_as_objects_of_seconds(tmp_path: Path) -> None:
    records = [{"id": n, "createTime": {"seconds": ms(n) // 1000, "nanos": ms(n) % 1000 * 10**6}} for n in range(N)]
    text, found = inferred(tmp_path, records)
    assert 'path="createTime.seconds", parse=Epoch("s")' in text
    assert [e["create_time_seconds"] for e in found] == [at(n).replace(microsecond=0) for n in range(N)]


def test_maps_that_are_empty_in_some_records(tmp_path: Path) -> None:
    """As lists of entries in JSON, and as maps of Arrow, in structs and lists, too."""
    records: list[dict[str, Any]] = [
        {"id": n, "at": z(n), "tags": [] if n % 2 else ["a"], "params": [{"key": "page", "value": f"p{n % 4}"}] if n % 3 else [],
         "items": [{"sku": "s"}] if n % 3 else []} for n in range(N)
    ]  # fmt: skip
    text, found = inferred(tmp_path / "json", records)
    assert 'path="params.page"' in text and "left out" not in text and "items: a list of objects" in text
    assert [e["params_page"] for e in found] == [f"p{n % 4}" if n % 3 else None for n in range(N)]
    pairs = pa.map_(pa.string(), pa.int64())
    table = pa.table(
        {
            "id": pa.array(range(N)),
            "at": pa.array([at(n) for n in range(N)]),
            "m": pa.array([[("a", n)] if n % 2 else [] for n in range(N)], pairs),
            "s": pa.array([{"m": [("b", n)] if n % 3 else []} for n in range(N)], pa.struct([("m", pairs)])),
        }
    )
    folder = tmp_path / "arrow" / "events" / "things"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet")
    text = infer_files(folder, name="things", data=tmp_path / "arrow").text
    found = read(tmp_path / "arrow", text, "things")
    assert 'path="m.a"' in text and 'path="s.m.b"' in text and "left out" not in text
    assert [(e["m_a"], e["m_b"]) for e in found] == [(n if n % 2 else None, n if n % 3 else None) for n in range(N)]


def test_notes_with_names_are_members_and_things_with_names_are_none(tmp_path: Path) -> None:
    """Shopify's note_attributes; names that repeat, and names without values, are those of things."""
    notes = [{"name": "gift", "value": "yes"}]
    things = [{"name": "A", "value": 1}, {"name": "A", "value": 2}]
    records = [{"id": n, "at": z(n), "notes": notes, "things": things, "tags": [{"name": "a"}]} for n in range(N)]
    text, found = inferred(tmp_path, records)
    assert 'path="notes.gift"' in text and "# things: a list of objects" in text and "# tags: a list of objects" in text
    assert {e["notes_gift"] for e in found} == {"yes"}


def test_types_of_arrow_that_others_write(tmp_path: Path) -> None:
    """Maps by whole numbers and days are stepped into; of those by anything else, and of moments beyond any calendar, it is told."""
    columns = {
        "id": pa.array(range(N)),
        "at": pa.array([at(n) for n in range(N)]),
        "by_number": pa.array([[(1, n), (-2, 5)] for n in range(N)], pa.map_(pa.int32(), pa.int64())),
        "by_day": pa.array([[(date(2024, 5, 1), n / 4)] for n in range(N)], pa.map_(pa.date32(), pa.float64())),
        "by_bytes": pa.array([[(b"k", 1)]] * N, pa.map_(pa.binary(), pa.int64())),
        "by_truth": pa.array([[(True, 1)]] * N, pa.map_(pa.bool_(), pa.int64())),
        "far": pa.array([2**62] * N).cast(pa.timestamp("s")),
        "half": pa.array(np.arange(N).astype(np.float16)),
        "some": pa.array([[1, None]] * N, pa.list_(pa.int64())),
    }
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.table(columns).schema) as out:
        out.write_table(pa.table(columns))
    text = infer_files(folder, name="things", data=tmp_path).text
    for part in (
        'path="by_number.1"', 'path="by_number.-2"', 'path="by_day.2024-05-01"', '"half", "float64"', "null in all records",
        "# left out, maps whose keys no path names: by_bytes, by_truth",
        "# left out, lists that hold nulls, and list<int64> has none: some",
    ):  # fmt: skip
        assert part in text, text
    found = read(tmp_path, text, "things")
    assert all((e["by_number_1"], e["by_number_2"], e["by_day_2024_05_01"]) == (e["id"], 5, e["id"] / 4) for e in found)


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrows"])
def test_categories_of_pandas_are_the_words_that_may_come(tmp_path: Path, suffix: str) -> None:
    """Also those that no row has yet; not where pandas made them of the rows, nor where files do not agree."""
    sizes, folder = ["S", "M", "L", "XL"], tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    for file, cities in enumerate((["Oslo", "Rom"], ["Oslo", "Bonn", "Rom"])):
        rows = range(file * N, (file + 1) * N)
        frame = pd.DataFrame({
            "id": rows, "at": [at(n) for n in rows], "size": pd.Categorical([sizes[n % 2] for n in rows], sizes),
            "grade": pd.Categorical(["ab"[n % 2] for n in rows], ["b", "a"], ordered=True),
            "user": pd.Series([f"u{n % 40}" for n in rows]).astype("category"), "city": pd.Categorical(["Rom" for n in rows], cities),
            "rank": pd.Categorical([n % 3 for n in rows], [0, 1, 2, 3]),
        })  # fmt: skip
        if suffix == "parquet":
            frame.to_parquet(folder / f"{file}.parquet")
        elif suffix == "feather":
            frame.to_feather(folder / f"{file}.feather")
        else:
            table = pa.Table.from_pandas(frame)
            with pa.OSFile(str(folder / f"{file}.arrows"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
                out.write_table(table)
    text = infer_files(folder, name="things", data=tmp_path).text
    assert 'domain=["S", "M", "L", "XL"]' in text and 'domain=["b", "a"]' in text, text
    assert text.count("domain=") == 2 and '"rank", "int64"' in text
    assert len(read(tmp_path, text, "things")) == 2 * N


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.parquet.bz2", "a.arrow.gz", "a.feather.bz2"])
def test_categories_of_files_that_are_compressed_as_a_whole(tmp_path: Path, name: str) -> None:
    size = pd.Categorical(["SM"[n % 2] for n in range(N)], ["S", "M", "L"])
    frame = pd.DataFrame({"id": range(N), "at": [at(n) for n in range(N)], "size": size})
    folder, plain = tmp_path / "events" / "things", BytesIO()
    folder.mkdir(parents=True)
    frame.to_parquet(plain) if "parquet" in name else frame.to_feather(plain)
    file = folder / name
    file.write_bytes((gzip if name.endswith(".gz") else bz2).compress(plain.getvalue()))
    assert 'domain=["S", "M", "L"]' in infer_files(folder, name="things", data=tmp_path).text
    file.write_bytes((gzip if name.endswith(".gz") else bz2).compress(plain.getvalue()[:-20]))
    assert categories({("size",): ["S"]}, [file]) == {}, "of a damaged file none, whatever reads its rows says of it"


def test_dictionaries_that_grow_from_batch_to_batch(tmp_path: Path) -> None:
    """Arrow's deltas: the words of later batches are added to those of the first."""
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("kind", kind)])
    words, told = list[str](), list[str]()
    with (
        pa.OSFile(str(folder / "a.arrows"), "wb") as sink,
        pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as out,
    ):
        for batch in range(4):
            words += [f"w{batch}a", f"w{batch}b"]
            rows = range(batch * N // 4, (batch + 1) * N // 4)
            told += [words[n % len(words)] for n in rows]
            picked = pa.DictionaryArray.from_arrays(pa.array([n % len(words) for n in rows], pa.int32()), pa.array(words))
            out.write_batch(pa.record_batch([pa.array(rows), pa.array([at(n) for n in rows], schema[1].type), picked], schema=schema))
    text = infer_files(folder, name="things", data=tmp_path).text
    assert [e["kind"] for e in read(tmp_path, text, "things")] == told


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
