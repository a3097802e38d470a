"""Whole numbers beyond 2^63, as ids are: text without loss where a field says so, one dead letter with the fix where it is an int64; the
same from every format."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inference.infer_source import infer_files
from pipelines.project.config import KafkaSettings
from pipelines.sources.event_files import events
from pipelines.sources.formats.record_format import record_format
from tests.protobuf_types import classes, descriptor_set, file_of
from transforms.contract import Checked, check, check_json, check_records
from transforms.definitions import Csv, Enum, EventSource, Field, Text

N, T = 200, 1_700_000_000_000_000
IDS = [2**64 - 1 - 7919 * i if i % 3 else i for i in range(N)]
ROWS = [{"id": each, "at": T + i} for i, each in enumerate(IDS)]


def source(field: Field, **more: Any) -> EventSource:
    return EventSource(name="things", fields=[field, Field("n", "int64", path="id")], event_time="at", tie_breaker="id", **more)


TEXT = Field("id", "string", required=True, parse=Text())


def by_json(of: EventSource, folder: Path) -> Checked:
    return check_json(pa.array([json.dumps(r).encode() for r in ROWS], pa.binary()), of, 2 * T, 0)


def by_rows(of: EventSource, folder: Path) -> Checked:
    table = pa.table({"id": pa.array(IDS, pa.uint64()), "at": pa.array([r["at"] for r in ROWS])})
    return check(table.to_batches()[0], of, 2 * T, 0)


def by_decimals(of: EventSource, folder: Path) -> Checked:
    """As databases without unsigned types have them."""
    table = pa.table({"id": pa.array([Decimal(i) for i in IDS], pa.decimal128(20, 0)), "at": pa.array([r["at"] for r in ROWS])})
    return check(table.to_batches()[0], of, 2 * T, 0)


def by_records(of: EventSource, folder: Path) -> Checked:
    return check_records(ROWS, {}, of, 2 * T, 0)


def by_protobuf(of: EventSource, folder: Path) -> Checked:
    file = file_of("t.proto", {"Thing": {"id": "uint64", "at": "int64"}})
    (folder / "t.desc").write_bytes(descriptor_set(file))
    payloads = [classes(file)["shop.Thing"](**row).SerializeToString() for row in ROWS]
    kafka = KafkaSettings(format_options={"things": {"descriptor": str(folder / "t.desc")}})
    return record_format(of, kafka, "protobuf").decode(pa.array(payloads, pa.binary()), 2 * T, 0)


@pytest.mark.parametrize("form", [by_json, by_rows, by_decimals, by_records, by_protobuf])
def test_an_id_is_a_text_and_an_int64_says_the_fix(tmp_path: Path, form: Any) -> None:
    alone = EventSource(name="things", fields=[TEXT], event_time="at", tie_breaker="id")
    assert form(alone, tmp_path).valid.column("id").to_pylist() == [str(i) for i in IDS]
    if form is by_decimals:
        return
    both = source(TEXT)
    checked = form(both, tmp_path)
    assert checked.valid.column("n").to_pylist() == [i for i in IDS if i < 2**63]
    fix = 'does not fit int64 exactly; a field of dtype "string" holds it with parse=Text()'
    assert checked.details.drop_null().to_pylist() == [f"n={i} {fix}" for i in IDS if i >= 2**63]
    assert set(checked.reasons.drop_null().to_pylist()) == {"overflow"}
    plain = form(EventSource(name="things", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id"), tmp_path)
    assert plain.valid.num_rows == 0 and plain.details[0].as_py() == "id=0 is no string; the field's parse=Text() reads it"
    known = Field("id", "string", required=True, parse=Enum({IDS[1]: "one", 0: "none"}))
    assert form(EventSource(name="things", fields=[known], event_time="at", tie_breaker="id"), tmp_path).valid.to_pylist()[1]["id"] == "one"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_infer_makes_texts_of_them(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / "events" / "things" / f"a{suffix}", [{**r, "user": [i % 9, f"u{i % 9}"][i % 2]} for i, r in enumerate(ROWS)]
    path.parent.mkdir(parents=True)
    if suffix == ".parquet":
        columns = {"id": pa.array(IDS, pa.uint64()), "at": pa.array([r["at"] for r in ROWS]), "user": [str(r["user"]) for r in rows]}
        pq.write_table(pa.table(columns), path)
    elif suffix == ".csv":
        path.write_text("id,at,user\n" + "".join(f"{r['id']},{r['at']},{r['user']}\n" for r in rows))
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    text, values = infer_files(path.parent, name="things", data=tmp_path).text, dict[str, Any]()
    exec(compile(text, "things.py", "exec"), values)
    assert "an int64 does not hold" in text and isinstance(values["things"].file_format, Csv | None)
    (found, letters), *_ = events(path, values["things"], 2 * T, 0, batch_rows=N)
    assert letters.num_rows == 0 and found.column("id").to_pylist() == [str(i) for i in IDS]
    assert found.column("user").to_pylist() == [str(r["user"]) for r in rows]
