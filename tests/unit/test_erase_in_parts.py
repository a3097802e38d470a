"""An erasure reads files in parts: memory is bounded whatever a file is decompressed to, and what stands over a border is found."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from pipelines.forgetting.file_bytes import PART_BYTES, all_stand_in, packing
from pipelines.forgetting.json_files import without_json
from pipelines.forgetting.other_formats import other_holds, without_records
from pipelines.forgetting.subject import Subject, holds
from pipelines.sources.file_formats.json_documents import MAX_LINE_BYTES
from tandem.testing.memory import grown
from transforms.definitions import Csv, EventSource, Field

GONE, STAYS = "zone-to-be-forgotten-ü", "zone-that-stays"
SUBJECT = Subject.parse([f"zone={GONE}"])
MIB = 1 << 20
MOST = 192 * MIB
PAD = "x" * 2_000


def source(dialect: Csv | None = None) -> EventSource:
    fields = [Field("id", "int64", required=True), Field("zone", "string"), Field("note", "string")]
    return EventSource("trips", fields, event_time="at", tie_breaker="id", files="events/trips", file_format=dialect)


def record(n: int) -> dict[str, Any]:
    return {"id": n, "at": n, "zone": GONE if n % 1000 == 7 else STAYS, "note": PAD}


def lines(n: int) -> bytes:
    return b"".join(json.dumps(record(i), ensure_ascii=False).encode() + b"\n" for i in range(n))


def array(n: int) -> bytes:
    return b"[\n" + lines(n).rstrip().replace(b"\n", b",\n") + b"\n]\n"


def delimited(n: int) -> bytes:
    return b"id,at,zone,note\n" + b"".join(",".join(map(str, record(i).values())).encode() + b"\n" for i in range(n))


def avro(n: int) -> bytes:
    fields = [{"name": k, "type": "string" if k in ("zone", "note") else "long"} for k in record(0)]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "T", "fields": fields}, map(record, range(n)), codec="deflate")
    return out.getvalue()


def arrow(n: int) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist([record(i) for i in range(1_000)])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(n // 1_000):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


KINDS: dict[str, tuple[str, Callable[[int], bytes], EventSource | None]] = {
    "lines": ("a.jsonl.gz", lambda n: gzip.compress(lines(n), 1), None),
    "lines in UTF-16": ("a.jsonl.gz", lambda n: gzip.compress(lines(n).decode().encode("utf-16"), 1), None),
    "an array": ("a.json.zst", lambda n: pa.compress(array(n), codec="zstd", asbytes=True), None),
    "delimited": ("a.csv.gz", lambda n: gzip.compress(delimited(n), 1), source(Csv())),
    "delimited, in UTF-16": (
        "a.csv.gz",
        lambda n: gzip.compress(delimited(n).decode().encode("utf-16"), 1),
        source(Csv(encoding="utf-16")),
    ),
    "avro": ("a.avro", avro, source()),
    "arrow": ("a.arrows", arrow, source()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_bounded_whatever_a_file_is_decompressed_to(tmp_path: Path, kind: str) -> None:
    name, make, src = KINDS[kind]

    def erased(n: int) -> int:
        path = tmp_path / name
        path.write_bytes(make(n))
        with grown() as most:
            count = without_json(path, SUBJECT) if src is None else without_records(path, SUBJECT, src)
            left = other_holds(path, SUBJECT, src)
            assert count == n // 1_000 and not (holds(path, SUBJECT) if left is None else left)
            return most()

    erased(1_000)  # libraries are there
    assert erased(40_000 if "UTF-16" in kind else 80_000) < MOST  # 160 MB, of which a part is decoded once


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_rewritten_keeps_its_permissions(tmp_path: Path, kind: str) -> None:
    """SECURITY low (file modes): what Tandem writes is its user's alone, but an event file is read by whoever read it before."""
    name, make, src = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(make(1_000))
    path.chmod(0o664)
    before = os.umask(0o077)
    try:
        assert (without_json(path, SUBJECT) if src is None else without_records(path, SUBJECT, src)) == 1
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize("start", [b"", b'{"zone": "', b"["])
def test_a_record_without_an_end_takes_no_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 1) as f:
        f.write(start)
        for _ in range(220):
            f.write(bytes(MIB))
        f.write(f'"\n{{"zone": "{GONE}"}}\n'.encode())
    passed: list[int] = []
    with grown() as most:
        assert holds(path, SUBJECT)
        assert without_json(path, SUBJECT, passed=lambda: passed.append(1)) == 1
        assert not holds(path, SUBJECT)
        assert most() < MOST
    assert passed == [1]


def test_a_line_that_is_too_long_is_named_and_the_others_are_erased(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    mine, other = (json.dumps({"zone": zone}).encode() + b"\n" for zone in (GONE, STAYS))
    long = json.dumps({"zone": GONE, "note": "x" * (2 * MAX_LINE_BYTES + 5)}).encode() + b"\n"
    path.write_bytes(other + mine + long + mine + other)
    passed: list[int] = []
    assert without_json(path, SUBJECT, passed=lambda: passed.append(1)) == 2
    assert path.read_bytes() == other + long + other and passed == [1]
    assert holds(path, SUBJECT)  # so it is said to remain


def test_a_document_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    data = json.dumps({"records": [{"zone": GONE}], "note": "x" * MAX_LINE_BYTES}, indent=1).encode()
    path.write_bytes(data)
    with pytest.raises(ValueError, match="longer than"):
        without_json(path, SUBJECT)
    assert path.read_bytes() == data and holds(path, SUBJECT)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".zst"])
def test_what_stands_over_a_border_is_found(tmp_path: Path, packed: str, encoding: str) -> None:
    path = tmp_path / f"a.txt{packed}"
    for before in range(0, len(GONE) + 2, 4):
        text = "ä" * 10 + "x" * ((PART_BYTES // (2 if encoding == "utf-16" else 1)) - 20 - before) + GONE + "y" * 30
        for data, there in ((text, True), (text.replace(GONE, GONE[:-1] + "u"), False)):
            with open(path, "wb") as out, packing(path, out) as f:
                f.write(data.encode(encoding))
            assert holds(path, SUBJECT) is there


def test_of_parts_the_same_is_found_as_of_the_whole() -> None:
    """Also what stands before and behind: no digit may."""
    rng = random.Random(5)
    wanted = [re.compile(rb"(?<![0-9.])(?:12|1%32)(?![0-9])"), re.compile(rb"(?:k[^a-z]{1,12}(?:ab|abc)(?![a-z]))|kk12")]
    said = set()
    for _ in range(20_000):
        data = bytes(rng.choices(b"k12ab.c", k=rng.randrange(1, 40)))
        cuts = sorted(rng.choices(range(len(data) + 1), k=rng.randrange(6)))
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        whole = all(p.search(data) for p in wanted)
        assert all_stand_in(iter(parts), wanted, 17) is whole, parts
        said.add(whole)
    assert said == {True, False}
