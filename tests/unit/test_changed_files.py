"""Files that change, grow or go while a run reads them: it reads the bytes that it listed, or ends with one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch.divide import FilePart, division, look_at, part_events, put_together
from pipelines.sources.event_files import EventFile, UnreadableFileError, inventory
from tests.unit.file_parts import NOW, line, source_of, told, written_parquet
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.file_formats import Csv


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
def test_damage_that_comes_of_a_change_is_no_verdict_on_the_file(change: Any, tmp_path: Path) -> None:
    """No dead letter says that a file is unreadable which somebody wrote while it was read."""
    path, source = tmp_path / "events/orders/a.parquet", source_of()
    path.parent.mkdir(parents=True)
    content = written_parquet(path).read_bytes()
    file = listed(path, source)
    parts = division(file, source, 1)
    change(path, content[: len(content) // 2])
    for act in (lambda: look_at(parts[2], source), lambda: told(part_events(parts[2], source, NOW, 0, lambda *_: None))):
        with pytest.raises(DataError, match="was changed") as found:
            act()
        assert not isinstance(found.value, UnreadableFileError)
    with pytest.raises(DataError, match="was changed"):
        told(part_events(FilePart(file), source, NOW, 0, lambda *_: None))
