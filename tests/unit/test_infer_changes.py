"""Changes of rows as programs write them that follow a database's log, and what stands beside records, by what ``tandem infer`` says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.inference.infer_source import infer_topic
from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from tests.unit.shaped import NOW, N, at, inferred, ms, z
from transforms.definitions import EventSource, Field, Header


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
