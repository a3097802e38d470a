"""A subject is found in the records of a source that says where its fields stand."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting import subject as forgetting
from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.subject import Subject, holds, without_rows
from pipelines.sources.archive import archive_schema
from transforms import mapping
from transforms.definitions import Enum, EventSource, Field, RecordKey, Text, col

SOURCE = EventSource(
    "orders",
    [Field("user", "string", required=True, path="user.id"), Field("tier", "string", path="t", parse=Enum({1: "gold", 2: "free"}))],
    event_time="at",
    tie_breaker="user",
)
RECORDS = [{"at": 1, "user": {"id": f"u{n % 3}"}, "t": 1 + n % 2} for n in range(12)]


def test_lines_and_rows_of_a_mapped_source(tmp_path: Path) -> None:
    for keys, want in ((["user=u1"], 4), (["user=u1", "tier=gold"], 2), (["user=u9"], 0)):
        subject = Subject(Subject.parse(keys).keys, sources=(SOURCE,))
        lines, rows = tmp_path / "a.jsonl", tmp_path / "a.parquet"
        lines.write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
        pq.write_table(pa.Table.from_pylist(RECORDS), rows)
        gone = without_rows(rows, subject)
        assert without_json(lines, subject) == want == gone
        left = [json.loads(line) for line in lines.read_text().splitlines()]
        assert left == pq.read_table(rows).to_pylist() and len(left) == 12 - want


def test_a_key_that_stood_only_in_the_records_keys(tmp_path: Path) -> None:
    """In archived files it is a column of its own, and they say that they are not to be mapped once more."""
    source = EventSource("s", [Field("device", "string", path=RecordKey()), Field("n", "int64", required=True)], "at", "n")
    path = tmp_path / "topic-00000-00000000000000000000-00000000000000000006.parquet"
    rows = [{"at": 10**15 + n, "device": ["device-one", "device-two"][n % 2], "n": n} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows, schema=archive_schema(source)), path)
    subject = Subject(Subject.parse(["device=device-one"]).keys, sources=(source,))
    gone = without_rows(path, subject)
    assert gone == 3 and not holds(path, subject)
    assert pq.read_table(path)["device"].to_pylist() == ["device-two"] * 3


def test_a_key_that_is_computed(tmp_path: Path) -> None:
    """What the source makes of a record is about the subject, though its bytes are other ones."""
    zone = Field("zone", "string", required=True, value=col("place").strip().lower())
    source = EventSource("s", [Field("place", "string", required=True), zone, Field("n", "int64", required=True)], "at", "n")
    rows = [{"at": 10**15 + n, "place": [" North-Side", "South-Side"][n % 2], "n": n} for n in range(6)]
    lines, file = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), file)
    subject = Subject(Subject.parse(["zone=north-side"]).keys, sources=(source,))
    gone = without_rows(file, subject)
    assert gone == without_json(lines, subject) == 3
    assert pq.read_table(file)["place"].to_pylist() == ["South-Side"] * 3


def test_records_are_read_many_at_once_and_each_is_judged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading by the source costs nearly as much for one record as for a thousand: 100,000 lines of a mapped source took minutes."""
    asked: list[int] = []
    read = mapping.read_records

    def counted(records, *rest, **how):
        asked.append(len(records))
        if len(records) > 1 and any(r.get("odd") for r in records):
            raise ValueError("of one of them")
        return read(records, *rest, **how)

    monkeypatch.setattr(forgetting, "read_records", counted)
    monkeypatch.setattr(forgetting, "_RECORDS", 4)
    subject = Subject(Subject.parse(["user=u1"]).keys, sources=(SOURCE,))
    lines = [json.dumps(r).encode() for r in RECORDS] + [b'{"user": "u1"', b"[]", b'{"user": {"id": 7}}', b'{"user": "u1"}', b""]
    found = subject.in_texts(lines).tolist()
    assert asked == [4, 4, 4, 1], "what the keys say already, and what is no record, is not asked for"
    assert found == [n % 3 == 1 for n in range(12)] + [True, False, False, True, False], "a broken line by its bytes"
    odd = [*lines, b'{"odd": 1}']
    assert subject.in_texts(odd).tolist() == [*found, False] == [subject.is_in_text(line) for line in odd]


def test_ids_that_are_whole_numbers_of_any_size(tmp_path: Path) -> None:
    """In JSON, as unsigned integers and as decimals of Parquet, where a float would be a neighbour's."""
    source = EventSource("s", [Field("user", "string", required=True, parse=Text()), Field("n", "int64", required=True)], "at", "n")
    rows = [{"at": 10**15 + n, "user": 2**64 - 1 - n % 2, "n": n} for n in range(6)]
    subject = Subject(Subject.parse([f"user={2**64 - 1}"]).keys, sources=(source,))
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert without_json(lines, subject) == 3
    for kind, of in ((pa.uint64(), int), (pa.decimal128(20, 0), Decimal)):
        file, columns = tmp_path / f"{kind}.parquet", {"user": pa.array([of(r["user"]) for r in rows], kind), "n": range(6)}
        pq.write_table(pa.table({**columns, "at": [r["at"] for r in rows]}), file)
        gone = without_rows(file, subject)
        assert gone == 3 and {int(u) for u in pq.read_table(file)["user"].to_pylist()} == {2**64 - 2}
