"""The contract of an object store (:mod:`serving.object_store.object_store`), and of the leases on it.

A store is tested by a subclass with one fixture::

    class TestMyStore(ObjectStoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(...)  # empty, or below a prefix of its own

``failing`` gives the same store behind a network that fails; the default skips what needs it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from serving.object_store.leases import Busy, held_by, hold, take
from serving.object_store.object_store import ObjectStore

__all__ = ["ObjectStoreContract"]


class ObjectStoreContract(ABC):
    """What every store must do."""

    @pytest.fixture
    @abstractmethod
    def store(self) -> ObjectStore:
        """A store without objects."""

    def test_what_was_written_is_read(self, store: ObjectStore) -> None:
        assert store.read("a/b") is None and store.head("a/b") is None
        version = store.put("a/b", b"one")
        found, head = store.read("a/b"), store.head("a/b")
        assert found is not None and found.content == b"one" and found.version == version
        assert head is not None and (head.key, head.size, head.version) == ("a/b", 3, version)
        assert head.modified.tzinfo is not None
        store.delete("a/b")
        assert store.read("a/b") is None
        store.delete("a/b")

    def test_an_object_without_bytes_is_one(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        found = store.read("empty")
        assert found is not None and found.content == b""

    @pytest.mark.parametrize("key", ["x/date=2013-01-01/run=a-b/part-0.parquet", "with space/ü+%25&=~", "a/.hidden", "UPPER/lower"])
    def test_keys_stay_as_they_are(self, store: ObjectStore, key: str) -> None:
        store.put(key, b"1")
        assert [head.key for head in store.list()] == [key]
        assert store.read(key) is not None

    def test_created_once(self, store: ObjectStore) -> None:
        first = store.create("once", b"first")
        assert first is not None
        assert store.create("once", b"second") is None
        assert store.create("once", b"first") == first, "a write whose answer was lost is tried again, and was the one"
        found = store.read("once")
        assert found is not None and found.content == b"first"

    def test_replaced_only_as_it_was_read(self, store: ObjectStore) -> None:
        one = store.put("pointer", b"one")
        two = store.replace("pointer", b"two", one)
        assert two is not None and two != one
        assert store.replace("pointer", b"three", one) is None, "a stale pointer"
        found = store.read("pointer")
        assert found is not None and found.content == b"two" and found.version == two
        assert store.replace("pointer", b"two", one) == two, "tried again"
        store.delete("pointer")
        assert store.replace("pointer", b"four", two) is None
        assert store.read("pointer") is None

    def test_a_list_is_literal_and_ordered(self, store: ObjectStore) -> None:
        keys = ["runs/a/x", "runs/a/y", "runs/ab/x", "runs-2", "other"]
        for key in keys:
            store.put(key, key.encode())
        assert [h.key for h in store.list("runs/a/")] == ["runs/a/x", "runs/a/y"]
        assert [h.key for h in store.list("runs/a")] == ["runs/a/x", "runs/a/y", "runs/ab/x"]
        assert [h.key for h in store.list("runs")] == sorted(k for k in keys if k.startswith("runs"))
        assert [h.key for h in store.list()] == sorted(keys)
        heads = {h.key: h for h in store.list("runs/")}
        one = store.head("runs/a/x")
        assert one is not None and heads["runs/a/x"].version == one.version and heads["runs/a/x"].size == one.size
        assert list(store.list("none/")) == []

    def test_long_lists_are_whole(self, store: ObjectStore) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: store.put(f"many/{n:05}", b"1"), range(1100)))
        assert [h.key for h in store.list("many/")] == [f"many/{n:05}" for n in range(1100)]

    def test_files_of_any_size(self, store: ObjectStore, tmp_path: Path) -> None:
        tmp_path = tmp_path / "files"
        tmp_path.mkdir()
        for size in (0, 1, 17 << 20):
            content = os.urandom(size)
            (tmp_path / "up").write_bytes(content)
            version = store.upload("file", tmp_path / "up")
            head = store.download("file", tmp_path / "down")
            assert head is not None and (head.size, head.version) == (size, version)
            assert (tmp_path / "down").read_bytes() == content
        assert store.download("nothing", tmp_path / "none") is None
        assert sorted(p.name for p in tmp_path.iterdir()) == ["down", "up"], "nothing unfinished is left"

    def test_a_part_of_an_object(self, store: ObjectStore) -> None:
        content = bytes(range(256)) * 40
        store.put("part", content)
        for start, length in ((0, 1), (0, len(content)), (255, 2), (len(content) - 3, 3), (17, 9000)):
            assert store.read_range("part", start, length) == content[start : start + length]
        assert store.read_range("nothing", 0, 1) is None

    def test_of_writers_that_race_to_create_one_wins(self, store: ObjectStore) -> None:
        for round_ in range(3):
            won = _race(8, lambda n: store.create(f"race/{round_}", f"writer {n}".encode()) is not None)  # noqa: B023
            found = store.read(f"race/{round_}")
            assert found is not None and [f"writer {n}".encode() for n in won] == [found.content]

    def test_of_writers_that_race_to_replace_one_wins(self, store: ObjectStore) -> None:
        version = store.put("counter", b"0")
        for round_ in range(3):
            won = _race(8, lambda n: store.replace("counter", f"{round_} of {n}".encode(), version) is not None)  # noqa: B023
            found = store.read("counter")
            assert found is not None and [f"{round_} of {n}".encode() for n in won] == [found.content]
            version = found.version

    def test_no_update_is_lost(self, store: ObjectStore) -> None:
        store.put("sum", b"0 nobody")

        def add(n: int) -> bool:
            for step in range(5):
                while True:
                    found = store.read("sum")
                    assert found is not None
                    if store.replace("sum", f"{int(found.content.split()[0]) + 1} {n}.{step}".encode(), found.version) is not None:
                        break
            return True

        _race(4, add)
        found = store.read("sum")
        assert found is not None and found.content.split()[0] == b"20"

    def test_readers_see_whole_objects(self, store: ObjectStore) -> None:
        store.put("whole", b"a" * 300_000)
        stop = threading.Event()

        def write() -> None:
            for letter in b"bcdefgh":
                store.put("whole", bytes([letter]) * 300_000)
            stop.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not stop.is_set():
                found = store.read("whole")
                assert found is not None and len(found.content) == 300_000 and len(set(found.content)) == 1
                if writing.done():
                    writing.result()

    def test_the_stores_clock_goes_on(self, store: ObjectStore) -> None:
        before = store.now()
        assert timedelta(0) <= store.now() - before < timedelta(minutes=5)
        assert list(store.list("clock/")) == []

    # ------------------------------------------------------------------------------------------------------------------------ leases

    def test_a_lease_is_one_holders(self, store: ObjectStore) -> None:
        assert held_by(store, "x") is None
        lease = take(store, "x")
        assert str(os.getpid()) in (held_by(store, "x") or "")
        with pytest.raises(Busy, match="holds the lease 'x'"):
            take(store, "x")
        lease.renew()
        lease.check()
        lease.release()
        assert held_by(store, "x") == ""
        take(store, "x").release()

    def test_of_many_that_take_a_lease_one_has_it(self, store: ObjectStore) -> None:
        def mine(n: int) -> bool:
            try:
                take(store, "race")
            except Busy:
                return False
            return True

        assert len(_race(6, mine)) == 1

    def test_an_expired_lease_is_taken_and_its_holder_told(self, store: ObjectStore) -> None:
        dead = take(store, "killed", seconds=-3.0)  # of a holder that was killed: expired when it was made, by the store's clock
        with pytest.raises(Busy, match="was lost"):
            dead.check()
        mine = take(store, "killed")
        with pytest.raises(Busy, match="another one has taken it"):
            dead.renew()
        dead.release()
        assert held_by(store, "killed"), "who has lost a lease does not let go of another's"
        mine.check()
        mine.renew()

    def test_a_lease_is_held_for_a_body(self, store: ObjectStore) -> None:
        told: list[str] = []
        with hold(store, "body") as lease:
            lease.check()
            with pytest.raises(Busy), hold(store, "body", wait=0.2, busy=lambda: told.append("waits"), pause=lambda s: None):
                pass
        assert told == ["waits"]
        with hold(store, "body"):
            pass


def _race(writers: int, act: Callable[[int], bool]) -> list[int]:
    """The numbers of the writers, started at once, whose ``act`` was true."""
    start = threading.Barrier(writers)

    def run(n: int) -> bool:
        start.wait()
        return act(n)

    with ThreadPoolExecutor(writers) as pool:
        return [n for n, won in enumerate(pool.map(run, range(writers))) if won]
