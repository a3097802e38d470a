"""Topics as systems write them, and what their records say in plain Python: Protobuf of proto2, Avro whose schema went on, events of web
analytics, exported lines, moments of before there were zones.

Each maker gives N records and, for each, the values that its event must have, by the name that ``tandem infer`` gives a field.
"""

from __future__ import annotations

import io
import json
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fastavro import parse_schema, schemaless_writer
from google.protobuf import descriptor_pb2

from tests.protobuf_types import Field, classes, descriptor_set
from tests.schema_registry import SchemaRegistry
from transforms.instants import micros_of

__all__ = ["BEGIN", "SYSTEMS", "Made", "System"]

BEGIN = datetime(2024, 5, 1, 20, tzinfo=UTC)
Values = dict[str, Any]


@dataclass
class Made:
    """``keys``, ``values`` and times (``at``) of N records; what each event is (``wanted``); ``settings`` of ``kafka`` by source."""

    at: list[datetime]
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    wanted: list[Values] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, value: bytes, wanted: Values, key: bytes | None = None) -> None:
        """One more."""
        self.keys.append(key)
        self.values.append(value)
        self.wanted.append(wanted)


@dataclass(frozen=True)
class System:
    """``make(N, registry, folder of the repository)``; ``infer``: more words for it; ``write``: its event files, where it has some and
    infer is to read these, not the topic."""

    make: Callable[[int, SchemaRegistry, Path], Made]
    infer: tuple[str, ...] = ()
    write: Callable[[Made, Path], None] | None = None


def _times(n: int, seed: int) -> list[datetime]:
    """In order over six hours, some of them up to half an hour behind; to the millisecond."""
    r = np.random.default_rng(seed)
    seconds = np.sort(r.uniform(1_800, 6 * 3_600, n)) - np.where(r.random(n) < 0.1, r.uniform(0, 1_800, n), 0)
    return [BEGIN + timedelta(milliseconds=int(s * 1_000)) for s in seconds]


def _file() -> descriptor_pb2.FileDescriptorProto:
    """proto2, as protoc would have it: declared defaults, a required member, groups, a oneof, a negative enum, an extension."""
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto2")
    kind = file.enum_type.add(name="Kind")
    for number, name in ((1, "VIEW"), (2, "BUY"), (-1, "ODD")):
        kind.value.add(name=name, number=number)
    order = file.message_type.add(name="Order")
    order.extension_range.add(start=100, end=200)
    order.oneof_decl.add(name="pay")
    ship, line = order.nested_type.add(name="Ship"), order.nested_type.add(name="Line")
    one, need, many = Field.LABEL_OPTIONAL, Field.LABEL_REQUIRED, Field.LABEL_REPEATED

    def add(message: Any, number: int, name: str, kind: int, label: int = one, **more: Any) -> None:
        message.field.add(name=name, number=number, type=kind, label=label, **more)

    add(ship, 1, "city", Field.TYPE_STRING, default_value="Oslo")
    add(ship, 2, "zip", Field.TYPE_FIXED32)
    add(line, 1, "sku", Field.TYPE_STRING)
    add(order, 1, "id", Field.TYPE_STRING, need)
    add(order, 2, "amount", Field.TYPE_INT64, default_value="5")
    add(order, 3, "kind", Field.TYPE_ENUM, type_name=".shop.Kind", default_value="BUY")
    add(order, 4, "ship", Field.TYPE_GROUP, type_name=".shop.Order.Ship")
    add(order, 5, "card", Field.TYPE_STRING, oneof_index=0)
    add(order, 6, "cash", Field.TYPE_INT32, oneof_index=0)
    add(order, 7, "ratio", Field.TYPE_FLOAT, default_value="1.5")
    add(order, 8, "total", Field.TYPE_SINT64)
    add(order, 9, "paid", Field.TYPE_BOOL, default_value="true")
    add(order, 10, "event_ms", Field.TYPE_FIXED64, need)
    add(order, 11, "line", Field.TYPE_GROUP, many, type_name=".shop.Order.Line")
    file.extension.add(name="promo", number=100, type=Field.TYPE_STRING, label=one, extendee=".shop.Order")
    return file


