"""Parquet, Arrow IPC and Avro in every physical shape that writers choose: the same events."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.subject import Subject, holds
from pipelines.sources.event_files import events, inventory
from pipelines.sources.file_formats import file_format, sizes
from pipelines.sources.file_formats.arrow_file import ArrowFile
from pipelines.sources.file_formats.physical import plain_columns
from transforms.definitions import EventSource, Field

DAY = 86_400_000_000
NOW = 20_000 * DAY
AT = NOW - DAY
SOURCE = EventSource(
    name="orders",
    fields=[Field("k", "string", required=True), Field("n", "int64"), Field("x", "float64"), Field("t", "timestamp"), Field("b", "bool")],
    event_time="at",
    tie_breaker="k",
    files="events/orders",
)
T = dt.datetime(2024, 5, 1, 10, 0, 0, tzinfo=dt.UTC)
PLAIN = pa.table({
    "at": pa.array([AT, AT, AT], pa.timestamp("us", "UTC")), "k": ["a", "b", "ü"], "n": pa.array([1, None, -3], pa.int64()),
    "x": [0.5, None, 2.0], "t": pa.array([T, None, T], pa.timestamp("us", "UTC")), "b": [True, None, False],
})  # fmt: skip


def replaced(**columns: pa.Array) -> pa.Table:
    table = PLAIN
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def has(kind: str) -> bool:
    return hasattr(pa, kind)


SHAPES: dict[str, Callable[[], pa.Table]] = {
    "plain": lambda: PLAIN,
    "seconds": lambda: replaced(at=PLAIN["at"].cast(pa.timestamp("s", "UTC")), t=PLAIN["t"].cast(pa.timestamp("s"))),
    "milliseconds": lambda: replaced(at=PLAIN["at"].cast(pa.timestamp("ms", "UTC")), t=PLAIN["t"].cast(pa.timestamp("ms", "Europe/Paris"))),
    "nanoseconds": lambda: replaced(at=PLAIN["at"].cast(pa.timestamp("ns", "UTC")), t=PLAIN["t"].cast(pa.timestamp("ns"))),
    "dictionary": lambda: replaced(k=PLAIN["k"].dictionary_encode(), n=PLAIN["n"].dictionary_encode(), x=PLAIN["x"].dictionary_encode()),
    "large": lambda: replaced(k=PLAIN["k"].cast(pa.large_string())),
    "bytes without an annotation": lambda: replaced(k=PLAIN["k"].cast(pa.binary())),
    "unsigned": lambda: replaced(at=PLAIN["at"].cast(pa.int64()).cast(pa.uint64()), n=pa.array([1, None, 3], pa.uint32())),
    "small ints": lambda: replaced(n=PLAIN["n"].cast(pa.int8()), x=pa.array([np.float16(0.5), None, np.float16(2)], pa.float16())),
    "float32": lambda: replaced(x=PLAIN["x"].cast(pa.float32())),
    "other order, nests beside it": lambda: PLAIN.select(["b", "t", "x", "n", "k", "at"]).append_column(
        "deep", pa.array([{"a": [1, 2], "m": {"x": 1}}, None, {"a": [], "m": None}])
    ).append_column("pairs", pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64()))),
    "decimals beside it": lambda: PLAIN.append_column("money", pa.array([Decimal("1.50"), None, Decimal("2")], pa.decimal128(20, 2))),
    "string view": lambda: replaced(k=PLAIN["k"].cast(pa.string_view())),
    "run ends": lambda: replaced(n=pa.array([pa.scalar(1)] * 3) if not has("RunEndEncodedArray") else pa.chunked_array([
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), pa.array([1, None, -3], pa.int64()))
    ])),
}  # fmt: skip


def harvest(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    found = inventory(root, SOURCE, None, None)
    pairs = [pair for f in found.files for pair in events(f.path, SOURCE, NOW, 0, name=f.name, partitions=f.partitions)]
    return [e for v, _ in pairs for e in v.to_pylist()], [d for _, b in pairs for d in b.to_pylist()]


def put(root: Path, name: str) -> Path:
    path = root / "events" / "orders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def expected(shape: str) -> list[tuple[Any, ...]]:
    n = [1, None, 3] if shape == "unsigned" else [1, None, -3]
    return [("a", n[0], 0.5, T, True), ("b", None, None, None, None), ("ü", n[2], 2.0, T, False)]


def got(root: Path) -> list[tuple[Any, ...]]:
    found, letters = harvest(root)
    assert letters == []
    return [(e["k"], e["n"], e["x"], e["t"], e["b"]) for e in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["parquet", "arrow file", "arrow stream", "feather"])
def test_every_shape(tmp_path: Path, shape: str, how: str) -> None:
    needs = {"string view": "string_view", "run ends": "RunEndEncodedArray"}.get(shape)
    if needs and (not has(needs) or how == "parquet"):
        pytest.skip("this pyarrow has no such type, or Parquet holds none")
    table = SHAPES[shape]()
    if how == "parquet":
        if pa.types.is_float16(table.schema.field("x").type):
            table = table.set_column(table.schema.get_field_index("x"), "x", PLAIN["x"])
        pq.write_table(table, put(tmp_path, "a.parquet"), version="2.6", row_group_size=2)
    elif how == "feather":
        packing = "uncompressed" if shape == "string view" else "zstd"  # pyarrow 18 dies of views that it is to compress
        feather.write_feather(table, str(put(tmp_path, "a.feather")), compression=packing)
    else:
        made = pa.ipc.new_file if how == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(put(tmp_path, "a.arrow")), "wb") as sink, made(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    assert got(tmp_path) == expected(shape)


@pytest.mark.skipif(not has("list_view"), reason="this pyarrow has no views of lists")
@pytest.mark.parametrize("large", [False, True])
def test_views_of_lists(tmp_path: Path, large: bool) -> None:
    """In any order, over one another, with nulls, and within lists that have some: the same values as lists. pyarrow's own cast loses the
    last."""
    kinds = (pa.LargeListViewArray, pa.int64()) if large else (pa.ListViewArray, pa.int32())
    first, size = (pa.array(numbers, kinds[1]) for numbers in ([3, 0, 1, 5, 2], [2, 3, 2, 0, 1]))
    made = kinds[0].from_arrays(first, size, pa.array(range(6)), mask=pa.array([False, False, True, False, False]))
    wanted = [[3, 4], [0, 1, 2], None, [], [2]]
    outer = pa.ListArray.from_arrays(pa.array([0, 1, None, 2, 3, 5], pa.int32()), made)
    for column, expected_values in ((made, wanted), (made.slice(1, 3), wanted[1:4]), (outer, outer.to_pylist())):
        plain = plain_columns(pa.table({"c": column}))["c"]
        plain.validate(full=True)
        assert plain.to_pylist() == expected_values and "view" not in str(plain.type)


@pytest.mark.skipif(not has("list_view"), reason="this pyarrow has no views")
@pytest.mark.parametrize("what", ["lists", "one of many", "texts"])
def test_views_of_one_thing_many_times_are_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that stand for a thousand times as many are not made into these."""
    monkeypatch.setattr(sizes, "MOST_BYTES", 1 << 20)
    n = 1_000
    if what == "lists":
        column = pa.ListViewArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([n] * n, pa.int32()), pa.array(range(n)))
    elif what == "one of many":
        uneven = pa.array(["x" * 10_000] + [""] * 100_000)
        column = pa.ListViewArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([1] * n, pa.int32()), uneven)
    else:
        long = pa.array(["x" * 10_000], pa.string_view())
        buffers = [None, pa.py_buffer(long.buffers()[1].to_pybytes() * n), *long.buffers()[2:]]
        try:
            column = pa.Array.from_buffers(pa.string_view(), n, buffers)
        except ValueError as error:  # pyarrow 18
            pytest.skip(f"this pyarrow makes no views of buffers: {error}")
    with pytest.raises(ValueError, match=r"a record batch of 1000 rows takes .* when decoded"):
        plain_columns(pa.table({"c": column}))


