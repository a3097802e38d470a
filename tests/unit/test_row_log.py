"""The stream's own record of rows and late events: what is appended is read, whatever is killed in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lake.data_files import replaced
from pipelines.streaming.state.log_segments import seal_leftovers
from pipelines.streaming.state.row_log import RowLog, newest, read_late, read_rows
from tests.integration.sink_world import SOURCE, TRIP, ZONE
from transforms.definitions import TIMESTAMP
from transforms.errors import DataError, StoreError

ROOT = Path(__file__).resolve().parents[2]


def batch(start: int, n: int = 3, **more: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": pa.array(range(start, start + n), pa.int64()), "s": [f"é{i}" for i in range(n)], **more})


def numbers(folder: Path, group: str = "g") -> list[int]:
    table = read_rows(folder, group)
    return table.column("n").to_pylist() if table.num_rows else []


def open_segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.log"))


def sealed_segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_rows_are_read_while_the_writer_writes_and_after_it_closed(tmp_path: Path) -> None:
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0, 0))
    assert open_segments(tmp_path) == []
    log.append("rows/g", 0, batch(0))
    log.append("rows/h", 0, batch(100))
    log.append("rows/g", 0, batch(3))
    log.append("rows/g", 7, batch(6))
    assert numbers(tmp_path) == list(range(9))
    assert numbers(tmp_path, "h") == [100, 101, 102]
    log.sync(0)
    log.close()
    assert open_segments(tmp_path) == []
    assert numbers(tmp_path) == list(range(9))
    assert not list(tmp_path.rglob(".*"))


def test_stock_readers_read_the_sealed_files_by_glob(tmp_path: Path) -> None:
    log = RowLog(tmp_path)
    for shard in (0, 1):
        log.append("rows/g", shard, batch(3 * shard, at=pa.array([1, 2, 3], TIMESTAMP)))
    log.close()
    found = duckdb.sql(f"""SELECT n, s, epoch_us("at") FROM '{tmp_path}/rows/g/*.parquet' ORDER BY n""").fetchall()
    assert found == [(i, f"é{i % 3}", i % 3 + 1) for i in range(6)]


def test_segments_are_sealed_when_they_are_large_or_old(tmp_path: Path) -> None:
    now = 0.0
    log = RowLog(tmp_path, seal_bytes=3000, seal_seconds=60, clock=lambda: now)
    for i in range(20):
        log.append("rows/g", 0, batch(3 * i))
    assert sealed_segments(tmp_path)
    assert len(open_segments(tmp_path)) == 1
    before = len(sealed_segments(tmp_path))
    now = 61.0
    log.seal_old(0)
    assert (len(sealed_segments(tmp_path)), open_segments(tmp_path)) == (before + 1, [])
    log.append("rows/g", 0, batch(60))
    now = 122.0
    log.append("rows/g", 0, batch(63))
    assert numbers(tmp_path) == list(range(66))
    log.close()
    assert numbers(tmp_path) == list(range(66))


def test_a_new_graph_has_other_columns(tmp_path: Path) -> None:
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0))
    log.append("rows/g", 0, batch(3, new=[0.5, None, 1.5]))
    assert read_rows(tmp_path, "g").column("new").to_pylist() == [None] * 3 + [0.5, None, 1.5]
    log.append("rows/g", 0, pa.RecordBatch.from_pydict({"n": ["other type"]}))
    with pytest.raises(DataError, match="do not fit together"):
        read_rows(tmp_path, "g")
    log.close()


def test_nothing_was_appended_yet(tmp_path: Path) -> None:
    assert read_rows(tmp_path, "g").num_rows == 0
    rows = read_rows(tmp_path, ZONE)
    assert rows.schema.names == [*ZONE.row_schema.names, "tandem_fingerprint", "created_timestamp"]
    assert read_late(tmp_path, SOURCE).schema.names[: len(SOURCE.arrow_schema)] == SOURCE.arrow_schema.names
    assert newest(rows, ZONE).num_rows == 0


@given(cut=st.integers(0, 10_000), garbage=st.binary(max_size=40), zeros=st.integers(0, 300))
def test_a_torn_tail_is_dropped_and_all_before_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes, zeros: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    log, ends = RowLog(folder), []
    for i in range(4):
        log.append("rows/g", 0, batch(3 * i))
        ends.append(open_segments(folder)[0].stat().st_size)
    (path,) = open_segments(folder)
    data = path.read_bytes()
    cut = min(cut, len(data))
    whole = sum(end <= cut for end in ends)
    path.write_bytes(data[:cut] + garbage + b"\0" * zeros)
    kept = numbers(folder)
    assert kept == list(range(len(kept)))
    assert 3 * whole <= len(kept) <= 12
    for segment in log._open.values():
        os.close(segment.handle)  # as if its process were gone
    assert seal_leftovers(folder) == 1
    assert numbers(folder) == kept
    assert not open_segments(folder)


def test_a_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0))
    assert seal_leftovers(tmp_path) == 0
    log.append("rows/g", 0, batch(3))
    assert numbers(tmp_path) == list(range(6))
    log.close()


def test_killed_after_sealing_before_the_open_segment_was_removed(tmp_path: Path) -> None:
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0))
    (path,) = open_segments(tmp_path)
    data = path.read_bytes()
    log.close()
    path.write_bytes(data)
    (path.parent / f".x.parquet.{2**22 + 1}").write_bytes(b"PAR1 of a process that is gone")
    assert numbers(tmp_path) == [0, 1, 2]
    assert seal_leftovers(tmp_path) == 1
    assert (open_segments(tmp_path), numbers(tmp_path), list(tmp_path.rglob(".*"))) == ([], [0, 1, 2], [])


def test_a_full_disk_leaves_no_half_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0))
    real, left = os.write, [40]

    def full(handle: int, data: Any) -> int:
        room = min(left[0], len(data))
        left[0] -= room
        if not room:
            raise OSError(28, "No space left on device")
        return real(handle, data[:room])

    monkeypatch.setattr("pipelines.streaming.state.row_log.os.write", full)
    for place in ("rows/g", "rows/h"):
        with pytest.raises(StoreError, match="No space left on device; free its disk"):
            log.append(place, 0, batch(3))
    monkeypatch.setattr("pipelines.streaming.state.row_log.os.write", real)
    log.append("rows/g", 0, batch(3))
    log.append("rows/h", 0, batch(0))
    assert (numbers(tmp_path), numbers(tmp_path, "h")) == ([0, 1, 2, 3, 4, 5], [0, 1, 2])
    log.close()


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from pipelines.streaming.state.row_log import RowLog

log = RowLog(Path(sys.argv[1]), seal_bytes=200_000)
for i in range(1_000_000):
    log.append("rows/g", i % 2, pa.RecordBatch.from_pydict({"n": pa.array([i] * 50, pa.int64())}))
    print(i, flush=True)
"""


