"""A subject is found and taken out of event files of every format that sources read; what stays is as it was."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from pipelines.forgetting.other_formats import is_other, other_holds, without_records
from pipelines.forgetting.subject import Subject
from pipelines.sources.event_files import events
from transforms.definitions import Csv, EventSource, Field, TimeFormat

GONE, STAYS = "zone-to-be-forgotten-ü", "zone-that-stays"
DAY = 86_400_000_000
NOW = 20_000 * DAY


def source(dialect: Csv | None = None, **more: Any) -> EventSource:
    zone: Any = {"path": "Zone"} if more.pop("mapped", False) else {}
    fields = [Field("id", "int64", required=True), Field("zone", "string", **zone), Field("note", "string")]
    return EventSource("trips", fields, event_time="at", tie_breaker="id", files="events/trips", file_format=dialect)


SUBJECT = Subject(Subject.parse([f"zone={GONE}"]).keys)


def rows(name: str = "zone") -> list[dict[str, Any]]:
    return [{"id": n, "at": NOW - DAY + n, name: GONE if n % 3 == 0 else STAYS, "note": "a\r\nb" if n % 2 else "ü; x"} for n in range(30)]


def text(encoding: str = "utf-8", end: str = "\r\n", mark: str = "") -> bytes:
    lines = ["# kept", "", "id;at;zone;note"]
    lines += [f'{r["id"]};{r["at"]};"{r["zone"]}";"{r["note"]}"' if r["id"] % 2 else f"{r['id']};{r['at']};{r['zone']};x" for r in rows()]
    lines += [f"broken;{GONE}", f'99;1;"{STAYS}";"never closed']
    return (mark + end.join(lines) + end).encode(encoding)


def avro(codec: str) -> bytes:
    fields = [
        {"name": "id", "type": "long"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "zone", "type": ["null", "string"]}, {"name": "note", "type": "string"},
        {"name": "m", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, "default": "\u0000"},
        {"name": "u", "type": ["null", {"type": "record", "name": "A", "fields": [{"name": "v", "type": "int"}]},
                               {"type": "record", "name": "B", "fields": [{"name": "v", "type": "int"}]}]},
    ]  # fmt: skip
    made = [r | {"m": Decimal(r["id"]).scaleb(-2), "u": [None, ("A", {"v": 1}), ("B", {"v": 2})][r["id"] % 3]} for r in rows()]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "T", "fields": fields}, made, codec=codec, metadata={"by": "test"})
    return out.getvalue()


def arrow(as_file: bool, name: str = "zone", compression: str | None = None) -> bytes:
    table = pa.Table.from_pylist(rows(name))
    at = table.schema.get_field_index("at")
    table = table.set_column(at, "at", table["at"].cast(pa.timestamp("us", "UTC"))).replace_schema_metadata({"by": "test"})
    encoded = table.schema.get_field_index(name)
    table = table.set_column(encoded, name, table[name].dictionary_encode())
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as w:
        w.write_table(table, max_chunksize=7)
    return bytes(sink.getvalue())


LINES = Csv(delimiter=";", comment="#")
LATIN, WIDE = (Csv(delimiter=";", comment="#", encoding=name) for name in ("latin-1", "utf-16"))
FILES: dict[str, tuple[str, Callable[[], bytes], EventSource]] = {
    "csv": ("a.csv", text, source(LINES)),
    "csv with a mark and line feeds": ("a.txt", lambda: text(end="\n", mark="\ufeff"), source(LINES)),
    "csv latin-1, packed": (
        "a.csv.gz",
        lambda: gzip.compress(text("latin-1")),
        source(LATIN),
    ),
    "csv utf-16": ("a.csv", lambda: text("utf-16"), source(WIDE)),
    "avro": ("a.avro", lambda: avro("null"), source()),
    "avro deflate": ("a.avro", lambda: avro("deflate"), source()),
    "avro, packed": ("a.avro.bz2", lambda: bz2.compress(avro("null")), source()),
    "arrow stream": ("a.arrows", lambda: arrow(False), source()),
    "arrow file, elsewhere": ("a.arrow", lambda: arrow(True, "Zone", "lz4"), source(mapped=True)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_subject_in_files_of_each_format(tmp_path: Path, kind: str) -> None:
    name, make, src = FILES[kind]
    path = tmp_path / name
    path.write_bytes(make())
    subject = Subject(SUBJECT.keys, sources=(src,) if src.mapped else ())

    def read() -> tuple[list[dict[str, Any]], int]:
        pairs = list(events(path, src, NOW, 0))
        return [e for v, _ in pairs for e in v.to_pylist()], sum(b.num_rows for _, b in pairs)

    before, letters = read()
    lines = 1 if src.file_format else 0
    assert is_other(path, src) and other_holds(path, subject, src) in (True, None)
    assert without_records(path, subject, src, dry_run=True) == 10 + lines and read() == (before, letters)
    assert without_records(path, subject, src) == 10 + lines
    after, left = read()
    assert after == [e for e in before if e["zone"] != GONE] and len(after) == 20 and left == letters - lines
    assert not other_holds(path, subject, src) and without_records(path, subject, src) == 0
    if name == "a.csv" and kind == "csv":
        kept = [line for line in text().split(b"\r\n") if GONE.encode() not in line]
        assert path.read_bytes().startswith(b"# kept\r\n\r\nid;at;zone;note\r\n1;") and path.read_bytes().endswith(kept[-2] + b"\r\n")


def test_of_avro_all_else_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    path.write_bytes(avro("deflate"))
    before = list(fastavro.reader(io.BytesIO(path.read_bytes())))
    without_records(path, SUBJECT, source())
    reader = fastavro.reader(io.BytesIO(path.read_bytes()))
    assert list(reader) == [r for r in before if r["zone"] != GONE]  # type: ignore[index,call-overload]
    assert reader.metadata["by"] == "test" and reader.codec == "deflate"
    assert GONE.encode() not in path.read_bytes()


def test_a_record_with_a_local_time_is_one_line(tmp_path: Path) -> None:
    """A source whose key stands elsewhere, and a quoted value over several lines."""
    fields = [Field("zone", "string", required=True, path="Ort")]
    time = Field("at", "timestamp", path="Zeit", parse=TimeFormat("%d.%m.%Y", zone="Europe/Paris"))
    src = EventSource("s", fields, event_time=time, tie_breaker="zone", file_format=Csv())
    path = tmp_path / "a.csv"
    path.write_text(f'Zeit,Ort,n\n01.02.2023,{GONE},"1\n2\n\n3"\n01.02.2023,b,"4\n5"\n', "utf-8")
    assert without_records(path, Subject(SUBJECT.keys, sources=(src,)), src) == 1
    assert path.read_text("utf-8") == 'Zeit,Ort,n\n01.02.2023,b,"4\n5"\n'