def _views(of: Any) -> Any:
    return pa.ListViewArray.from_arrays(pa.array([2, 0, 1], pa.int32()), pa.array([1, 2, 0], pa.int32()), of)


def _mapped(to: Any) -> Any:
    return pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), pa.array(["x", "y", "z"]), to)


NESTS: dict[str, Callable[[Any, Any], Any]] = {
    "list_view<list_view>": lambda lists, texts: _views(lists),
    "list_view<string_view>": lambda lists, texts: _views(texts),
    "list_view<struct<string_view>>": lambda lists, texts: _views(pa.StructArray.from_arrays([texts], ["a"])),
    "list_view<map<list_view>>": lambda lists, texts: _views(_mapped(lists)),
    "map<list_view>": lambda lists, texts: _mapped(lists),
    "map<string_view>": lambda lists, texts: _mapped(texts),
    "list<map<list_view>>": lambda lists, texts: pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), _mapped(lists)),
    "struct<map<string_view>>": lambda lists, texts: pa.StructArray.from_arrays([_mapped(texts)], ["a"]),
}


@pytest.mark.skipif(not has("list_view"), reason="this pyarrow has no views")
@pytest.mark.parametrize("nest", NESTS)
def test_views_within_others(tmp_path: Path, nest: str) -> None:
    """Arrow does not tell how many bytes they take (``nbytes`` raises)."""
    column = NESTS[nest](_views(pa.array(range(3))), pa.array(["a", "b" * 30, None], pa.string_view()))
    table = pa.table({"k": ["a", "b", "c"], "v": column})
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (batch,) = ArrowFile(SOURCE).read(lambda: path.open("rb"), 2**16, {})
    assert batch.rows is not None and batch.rows.column(1).to_pylist() == column.to_pylist()


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_parquet_pages_and_codecs(tmp_path: Path, codec: str, page: str) -> None:
    pq.write_table(
        PLAIN, put(tmp_path, "a.parquet"), compression=codec, data_page_version=page, use_deprecated_int96_timestamps=codec == "lz4"
    )
    assert got(tmp_path) == expected("plain")


