"""Shapes that other systems write, read with nothing but what ``tandem infer`` says of them."""

from __future__ import annotations

import json
import re
import shlex
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
from pipelines.inference.sampling import flattened
from pipelines.inference.schema_words import categories
from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from tests.protobuf_types import classes, descriptor_set, file_of
from tests.unit.shaped import NOW, T0, N, at, inferred, ms, read, z
from transforms.errors import DataError


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


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.parquet.zst", "a.arrow.gz", "a.feather.bz2"])
def test_files_of_which_a_run_reads_none_have_no_definition(tmp_path: Path, name: str) -> None:
    """A definition of them would find no events: Parquet and Arrow compress themselves, and are not read in another compression."""
    (tmp_path / name).write_bytes(b"whatever it holds")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"{name} is .*in another compression; decompress it, as \w+( IPC)? compresses itself$"):
            infer_files(path)


def test_files_beside_those_that_are_read_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": range(N), "at": [at(n) for n in range(N)]}), folder / "a.parquet")
    (folder / "b.parquet.zst").write_bytes(b"something else")
    assert len(read(tmp_path, infer_files(folder, name="things", data=tmp_path).text, "things")) == N


def test_categories_of_a_damaged_file_are_none(tmp_path: Path) -> None:
    """Whatever reads its rows says of it."""
    plain = BytesIO()
    pd.DataFrame({"size": pd.Categorical(["S"], ["S", "M", "L"])}).to_parquet(plain)
    (tmp_path / "a.parquet").write_bytes(plain.getvalue()[:-20])
    assert categories({("size",): ["S"]}, [tmp_path / "a.parquet"]) == {}


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


def test_lists_within_lists_are_named_and_taken_apart(tmp_path: Path) -> None:
    """OTLP's logs: the lists that there are, from the outermost, and members of all of them by their own names."""
    logs = [
        {"resourceLogs": [{"resource": {"id": f"r{n % 3}", "ver": "1.1"}, "scopeLogs": [
            {"logRecords": [{"ts": ms(2 * n + k), "seq": 2 * n + k, "body": {"stringValue": f"x{n}"}} for k in range(2)]},
        ]}]}
        for n in range(N)
    ]  # fmt: skip
    lists = "resourceLogs, 'resourceLogs[].scopeLogs', 'resourceLogs[].scopeLogs[].logRecords'"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in logs))
    with pytest.raises(
        DataError, match=re.escape(f"--explode resourceLogs.scopeLogs: no record has a list there; lists of objects: {lists}")
    ):
        infer_files(tmp_path, explode="resourceLogs.scopeLogs")
    with pytest.raises(
        DataError, match=re.escape("(--explode resourceLogs or 'resourceLogs[].scopeLogs' or 'resourceLogs[].scopeLogs[].logRecords')")
    ):
        infer_files(tmp_path)
    with pytest.raises(DataError, match=r"--explode: path 'a\[' cannot be read"):
        infer_files(tmp_path, explode="a[")
    text, found = inferred(tmp_path, logs, explode="resourceLogs[].scopeLogs[].logRecords")
    assert [(e["seq"], e["body"], e["id"], e["ver"]) for e in found] == [(n, f"x{n // 2}", f"r{n // 2 % 3}", "1.1") for n in range(2 * N)]
    assert "a list of objects" not in text and 'path="resourceLogs[].scopeLogs[].logRecords[].body.stringValue"' in text


