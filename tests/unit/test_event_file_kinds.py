"""FAULTS 5 and 7: every way in which event files lie about is read, or named and counted."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.replay.event_log import EventLog
from pipelines.sources.event_files import Inventory, PassedOver, events, inventory, passed_over_line, passed_over_record
from pipelines.sources.file_formats import file_format, json_lines_file, sizes
from tandem.testing.memory import grown
from transforms.definitions import EventSource, Field
from transforms.errors import DataError
from transforms.instants import micros_of

DAY = 86_400_000_000
NOW = 20_000 * DAY
SOURCE = EventSource(
    name="orders",
    fields=[
        Field("order_id", "string", required=True),
        Field("shop", "int64"),
        Field("country", "string"),
        Field("share", "float64"),
        Field("paid", "bool"),
        Field("sent", "timestamp"),
    ],
    event_time="at",
    tie_breaker="order_id",
    files="events/orders",
)


def order(name: str, **more: Any) -> dict[str, Any]:
    return {"order_id": name, "at": NOW - DAY, **more}


def lines(*orders: dict[str, Any]) -> bytes:
    return "".join(json.dumps(o) + "\n" for o in orders).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def put(root: Path, name: str, data: bytes) -> Path:
    path = root / "events" / "orders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def harvest(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Inventory]:
    """All events, all dead letters, and the inventory."""
    found = inventory(root, SOURCE, None, None)
    pairs = [pair for f in found.files for pair in events(f.path, SOURCE, NOW, 0, name=f.name, partitions=f.partitions)]
    return [e for v, _ in pairs for e in v.to_pylist()], [d for _, b in pairs for d in b.to_pylist()], found


def names(root: Path) -> list[str]:
    return sorted(e["order_id"] for e in harvest(root)[0])


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL", ".NdJson"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".GZ", ".bz2"])
def test_json_lines_under_every_name(tmp_path: Path, suffix: str, packed: str) -> None:
    """FAULTS 5."""
    packers: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress}
    put(tmp_path, f"a{suffix}{packed}", packers[packed.lower()](lines(order("a"), order("b"))))
    assert names(tmp_path) == ["a", "b"]
    assert harvest(tmp_path)[2].passed_over == []


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_parts_of_compressed_files_are_one_file(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """FAULTS 5: writers append whole members (frames), and readers go on behind the first."""
    put(tmp_path, "a.jsonl" + (".gz" if pack is gzip.compress else ".zst"), pack(lines(order("a"))) + pack(lines(order("b"))))
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "flipped", "rubbish behind"])
@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_damaged_compressed_file_is_one_dead_letter_and_gives_no_events(tmp_path: Path, kind: str, packed: str) -> None:
    """FAULTS 5: used whole or not at all, though damage shows at the end."""
    rng = np.random.default_rng(1)
    plain = lines(*(order(f"{i}-{rng.bytes(8).hex()}") for i in range(5_000)))
    whole = gzip.compress(plain) if packed == ".gz" else zstd(plain)
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:-30],
        "empty": b"",
        "text": plain,
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF, whole[middle + 1] ^ 0xFF]) + whole[middle + 2 :],
        "rubbish behind": whole + b"more",
    }[kind]
    if (packed, kind) == (".zst", "flipped"):
        pytest.skip("zstd's checksum is optional, and was left out here: what decodes cannot be told from what was written")
    put(tmp_path, f"a.jsonl{packed}", damaged)
    put(tmp_path, "b.jsonl", lines(order("b")))
    got, letters, _ = harvest(tmp_path)
    assert [e["order_id"] for e in got] == ["b"]
    assert [(d["reason"], d["file"]) for d in letters] == [("unreadable_file", f"events/orders/a.jsonl{packed}")]


def test_a_bomb_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 5: a line of a compressed file is limited as any other, by each way of packing; what is behind it is read."""
    monkeypatch.setattr(json_lines_file, "MAX_LINE_BYTES", 100_000)
    size, packers = 150_000_000, {"a": (".gz", gzip.compress), "b": (".zst", zstd), "c": (".bz2", bz2.compress)}
    for name, (suffix, pack) in packers.items():
        put(tmp_path / "small", f"{name}.jsonl{suffix}", pack(lines(order(name))))
        put(tmp_path, f"{name}.jsonl{suffix}", pack(b" " * size + b"\n" + lines(order(name))))
    assert names(tmp_path / "small") == ["a", "b", "c"]  # what reading takes whatever the files hold is there now
    with grown() as most:
        got, letters, _ = harvest(tmp_path)
        assert most() < size, "none of the three was held whole"
    assert [e["order_id"] for e in got] == ["a", "b", "c"]
    assert [(d["reason"], len(d["payload"]), f"{size} bytes" in d["detail"]) for d in letters] == [("malformed", 65_536, True)] * 3


