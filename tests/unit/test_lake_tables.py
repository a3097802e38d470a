"""Tables of lakes as Spark and others leave them: partitioned, grown, renamed, widened, with rows deleted by vectors; from ``tandem infer``
to events, each as plain Python has it."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inference.infer_source import infer_table
from pipelines.sources.event_files import events, list_files
from pipelines.sources.tables.snapshots import table_news, take_snapshot
from transforms.definitions import Delta, EventSource, Iceberg
from transforms.errors import DataError

T0 = datetime(2024, 5, 1, 10, tzinfo=UTC)
USER = pa.struct([("id", pa.string()), ("address", pa.struct([("city", pa.string())]))])
TYPES: dict[str, pa.DataType] = {
    "order_id": pa.int64(), "at": pa.timestamp("us", "UTC"), "seen": pa.timestamp("us"), "region": pa.string(),
    "amount": pa.decimal128(12, 2), "uid": pa.decimal128(20, 0), "small": pa.int32(), "user": USER, "tags": pa.list_(pa.string()),
}  # fmt: skip


def orders(first: int, last: int, **more: Any) -> list[dict[str, Any]]:
    out = []
    for i in range(first, last):
        at = T0 + timedelta(seconds=37 * i, microseconds=i)
        user = {"id": f"u{i % 9}", "address": {"city": "Oslo"} if i % 5 else None}
        out.append({
            "order_id": i, "at": at, "seen": at.replace(tzinfo=None), "region": ["eu", "us", None][i % 3],
            "amount": Decimal(i * 37 - 900) / 100, "uid": Decimal(2**64 - 1 - i), "small": i % 100, "user": user,
            "tags": ["a"] * (i % 3), **more,
        })  # fmt: skip
    return out


def wanted(i: int) -> dict[str, Any]:
    (row,) = orders(i, i + 1)
    city = (row.pop("user")["address"] or {}).get("city")
    moved = {"seen": row["at"], "amount": float(row["amount"]), "uid": str(row["uid"])}
    return {**row, **moved, "user_id": f"u{i % 9}", "address_city": city}


def table(rows: list[dict[str, Any]], **types: Any) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema(list({**TYPES, **types}.items())))


def taken(data: Path, of: Delta | Iceberg) -> tuple[EventSource, list[dict[str, Any]]]:
    """What infer says of a table, and all events of a snapshot of it."""
    text, values = infer_table(of, name="orders").text, dict[str, Any]()
    assert "the order of a table's rows is not the order of arrival" in text
    exec(compile(text, "orders.py", "exec"), values)
    take_snapshot(data, values["orders"])
    out: list[dict[str, Any]] = []
    for file in list_files(data, values["orders"], None, None):
        for found, letters in events(file.path, values["orders"], 2 * 10**15, 0):
            assert letters.num_rows == 0, letters.to_pylist()[:1]
            out += found.to_pylist()
    return values["orders"], sorted(out, key=lambda e: e["order_id"])


def test_a_delta_table_that_grew(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    place = str(tmp_path / "lake")
    deltalake.write_deltalake(place, table(orders(0, 60)), partition_by=["region"])
    grown = table(orders(60, 90, channel="app"), small=pa.int64(), channel=pa.string())
    deltalake.write_deltalake(place, grown, mode="append", schema_mode="merge", partition_by=["region"])
    source, found = taken(tmp_path / "data", Delta(place))
    assert found == [{**wanted(i), "channel": "app" if i >= 60 else None} for i in range(90)]
    deltalake.DeltaTable(place).delete("order_id >= 80")
    assert table_news(tmp_path / "data", source) == ("version 1 -> 2", "")
    assert [e["order_id"] for e in taken(tmp_path / "data", Delta(place))[1]] == list(range(80))
    assert taken(tmp_path / "then", Delta(place, version=0))[1] == [wanted(i) for i in range(60)]


Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def vector(deleted: list[int]) -> dict[str, Any]:
    """A deletion vector as it stands in the log: a roaring bitmap of one container, in base 85 (of ZeroMQ)."""
    container = struct.pack("<IIHHI", 12346, 1, 0, len(deleted) - 1, 16) + struct.pack(f"<{len(deleted)}H", *deleted)
    data = struct.pack("<IQI", 1681511377, 1, 0) + container
    padded, text = data + b"\0" * (-len(data) % 4), ""
    for (word,) in struct.iter_unpack(">I", padded):
        text += "".join(Z85[word // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": len(deleted)}


def by_hand(
    place: Path, fields: list[dict[str, Any]], rows: pa.Table, features: list[str], config: dict[str, str], add: dict[str, Any]
) -> None:
    """A table with features that its library reads and does not write."""
    (place / "_delta_log").mkdir(parents=True)
    pq.write_table(rows, place / "part-0.parquet")
    size, named = (place / "part-0.parquet").stat().st_size, {"readerFeatures": features, "writerFeatures": features}
    schema = json.dumps({"type": "struct", "fields": fields})
    log: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **named}},
        {"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}}, "schemaString": schema, "partitionColumns": [],
                      "configuration": config, "createdTime": 0}},
        {"add": {"path": "part-0.parquet", "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": True,
                 "stats": json.dumps({"numRecords": rows.num_rows}), **add}},
    ]  # fmt: skip
    (place / "_delta_log" / f"{0:020}.json").write_text("".join(json.dumps(each) + "\n" for each in log))


def column(name: str, kind: str, **metadata: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "nullable": True, "metadata": {f"delta.{key}": value for key, value in metadata.items()}}


def test_a_delta_table_of_spark(tmp_path: Path) -> None:
    """Rows that vectors delete are gone; columns have the names of the table, not those of its files; what its library does not read is one
    line."""
    pytest.importorskip("deltalake")
    plain = table(orders(0, 50)).select(["order_id", "at"])
    fields = [column("order_id", "long"), column("at", "timestamp")]
    by_hand(
        tmp_path / "deleted",
        fields,
        plain,
        ["deletionVectors"],
        {"delta.enableDeletionVectors": "true"},
        {"deletionVector": vector([3, 41])},
    )
    _, found = taken(tmp_path / "a", Delta(str(tmp_path / "deleted")))
    assert [e["order_id"] for e in found] == [i for i in range(50) if i not in (3, 41)]
    names = ["order_id", "at"]
    mapped = [{**f, "metadata": {"delta.columnMapping.id": n + 1, "delta.columnMapping.physicalName": f"col-{n}"}}
              for n, f in enumerate(fields)]  # fmt: skip
    config = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "2"}
    by_hand(tmp_path / "renamed", mapped, plain.rename_columns(["col-0", "col-1"]), ["columnMapping"], config, {})
    _, found = taken(tmp_path / "b", Delta(str(tmp_path / "renamed")))
    assert found == [{name: e[name] for name in names} for e in map(wanted, range(50))]
    fields[0]["metadata"] = {"delta.typeChanges": [{"toType": "long", "fromType": "integer"}]}
    by_hand(tmp_path / "widened", fields, plain, ["typeWidening"], {"delta.enableTypeWidening": "true"}, {})
    with pytest.raises(DataError, match=r"version 0 of its Delta table cannot be read: .*TypeWidening") as caught:
        infer_table(Delta(str(tmp_path / "widened")), name="orders")
    assert "\n" not in str(caught.value)


def test_an_iceberg_table_that_was_redefined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed, widened and new columns over files of before; a snapshot of before has the columns that it had."""
    catalogs, types = pytest.importorskip("pyiceberg.catalog"), pytest.importorskip("pyiceberg.types")
    transforms = pytest.importorskip("pyiceberg.transforms")
    (tmp_path / "warehouse").mkdir()
    properties = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse"}
    catalog = catalogs.load_catalog("lake", **properties)
    monkeypatch.setattr("pyiceberg.catalog.load_catalog", lambda name: catalog)
    catalog.create_namespace("shop")
    made = catalog.create_table("shop.orders", table([]).schema)
    with made.update_spec() as spec:
        spec.add_field("region", transforms.IdentityTransform(), "of_region")
    made.append(table(orders(0, 60)))
    first = made.current_snapshot().snapshot_id
    with made.update_schema() as schema:
        schema.add_column("channel", types.StringType())
        schema.rename_column("region", "area")
        schema.update_column("small", types.LongType())
    made = catalog.load_table("shop.orders")
    rows = table(orders(60, 90, channel="app"), small=pa.int64(), channel=pa.string())
    made.append(rows.rename_columns(["area" if name == "region" else name for name in rows.column_names]))
    _, found = taken(tmp_path / "data", Iceberg("shop.orders", "lake"))
    now = [{"area" if name == "region" else name: value for name, value in wanted(i).items()} for i in range(90)]
    assert found == [{**each, "channel": "app" if i >= 60 else None} for i, each in enumerate(now)]
    assert taken(tmp_path / "then", Iceberg("shop.orders", "lake", snapshot=first))[1] == [wanted(i) for i in range(60)]
