"""Who may only read an SQLite online store reads it whatever state its writers leave the file in, and reads nothing old or torn."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value

from tandem.testing.store_bench import Bench, T, configuration, key, view
from tests.contract.test_online_store import SQLITE

ROOT = os.geteuid() == 0
BOUNDED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if ROOT else []
US = timedelta(microseconds=1)
KEYS = [f"K{n}" for n in range(300)]
pytestmark = pytest.mark.skipif(ROOT and not shutil.which("setpriv"), reason="root may write everywhere, and there is no setpriv")


@dataclass
class Reader:
    """The process that may only read."""

    process: subprocess.Popen[str]

    def ask(self, bench: Bench, names: list[str], **more: Any) -> dict[str, Any]:
        """What it reads of the store now; ``more``: see :mod:`tests.contract.sqlite_reader`."""
        settings = bench.config.online_store.model_dump(exclude_unset=True)
        return self.say({"project": bench.config.project, "settings": settings, "names": names, **more})

    def say(self, line: dict[str, Any]) -> dict[str, Any]:
        """Send a line, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    command = [*BOUNDED, sys.executable, "-m", "tests.contract.sqlite_reader"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "store"
    made.mkdir()
    yield made
    made.chmod(0o755)


def opened(folder: Path, **settings: Any) -> Bench:
    return Bench.open({"type": SQLITE, "path": str(folder / "online.db"), **settings}, view())


def close(bench: Bench) -> None:
    store: Any = bench.store
    store._file(bench.config).close()


def shut(folder: Path) -> None:
    """Nobody but root may write here any more."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


@pytest.mark.parametrize("packed", [True, False])
def test_one_who_may_only_read_reads_what_the_last_writer_left(reader: Reader, folder: Path, packed: bool) -> None:
    """SECURITY M8: the last one that closes the file takes the write-ahead log away, which SQLite would have to make again."""
    bench = opened(folder, packed=packed)
    bench.store.apply_fingerprint(bench.config, "traffic", "new")
    bench.write(("EWR", T, 1, 1.5), ("JFK", T, 1, None))
    close(bench)
    assert [path.name for path in folder.iterdir()] == ["online.db"]
    shut(folder)
    for _ in range(2):
        said = reader.ask(bench, ["EWR", "none", "JFK", "EWR"])
        assert (said.get("error"), said["read"]) == (None, [1.5, None, None, 1.5])
        assert (said["fingerprint"], said["covered"], said["keys"]) == ("new", "None", 2)
    said = reader.ask(bench, ["EWR"], write=True)
    assert "give a path that can be written" in said["error"]


def test_a_file_of_stock_feast_gets_no_tables_from_one_who_may_not_write(reader: Reader, folder: Path) -> None:
    """It is no file in WAL mode, and what is wrong with it for us is said as to one who may write."""
    config = configuration("stock", {"type": "sqlite", "path": str(folder / "online.db")})
    store = get_online_store_from_config(config.online_store)
    store.update(config, [], [view()], [], [], False)
    features = {"x": Value(double_val=7.0)}
    store.online_write_batch(config, view(), [(key(origin="EWR"), features, T, None)], None)
    shut(folder)
    ours: Any = get_online_store_from_config(configuration("stock", {"type": SQLITE, "path": str(folder / "online.db")}).online_store)
    bench = Bench(ours, configuration("stock", {"type": SQLITE, "path": str(folder / "online.db")}), view())
    assert "its rows were written by another online store class" in reader.ask(bench, ["EWR"])["error"]


@pytest.mark.parametrize("with_index", [True, False])
def test_a_write_ahead_log_that_stayed_is_read_or_named(reader: Reader, folder: Path, with_index: bool) -> None:
    """A writer that was killed leaves the log. Without its index SQLite cannot read it for one who may not write, and then nothing is read:
    the file alone is old."""
    bench = opened(folder, busy_timeout_seconds=0.3)
    bench.write(("EWR", T, 1, 1.0))
    with closing(sqlite3.connect(folder / "online.db")) as kept:
        kept.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        bench.write(("EWR", T + US, 1, 2.0))
        for end in ("", "-wal", *(["-shm"] if with_index else [])):
            shutil.copy(folder / f"online.db{end}", folder / f"left.db{end}")
    close(bench)
    left = Bench(bench.store, bench.config.model_copy(deep=True), bench.table)
    left.config.online_store.path = str(folder / "left.db")
    left.config.project = bench.config.project
    shut(folder)
    said = reader.ask(left, ["EWR"])
    if with_index:
        assert said["read"] == [2.0]
    else:
        assert "let a process that may write in its folder open it once" in said["error"]


def test_a_reader_keeps_up_with_writers_that_come_and_go(reader: Reader, folder: Path) -> None:
    """Writers open the file, write, move the log into the file or not, and close it, while the reader reads: it gets what was last
    committed when it asked, or later, and always one commit whole."""
    if not ROOT:
        pytest.skip("it takes two users: one that may write, and one that may not")
    chance, number = random.Random(3), 0
    writes: list[tuple[int, int]] = []  # when each began and ended

    def write(bench: Bench) -> None:
        nonlocal number
        began = time.monotonic_ns()
        bench.write(*((name, T + number * US, 1, float(number)) for name in KEYS))
        writes.append((began, time.monotonic_ns()))
        number += 1

    first = opened(folder)
    write(first)
    close(first)
    shut(folder)
    said: list[dict[str, Any]] = []
    ended = threading.Event()
    more = threading.Semaphore(0)

    def read() -> None:
        while not ended.is_set():
            said.append(reader.ask(first, KEYS, leave=0.6))
            more.release()

    alone = 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for _ in range(80):
                bench = Bench(type(first.store)(), first.config, first.table)
                bench.store.clock = first.store.clock
                for _ in range(chance.randint(1, 3)):
                    write(bench)
                    if chance.random() < 0.3:
                        conn: sqlite3.Connection = bench.store._get_conn(bench.config)  # type: ignore[attr-defined]
                        conn.execute(f"PRAGMA wal_checkpoint({chance.choice(['PASSIVE', 'TRUNCATE'])})").fetchall()
                    for _ in range(chance.choice([0, 0, 1, 3])):
                        assert more.acquire(timeout=60)
                close(bench)
                for _ in range(chance.choice([0, 0, 2, 6])):
                    assert more.acquire(timeout=60)
                alone += not (folder / "online.db-wal").exists()
        finally:
            ended.set()
        reading.result(60)
    assert alone > 10, "the log was there nearly always: nothing was read without it"
    for read_ in said:
        assert "error" not in read_, read_
        (value,) = set(read_["read"])
        assert value is not None
        oldest = sum(end <= read_["before"] for _, end in writes) - 1
        newest = sum(begin <= read_["after"] for begin, _ in writes) - 1
        assert oldest <= value <= newest


def session(path: Path, value: int) -> None:
    """A writer that opens the file, writes into both tables at once, and is the last to close it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute("BEGIN IMMEDIATE")
        for table in ("a", "b"):
            conn.execute(f"CREATE TABLE IF NOT EXISTS {table} (x INTEGER)")
            conn.execute(f"DELETE FROM {table}")
            conn.execute(f"INSERT INTO {table} VALUES (?)", (value,))
        conn.execute("COMMIT")


def test_what_was_read_while_a_writer_came_and_went_is_read_again(reader: Reader, folder: Path) -> None:
    if not ROOT:
        pytest.skip("it takes two users: one that may write, and one that may not")
    path = folder / "online.db"
    session(path, 1)
    shut(folder)
    asked = {"file": str(path), "queries": ["SELECT x FROM a", "SELECT x FROM b"]}
    assert reader.say(asked) == {"at": 1}
    session(path, 2)
    assert [p.name for p in folder.iterdir()] == ["online.db"]
    assert reader.say({}) == {"at": 1}, "again from the first"
    assert reader.say({}) == {"read": [[[2]], [[2]]]}


def test_what_is_written_within_one_tick_of_the_file_systems_clock_is_seen(reader: Reader, folder: Path) -> None:
    """Two contents of one size whose times are the same: the reader waits until later ones must differ."""
    if not ROOT:
        pytest.skip("it takes two users: one that may write, and one that may not")
    path = folder / "online.db"
    session(path, 0)
    shut(folder)
    asked = {"file": str(path), "queries": ["SELECT x FROM a"]}
    for i in range(1, 41):
        session(path, 2 * i)
        assert reader.say(asked) == {"read": [[[2 * i]]]}
        session(path, 2 * i + 1)
        assert reader.say(asked) == {"read": [[[2 * i + 1]]]}