@pytest.mark.parametrize(
    "columns",
    [
        {"city": pa.array(["x" * 50_000]).take(pa.array([0] * 300))},  # a text of a dictionary, meant 300 times
        {"tags": pa.array([["x" * 50_000] * 3] * 100)},
        {"shop": pa.array(np.zeros(2_000_000, np.int64))},  # one run length
        {"none": pa.nulls(4_000_000, pa.int32())},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_a_parquet_bomb_is_one_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, pa.Array]) -> None:
    """SECURITY H1: a file of some kilobytes whose row group takes gigabytes is not decoded; one beside it, as large, is read."""
    monkeypatch.setattr(sizes, "MOST_BYTES", 10_000_000)
    n = len(next(iter(columns.values())))
    one = {"order_id": pa.array(["a"]).take(pa.array([0] * n)), "at": pa.array(np.full(n, NOW - DAY)), **columns}
    put(tmp_path, "b.parquet", b"")
    pq.write_table(pa.table(one), tmp_path / "events/orders/b.parquet", compression="zstd", row_group_size=n)
    assert (tmp_path / "events/orders/b.parquet").stat().st_size < 20_000
    before = pa.total_allocated_bytes()
    got, letters, _ = harvest(tmp_path)
    assert got == [] and [d["reason"] for d in letters] == ["unreadable_file"] and pa.total_allocated_bytes() - before < 5_000_000
    assert "when decoded, above the limit of 0.0 GB; write smaller row groups" in letters[0]["detail"]
    few = {name: column.slice(0, 50) for name, column in one.items()}
    pq.write_table(pa.table(few), tmp_path / "events/orders/b.parquet", compression="zstd")
    assert len(harvest(tmp_path)[0]) == 50


def test_links_are_followed_and_no_file_counts_twice(tmp_path: Path) -> None:
    """FAULTS 5: linked folders and files, days included; circles end, and a second link to a file is named."""
    outside = tmp_path / "outside"
    (outside / "date=2024-10-03").mkdir(parents=True)
    (outside / "date=2024-10-03" / "a.jsonl").write_bytes(lines(order("a")))
    (outside / "b.jsonl").write_bytes(lines(order("b")))
    top = put(tmp_path, "c.jsonl", lines(order("c"))).parent
    (top / "date=2024-10-03").symlink_to(outside / "date=2024-10-03")
    (top / "b.jsonl").symlink_to(outside / "b.jsonl")
    (top / "again.jsonl").symlink_to(top / "c.jsonl")
    (top / "date=2024-10-03-old").symlink_to(outside / "date=2024-10-03")
    (outside / "date=2024-10-03" / "loop").symlink_to(top)
    got, _, found = harvest(tmp_path)
    assert sorted(e["order_id"] for e in got) == ["a", "b", "c"]
    assert {p.name: p.why for p in found.passed_over} == {
        "events/orders/again.jsonl": "a link to the same file as events/orders/c.jsonl",
        "events/orders/date=2024-10-03-old/a.jsonl": "a link to the same file as events/orders/date=2024-10-03/a.jsonl",
        "events/orders/date=2024-10-03/loop": "a link to a folder that it lies in",
        "events/orders/date=2024-10-03-old/loop": "a link to a folder that it lies in",
    }
    (top / "itself").symlink_to(top / "itself")
    day = inventory(tmp_path, SOURCE, 20_000 * DAY, None)
    assert [f.name for f in day.files if f.date] == []  # the link is of another day
    assert "events/orders/itself" in [p.name for p in day.passed_over]
    nowhere = {"gone.jsonl": "nothing.jsonl", "round.jsonl": "round.jsonl", "below.jsonl": "c.jsonl/a", "long.jsonl": "n" * 300}
    for name, leads_to in nowhere.items():
        (top / name).symlink_to(top / leads_to)
        with pytest.raises(DataError, match=f"{name}: a link that leads to no file, so its events are missing; restore them, or"):
            inventory(tmp_path, SOURCE, None, None)
        (top / name).unlink()


