"""An erasure reads and writes Parquet some rows at a time, whatever a file's size, and what stays is what it was."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting import parquet_parts
from pipelines.forgetting.key_names import has_key
from pipelines.forgetting.parquet_parts import without
from pipelines.forgetting.subject import Subject, holds, without_rows
from pipelines.sources.file_formats.file_format import UnreadableFileError
from pipelines.sources.file_formats.parquet_file import ParquetFile
from transforms.definitions import EventSource, Field

GONE = "zone-to-be-forgotten"
SUBJECT = Subject.parse([f"zone={GONE}"])
SOURCE = EventSource("s", [Field("zone", "string", required=True)], event_time="t", tie_breaker="zone", files="events/s")
PART = 128 << 10


def zones(n: int) -> list[str]:
    return [GONE if i % 50 == 7 else f"zone-{i % 13}" for i in range(n)]


def numbers(n: int) -> pa.Table:
    """A row takes some 70 bytes."""
    rng = np.random.default_rng(5)
    return pa.table({"zone": zones(n), "a": rng.random(n), "b": rng.integers(0, 2**60, n), "c": [[i, i + 1] for i in range(n)]})


def one_text(n: int) -> pa.Table:
    """A file of some kilobytes: a text of 16 KB, meant n times."""
    return pa.table({"zone": zones(n), "note": ["x" * 16_384] * n})


def long_lists(n: int) -> pa.Table:
    return pa.table({"zone": zones(n), "list": [[7] * 2_000] * n})


def records(n: int) -> pa.Table:
    return pa.table({"zone": zones(n), "inner": [{"at": i, "texts": {"k": "y" * 500}} for i in range(n)]}).cast(
        pa.schema({"zone": pa.string(), "inner": pa.struct({"at": pa.int64(), "texts": pa.struct({"k": pa.large_string()})})})
    )


@pytest.mark.parametrize(("make", "n"), [(numbers, 20_000), (one_text, 200), (long_lists, 100), (records, 3_000)])
@pytest.mark.parametrize("groups", [1, 3])
def test_no_more_is_decoded_at_once_than_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, n: int, groups: int) -> None:
    """The file takes many times that. A search, a look for a key's name and a rewriting are bounded alike, and lose and keep the same rows
    as the whole would."""
    monkeypatch.setattr(parquet_parts, "PART_BYTES", PART)
    path, table = tmp_path / "a.parquet", make(n)
    pq.write_table(table, path, row_group_size=n // groups, compression="zstd")
    sizes: list[int] = []
    tables = parquet_parts.ParquetParts.tables

    def counted(self: Any, *columns: Any) -> Any:
        for each in tables(self, *columns):
            sizes.append(each.nbytes)
            yield each

    monkeypatch.setattr(parquet_parts.ParquetParts, "tables", counted)
    assert holds(path, SUBJECT) and not has_key(path, (), "rider", None, False)
    gone: list[int] = []
    assert without_rows(path, SUBJECT, gone=lambda rows: gone.append(rows.num_rows)) == n // 50 == sum(gone)
    assert not holds(path, SUBJECT)
    assert table.nbytes > 4 * PART > 4 * max(sizes) // 2 and len(sizes) > 4
    left = pq.ParquetFile(path)
    assert left.read().equals(table.filter(pa.array([zone != GONE for zone in zones(n)])))
    assert max(left.metadata.row_group(i).num_rows for i in range(left.num_row_groups)) <= n // groups


def test_what_stays_keeps_types_metadata_codecs_and_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema(
        [
            pa.field("zone", pa.dictionary(pa.int32(), pa.string()), metadata={"of": "the field"}),
            ("at", pa.timestamp("ns", "UTC")),
            ("small", pa.uint32()),
            ("many", pa.list_(pa.field("element", pa.int8(), nullable=False))),
            ("a.b", pa.decimal128(9, 2)),
        ],
        {"of": "the file"},
    )
    rows = [{"zone": ["a", GONE][i % 2], "at": 10**18 + i, "small": 2**32 - 1, "many": [1], "a.b": i} for i in range(8)]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(
        table, path, version="2.6", row_group_size=3, compression={"zone": "zstd", "at": "gzip"}, use_compliant_nested_type=False
    )
    before = pq.ParquetFile(path)
    path.chmod(0o664)
    assert without_rows(path, SUBJECT) == 4
    assert path.stat().st_mode & 0o777 == 0o664
    after = pq.ParquetFile(path)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True) and after.schema.equals(before.schema)
    assert [after.metadata.row_group(i).num_rows for i in range(after.num_row_groups)] == [2, 1, 1]
    codecs = [[f.metadata.row_group(0).column(i).compression for i in range(5)] for f in (before, after)]
    assert codecs[0] == codecs[1] and len({*codecs[1]}) == 3
    assert after.read().to_pylist() == table.filter(pa.array([True, False] * 4)).to_pylist()


def test_a_file_without_the_subject_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(numbers(7), path)
    before = path.stat()
    assert without_rows(path, SUBJECT) == 0 and path.stat() == before
    pq.write_table(numbers(8), path)
    before = path.stat()
    assert without_rows(path, SUBJECT, dry_run=True) == 1 and path.stat() == before


class Span(pa.ExtensionType):
    """Of two columns in a file, as pandas' intervals are."""

    def __init__(self) -> None:
        super().__init__(pa.struct({"left": pa.int64(), "right": pa.timestamp("us")}), "tests.span")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Span:
        return cls()


