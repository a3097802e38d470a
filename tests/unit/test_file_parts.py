"""A file in parts is the file: its events, dead letters, their numbers and the verdict on it, wherever it is divided."""

from __future__ import annotations

import io
import json
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch.divide import FilePart, division, in_parts, look_at, part_events, put_together
from pipelines.sources.event_files import EventFile, UnreadableFileError, events, inventory
from pipelines.sources.file_formats import json_lines_file, parquet_file
from pipelines.sources.file_formats.line_parts import line_parts
from pipelines.sources.file_formats.physical import plain_columns
from transforms.definitions import EventSource, Field
from transforms.errors import DataError
from transforms.file_formats import Csv

NOW = 1_700_000_000_000_000
FIELDS = [Field("key", "string", required=True), Field("value", "float64", max=90), Field("note", "string")]


def source_of(dialect: Csv | None = None) -> EventSource:
    return EventSource(name="orders", fields=FIELDS, event_time="at", tie_breaker="key", files="events/orders", file_format=dialect)


def file_of(path: Path) -> EventFile:
    return EventFile(str(path), f"events/orders/{path.name}", path.stat().st_size, "")


def told(pairs: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events, and dead letters in order of their numbers."""
    valid, letters = [], []
    for v, d in pairs:
        valid += v.to_pylist()
        letters += d.to_pylist()
    return valid, sorted(letters, key=lambda d: d["row"] or 0)


def whole(path: Path, source: EventSource, rows: int = 65_536) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return told(events(path, source, NOW, 0, name=f"events/orders/{path.name}", batch_rows=rows))


def in_its_parts(path: Path, source: EventSource, most: int, rows: int = 65_536) -> tuple[Any, Any, list[FilePart]]:
    """As :func:`whole`, by its parts, looked at in any order."""
    parts = division(file_of(path), source, most)
    if len(parts) > 1:
        looks = [(part, look_at(part, source)) for part in random.Random(most).sample(parts, len(parts))]
        parts = put_together(looks)
    found = [told(part_events(part, source, NOW, 0, lambda what, count: None, rows)) for part in parts]
    for _, letters in found:
        assert letters == sorted(letters, key=lambda d: d["row"] or 0)
    return [e for valid, _ in found for e in valid], [d for _, letters in found for d in letters], parts


def same(path: Path, source: EventSource, most: int, rows: int = 65_536) -> list[FilePart]:
    valid, letters, parts = in_its_parts(path, source, most, rows)
    assert (valid, letters) == whole(path, source)
    assert len({p.name for p in parts}) == len(parts)
    return parts


def line(i: int, value: str = "1.5") -> bytes:
    return b'{"key": "k%d", "value": %s, "note": "x", "at": %d}' % (i, value.encode(), NOW - 10_000_000 + i)


ODD = [b"", b"   ", b"{", b"\xef\xbb\xbf{}", b"\xff\xfe", b"no json", b"[1]", line(1, "99"), line(2, '"late"'), line(3) + b"\r", b"\r"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(ODD), st.integers(0, 99).map(line)), max_size=30),
    st.booleans(), st.booleans(), st.integers(1, 400),
)  # fmt: skip
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], mark: bool, ended: bool, most: int) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + b"\n".join(lines) + (b"\n" if ended else b""))
    same(path, source_of(), most, rows=7)


def test_lines_that_are_too_long_count_once_wherever_a_part_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines_file, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(json_lines_file, "CHUNK_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([line(0), b"x" * 1000, line(1), b"y" * 201, line(2), b"z" * 5000]))
    sizes = {len(same(path, source_of(), most)) for most in range(1, 1200, 37)}
    assert {3, 6} <= sizes


VALUES = ["a", "", "b b", '"q"', '"a,b"', '"two\nlines"', '"say ""so"""', "#no", 'x"y', '"never', "é"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(VALUES)), max_size=30),
    st.sampled_from([Csv(), Csv(header=False, columns=("key", "value", "note", "at")), Csv(skip=2), Csv(comment="#"), Csv(quote=None)]),
    st.booleans(), st.booleans(), st.integers(1, 300),
)  # fmt: skip
def test_csv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], dialect: Csv, mark: bool, ended: bool, most: int
) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.csv"
    lines = [*(["any, thing", '"of no meaning'][: dialect.skip]), *(["key,value,note,at"] if dialect.header else [])]
    lines += [f"k{i},{i * 12},{note},{NOW - 9_000_000 + i}" for i, note in rows]
    lines += ["# says who", "", "k,1"] if rows else []
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + "\n".join(lines).encode() + (b"\n" if ended else b""))
    same(path, source_of(dialect), most, rows=5)


