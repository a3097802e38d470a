"""The contract of a format of event files (:mod:`pipelines.sources.file_formats.file_format`): rows come back with their numbers, and a
file that is cut, damaged or hostile costs no other rows than those it touches.

A format of another package is tested by a class of a few lines::

    class TestMyFile(FileFormatContract):
        suffix = "my"  # as its entry point is called

        def write(self, path, events):  # what somebody else's program would write: N events as one file
            ...
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import pyarrow as pa
import pytest

from pipelines.sources.event_files import events as events_of
from pipelines.sources.file_formats.file_format import COMPRESSED, FileFormat, format_of
from pipelines.sources.file_records import judged, read, sent, unread
from tandem.testing.formats import AHEAD, NOW, TEXTS, events
from tandem.testing.memory import grown
from transforms.contract import check_json
from transforms.definitions import EventSource, Field
from transforms.file_formats import Csv
from transforms.reasons import OUT_OF_RANGE, REASONS, UNREADABLE_FILE

__all__ = ["MOST_BYTES", "FileFormatContract", "bare"]

MOST_BYTES = 160 << 20
"""Of Python's memory, while a hostile file is read."""


def bare(file_format: Csv | None = None) -> EventSource:
    """A source with a field of every plain type, all but the first two with nulls."""
    fields = [
        Field("flight", "string", required=True),
        Field("delay", "float64"),
        Field("legs", "int64"),
        Field("diverted", "bool"),
        Field("landed_at", "timestamp"),
        Field("origin", "string"),
    ]
    return EventSource(
        name="departures", fields=fields, event_time="at", tie_breaker="flight", files="events/departures", file_format=file_format
    )