@pytest.mark.parametrize("trial", range(3))
def test_a_writer_killed_in_the_middle_of_an_append_loses_nothing_it_returned_from(tmp_path: Path, trial: int) -> None:
    chance = random.Random(trial)
    last = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == chance.randrange(5, 600) or int(line) > 600:
                break
        process.send_signal(signal.SIGKILL)
        last.append(int(([line, *process.stdout.read().splitlines()])[-1]))  # what it had said when it died
        process.wait()
        process.stdout.close()
    table = read_rows(tmp_path, "g")
    seal_leftovers(tmp_path)
    assert read_rows(tmp_path, "g").equals(table)
    found = np.bincount(table.column("n").to_numpy(), minlength=max(last) + 2)
    for upto in last:
        assert (found[: upto + 1] >= 50).all()
    assert (found % 50 == 0).all(), "half a batch was read"
    assert table.num_rows <= 50 * (sum(last) + 4)


def test_the_newest_row_of_a_key_and_time_is_that_of_the_highest_revision() -> None:
    def row(trip: str, zone: str, at: int, revision: int, created: int, count: int) -> dict[str, Any]:
        return {
            "trip": trip,
            "zone": zone,
            "event_timestamp": at,
            "count_1h": count,
            "tandem_revision": revision,
            "created_timestamp": created,
        }

    rows = [
        row("b", "x", 2, 1, 5, 1),
        row("a", "y", 1, 3, 5, 2),
        row("a", "y", 1, 2, 9, 3),
        row("a", "x", 1, 2, 9, 4),
        row("b", "x", 2, 1, 6, 5),
        row("b", "x", 1, 1, 6, 6),
        row("a", "x", 1, 2, 9, 7),
    ]
    schema = pa.schema([*TRIP.row_schema, ("created_timestamp", TIMESTAMP)])
    got = newest(pa.Table.from_pylist(rows, schema=schema), TRIP)
    assert got.column("count_1h").to_pylist() == [7, 2, 6, 5]
    one = pa.Table.from_pylist(rows[:1], schema=schema)
    assert newest(one, TRIP).equals(one)


def test_what_a_process_left_that_was_killed_while_it_sealed_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    """By the very name that an atomic write gives its unfinished file."""
    log = RowLog(tmp_path)
    log.append("rows/g", 0, batch(0))
    log.close()
    (sealed,) = (tmp_path / "rows" / "g").glob("*.parquet")
    with replaced(sealed.with_name("other.parquet")) as out:
        unfinished = Path(out.name)
        mine = unfinished.name
        assert seal_leftovers(tmp_path) == 0 and unfinished.is_file()
    process, thread = mine.split(".")[-2:]
    assert process == str(os.getpid())
    left = [sealed.with_name(f".other.parquet.{2**22 + 1}.{thread}"), sealed.with_name(f".other.parquet.{2**22 + 1}")]
    for path in left:
        path.write_bytes(b"PAR1 of a process that is gone")
    assert seal_leftovers(tmp_path) == 0 and not any(path.exists() for path in left)