def test_csv_is_divided_where_each_record_is_a_line_and_else_not(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f'k{i},1,"a, ""b""",{NOW - 9_000_000 + i}' for i in range(50)]
    path.write_text("key,value,note,at\n" + "\n".join(rows))
    assert len(same(path, source_of(Csv()), 200)) > 5
    path.write_text("key,value,note,at\n" + "\n".join([*rows, f'k,1,"a\nb",{NOW - 1}', *rows]))
    assert len(same(path, source_of(Csv()), 200)) == 1
    path.write_text("clé,value,note,at\n" + "\n".join(rows), encoding="latin-1")
    assert division(file_of(path), source_of(Csv(encoding="latin-1")), 200) == [FilePart(file_of(path))], "used whole or not at all"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "a.parquet"
    n = 640
    columns: dict[str, Any] = {
        "key": [f"k{i}" for i in range(n)], "value": [float(i % 100) for i in range(n)], "note": ["x" * (i % 7) for i in range(n)],
        "at": pa.array([NOW - 9_000_000 + i for i in range(n)], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    pq.write_table(pa.table(columns), path, row_group_size=64, use_dictionary=False, compression="none")
    return path


def test_parquet(parquet: Path) -> None:
    group = pq.ParquetFile(parquet).metadata.row_group(0).total_byte_size
    counts = [len(same(parquet, source_of(), most, rows=50)) for most in (1, group * 3, group * 100)]
    assert counts[0] == 10 and 3 <= counts[1] <= 5 and counts[2] == 1


def refused_damages(path: Path, times: int, seed: int) -> int:
    """Damages a file so often behind its first four bytes, each time anew, and holds its parts against the whole; how many were refused."""
    data, rng, refused = path.read_bytes(), random.Random(seed), 0
    for _ in range(times):
        spoilt = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(4, len(data))
            spoilt[at : at + 3] = rng.randbytes(3)
        path.write_bytes(spoilt)
        same(path, source_of(), rng.choice([1, 4000, 20_000]))
        refused += whole(path, source_of())[0] == []
    return refused


def test_damaged_parquet_has_one_verdict(parquet: Path) -> None:
    """Whichever part the damage lies in, and however many: no row of the file is used, and the reason is the same."""
    data = parquet.read_bytes()
    assert refused_damages(parquet, 60, 2) > 10
    parquet.write_bytes(data[:-9])
    assert [p.fault for p in same(parquet, source_of(), 1)] == [""]
    parquet.write_bytes(b"")
    same(parquet, source_of(), 1)


def test_a_fault_in_a_later_part_is_told_with_the_rows_before_it(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(table: pa.Table) -> pa.Table:
        if table.column("key")[0].as_py() == "k448":
            raise pa.ArrowInvalid("so it is")
        return plain_columns(table)

    monkeypatch.setattr(parquet_file, "plain_columns", broken)
    (part,) = same(parquet, source_of(), 1)
    assert part.fault == "so it is (behind row 447)"


@pytest.fixture(params=[None, "zstd"])
def arrow(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Ten record batches, of which some have columns by dictionaries."""
    return written_arrow(tmp_path / "a.arrow", request.param)


def written_arrow(path: Path, compression: str | None = None, as_file: bool = True) -> Path:
    n = 640
    columns: dict[str, Any] = {
        "key": [f"k{i}" for i in range(n)], "value": [float(i % 100) for i in range(n)],
        "note": pa.array(["x" * (i % 7) for i in range(n)]).dictionary_encode(),
        "at": pa.array([NOW - 9_000_000 + i for i in range(n)], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    table = pa.table(columns)
    opened = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with opened(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=64)
    return path


def test_arrow(arrow: Path) -> None:
    batch = arrow.stat().st_size // 10
    counts = [len(same(arrow, source_of(), most, rows=50)) for most in (1, batch * 3, batch * 100)]
    assert counts[0] == 10 and 3 <= counts[1] <= 5 and counts[2] == 1


def test_damaged_arrow_has_one_verdict(arrow: Path) -> None:
    data = arrow.read_bytes()
    assert refused_damages(arrow, 80, 4) > 10
    for spoilt_whole in (data[:-9], b"", b"FEA1" + data[4:]):
        arrow.write_bytes(spoilt_whole)
        assert [p.stretch for p in same(arrow, source_of(), 1)] == [None]


def test_a_stream_of_arrow_has_no_footer_and_stays_one(tmp_path: Path) -> None:
    path = written_arrow(tmp_path / "a.arrows", as_file=False)
    assert in_parts(file_of(path), source_of(), 1)
    assert [p.stretch for p in same(path, source_of(), 1)] == [None]


AVRO_FIELDS: list[dict[str, Any]] = [
    {"name": "key", "type": "string"},
    {"name": "value", "type": ["null", "double", "int"]},  # of several types: its values tell
    {"name": "note", "type": ["null", "string"]},
    {"name": "at", "type": "long"},
    {"name": "small", "type": ["null", "int"]},
    {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": "long"}}},
]


def avro(path: Path, n: int = 640, *, sync: bytes | None = None, records: int = 16, odd: bool = True, codec: str = "null") -> Path:
    """Blocks of some records; with ``odd``, values that their own types cannot hold stand among others, as other writers leave them."""
    parsed = fastavro.parse_schema({"type": "record", "name": "R", "fields": AVRO_FIELDS})
    fields = [{**f, "type": ["null", "long"]} if f["name"] == "small" else f for f in AVRO_FIELDS]
    wide = fastavro.parse_schema({"type": "record", "name": "W", "fields": fields})
    sync, out = sync or random.Random(n).randbytes(16), io.BytesIO()
    fastavro.writer(out, parsed, [], codec=codec, sync_marker=sync)
    rng = random.Random(records)
    for begin in range(0, n, records):
        block = io.BytesIO()
        for i in range(begin, min(n, begin + records)):
            value = (None, i % 100, float(i % 97))[i % 3]
            small = 2**40 + i if odd and i % 37 == 5 else None if i % 5 == 0 else i
            tags = [{f"t{j}": j for j in range(rng.randrange(3))} for _ in range(i % 3)]
            record = {"key": f"k{i}", "value": value, "note": "x" * (i % 7), "at": NOW - 9_000_000 + i, "small": small, "tags": tags}
            fastavro.schemaless_writer(block, wide, record)
        plain = block.getvalue()
        data = plain if codec == "null" else zlib.compress(plain, wbits=-15)
        out.write(zigzag(min(n, begin + records) - begin) + zigzag(len(data)) + data + sync)
    path.write_bytes(out.getvalue())
    return path


def zigzag(n: int) -> bytes:
    n, out = n << 1, b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


AVRO_SOURCE = EventSource(
    name="orders",
    fields=[*FIELDS, Field("small", "int64", max=600), Field("t1", "int64", path="tags[0].t1")],
    event_time="at",
    tie_breaker="key",
    files="events/orders",
)


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro(tmp_path: Path, codec: str) -> None:
    path = avro(tmp_path / "a.avro", codec=codec)
    counts = [len(same(path, AVRO_SOURCE, most, rows=50)) for most in (1, 2000, 10**9)]
    assert counts[0] == 40 and 3 <= counts[1] <= 30 and counts[2] == 1
    valid, letters = whole(path, AVRO_SOURCE)
    wide = [i for i in range(640) if i % 37 == 5]
    assert {int(d["row"]) for d in letters} >= set(wide), "beyond its int, and beyond the field's max"
    assert len(valid) + len(letters) == 640 and any(e["t1"] == 1 for e in valid)


@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_a_value_that_an_avro_type_cannot_hold_changes_none_beside_it(tmp_path: Path, rows: int) -> None:
    path, clean = avro(tmp_path / "a.avro"), avro(tmp_path / "b.avro", odd=False)
    (odd, _), (plain, _) = whole(path, AVRO_SOURCE, rows), whole(clean, AVRO_SOURCE, rows)
    held = {e["key"]: e for e in plain}
    assert odd and all(held[e["key"]] == e for e in odd)


@pytest.mark.parametrize("sync", [b"\0" * 16, b"x" * 16])
def test_bytes_of_avro_records_that_look_like_a_sync_marker(tmp_path: Path, sync: bytes) -> None:
    """A part that would begin within a block is told by the one before it, and the file is read as one."""
    path = tmp_path / "a.avro"
    inner = avro(path, sync=sync).read_bytes()
    block = zigzag(1) + zigzag(len(held := _held(sync))) + held + sync
    path.write_bytes(inner + block + inner[inner.index(sync) + 16 :])
    parts = same(path, AVRO_SOURCE, 1)
    assert len(parts) == 1 and parts[0].stretch is None and not parts[0].fault


def _held(sync: bytes) -> bytes:
    """A record whose text is a marker twice over."""
    out = io.BytesIO()
    record: dict[str, Any] = {"key": "k", "value": None, "note": (sync * 2).decode(), "at": NOW - 9_000_000, "small": 1, "tags": []}
    fastavro.schemaless_writer(out, fastavro.parse_schema({"type": "record", "name": "R", "fields": AVRO_FIELDS}), record)
    return out.getvalue()


def test_damaged_avro_has_one_verdict(tmp_path: Path) -> None:
    """Whichever part the damage lies in: no row of the file is used, and the reason is the same, with the rows before it."""
    path = avro(tmp_path / "a.avro", codec="deflate")
    data, rng, refused = path.read_bytes(), random.Random(4), 0
    for _ in range(60):
        spoilt = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(len(data))
            spoilt[at : at + 2] = rng.randbytes(2)
        path.write_bytes(spoilt)
        same(path, AVRO_SOURCE, rng.choice([1, 900, 4000]))
        refused += whole(path, AVRO_SOURCE)[0] == []
    assert refused > 30
    for cut in (0, 3, 200, len(data) - 9, len(data) - 20):
        path.write_bytes(data[:cut])
        same(path, AVRO_SOURCE, 1)
    path.write_bytes(data + b"\x02")
    (part,) = same(path, AVRO_SOURCE, 1)
    assert part.fault == "the file ends within the head of a block (behind row 639)"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.avro.gz", "a.csv"])
def test_what_has_no_parts_stays_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"0" * 100)
    assert not in_parts(file_of(path), source_of(), 1), "csv: of no declared dialect"


@given(st.binary(max_size=300), st.integers(0, 40), st.integers(1, 120))
def test_every_line_lies_in_one_part(tmp_path_factory: pytest.TempPathFactory, data: bytes, begin: int, most: int) -> None:
    path = tmp_path_factory.mktemp("parts") / "a"
    path.write_bytes(data)
    with path.open("rb") as f:
        parts = line_parts(f, min(begin, len(data)), most)
    assert b"".join(data[a:b] for a, b in parts) == data
    assert all(data[b - 1 : b] == b"\n" for _, b in parts[:-1])
    assert all(b - a >= most for a, b in parts[:-1])


def test_a_disk_error_in_a_look_is_no_verdict(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = division(file_of(parquet), source_of(), 1)
    genuine: Callable[..., Any] = parquet_file._Parquet.decode

    def failing(*args: Any) -> Any:
        yield from genuine(*args)
        raise OSError(5, "a disk error")

    monkeypatch.setattr(parquet_file._Parquet, "decode", failing)
    with pytest.raises(OSError, match="a disk error"):
        look_at(parts[3], source_of())


# ------------------------------------------------------------------------------------------- files that change while they are read


def listed(path: Path, source: EventSource) -> EventFile:
    """As a run lists it: below a data folder."""
    (file,) = inventory(path.parents[2], source, None, None).files
    return file


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def by_another(path: Path, content: bytes) -> None:
    other = path.with_name("_other")
    other.write_bytes(content)
    other.replace(path)


def removed(path: Path, content: bytes) -> None:
    path.unlink()


CHANGES = pytest.mark.parametrize("change", [in_place, by_another, removed])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """100 lines, and a successor of as many bytes, whose lines are of other lengths."""
    path = tmp_path / "events/orders/a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\n".join(line(i, "1.5") for i in range(100)))
    os.utime(path, ns=(1, 1))  # a clock that stands still hides nothing here
    return path


def successor(path: Path) -> bytes:
    lines = [line(i, "1.25" if i % 3 else "1") for i in range(100)]
    return b"\n".join(lines).ljust(path.stat().st_size)[: path.stat().st_size]


@CHANGES
@pytest.mark.parametrize("at", ["divide", "look", "read"])
def test_a_file_that_changes_gives_no_events(log: Path, change: Any, at: str) -> None:
    """Parts are cut by the bytes of then: a run reads those, or ends with one line."""
    source = source_of()
    file, content = listed(log, source), successor(log)
    if at == "divide":
        change(log, content)
        with pytest.raises(DataError, match=r"a\.jsonl was changed, replaced or removed while the job read it; run the same command again"):
            division(file, source, 1000)
        return
    parts = division(file, source, 1000)
    assert len(parts) > 3
    if at == "look":
        change(log, content)
        with pytest.raises(DataError, match="was changed"):
            look_at(parts[-1], source)
        return
    parts = put_together([(part, look_at(part, source)) for part in parts])
    assert sum(len(told(part_events(p, source, NOW, 0, lambda *_: None))[0]) for p in parts) == 100, "while nobody touches it"
    change(log, content)
    for part in parts:
        with pytest.raises(DataError, match="was changed"):
            told(part_events(part, source, NOW, 0, lambda *_: None))


@CHANGES
@pytest.mark.parametrize("parts", [True, False])
def test_a_file_that_changes_while_a_batch_is_used(log: Path, change: Any, parts: bool) -> None:
    """In parts or as a whole: one verdict."""
    source = source_of()
    file, content = listed(log, source), successor(log)
    found = division(file, source, 4000 if parts else 10**9)
    assert (len(found) > 1) is parts
    read = part_events(found[0], source, NOW, 0, lambda *_: None, batch_rows=7)
    next(read)
    change(log, content)
    with pytest.raises(DataError, match="was changed"):
        list(read)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("most", [1000, 10**9])
@pytest.mark.parametrize("at", ["divide", "look", "read", "while a batch is used"])
def test_a_log_that_is_appended_to_is_read_as_it_was_listed(tmp_path: Path, suffix: str, most: int, at: str) -> None:
    """Logs grow while a run is on: it reads the bytes that it hashed, a line that came behind them is the next run's."""
    source, path = source_of(), tmp_path / "events/orders" / f"a.{suffix}"
    path.parent.mkdir(parents=True)
    if suffix == "csv":
        source = source_of(Csv())
    names = ",".join(json.loads(line(0, "1.5")))
    rows = [line(i, "1.5") for i in range(200)]
    if suffix == "csv":
        rows = [",".join(str(v) for v in json.loads(row).values()).encode() for row in rows]
    path.write_bytes((names.encode() + b"\n" if suffix == "csv" else b"") + b"\n".join(rows[:100]) + b"\n")
    file = listed(path, source)

    def grow() -> None:
        with path.open("ab") as out:
            out.write(b"\n".join(rows[100:199]) + b"\n" + rows[199][:9])

    if at == "divide":
        grow()
    parts = division(file, source, most)
    assert (len(parts) > 2) is (most == 1000)
    if at == "look":
        grow()
    if len(parts) > 1:
        parts = put_together([(part, look_at(part, source)) for part in parts])
    if at == "read":
        grow()
    found: list[Any] = []
    for part in parts:
        for batch, rejects in part_events(part, source, NOW, 0, lambda *_: None, batch_rows=7):
            assert not rejects.num_rows
            found += batch.to_pylist()
            if at == "while a batch is used" and len(found) < 10:
                grow()
    assert len(found) == 100

    path.write_bytes(b"\n".join(rows[::-1]) + b"\n")  # longer, and another one
    with pytest.raises(DataError, match="was changed"):
        told(part_events(parts[0], source, NOW, 0, lambda *_: None))


@CHANGES
def test_damage_that_comes_of_a_change_is_no_verdict_on_the_file(parquet: Path, change: Any, tmp_path: Path) -> None:
    """No dead letter says that a file is unreadable which somebody wrote while it was read."""
    path, source = tmp_path / "events/orders/a.parquet", source_of()
    path.parent.mkdir(parents=True)
    content = parquet.read_bytes()
    path.write_bytes(content)
    file = listed(path, source)
    parts = division(file, source, 1)
    change(path, content[: len(content) // 2])
    for act in (lambda: look_at(parts[2], source), lambda: told(part_events(parts[2], source, NOW, 0, lambda *_: None))):
        with pytest.raises(DataError, match="was changed") as found:
            act()
        assert not isinstance(found.value, UnreadableFileError)
    with pytest.raises(DataError, match="was changed"):
        told(part_events(FilePart(file), source, NOW, 0, lambda *_: None))