def test_files_of_one_folder_need_not_agree(tmp_path: Path) -> None:
    pq.write_table(PLAIN.slice(0, 1).select(["k", "at"]), put(tmp_path, "a.parquet"))
    pq.write_table(PLAIN.slice(1, 1).append_column("extra", pa.array([1])), put(tmp_path, "b.parquet"))
    feather.write_feather(PLAIN.slice(2, 1).drop(["n"]), str(put(tmp_path, "n=9/c.feather")))
    with pq.ParquetWriter(put(tmp_path, "d.parquet"), PLAIN.schema) as writer:  # row groups without rows
        writer.write_table(PLAIN.slice(0, 0))
        writer.write_table(PLAIN.slice(0, 0))
    found, letters = harvest(tmp_path)
    assert letters == []
    assert [(e["k"], e["n"]) for e in found] == [("a", None), ("b", None), ("ü", 9)]


AVRO = {
    "type": "record", "name": "Order", "namespace": "shop",
    "fields": [
        {"name": "k", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "n", "type": ["null", "int"]},
        {"name": "x", "type": ["null", "double", "float"]},
        {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "b", "type": ["null", "boolean"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "money", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]},
        {"name": "items", "type": {"type": "array", "items": {
            "type": "record", "name": "Item", "fields": [{"name": "sku", "type": "string"}],
        }}},
        {"name": "more", "type": {"type": "map", "values": "long"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "odd", "type": ["null", "string", "long"]},
    ],
}  # fmt: skip


def orders(n: int) -> list[dict[str, Any]]:
    more = {"kind": "B", "money": Decimal("1.50"), "items": [{"sku": "s"}], "more": {"a": 1}, "day": dt.date(2024, 1, 1), "odd": "x"}
    rows = [(r["k"], r["n"], r["x"], r["t"], r["b"]) for r in PLAIN.to_pylist()]
    return [
        {
            "at": T,
            "id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            **more,
            **dict(zip("knxtb", rows[i % 3], strict=True)),
            "odd": ["x", 7][i % 2],
        }
        for i in range(n)
    ]


def avro(records: list[dict[str, Any]], codec: str = "null") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, AVRO, records, codec=codec, sync_interval=200)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
@pytest.mark.parametrize("packed", [False, True])
def test_avro(tmp_path: Path, codec: str, packed: bool) -> None:
    put(tmp_path, "a.avro.gz" if packed else "a.avro").write_bytes((gzip.compress if packed else bytes)(avro(orders(3), codec)))
    assert got(tmp_path) == expected("plain")


def test_avro_times_beyond_the_calendar_are_rejects(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}, AVRO["fields"][1]]}
    out = io.BytesIO()
    fastavro.writer(out, {**schema, "fields": [schema["fields"][0], {"name": "at", "type": "long"}]}, [
        {"k": "a", "at": AT}, {"k": "b", "at": 2**62}, {"k": "c", "at": -5},
    ])  # fmt: skip
    timed = out.getvalue().replace(b'"type": "long"', b'"type": {"type": "long", "logicalType": "timestamp-micros"}')
    plain = out.getvalue()
    assert timed != plain
    at = plain.index(b"avro.schema") + len("avro.schema")
    # The length of the schema stands before it, as a zigzag varint.
    old, new = plain[at : plain.index(b"{", at)], len(timed) - len(plain)
    length = len(plain[plain.index(b"{", at) :].partition(b"\x00")[0])
    assert old
    number, code = (length + new) * 2, b""
    while number > 127:
        code, number = code + bytes([number & 127 | 128]), number >> 7
    put(tmp_path, "a.avro").write_bytes(timed.replace(old + b"{", code + bytes([number]) + b"{", 1))
    found, letters = harvest(tmp_path)
    assert [e["k"] for e in found] == ["a"]
    assert [(d["row"], d["reason"]) for d in letters] == [(1, "future_timestamp"), (2, "nonpositive_timestamp")]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "other"])