def orders_of_proto2(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """Its event time is called ``event_ms``: a time by its unit and size alone. Cards are texts of digits, and no numbers."""
    file, made = _file(), Made(_times(n, 1))
    (repo / "order.desc").write_bytes(descriptor_set(file))
    order_type = classes(file)["shop.Order"]
    promo = order_type.DESCRIPTOR.file.pool.FindExtensionByName("shop.promo")
    for i, at in enumerate(made.at):
        order = order_type(id=f"o{i}", event_ms=micros_of(at) // 1_000, total=-(2**62) - i)
        kind = (None, 2, -1)[i % 3]
        order.Extensions[promo] = "p"
        if kind is not None:
            order.kind = kind
        if i % 2:
            order.amount = -i
        if i % 4 == 1:
            order.ship.SetInParent()
        if i % 4 == 2:
            order.ship.city, order.ship.zip = "Rom", 4_000_000_000
        if i % 5 == 1:
            order.card = "" if i % 2 else "4111"
        if i % 5 == 2:
            order.cash = -3
        if i % 6 == 0:
            order.paid, order.ratio = False, 0.1
        for k in range(i % 3):
            order.line.add(sku=f"s{k}")
        made.add(order.SerializeToString(), {
            "id": f"o{i}", "event_ms": at, "amount": -i if i % 2 else 5, "kind": {2: "BUY", -1: "ODD", None: "BUY"}[kind],
            "ship_city": (None, "Oslo", "Rom", None)[i % 4], "ship_zip": 4_000_000_000 if i % 4 == 2 else None,
            "card": ("" if i % 2 else "4111") if i % 5 == 1 else None, "cash": -3 if i % 5 == 2 else None,
            "ratio": 1.5 if i % 6 else float(np.float32(0.1)), "total": -(2**62) - i, "paid": i % 6 != 0,
        })  # fmt: skip
    made.settings = {"formats": "protobuf", "format_options": {"descriptor": "order.desc", "message": "shop.Order"}}
    return made


def _trade(later: bool) -> dict[str, Any]:
    venue = [
        "null",
        {"type": "record", "name": "Exchange", "fields": [{"name": "mic", "type": "string"}]},
        {"type": "record", "name": "Otc", "fields": [{"name": "broker", "type": "string"}, {"name": "mic", "type": ["null", "string"]}]},
    ]
    symbols: dict[str, Any] = (
        {"symbols": ["BUY", "SELL", "UNKNOWN"], "default": "UNKNOWN"} if later else {"symbols": ["BUY", "SELL", "SHORT"]}
    )
    return {"type": "record", "name": "Trade", "namespace": "m.x", "fields": [
        {"name": "trade_id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "user", "aliases": ["usr"], "type": "string"} if later else {"name": "usr", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 4}},
        {"name": "fee", "type": {"type": "fixed", "name": "Fee", "size": 8, "logicalType": "decimal", "precision": 18, "scale": 2}},
        {"name": "side", "type": {"type": "enum", "name": "Side", **symbols}},
        {"name": "qty", "type": ["int", "long", "null"]},
        {"name": "venue", "type": venue},
        *([{"name": "desk", "type": "string", "default": "main"}] if later else []),
    ]}  # fmt: skip


def trades_of_avro(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """Two versions of a schema, read as the newest has it (aliases, defaults, words of an enum): so infer must read it, too."""
    made, schemas = Made(_times(n, 2)), [_trade(False), _trade(True)]
    numbers = [registry.register("t.trades_of_avro-value", json.dumps(schema)) for schema in schemas]
    key = {"type": "record", "name": "Key", "fields": [{"name": "account", "type": "long"}]}
    of_key = registry.register("t.trades_of_avro-key", json.dumps(key))

    def framed(number: int, schema: Any, value: Values) -> bytes:
        out = io.BytesIO(struct.pack(">bI", 0, number))
        out.seek(5)
        schemaless_writer(out, parse_schema(schema), value)
        return out.getvalue()

    for i, at in enumerate(made.at):
        later, side = i % 2 == 1, ("BUY", "SELL", "UNKNOWN" if i % 2 else "SHORT")[i % 3]
        venue = (None, ("m.x.Exchange", {"mic": f"X{i % 3}"}), ("m.x.Otc", {"broker": "b", "mic": None if i % 5 else "XO"}))[i % 3]
        qty = (i, 2**40 + i, None)[i % 3]
        trade = {
            "trade_id": str(uuid.UUID(int=i * 7919)), "user" if later else "usr": f"u{i % 9}", "at": at,
            "price": Decimal(i * 12345 - 5000) / 10_000, "fee": Decimal(i - 7) / 100, "side": side,
            "qty": qty, "venue": venue, **({"desk": f"d{i % 3}"} if later else {}),
        }  # fmt: skip
        made.add(framed(numbers[later], schemas[later], trade), {
            "trade_id": trade["trade_id"], "at": at, "user": f"u{i % 9}", "desk": f"d{i % 3}" if later else "main", "qty": qty,
            "side": "UNKNOWN" if side == "SHORT" else side, "price": (i * 12345 - 5000) / 10_000, "fee": (i - 7) / 100,
            "venue_mic": venue[1]["mic"] if venue else None,
        }, framed(of_key, key, {"account": i % 11}))  # fmt: skip
    made.settings = {"formats": "avro", "format_options": {"reader": "latest"}}
    return made


def analytics(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """As Mixpanel and PostHog send them: names that begin with a dollar, names that hold dots, ids of few people."""
    made = Made(_times(n, 3))
    for i, at in enumerate(made.at):
        at = made.at[i] = at.replace(microsecond=0)
        properties = {"time": micros_of(at) // 1_000_000, "distinct_id": f"d{i % 9}", "$insert_id": f"i{i:05}",
                      "$browser": ("Chrome", "Safari")[i % 2],
                      "$screen_height": 800 + i, "plan.tier": "pro"}  # fmt: skip
        wanted = {"properties_time": at, "properties_distinct_id": f"d{i % 9}", "properties_insert_id": f"i{i:05}",
                  "properties_browser": ("Chrome", "Safari")[i % 2], "properties_screen_height": 800 + i,
                  "properties_plan_tier": "pro"}  # fmt: skip
        made.add(json.dumps({"event": "$pageview", "properties": properties}).encode(), wanted)
    return made


def exported_lines(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """As ClickHouse exports them: texts that hold quotes, delimiters and line breaks; nulls as \\N."""
    made, texts = Made(_times(n, 4)), ("plain", "two\nlines", 'a "quoted" word', "comma, here", None)
    for i, at in enumerate(made.at):
        at = made.at[i] = at.replace(microsecond=0)
        text = texts[i % 5]
        quoted = "\\N" if text is None else '"' + text.replace('"', '""') + '"'
        score = None if i % 4 == 0 else i
        line = f'"{at:%Y-%m-%d %H:%M:%S}",{i},"u{i % 9}",{quoted},' + ("\\N" if score is None else str(score))
        made.add(line.encode(), {"event_time": at, "id": i, "user": f"u{i % 9}", "comment": text, "score": score})
    names = ["event_time", "id", "user", "comment", "score"]
    made.settings = {"formats": "csv", "format_options": {"columns": names, "nulls": ["", "\\N"]}}
    return made


def _lines(made: Made, folder: Path) -> None:
    (folder / "export.csv").write_bytes(b"\n".join([b"event_time,id,user,comment,score", *made.values]) + b"\n")


def windows_events(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """As PowerShell's ConvertTo-Json writes them."""
    made = Made(_times(n, 8))
    for i, at in enumerate(made.at):
        record = {"RecordId": i, "TimeCreated": f"/Date({micros_of(at) // 1_000})/", "MachineName": f"pc{i % 9}", "Message": f"Ünï [{i}]"}
        made.add(json.dumps(record).encode(), {"record_id": i, "time_created": at, "machine_name": f"pc{i % 9}", "message": f"Ünï [{i}]"})
    return made


def _array(made: Made, folder: Path) -> None:
    """One array, over lines, in UTF-16."""
    text = json.dumps([json.loads(value) for value in made.values], indent=4, ensure_ascii=False)
    (folder / "events.json").write_bytes(text.encode("utf-16"))


def old_moments(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """Moments of before 1970, some with local mean times, whose offsets have seconds, and of after 2262, where nanoseconds end."""
    made, zones = Made(_times(n, 5)), [ZoneInfo(z) for z in ("Europe/Paris", "Africa/Monrovia", "Asia/Kolkata")]
    for i, at in enumerate(made.at):
        born = datetime(1905, 3, 1, tzinfo=UTC) + timedelta(minutes=97 * i)
        until = datetime(2301 if i % 2 else 2525, 6, 1, tzinfo=UTC)
        record = {"seq": i, "station": f"st{i % 4}", "at": at.isoformat(), "built": born.astimezone(zones[i % 3]).isoformat(sep=" "),
                  "licensedUntil": f"{until:%Y-%m-%d %H:%M:%S}+00"}  # fmt: skip
        made.add(json.dumps(record).encode(), {"seq": i, "station": f"st{i % 4}", "at": at, "built": born, "licensed_until": until})
    return made


def days_and_times(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """As SAP's tables have them: a day as a number, a local time of it as six digits, customers as numbers and as texts."""
    made, place = Made(_times(n, 7)), ZoneInfo("Europe/Berlin")
    for i, at in enumerate(made.at):
        at = made.at[i] = at.replace(microsecond=0)
        local = at.astimezone(place)
        record = {"doc": 10**19 + i, "customer": (i % 9, f"c{i % 9}")[i % 2], "erdat": int(f"{local:%Y%m%d}"), "erzet": f"{local:%H%M%S}"}
        seconds = (local.hour * 60 + local.minute) * 60 + local.second
        made.add(json.dumps(record).encode(), {
            "event_at": at, "doc": str(record["doc"]), "customer": str(record["customer"]), "erzet": seconds * 1_000_000,
            "erdat": datetime(local.year, local.month, local.day, tzinfo=UTC),
        })  # fmt: skip
    return made


def lake_files(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """Parquet as Spark's older versions and dbt write it: INT96, dictionaries of large strings, decimals, lists of structs, unsigned; and,
    as Spark has MySQL's, ids of unsigned 64 bits and times of the day."""
    made = Made(_times(n, 6))
    for i, at in enumerate(made.at):
        price = None if i % 5 == 0 else Decimal(i * 37 - 900) / 100
        row = {"order_id": i, "user": f"u{i % 9}", "at": at.isoformat(), "price": None if price is None else str(price),
               "kind": "abc"[i % 3], "note": f"long {i}" if i % 3 else None, "hash": 2**63 - 1 - i, "items": [{"sku": "s"}] * (i % 3),
               "nums": list(range(i % 4)), "uid": 2**64 - 1 - i, "opens": f"{i % 24:02}:{i % 60:02}:00"}  # fmt: skip
        opens = (i % 24 * 60 + i % 60) * 60_000_000
        wanted = {**row, "at": at, "price": None if price is None else float(price), "uid": str(row["uid"]), "opens": opens}
        del wanted["items"]
        made.add(json.dumps(row).encode(), wanted)
    return made


def _parquet(made: Made, folder: Path) -> None:
    rows = [{**json.loads(v), "at": at.replace(tzinfo=None)} for v, at in zip(made.values, made.at, strict=True)]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([row[name] for row in rows], kind)

    words = pa.large_string()
    table = pa.table({
        "order_id": column("order_id", pa.uint32()), "user": column("user", pa.string()).dictionary_encode(),
        "at": column("at", pa.timestamp("us")),
        "price": pa.array([None if row["price"] is None else Decimal(row["price"]) for row in rows], pa.decimal128(12, 2)),
        "kind": column("kind", words).dictionary_encode(), "note": column("note", words), "hash": column("hash", pa.uint64()),
        "items": column("items", pa.large_list(pa.struct([("sku", pa.string())]))), "nums": column("nums", pa.list_(pa.int32())),
        "uid": pa.array([Decimal(row["uid"]) for row in rows], pa.decimal128(20, 0)),
        "opens": pa.array([time.fromisoformat(row["opens"]) for row in rows], pa.time64("us")),
    })  # fmt: skip
    pq.write_table(table, folder / "orders.parquet", use_deprecated_int96_timestamps=True, row_group_size=97)


def _delta(made: Made, folder: Path) -> None:
    """The same as a table of Delta, in partitions, written at twice."""
    from deltalake import write_deltalake

    rows = [{**json.loads(v), "at": at.replace(tzinfo=None)} for v, at in zip(made.values, made.at, strict=True)]
    rows = [{**row, "uid": Decimal(row["uid"]), "price": None if row["price"] is None else Decimal(row["price"])} for row in rows]
    sku = pa.list_(pa.struct([("sku", pa.string())]))
    types = {"order_id": pa.int64(), "user": pa.string(), "at": pa.timestamp("us"), "price": pa.decimal128(12, 2), "kind": pa.string(),
             "note": pa.string(), "hash": pa.int64(), "items": sku, "nums": pa.list_(pa.int64()), "uid": pa.decimal128(20, 0)}  # fmt: skip
    types["opens"] = pa.string()
    for part in (rows[:100], rows[100:]):
        table = pa.Table.from_pylist(part, pa.schema(list(types.items())))
        write_deltalake(str(folder), table, mode="append", partition_by=["kind"], schema_mode="merge")


def logs_of_otlp(n: int, registry: SchemaRegistry, repo: Path) -> Made:
    """OTLP's JSON: an event is a log in lists within two others, whose attributes are its own; some records have none."""
    r = np.random.default_rng(81)
    made, count = Made(_times(n, 81)), 0
    for row, at in enumerate(made.at):
        resources: list[dict[str, Any]] = []
        for _ in range(1 + row % 2):
            service, scopes = f"svc-{r.integers(0, 4)}", []
            for scope in range(1 + row % 3):
                logs = []
                for _ in range(0 if row % 7 == 6 else 1 + scope):
                    code, count = int(r.choice([200, 404])), count + 1
                    logs.append({
                        "timeUnixNano": str(micros_of(at) * 1_000 + count % 1_000), "spanId": f"{count:016x}",
                        "body": {"stringValue": f"text {count}"}, "attributes": [{"key": "http.bytes", "value": {"intValue": str(code)}}],
                    })  # fmt: skip
                    made.wanted.append({
                        "time_unix_nano": at, "service_name": service, "lib": f"lib{scope}", "span_id": f"{count:016x}",
                        "body": f"text {count}", "http_bytes": code,
                    })  # fmt: skip
                scopes.append({"scope": {"lib": f"lib{scope}"}, "logRecords": logs})
            about = [{"key": "service.name", "value": {"stringValue": service}}]
            resources.append({"resource": {"attributes": about}, "scopeLogs": scopes})
        made.keys.append(None)
        made.values.append(json.dumps({"resourceLogs": resources}).encode())
    return made


SYSTEMS: dict[str, System] = {
    "orders_of_proto2": System(orders_of_proto2),
    "trades_of_avro": System(trades_of_avro),
    "analytics": System(analytics),
    "exported_lines": System(exported_lines, write=_lines),
    "windows_events": System(windows_events, write=_array),
    "old_moments": System(old_moments, ("--event-time", "at")),
    "days_and_times": System(days_and_times, ("--zone", "Europe/Berlin")),
    "lake_files": System(lake_files, write=_parquet),
    "logs_of_otlp": System(logs_of_otlp, ("--explode", "resourceLogs[].scopeLogs[].logRecords")),
}
if find_spec("deltalake") is not None:
    SYSTEMS["lake_table"] = System(lake_files, write=_delta)