class FileFormatContract:
    """What every format of event files holds. Subclass it as ``class TestX``, with :attr:`suffix` and :meth:`write`."""

    suffix: ClassVar[str]
    """The name of its entry point: how its files end, without the dot."""
    dialect: ClassVar[Csv | None] = None
    """What its source declares, if it must."""
    whole: ClassVar[bool] = False
    """A file is used as a whole or not at all, as what is wrong with it may show at its end alone; else it is judged record by record."""
    tells_cut_records: ClassVar[bool] = True
    """The last record of a file that was cut is told from a whole one. CSV cannot: its last value may be any part of what was."""
    first_row: ClassVar[int] = 0
    """The number of the first record: 1 where a header is line 0."""
    texts: ClassVar[Sequence[str]] = TEXTS
    """Texts that such a file can hold."""
    hostile: ClassVar[Sequence[Callable[[Path], object]]] = ()
    """What writes files that are to be refused whole: that would take all memory, or run code."""

    def write(self, path: Path, events: pa.RecordBatch) -> None:
        """Write N events, in their order, a record each, as a file; ``events`` may lack columns that are not required."""
        raise NotImplementedError("override write")

    @pytest.fixture
    def source(self) -> EventSource:
        """The source that its files are read for."""
        return bare(self.dialect)

    def made(self, source: EventSource, n: int, seed: int = 0) -> pa.RecordBatch:
        """N events of the source that a file can hold."""
        return events(source, n, seed, self.texts)

    def file(self, folder: Path, batch: pa.RecordBatch, name: str = "a") -> Path:
        """A file of events."""
        path = folder / f"{name}.{self.suffix}"
        self.write(path, batch)
        return path

    def test_it_is_found_by_its_name(self, source: EventSource) -> None:
        found = format_of(f".{self.suffix}")
        assert found is not None and issubclass(found, FileFormat)
        assert [unread(f"a.{self.suffix}", source), unread(f"A.{self.suffix.upper()}", source)] == ["", ""]
        if found.declared is not None:
            assert "its dialect is not declared" in unread(f"a.{self.suffix}", bare())
        for packed in COMPRESSED:
            why = unread(f"a.{self.suffix}{packed}", source)
            assert not why if found.packed else found.title and why.startswith(found.title), "title= says what it is, in messages"

    @pytest.mark.parametrize(("n", "batch_rows"), [(0, 10), (1, 10), (300, 1), (300, 7), (300, 65_536)])
    def test_rows_come_back_exactly_and_by_their_numbers(self, source: EventSource, tmp_path: Path, n: int, batch_rows: int) -> None:
        batch = self.made(source, n, seed=n)
        path = self.file(tmp_path, batch)
        raws = list(read(path, source, batch_rows))
        assert all(0 < len(raw.numbers) <= batch_rows and raw.numbers.type == pa.int64() for raw in raws)
        parts = []
        for raw in raws:
            sizes = {len(part) for part in (raw.rows, raw.payloads, raw.values) if part is not None}
            assert sizes == {len(raw.numbers)} and (raw.values is None or raw.payloads is not None)
            checked = judged(raw, source, NOW, AHEAD)
            assert checked.valid.num_rows == len(raw.numbers)
            parts.append(checked.valid)
            assert check_json(sent(raw, source), source, NOW, AHEAD).valid.equals(checked.valid), "as a replay sends it"
        numbers = [number for raw in raws for number in raw.numbers.to_pylist()]
        assert len(numbers) == n == len(set(numbers))
        order = pa.array(sorted(range(n), key=numbers.__getitem__), pa.int64())
        assert pa.Table.from_batches(parts, source.arrow_schema).take(order).equals(pa.Table.from_batches([batch]))
        if self.first_row == 0 or not any("\n" in text for text in self.texts):  # a record of several lines has the first one's number
            assert sorted(numbers) == list(range(self.first_row, self.first_row + n))

    def test_what_the_contract_refuses_is_a_letter_of_its_row(self, source: EventSource, tmp_path: Path) -> None:
        rows = plain(source, 40).to_pylist()
        rows[7]["delay"] = rows[23]["delay"] = 3001.0
        strict = source_with(source, Field("delay", "float64", max=3000))
        path = self.file(tmp_path, batch_of(source, rows))
        valid, letters = harvest(path, strict, 10)
        assert [(d["row"], d["reason"], d["file"]) for d in letters] == [(self.first_row + i, OUT_OF_RANGE, "its name") for i in (7, 23)]
        assert all(d["payload"] and b"3001" in d["payload"] for d in letters)
        assert valid.to_pylist() == [row for i, row in enumerate(rows) if i not in (7, 23)]

    def test_a_column_that_is_not_there_is_null_or_what_the_folders_say(self, source: EventSource, tmp_path: Path) -> None:
        batch = plain(source, 20)
        path = self.file(tmp_path, drop(batch, "legs"))
        assert harvest(path, source)[0].column("legs").to_pylist() == [None] * 20
        folders = (("legs", "3"), ("other", "x"))
        assert harvest(path, source, partitions=folders)[0].column("legs").to_pylist() == [3] * 20
        whole = self.file(tmp_path, batch, "b")
        assert harvest(whole, source, partitions=folders)[0].equals(pa.Table.from_batches([batch])), "what a record has stays"

    def test_a_cut_file(self, source: EventSource, tmp_path: Path) -> None:
        """Whole or not at all; or each record before the cut, and one letter for the one that it goes through."""
        batch = plain(source, 30)
        data, cut = self.file(tmp_path, batch).read_bytes(), tmp_path / f"cut.{self.suffix}"
        wanted = batch.to_pylist()
        rng = random.Random(3)
        for at in sorted({0, 1, len(data) - 1, *(rng.randrange(len(data)) for _ in range(40))}):
            cut.write_bytes(data[:at])
            valid, letters = harvest(cut, source)
            got = valid.to_pylist()
            assert len(letters) <= 1, (at, letters)
            if self.whole:
                assert (len(got), bool(letters)) in ((0, True), (30, False)), at
                continue
            sure = len(got) if letters or self.tells_cut_records else max(0, len(got) - 1)
            assert got[:sure] == wanted[:sure], at
            if letters and letters[0]["reason"] != UNREADABLE_FILE:
                assert letters[0]["row"] == self.first_row + len(got), at

    def test_a_file_in_parts_is_the_file(self, source: EventSource, tmp_path: Path) -> None:
        """Where it is divided, each record is in one part, with its number; and damage has the verdict that it has in the file."""
        found = format_of(f".{self.suffix}")
        assert found is not None
        if not found.divided:
            pytest.skip("read file by file")
        path, rng = self.file(tmp_path, plain(source, 150)), random.Random(7)
        data, form = path.read_bytes(), found(source)
        for damage in (0, 0, 1, 1, 3, 3):
            odd = bytearray(data)
            for _ in range(damage):
                odd[rng.randrange(len(odd))] ^= 1 << rng.randrange(8)
            path.write_bytes(odd)

            def opened() -> BinaryIO:
                return open(path, "rb")

            whole, letters = harvest(path, source)
            refused_whole = bool(letters) and letters[0]["reason"] == UNREADABLE_FILE
            for most in (1, 999, 1 << 30):
                parts = form.parts(opened, most)
                assert damage or (len(parts) == 1 if most > len(data) else len(parts) > 1 or most > 1)
                assert all(a[1] == b[0] for a, b in pairwise(parts))
                looks = [form.look(opened, part) for part in parts]
                if not parts or any(look.alone for look in looks):
                    continue
                assert any(look.fault for look in looks) == refused_whole
                if refused_whole:
                    continue
                at, numbers, valid = 0, [], []
                for part, look in zip(parts, looks, strict=True):
                    for raw in form.read_part(opened, part, at, 64, {}):
                        assert all(at <= n < at + look.numbers for n in raw.numbers.to_pylist())
                        numbers += raw.numbers.to_pylist()
                        valid.append(judged(raw, source, NOW, AHEAD).valid)
                    at += look.numbers
                assert pa.Table.from_batches(valid, source.arrow_schema).to_pylist() == whole.to_pylist()
                assert sorted(numbers) == sorted(n for raw in read(path, source) for n in raw.numbers.to_pylist())

    def test_damage_within_a_record_is_its_own(self, source: EventSource, tmp_path: Path) -> None:
        if self.whole:
            pytest.skip("used as a whole")
        batch = plain(source, 30)
        path = self.file(tmp_path, batch)
        data, key = path.read_bytes(), batch.column("flight")[11].as_py().encode()
        assert data.count(key) == 1
        path.write_bytes(data.replace(key, b"\xff" * len(key)))
        valid, letters = harvest(path, source)
        assert [(d["row"], d["payload"].count(b"\xff")) for d in letters] == [(self.first_row + 11, len(key))]
        assert valid.to_pylist() == [row for i, row in enumerate(batch.to_pylist()) if i != 11]

    def test_any_bytes_have_a_verdict(self, source: EventSource, tmp_path: Path) -> None:
        data = self.file(tmp_path, plain(source, 12)).read_bytes()
        path, rng = tmp_path / f"odd.{self.suffix}", random.Random(5)
        odd = [rng.randbytes(rng.randrange(1, 400)) for _ in range(15)] + [b"\0" * 300, b"\n" * 300, b"PK\x03\x04" + data, data + b"\xff"]
        for _ in range(40):
            at = rng.randrange(len(data))
            odd.append(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
            odd.append(data[:at] + rng.randbytes(3) + data[at:])
        for each in odd:
            path.write_bytes(each)
            (one, _), (other, _) = found = harvest(path, source), harvest(path, source, 1)
            assert one.num_rows == other.num_rows, "the verdict depends on the file alone"
            assert len({repr([(d["row"], d["reason"], d["payload"]) for d in letters]) for _, letters in found}) == 1

    def test_a_file_that_is_refused_whole(self, source: EventSource, tmp_path: Path) -> None:
        for number, make in enumerate(self.hostile):
            path = tmp_path / f"hostile-{number}.{self.suffix}"
            make(path)
            with little_memory():
                refused(*harvest(path, source))

    def test_a_record_without_an_end_takes_little_memory(self, source: EventSource, tmp_path: Path) -> None:
        """A few kilobytes that are 200 MB decompressed: a letter, and what stands before is kept."""
        found, batch = format_of(f".{self.suffix}"), plain(source, 5)
        assert found is not None
        data = self.file(tmp_path, batch).read_bytes()
        if not found.packed:
            pytest.skip("not compressed as a whole")
        path = tmp_path / f"bomb.{self.suffix}.gz"
        with gzip.open(path, "wb", 1) as f:
            f.write(data)
            for _ in range(200):
                f.write(b"x" * (1 << 20))
        with little_memory():
            valid, letters = harvest(path, source)
        assert len(letters) == 1 and len(letters[0]["payload"] or b"") < 1 << 20
        if not self.whole:
            assert valid.to_pylist() == batch.to_pylist() and letters[0]["row"] == self.first_row + 5

    @pytest.mark.parametrize("packed", COMPRESSED)
    def test_compressed_files(self, source: EventSource, tmp_path: Path, packed: str) -> None:
        found, batch = format_of(f".{self.suffix}"), plain(source, 200)
        assert found is not None
        data = compress(self.file(tmp_path, batch).read_bytes(), packed)
        if not found.packed:
            pytest.skip("not compressed as a whole")
        path = tmp_path / f"a.{self.suffix}{packed}"
        path.write_bytes(data)
        assert harvest(path, source, 50) == (pa.Table.from_batches([batch]), [])
        path.write_bytes(data[: len(data) * 2 // 3])
        refused(*harvest(path, source))
        path.write_bytes(b"")
        refused(*harvest(path, source))

    def test_what_is_not_the_files_fault_is_no_letter(self, source: EventSource, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            harvest(tmp_path / f"gone.{self.suffix}", source)
        path = self.file(tmp_path, plain(source, 100))
        found = format_of(f".{self.suffix}")
        assert found is not None

        @contextmanager
        def opened() -> Iterator[BinaryIO]:
            with io.BufferedReader(Failing(path), 512) as f:
                yield cast(BinaryIO, f)

        with pytest.raises(OSError, match="a disk error") as caught:
            list(found(source).read(opened, 100, {}))
        assert caught.value.errno == errno.EIO


class Failing(io.FileIO):
    """The first half of a file, on a disk that then fails."""

    def readinto(self, buffer: Any) -> int:
        """Raises OSError for what stands in the second half."""
        if self.tell() + len(buffer) > os.fstat(self.fileno()).st_size // 2:
            raise OSError(errno.EIO, "a disk error")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        """Raises OSError."""
        raise OSError(errno.EIO, "a disk error")


def harvest(
    path: Path, source: EventSource, batch_rows: int = 65_536, partitions: Sequence[tuple[str, str | None]] = ()
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The events of a file, and its dead letters; that these are as letters should be."""
    pairs = list(events_of(path, source, NOW, AHEAD, name="its name", batch_rows=batch_rows, partitions=partitions))
    valid = pa.Table.from_batches([v for v, _ in pairs], source.arrow_schema).combine_chunks()
    letters = [letter for _, batch in pairs for letter in batch.to_pylist()]
    letters.sort(key=lambda d: d["row"] or 0)
    for letter in letters:
        assert letter["reason"] in REASONS and 0 < len(letter["detail"]) < 600 and "\n" not in letter["detail"], letter
        if letter["reason"] == UNREADABLE_FILE:
            refused(valid, letters)
        else:
            assert letter["row"] is not None and letter["payload"] is not None
    return valid, letters


def refused(valid: pa.Table, letters: Sequence[Mapping[str, Any]]) -> None:
    """That a file is one dead letter, without a row."""
    assert valid.num_rows == 0
    assert [(d["reason"], d["row"], d["payload"]) for d in letters] == [(UNREADABLE_FILE, None, None)]


def plain(source: EventSource, n: int) -> pa.RecordBatch:
    """N events of which each takes some bytes, of values that every format holds."""
    rows = [
        {
            "flight": f"flight-{i:04}", "at": NOW - 1_000_000 * (n - i), "delay": i / 4, "legs": i % 7, "diverted": i % 3 == 0,
            "landed_at": None if i % 5 == 0 else NOW + i, "origin": f"origin {i}",
        }
        for i in range(n)
    ]  # fmt: skip
    return batch_of(source, rows)


def batch_of(source: EventSource, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows as events of a source."""
    columns = [pa.array([row[f.name] for row in rows], f.type) for f in source.arrow_schema]
    return pa.RecordBatch.from_arrays(columns, schema=source.arrow_schema)


def source_with(source: EventSource, field: Field) -> EventSource:
    """A source with another field of that name."""
    return replace(source, fields=[field if f.name == field.name else f for f in source.fields])


def drop(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """A batch without a column."""
    kept = [n for n in batch.schema.names if n != name]
    return pa.RecordBatch.from_arrays([batch.column(batch.schema.get_field_index(n)) for n in kept], kept)


def compress(data: bytes, packed: str) -> bytes:
    """Bytes, compressed as a suffix says."""
    if packed != ".zst":
        return gzip.compress(data, 1) if packed == ".gz" else bz2.compress(data)
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as f:
        f.write(data)
    return bytes(out.getvalue())


@contextmanager
def little_memory() -> Iterator[None]:
    """Raises AssertionError where what is done takes much memory."""
    with grown() as most:
        yield
        assert most() < MOST_BYTES