def test_what_is_passed_over_is_named_and_counted(tmp_path: Path) -> None:
    """FAULTS 5."""
    for name in (
        "a.jsonl",
        "b.csv",
        "c.jsonl.xz",
        "e.txt.gz",
        "d.parquet.gz",
        "notes",
        "_tmp.jsonl",
        "_SUCCESS",
        ".a.jsonl.crc",
        "_temporary/x.jsonl",
    ):
        put(tmp_path, name, lines(order("x")))
    os.mkfifo(tmp_path / "events/orders/pipe.jsonl")
    found = inventory(tmp_path, SOURCE, None, None)
    assert [f.name for f in found.files] == ["events/orders/a.jsonl"]
    kinds = "none of .parquet, .jsonl, .ndjson, .json, .avro, .arrow, .arrows, .feather, .ipc, those of lines also with .gz, .zst or .bz2"
    dialect = "its dialect is not declared; say file_format=Csv(...) at the source to read it"
    assert found.passed_over == [
        PassedOver("events/orders/_temporary/", "its name starts with . or _"),
        PassedOver("events/orders/_tmp.jsonl", "its name starts with . or _"),
        PassedOver("events/orders/b.csv", dialect),
        PassedOver("events/orders/c.jsonl.xz", kinds),
        PassedOver("events/orders/d.parquet.gz", "Parquet in another compression; decompress it, as Parquet compresses itself"),
        PassedOver("events/orders/e.txt.gz", dialect),
        PassedOver("events/orders/notes", kinds),
        PassedOver("events/orders/pipe.jsonl", "no regular file"),
    ]
    line = passed_over_line({"orders": found.passed_over, "other": []})
    assert line.startswith("skipped, not read: 8 of orders (events/orders/_temporary/: its name")
    assert line.endswith("; and 5 more)")
    assert passed_over_line({"orders": []}) == ""
    record = passed_over_record({"orders": found.passed_over, "other": []})
    assert record["orders"]["count"] == len(record["orders"]["files"]) == 8
    assert list(record) == ["orders"]


def test_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    """FAULTS 5: a name of another encoding ended the batch with a trace of Beam's, and stands in no manifest."""
    put(tmp_path, "a.jsonl", lines(order("a")))
    put(tmp_path, "ü/\n\x1b.jsonl", lines(order("b")))
    put(tmp_path, os.fsdecode(b"caf\xe9.jsonl"), lines(order("c")))
    put(tmp_path, os.fsdecode(b"country=\xff/d.jsonl"), lines(order("d")))
    found = inventory(tmp_path, SOURCE, None, None)
    assert [f.name for f in found.files] == ["events/orders/a.jsonl", "events/orders/ü/\n\x1b.jsonl"]
    why = "its name is not UTF-8; rename it"
    assert found.passed_over == [
        PassedOver("events/orders/caf\\xe9.jsonl", why),
        PassedOver("events/orders/country=\\xff/", why),
    ]
    json.dumps(passed_over_record({"orders": found.passed_over}), ensure_ascii=False).encode()


