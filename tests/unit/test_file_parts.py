"""A file in parts is the file: its events, dead letters, their numbers and the verdict on it, wherever it is divided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch.divide import FilePart, division, in_parts, look_at
from pipelines.sources.file_formats import json_lines_file, parquet_file
from pipelines.sources.file_formats.line_parts import line_parts
from pipelines.sources.file_formats.physical import plain_columns
from tests.examples import examples
from tests.unit.file_parts import NOW, file_of, line, refused_damages, same, source_of, written_parquet
from transforms.file_formats import Csv

ODD = [b"", b"   ", b"{", b"\xef\xbb\xbf{}", b"\xff\xfe", b"no json", b"[1]", line(1, "99"), line(2, '"late"'), line(3) + b"\r", b"\r"]


@settings(max_examples=examples(60))
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


@settings(max_examples=examples(80))
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
    return written_parquet(tmp_path / "a.parquet")


def test_parquet(parquet: Path) -> None:
    group = pq.ParquetFile(parquet).metadata.row_group(0).total_byte_size
    counts = [len(same(parquet, source_of(), most, rows=50)) for most in (1, group * 3, group * 100)]
    assert counts[0] == 10 and 3 <= counts[1] <= 5 and counts[2] == 1


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
