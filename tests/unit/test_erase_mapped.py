"""A subject is found in the records of a source that says where its fields stand."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.forgetting.subject import Subject, without_lines, without_rows
from transforms.definitions import Enum, EventSource, Field

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
        assert without_lines(lines, subject) == want == (0 if gone is None else gone.num_rows)
        left = [json.loads(line) for line in lines.read_text().splitlines()]
        assert left == pq.read_table(rows).to_pylist() and len(left) == 12 - want