def test_folders_are_columns(tmp_path: Path) -> None:
    """FAULTS 5: what ``pq.write_to_dataset(partition_cols=...)`` and Spark write."""
    table = pa.table({
        "order_id": ["a", "b", "c"],
        "at": pa.array([NOW - 3, NOW - 2, NOW - 1], pa.timestamp("us", "UTC")),
        "country": ["DE", "a b = ü", None],
        "shop": [7, -8, 9],
        "paid": [True, False, True],
    })  # fmt: skip
    pq.write_to_dataset(table, tmp_path / "events" / "orders", partition_cols=["country", "shop", "paid"])
    got = sorted((e["order_id"], e["country"], e["shop"], e["paid"]) for e in harvest(tmp_path)[0])
    assert got == [("a", "DE", 7, True), ("b", "a b = ü", -8, False), ("c", None, 9, True)]


def test_folders_are_columns_of_json_lines_too(tmp_path: Path) -> None:
    """FAULTS 5: what a record says itself counts before what its folder says."""
    cases = [
        ("{}", None), (json.dumps(order("a")), "DE"), (json.dumps(order("b", country="FR")), "FR"),
        (json.dumps(order("c", country=None)), None),
        (json.dumps(order("d", note='"country"')), "DE"), (json.dumps(order("e", deep={"country": "FR"})), "DE"),
        (json.dumps(order("f")).replace("{", '{"\\u0063ountry":"IT",'), "IT"),
        ("  " + json.dumps(order("g")), "DE"), ("[1]", None), ("nonsense", None),
    ]  # fmt: skip
    put(tmp_path, "country=DE/share=0.25/a.jsonl", "".join(text + "\n" for text, _ in cases).encode())
    got, letters, _ = harvest(tmp_path)
    assert [(e["country"], e["share"]) for e in got] == [(c, 0.25) for text, c in cases if '"at"' in text]
    assert [(d["reason"], d["row"]) for d in letters] == [("missing_timestamp", 0), ("malformed", 8), ("malformed", 9)]
    assert letters[0]["payload"] == b'{"country":"DE","share":0.25}'


@pytest.mark.parametrize(
    ("folder", "reason", "detail"),
    [
        ("shop=seven", "wrong_type", "shop='seven' is no int64"),
        ("shop=1.5", "wrong_type", "shop='1.5' is no int64"),
        ("paid=yes", "wrong_type", "paid='yes' is no bool"),
        ("country=a%2Fb%20%C3%BC", None, ""),
        ("colour=red", None, ""),
        ("sent=2024-05-01T10%3A00%3A00Z", None, ""),
        ("sent=1714557600000000", None, ""),
        ("share=1e3", None, ""),
    ],
)
def test_a_folder_holds_to_the_contract_as_a_column_does(tmp_path: Path, folder: str, reason: str | None, detail: str) -> None:
    """FAULTS 5: in Parquet and in JSON lines the same."""
    put(tmp_path, f"{folder}/a.jsonl", lines(order("a")))
    pq.write_table(pa.table({"order_id": ["b"], "at": [NOW - DAY]}), tmp_path / "events/orders" / folder / "b.parquet")
    got, letters, _ = harvest(tmp_path)
    if reason is None:
        assert len(got) == 2
        one, other = ({k: v for k, v in e.items() if k != "order_id"} for e in got)
        assert one == other
        if folder.startswith("country="):
            assert one["country"] == "a/b ü"
        if folder.startswith("sent="):
            assert one["sent"] == datetime(2024, 5, 1, 10, tzinfo=UTC)
    else:
        assert [(d["reason"], d["detail"]) for d in letters] == [(reason, detail)] * 2