@pytest.mark.parametrize("name", ["a.avro", "a.arrow", "a.arrows"])
def test_damage_is_one_dead_letter_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, small: bool
) -> None:
    monkeypatch.setattr(file_format, "SMALL_BYTES", 1 << 30 if small else 0)
    if name == "a.avro":
        data = avro(orders(2_000), "deflate")
    else:
        sink = io.BytesIO()
        table = pa.concat_tables([PLAIN] * 700).combine_chunks()
        with (pa.ipc.new_file if name == "a.arrow" else pa.ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
        data = sink.getvalue()
    middle = len(data) // 2
    put(tmp_path, name).write_bytes({
        "cut": data[:middle],
        "flipped": data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 400]) + data[middle + 400 :],
        "empty": b"", "text": b"a,b\n1,2\n" * 20, "other": b"PAR1" + b"\0" * 100,
    }[kind])  # fmt: skip
    pq.write_table(PLAIN, put(tmp_path, "b.parquet"))
    found, letters = harvest(tmp_path)
    if kind == "flipped" and name != "a.avro":  # Arrow has no checksums: what decodes is judged as it is
        assert {d["file"] for d in letters} <= {f"events/orders/{name}"}
        return
    assert [e["k"] for e in found] == ["a", "b", "ü"]
    assert [(d["reason"], d["file"], d["row"]) for d in letters] == [("unreadable_file", f"events/orders/{name}", None)]
    assert letters[0]["detail"]
    assert "\n" not in letters[0]["detail"]


def test_feather_of_version_1_says_so(tmp_path: Path) -> None:
    feather.write_feather(PLAIN.select(["k"]), str(put(tmp_path, "a.feather")), version=1)
    assert "version 1" in harvest(tmp_path)[1][0]["detail"]


def test_lines_in_bzip2_are_forgotten_too(tmp_path: Path) -> None:
    """What is read as events can be erased."""
    path = tmp_path / "a.jsonl.bz2"
    path.write_bytes(bz2.compress(b'{"k":"a"}\n{"k":"b"}\n'))
    subject = Subject.parse(["k=a"])
    assert holds(path, subject)
    assert without_json(path, subject) == 1
    assert bz2.decompress(path.read_bytes()) == b'{"k":"b"}\n'
    assert not holds(path, subject)


def test_of_a_union_each_value_is_what_it_is_alone(tmp_path: Path) -> None:
    """Beside values of another of its types, too: a text is not the JSON of one, a number no text."""
    union = [{"name": name, "type": ["null", "string", "long", "double"]} for name in ("note", "n")]
    fields = [{"name": "at", "type": "long"}, {"name": "k", "type": "string"}, *union]
    source = EventSource(
        "s", [Field("k", "string", required=True), Field("note", "string"), Field("n", "int64")], event_time="at", tie_breaker="k"
    )
    values: list[Any] = ["x", None, 5, 5.0, 2**60, "7", None, 0.5]
    rows = [{"at": AT, "k": f"k{i}", "note": v if isinstance(v, str) else None, "n": v} for i, v in enumerate(values)]
    rows += [{"at": AT, "k": "odd", "note": 3, "n": None}]

    def read(some: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
        path = tmp_path / "a.avro"
        with path.open("wb") as f:
            fastavro.writer(f, {"type": "record", "name": "T", "fields": fields}, some)
        pairs = list(events(path, source, NOW, 0))
        return [e for v, _ in pairs for e in v.to_pylist()], [d for _, b in pairs for d in b.column("detail").to_pylist()]

    together, alone = read(rows), [read([row]) for row in rows]
    assert together == ([e for good, _ in alone for e in good], [d for _, bad in alone for d in bad])
    assert [e["n"] for e in together[0]] == [None, 5, 5, 2**60, None]
    assert together[1] == [
        "n='x' is no int64",
        "n='7' is no int64",
        "n=0.5 is no int64",
        "note=3 is no string; the field's parse=Text() reads it",
    ]


def test_a_byte_order_mark_before_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"k": "a", "at": %d}\r\n{"k": "b", "at": %d}\r\n' % (AT, AT))
    ((valid, letters),) = events(path, SOURCE, NOW, 0)
    assert valid.column("k").to_pylist() == ["a", "b"] and not letters.num_rows