@pytest.mark.parametrize(("explode", "deep"), [("grid[]", 1), ("a.grid[]", 1), ("grid[][]", 2), ("grid[].row[]", 1)])
def test_lists_of_lists_are_named_and_taken_apart(tmp_path: Path, explode: str, deep: int) -> None:
    """Their elements are the events, as the contract reads them; the error for another path has them all."""

    def record(n: int) -> dict[str, Any]:
        cells: Any = [{"seq": 3 * n + k, "at": ms(3 * n + k)} for k in range(3)]
        rows: Any = [cells[:1], [], None, cells[1:]] if deep == 1 else [[cells[:1]], [], None, [[], cells[1:]]]
        grid: Any = [{"row": rows}] if "row" in explode else rows
        return {"id": n, "a": {"grid": grid}} if explode.startswith("a") else {"id": n, "grid": grid}

    text, found = inferred(tmp_path, [record(n) for n in range(N)], explode=explode)
    assert [(e["seq"], e["id"]) for e in found] == [(n, n // 3) for n in range(3 * N)]
    assert f'path="{explode}[].seq"' in text and "a list of objects" not in text
    with pytest.raises(DataError, match=rf"lists of objects: .*'{re.escape(explode)}'$"):
        infer_files(tmp_path / "events", explode="id")


def test_one_element_of_a_list_is_not_what_events_are_looked_for_in() -> None:
    """The contract takes such a path; what is proposed are the elements of all."""
    paths: list[str | tuple[Any, ...]] = ["grid[0].cells", ("grid", 0, "cells"), "grid[-1].cells"]
    for path in paths:
        with pytest.raises(DataError, match=r"takes all elements of a list, not one by its position; give 'grid\[\]\.cells', and"):
            flattened([{"grid": [{"cells": [{"x": 1}]}]}], explode=path)


def test_what_stands_beside_a_list_is_looked_at_once_a_record() -> None:
    """However many events the record has; and each event has all of it, as its columns stand in it."""
    looks: list[str] = []

    class Seen(dict[str, Any]):
        def items(self) -> Any:
            looks.append(self["name"])
            return super().items()

    def looked(n: int) -> list[str]:
        rows = [Seen(name="row", v=k) for k in range(n)]
        order = Seen(name="order", rows=[*rows, "no object"], tags=[Seen(name="tag", list=[{"x": 1}])])
        record = Seen(name="record", beside=Seen(name="beside", ids=[Seen(name="id")]), orders=[order, {"rows": []}, 7], last=1)
        found = flattened([record, Seen(name="none", other=[{"y": 1}])], explode="orders[].rows")
        assert found.rows == n + 1 and [*found.columns] == [
            ("name",), ("beside", "name"), ("orders", "[]", "name"), ("orders", "[]", "rows", "[]", "name"),
            ("orders", "[]", "rows", "[]", "v"), ("last",), ("orders", "[]", "rows", "[]"),
        ]  # fmt: skip
        assert found.columns["orders", "[]", "rows", "[]", "v"] == [*range(n), None] and found.columns["last",] == [1] * (n + 1)
        assert found.lists == {
            ("beside", "ids"): 1, ("orders", "[]", "tags"): 1, ("orders", "[]", "tags", "[]", "list"): 1,
        }  # fmt: skip
        seen = [name for name in looks if name != "row"]
        looks.clear()
        return seen

    assert looked(2) == looked(40)


def test_a_hint_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    """Brackets of paths stand for names of files there."""
    records = [{"id": n, "ts": ms(n), "a": [{"b c": [{"x": n}]}]} for n in range(N)]
    text, _ = inferred(tmp_path, records)
    lines = [line for line in text.splitlines() if "infer --explode" in line]
    words = [shlex.split(line.split("; ")[1])[2] for line in lines]
    assert len(words) == 2 and all(re.fullmatch(r"[\w.]+|'[^']+'", line.split("--explode ")[1].split(" makes")[0]) for line in lines)
    for word in words:
        assert infer_files(tmp_path, explode=word).text, "what it says is what is taken"


def test_values_of_any_type_are_called_what_they_are_of(tmp_path: Path) -> None:
    """GA4's parameters and OpenTelemetry's attributes: by their keys, and by the types where a key has several."""
    params = [{"key": "page", "value": {"string_value": "p"}}, {"key": "n", "value": {"string_value": "a", "int_value": 1}}]
    _, found = inferred(tmp_path, [{"id": n, "at": z(n), "params": params} for n in range(N)])
    assert {*found[0]} == {"at", "id", "params_page", "params_n", "params_n_int_value"}
    assert (found[0]["params_n"], found[0]["params_n_int_value"]) == ("a", 1)


def test_a_folder_that_a_link_names_is_called_by_the_link(tmp_path: Path) -> None:
    (tmp_path / "data" / "events").mkdir(parents=True)
    for place in ("elsewhere", "data/lake"):
        real = tmp_path / place
        real.mkdir()
        pq.write_table(pa.table({"id": range(N), "at": [at(n) for n in range(N)]}), real / "a.parquet")
        (link := tmp_path / "data" / "events" / f"{real.name}_link").symlink_to(real)
        found = infer_files(link, data=tmp_path / "data")
        assert (found.name, found.files) == (link.name, f"events/{link.name}")
        assert len(read(tmp_path / "data", found.text, found.name)) == N


def test_names_in_other_scripts_are_told_where_a_group_uses_them(tmp_path: Path) -> None:
    text, _ = inferred(tmp_path, [{"id": n, "at": z(n), "店舗": f"s{n % 9}", "金額": n / 4} for n in range(N)])
    assert 'entity=Entity("field"),  # 店舗\n' in text and 'path="金額"' in text


def test_two_kinds_of_events_whose_times_differ_are_told(tmp_path: Path) -> None:
    kinds = [{"id": n, "occurredAt": ms(n) if n % 2 else z(n)} for n in range(N)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kinds))
    said = "no column holds a time in every record (occurredAt is a text in some and a number in others: each kind of events is"
    with pytest.raises(DataError, match=re.escape(said)):
        infer_files(tmp_path)