def test_a_replay_sends_what_batch_reads(tmp_path: Path) -> None:
    """FAULTS 5: one home lists and reads; columns of folders are in the records that are sent, a damaged file is named."""
    put(tmp_path, "country=DE/a.jsonl.gz", gzip.compress(lines(order("a"))))
    put(tmp_path, "country=FR/b.ndjson", lines(order("b"), order("c", country="IT")))
    put(tmp_path, "cut.jsonl.gz", gzip.compress(lines(order("d")))[:-9])
    put(tmp_path, "x.csv", b"")
    log = EventLog(tmp_path, [SOURCE], None, None, now_us=NOW, max_future_us=0)
    sent = [json.loads(p.as_py()) for part in log.slices() for t in part.events.values() for p in t.column("payload")]
    assert sorted((e["order_id"], e["country"]) for e in sent) == [("a", "DE"), ("b", "FR"), ("c", "IT")]
    assert [p.name for p in log.passed_over["orders"]] == ["events/orders/x.csv", "events/orders/cut.jsonl.gz"]


INT96 = [
    "9999-12-31T23:59:59.999999",
    "0001-01-01T00:00:00",
    "1677-01-01T00:00:00",
    "2262-12-31T00:00:00",
    "2024-05-01T10:00:00.123456",
    None,
]


@pytest.mark.parametrize("small", [True, False])
def test_int96_outside_of_nanoseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """FAULTS 7: read as the microseconds that they are."""
    monkeypatch.setattr(file_format, "SMALL_BYTES", 1 << 30 if small else 0)
    times = [None if t is None else datetime.fromisoformat(t).replace(tzinfo=UTC) for t in INT96]
    table = pa.table({
        "order_id": [str(i) for i in range(len(times))],
        "at": pa.array([NOW - DAY] * len(times), pa.timestamp("us")),
        "sent": pa.array(times, pa.timestamp("us")),
    })  # fmt: skip
    (tmp_path / "events/orders").mkdir(parents=True)
    pq.write_table(table, tmp_path / "events/orders/a.parquet", use_deprecated_int96_timestamps=True, row_group_size=2)
    assert {pq.ParquetFile(tmp_path / "events/orders/a.parquet").schema.column(i).physical_type for i in (1, 2)} == {"INT96"}
    got, letters, _ = harvest(tmp_path)
    assert letters == []
    assert [e["sent"] for e in got] == times
    assert {micros_of(e["at"]) for e in got} == {NOW - DAY}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_int96_before_1970_is_what_arrow_wrote(tmp_path: Path, unit: str) -> None:
    """FAULTS 7: Arrow writes a negative time of day there and reads it as a date 584 years later; no time of any other year is touched."""
    old = ["1969-12-31T23:59:59", "1969-12-31T00:00:00", "1965-03-04T10:20:30", "1700-01-01T23:00:00", "1970-01-01T00:00:00"]
    old += ["2024-05-01T10:00:00", "2261-12-31T23:59:59"]
    if unit != "ns":
        old += ["0001-01-01T00:00:01", "1500-01-01T13:00:00", "2554-07-21T23:34:33", "9999-12-31T23:59:59"]
    times = [None, *(datetime.fromisoformat(t).replace(tzinfo=UTC) for t in old)]
    if unit in ("us", "ns"):
        times += [
            datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
            datetime(1931, 7, 1, 8, 0, 0, 123_456, UTC),
            datetime(2024, 5, 1, 0, 0, 0, 616, UTC),
        ]
    exact = pa.array(times, pa.timestamp("us")).cast(pa.timestamp(unit))
    if unit == "ns":  # what is finer than microseconds is floored
        exact = pc.add(exact.cast(pa.int64()), 616).cast(pa.timestamp("ns"))
    count = len(times)
    table = pa.table(
        {"order_id": [f"{i:02}" for i in range(count)], "at": pa.array([NOW - DAY] * count, pa.timestamp("us")), "sent": exact}
    )
    (tmp_path / "events/orders").mkdir(parents=True)
    pq.write_table(table, tmp_path / "events/orders/a.parquet", use_deprecated_int96_timestamps=True, row_group_size=4)
    got, letters, _ = harvest(tmp_path)
    assert letters == []
    assert [e["sent"] for e in got] == times