@pytest.mark.parametrize("int96", [False, True])
def test_a_column_of_an_extension_is_as_many_as_what_it_is_stored_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int96: bool) -> None:
    """Read in parts, those behind it were taken for its own, and the file for unreadable."""
    monkeypatch.setattr(parquet_parts, "PART_BYTES", 1_000)
    path, n = tmp_path / "a.parquet", 400
    stored = pa.array([{"left": i, "right": datetime(2024, 1, 1)} for i in range(n)], Span().storage_type)
    table = pa.table({"span": pa.ExtensionArray.from_storage(Span(), stored), "zone": zones(n), "n": [*range(n)]})
    pa.register_extension_type(Span())
    try:
        pq.write_table(table, path, use_deprecated_int96_timestamps=int96)
        before = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()
        assert without_rows(path, SUBJECT) == n // 50
        after = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()
    finally:
        pa.unregister_extension_type("tests.span")
    stays = before.filter(pa.array([zone != GONE for zone in zones(n)]))
    assert before.schema.field("span").type == Span() and after.drop(["span"]).equals(stays.drop(["span"]))
    if not int96:  # of 96 bits, what they are stored as stays: the type says another unit than is read
        assert after.equals(stays)
    plain = [getattr(chunk, "storage", chunk).to_pylist() for chunk in after["span"].chunks]
    assert [value for values in plain for value in values] == stored.filter(pa.array([zone != GONE for zone in zones(n)])).to_pylist()


@pytest.mark.parametrize(
    ("unit", "values", "inner", "by_arrow"),
    [
        ("us", [datetime(2024, 1, 1), datetime(9999, 12, 31, 23, 59, 59)], False, True),
        ("us", [datetime(2024, 1, 1), datetime(9999, 12, 31, 23, 59, 59)], False, False),
        ("us", [datetime(2024, 1, 1), datetime(9999, 12, 31)], True, True),
        ("us", [datetime(2024, 1, 1), datetime(9999, 12, 31)], True, False),
        ("us", [datetime(2024, 1, 1), datetime(1950, 1, 1, 0, 0, 0, 7)], False, True),  # others write no negative time of a day
        ("ns", [1, 1_700_000_000_123_456_789], False, True),
        ("ns", [1, 1_700_000_000_123_456_789], False, False),
    ],
)
def test_timestamps_of_96_bits_stay_what_they_were(tmp_path: Path, unit: str, values: list[Any], inner: bool, by_arrow: bool) -> None:
    """FAULTS 7: 9999-12-31 made the whole file one that "cannot be read", so the subject stayed; nanoseconds did, too."""
    path = tmp_path / "a.parquet"
    times = pa.array(values, pa.timestamp(unit))
    column = pa.StructArray.from_arrays([times], ["t"]) if inner else times
    table = pa.table({"zone": [GONE, "b"], "t": column})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    if not by_arrow:
        path.write_bytes(path.read_bytes().replace(b"ARROW:schema", b"other:schema"))

    def read() -> Any:
        if unit == "ns" or inner:
            return pq.ParquetFile(path, coerce_int96_timestamp_unit=unit).read()["t"].to_pylist()
        return [t for raw in ParquetFile(SOURCE).read(lambda: open(path, "rb"), 10, {}) for t in raw.rows.column("t").to_pylist()]  # type: ignore[union-attr]

    before = read()
    assert before == column.to_pylist()
    assert without_rows(path, SUBJECT) == 1 and read() == before[1:]
    assert pq.ParquetFile(path).schema.column(1).physical_type == "INT96"


def test_timestamps_of_which_no_unit_has_all_are_told_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"zone": [GONE, "b"], "t": pa.array([datetime(9999, 1, 1), datetime(1950, 1, 1, 0, 0, 0, 7)], pa.timestamp("us"))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    before = path.read_bytes()
    with pytest.raises(UnreadableFileError, match=r"its other rows cannot be written again: timestamps of 96 bits"):
        without_rows(path, SUBJECT)
    assert path.read_bytes() == before


def test_a_column_that_is_shorter_than_its_row_group_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's own reading of several columns at once ends the process there (pyarrow 10)."""
    monkeypatch.setattr(parquet_parts, "PART_BYTES", 1_000)
    path = tmp_path / "a.parquet"
    table = pa.table({"zone": zones(400), "n": list(range(400))})
    pq.write_table(table, path, compression="NONE", use_dictionary=False, data_page_version="1.0")
    data = path.read_bytes()
    assert without(path, lambda rows: np.zeros(rows.num_rows, bool)) == 0
    refused = 0
    for at in range(4, len(data) - 500, 97):
        for bit in (0, 3, 6):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                seen = list[int]()
                without(path, lambda rows, seen=seen: seen.append(rows.num_rows) or np.zeros(rows.num_rows, bool))  # type: ignore[misc]
                assert sum(seen) == 400
            except UnreadableFileError:
                refused += 1
    assert refused
