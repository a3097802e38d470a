"""Event files: what is listed, what is read, and what every kind of damage becomes."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.event_files import DEAD_LETTER_SCHEMA, UnreadableFileError, events, list_files, read
from pipelines.sources.file_formats import file_format, json_lines_file
from tests.examples import examples
from transforms.contract import check_json
from transforms.definitions import EventSource, Field
from transforms.errors import DataError

DAY = 86_400_000_000
NOW = 20_000 * DAY
T = NOW - DAY
SOURCE = EventSource(
    name="weather",
    fields=[
        Field("station", "string", required=True, domain=["EWR", "JFK"]),
        Field("temperature", "float64", min=-60, max=60),
        Field("reports", "int64"),
    ],
    event_time="observed_at",
    tie_breaker="station",
    files="events/weather",
)
SCHEMA = SOURCE.arrow_schema


def good(i: int) -> dict[str, Any]:
    return {"observed_at": T + i, "station": "EWR", "temperature": i % 400 / 7, "reports": i}


def table(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_arrays([pa.array([r.get(f.name) for r in rows], f.type) for f in schema], names=schema.names)


def harvest(path: Path, **options: Any) -> tuple[pa.Table, list[dict[str, Any]]]:
    pairs = list(events(path, SOURCE, NOW, 0, **options))
    assert all(v.schema.equals(SCHEMA) and d.schema.equals(DEAD_LETTER_SCHEMA) for v, d in pairs)
    valid = pa.Table.from_batches([v for v, _ in pairs], SCHEMA)
    return valid, pa.Table.from_batches([d for _, d in pairs], DEAD_LETTER_SCHEMA).to_pylist()


def strings(*values: bytes | None) -> pa.Array:
    """A string column whose bytes need not be UTF-8, as a foreign writer may leave them."""
    raw = pa.array(list(values), pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


# Every kind of bad input of a field: its name, the value in JSON, a column for Parquet, the code (None: accepted).
MISSING = object()
KINDS: list[tuple[str, Any, pa.Array | None, str | None]] = [
    ("station", MISSING, None, "missing_field"),
    ("station", None, pa.array([None], pa.string()), "missing_field"),
    ("observed_at", MISSING, None, "missing_timestamp"),
    ("observed_at", None, pa.array([None], pa.timestamp("us", "UTC")), "missing_timestamp"),
    ("observed_at", 0, pa.array([0], pa.timestamp("us", "UTC")), "nonpositive_timestamp"),
    ("observed_at", -5, pa.array([-5], pa.timestamp("ms")), "nonpositive_timestamp"),
    ("observed_at", NOW + 1, pa.array([NOW + 1], pa.timestamp("us", "UTC")), "future_timestamp"),
    ("observed_at", "noon", pa.array(["noon"]), "wrong_type_timestamp"),
    ("temperature", "mild", pa.array(["mild"]), "wrong_type"),
    ("temperature", True, pa.array([True]), "wrong_type"),
    ("reports", 1.5, pa.array([1.5]), "wrong_type"),
    ("temperature", 60.5, pa.array([60.5]), "out_of_range"),
    ("station", "LGA", pa.array(["LGA"]), "not_in_domain"),
    ("temperature", math.nan, pa.array([math.nan]), "nan"),
    ("temperature", math.inf, pa.array([math.inf]), "infinite"),
    ("temperature", -math.inf, pa.array([-math.inf], pa.float32()), "infinite"),
    ("reports", 2**63, pa.array([2**63], pa.uint64()), "overflow"),
    ("station", "E\udcff", strings(b"E\xff"), "invalid_utf8"),
    ("extra", {"deep": [1]}, pa.array([[1]]), None),
    ("temperature", MISSING, None, None),
    ("temperature", None, pa.array([None], pa.float64()), None),
    ("reports", 2.0, pa.array([2.0]), None),
]


@pytest.mark.parametrize(("name", "value", "column", "code"), KINDS)
def test_each_kind_in_json_lines(tmp_path: Path, name: str, value: Any, column: Any, code: str | None) -> None:
    changed = {**good(1), name: value}
    if value is MISSING:
        del changed[name]
    lines = [json.dumps(r, ensure_ascii=False).encode("utf-8", "surrogateescape") for r in (good(0), changed, good(2))]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    valid, letters = harvest(path)
    assert [(d["reason"], d["row"], d["payload"]) for d in letters] == ([(code, 1, lines[1])] if code else [])
    assert valid.num_rows == (2 if code else 3)
    assert [r for r in valid.cast(table([]).schema).to_pylist() if r["reports"] != 1 and r["temperature"] in (0.0, 2 / 7)] == table(
        [good(0), good(2)]
    ).to_pylist()


@pytest.mark.parametrize(("name", "value", "column", "code"), KINDS)
def test_each_kind_in_parquet(tmp_path: Path, name: str, value: Any, column: Any, code: str | None) -> None:
    rows = table([good(1)])
    if name in rows.schema.names:
        at = rows.schema.get_field_index(name)
        rows = rows.remove_column(at) if column is None else rows.set_column(at, name, column)
    else:
        rows = rows.append_column(name, column)
    path = tmp_path / "a.parquet"
    pq.write_table(rows, path)
    valid, letters = harvest(path, name="events/weather/a.parquet")
    assert [(d["reason"], d["row"], d["file"]) for d in letters] == ([(code, 0, "events/weather/a.parquet")] if code else [])
    assert valid.num_rows == (0 if code else 1)
    for letter in letters:
        assert name in letter["detail"]
        if code not in ("overflow", "wrong_type_timestamp"):
            assert check_json([letter["payload"]], SOURCE, NOW, 0).reasons.to_pylist() == [code]  # a replay says the same


def test_many_bad_rows_between_good_ones_in_parquet(tmp_path: Path) -> None:
    rows = [good(i) for i in range(10)]
    rows[2]["station"], rows[5]["temperature"], rows[9]["observed_at"] = None, math.nan, 0
    path = tmp_path / "a.parquet"
    pq.write_table(table(rows), path, row_group_size=4)
    for size in (1, 3, 65_536):
        valid, letters = harvest(path, batch_rows=size)
        assert valid.to_pylist() == table([r for i, r in enumerate(rows) if i not in (2, 5, 9)]).to_pylist()
        got = [(d["row"], d["reason"], d["source"], d["event_time"] is None) for d in letters]
        assert got == [(2, "missing_field", "weather", False), (5, "nan", "weather", False), (9, "nonpositive_timestamp", "weather", False)]
    assert json.loads(letters[0]["payload"]) == {**rows[2]}


def test_invalid_utf8_in_parquet_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = table([good(0), good(1), good(2)])
    pq.write_table(rows.set_column(1, "station", strings(b"EWR", b"J\xff\xfeK", b"JFK")), path)
    valid, letters = harvest(path)
    assert valid.column("station").to_pylist() == ["EWR", "JFK"]
    assert b'"station":"J\xff\xfeK"' in letters[0]["payload"]
    assert letters[0]["reason"] == "invalid_utf8"


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(good(3)).encode()
    path.write_bytes(b"\n" + text + b"\r\n   \nnot json\n[]\n\xff\n" + text + b"\n" + text[:-9])
    for size in (1, 2, 100):
        valid, letters = harvest(path, batch_rows=size)
        assert valid.to_pylist() == table([good(3)] * 2).to_pylist()
        assert [(d["row"], d["reason"], d["payload"]) for d in letters] == [
            (3, "malformed", b"not json"),
            (4, "malformed", b"[]"),
            (5, "invalid_utf8", b"\xff"),
            (7, "malformed", text[:-9]),  # the file was cut
        ]
        assert all(d["file"] == str(path) and d["detail"] for d in letters)


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines_file, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(json_lines_file, "KEPT_OF_LONG_LINE", 150)
    text = json.dumps(good(1)).encode()
    long = text + b" " * 300  # its beginning alone would be a good event
    path = tmp_path / "a.jsonl"
    for chunk in (1, 7, 64):
        monkeypatch.setattr(json_lines_file, "CHUNK_BYTES", chunk)
        for end in (b"", b"\n", b"\n" + text + b"\n"):
            path.write_bytes(text + b"\n" + long + end)
            valid, letters = harvest(path)
            assert valid.num_rows == 1 + end.count(text)
            assert [(d["row"], d["reason"], d["payload"]) for d in letters] == [(1, "malformed", long[:150])]
            assert f"{len(long)} bytes" in letters[0]["detail"]
    path.write_bytes(text.ljust(200) + b"\n")
    assert harvest(path)[0].num_rows == 1


def damaged(content: bytes, page: int = 0) -> dict[str, bytes]:
    """Ways to harm a Parquet file; ``page`` is where a page of its third row group starts."""
    return {
        "empty": b"",
        "cut in half": content[: len(content) // 2],
        "last byte missing": content[:-1],
        "only the magic": b"PAR1",
        "text": b"a,b\n1,2\n" * 10,
        "footer overwritten": content[:-40] + b"\xff" * 32 + content[-8:],
        "a page overwritten": content[:page] + b"\xff" * 30 + content[page + 30 :],
    }


@pytest.mark.parametrize("kind", damaged(b""))
@pytest.mark.parametrize("small", [True, False])
def test_a_damaged_parquet_file_is_one_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, small: bool) -> None:
    monkeypatch.setattr(file_format, "SMALL_BYTES", 1 << 30 if small else 0)
    whole = tmp_path / "whole.parquet"
    pq.write_table(table([good(i) for i in range(20_000)]), whole, row_group_size=5_000, compression="zstd")
    assert harvest(whole)[0].num_rows == 20_000
    path = tmp_path / "a.parquet"
    page = pq.read_metadata(whole).row_group(2).column(3).data_page_offset
    path.write_bytes(damaged(whole.read_bytes(), page)[kind])
    valid, letters = harvest(path, batch_rows=1_000)
    assert valid.num_rows == 0
    assert [(d["reason"], d["row"], d["payload"], d["source"]) for d in letters] == [("unreadable_file", None, None, "weather")]
    assert letters[0]["detail"]
    assert "\n" not in letters[0]["detail"]
    with pytest.raises(UnreadableFileError):
        next(read(path, SOURCE))


def test_files_without_events(tmp_path: Path) -> None:
    pq.write_table(table([]), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.jsonl").write_bytes(b"\n \n")
    for path in tmp_path.iterdir():
        assert harvest(path) == (table([]).cast(SCHEMA), [])


def test_what_is_not_the_files_fault_is_raised(tmp_path: Path) -> None:
    for name in ("gone.parquet", "gone.jsonl"):
        with pytest.raises(FileNotFoundError):
            list(events(tmp_path / name, SOURCE, NOW, 0))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(IsADirectoryError):
        list(events(tmp_path / "folder.parquet", SOURCE, NOW, 0))
    with pytest.raises(DataError, match="at least 1"):
        list(read(tmp_path / "gone.jsonl", SOURCE, 0))


def test_listing_prunes_days_and_ignores_hidden_names(tmp_path: Path) -> None:
    root = tmp_path / "events" / "weather"
    names = [
        "date=2024-10-03/part-0.parquet", "date=2024-10-04/part-0.parquet", "date=2024-10-04/deep/b.jsonl",
        "date=2024-10-05/part-0.parquet", "date=2024-10-06/part-0.parquet", "date=2024-13-40/odd.parquet", "loose.json",
        "notes.txt", ".hidden.parquet", "_temporary/x.parquet", "date=2024-10-04/_SUCCESS", "date=2024-10-04/.part.parquet",
        "region=us/date=2024-10-06/z.parquet",
    ]  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"abc")

    def listed(start: int | None, end: int | None) -> list[str]:
        return [f.name.removeprefix("events/weather/") for f in list_files(tmp_path, SOURCE, start, end)]

    fourth = 20_000 * DAY  # 2024-10-04
    always = ["date=2024-13-40/odd.parquet", "loose.json"]
    two = ["date=2024-10-04/deep/b.jsonl", "date=2024-10-04/part-0.parquet"]
    assert listed(fourth, fourth + DAY) == [*two, *always]
    assert listed(fourth - 1, fourth + DAY + 1) == ["date=2024-10-03/part-0.parquet", *two, "date=2024-10-05/part-0.parquet", *always]
    assert len(listed(None, None)) == 8
    assert listed(None, fourth) == ["date=2024-10-03/part-0.parquet", *always]
    assert listed(fourth + 2 * DAY, None) == ["date=2024-10-06/part-0.parquet", *always, "region=us/date=2024-10-06/z.parquet"]

    first = list_files(tmp_path, SOURCE, fourth, fourth + 1)[0]
    assert first.date == date(2024, 10, 4)
    assert first.size == 3
    assert first.path == str(root / two[0])
    assert first.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert {f.sha256 for f in list_files(tmp_path, SOURCE, None, None, hashes=False)} == {""}
    assert list_files(tmp_path, SOURCE, None, None)[-2].date is None


def test_a_log_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        list_files(tmp_path, SOURCE, None, None)
    nowhere = EventSource(name="live", fields=[Field("id", "int64", required=True)], event_time="at", tie_breaker="id", topic="live")
    with pytest.raises(DataError, match="has no files"):
        list_files(tmp_path, nowhere, None, None)


@settings(max_examples=examples(30))
@given(st.lists(st.sampled_from(["good", "bad", "blank"]), max_size=20), st.integers(1, 7), st.integers(1, 7))
def test_batches_never_change_what_a_file_holds(tmp_path_factory: pytest.TempPathFactory, kinds: list[str], a: int, b: int) -> None:
    lines = {"good": json.dumps(good(1)), "bad": "{", "blank": ""}
    folder = tmp_path_factory.mktemp("lines")
    (folder / "a.jsonl").write_text("".join(lines[k] + "\n" for k in kinds))
    one, two = harvest(folder / "a.jsonl", batch_rows=a), harvest(folder / "a.jsonl", batch_rows=b)
    assert one == two
    assert [d["row"] for d in one[1]] == [i for i, k in enumerate(kinds) if k == "bad"]
    rows = [{"good": good(i), "bad": {"observed_at": None}, "blank": good(i)}[k] for i, k in enumerate(kinds)]
    pq.write_table(table(rows), folder / "a.parquet", row_group_size=3)
    one, two = harvest(folder / "a.parquet", batch_rows=a), harvest(folder / "a.parquet", batch_rows=b)
    assert one[0].equals(two[0])
    assert one[1] == two[1]