@pytest.mark.parametrize(("column", "julian", "reason"), [
    ("sent", 2_000_000_000, "out_of_range"), ("sent", 4_294_967_295, "out_of_range"), ("sent", 1, "out_of_range"),
    ("at", 2_000_000_000, "future_timestamp"), ("at", 1, "nonpositive_timestamp"), ("at", 215_943_584, "future_timestamp"),
])  # fmt: skip
def test_int96_that_no_int64_holds_is_a_reject(tmp_path: Path, column: str, julian: int, reason: str) -> None:
    """FAULTS 7: twelve bytes hold days of which microseconds do not fit into int64; they must not become dates of others."""
    table = pa.table({
        "order_id": ["a", "b"],
        "at": pa.array([NOW - DAY] * 2, pa.timestamp("us")),
        "sent": pa.array([NOW - DAY] * 2, pa.timestamp("us")),
    })  # fmt: skip
    (tmp_path / "events/orders").mkdir(parents=True)
    path = tmp_path / "events/orders/a.parquet"
    table = table.set_column(table.schema.get_field_index(column), column, pa.array([NOW - DAY, NOW - 2 * DAY], pa.timestamp("us")))
    bare = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, **bare)
    second = (NOW // DAY - 2 + 2_440_588).to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(b"\0" * 8 + second) == 1
    path.write_bytes(data.replace(b"\0" * 8 + second, b"\0" * 8 + julian.to_bytes(4, "little")))
    got, letters, _ = harvest(tmp_path)
    assert [e["order_id"] for e in got] == ["a"]
    assert [d["reason"] for d in letters] == [reason]


BEYOND: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "an infinite date": ({"type": "int", "logicalType": "date"}, 2**31 - 1, 19_000),
    "a date of the year 10000": ({"type": "int", "logicalType": "date"}, 2_932_897, 0),
    "a date before the year 1": ({"type": "int", "logicalType": "date"}, -719_163, 0),
    "24:00:00": ({"type": "long", "logicalType": "time-micros"}, 86_400_000_000, 0),
    "24:00:00 in milliseconds": ({"type": "int", "logicalType": "time-millis"}, 86_400_000, 0),
    "a time before midnight": ({"type": "int", "logicalType": "time-millis"}, -(2**31), 0),
    "a text for a UUID": ({"type": "string", "logicalType": "uuid"}, "none", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"),
}


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("what", BEYOND)
def test_one_value_beyond_the_calendar_is_not_the_end_of_an_avro_file(tmp_path: Path, what: str, nullable: bool) -> None:
    """FAULTS 7, in another format and type: a date that nobody asked for took all events of its file away, as one dead letter."""
    import fastavro

    kind, odd, plain = BEYOND[what]
    schema = {
        "type": "record",
        "name": "Order",
        "fields": [
            {"name": "order_id", "type": "string"},
            {"name": "at", "type": "long"},
            {"name": "country", "type": ["null", kind] if nullable and what == "a text for a UUID" else "string"},
            {"name": "other", "type": ["null", kind] if nullable else kind},
            {"name": "inner", "type": {"type": "array", "items": kind}},
        ],
    }
    rows = [order(f"o{n}", country=str(plain), other=value, inner=[value]) for n, value in enumerate((plain, odd))]
    path = put(tmp_path, "a.avro", b"")
    with open(path, "wb") as out:
        fastavro.writer(out, fastavro.parse_schema(schema), rows)
    found, letters, _ = harvest(tmp_path)
    assert [e["order_id"] for e in found] == ["o0", "o1"] and not letters
    assert found[0]["country"] == str(plain)  # as it is written: as in a topic
