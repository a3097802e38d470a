"""Records that a stream cannot take, and dead letters that nobody takes: it goes on, and tells."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.broker import BrokerAway, DamagedLog, FetchResult, LetterRefused
from pipelines.sources.letter_spool import SpooledLetters, letters_waiting
from pipelines.sources.letters import Letter
from pipelines.sources.memory import MemoryBroker, MemoryPartitionReader
from pipelines.streaming.stages import poll
from pipelines.streaming.stream_control import skip_record, stream_status
from tests.integration.kafka_world import drain
from tests.integration.stages_world import HOUR, T0, World, payment, payments
from tests.oracle import rows as oracle_rows
from transforms.errors import ConfigError, DataError, StoreError

MINUTE = HOUR // 60
GOOD = [payment(n, T0 + n * MINUTE) for n in range(240)]


class Reader(MemoryPartitionReader):
    """Some offsets cannot be read: of a record that is too large, or of a batch that is damaged."""

    damaged: tuple[int, int] = (0, 0)
    large: tuple[int, ...] = ()

    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        first, following = self.damaged
        if first <= offset < following:
            raise DamagedLog(f"{topic}/{partition}: damaged; tandem stream skip {topic}/{partition}/{offset}", offset, following)
        found = super().poll(topic, partition, offset, max_records, timeout_ms)
        if following and offset < first:
            found = found.before(first)
        cut = np.isin(found.offsets, self.large)
        payloads = pa.array([None if c else p for p, c in zip(found.payloads.to_pylist(), cut, strict=True)], pa.binary())
        return replace(found, payloads=payloads, refused={int(o): "too large: 9,000,000 bytes, SHA-256 ab" for o in found.offsets[cut]})


class Broker(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, Any] = {}

    def open_reader(self) -> Reader:
        reader = Reader(self)
        reader.__dict__.update(self.made)
        return reader


@pytest.fixture
def world(tmp_path: Path) -> World:
    broker = Broker()
    broker.create_topic("payments")
    stream = StreamSettings(shards=2, max_reject_share=0.2)
    folder = tmp_path / "stream" / "main"
    folder.mkdir(parents=True)
    made = World(folder, broker, payments("payments"), stream, KafkaSettings(dead_letters="payments.dead"))
    made.send(GOOD)
    return made


def damage(world: World) -> Broker:
    assert isinstance(world.broker, Broker)
    return world.broker


def letters(world: World) -> list[Letter]:
    return [Letter.read(record, 0) for record in drain(MemoryBroker.open_reader(world.broker), "payments.dead")]


def test_a_record_that_is_too_large_is_one_dead_letter(world: World) -> None:
    """SECURITY H1."""
    damage(world).made = {"large": (10, 200)}
    world.run()
    found = letters(world)
    assert [(a.offset, a.reason, a.whole) for a in found] == [(10, "too_long", False), (200, "too_long", False)]
    assert found[0].detail == "too large: 9,000,000 bytes, SHA-256 ab"
    assert world.report()["next"] == 240 and world.report()["counts"]["rejected/too_long"] == 2


def test_a_batch_that_cannot_be_read_is_left_out_when_told(world: World, tmp_path: Path) -> None:
    """SECURITY H1: the stream stops with one line, and goes on after 'tandem stream skip', recorded."""
    topics = {"payments": "payments"}
    world.run(replace(world.spec(), until={"payments": {0: 110}}))
    damage(world).made = {"damaged": (120, 130)}
    world.run(fails=True)
    assert str(world.control.failure()).endswith("tandem stream skip payments/0/120")
    data = tmp_path
    for wrong, reason, line in [
        ("payments/0", "x", "no record of this stream"),
        ("other/0/120", "x", "with one of payments"),
        ("payments/0/120", " ", "--reason is empty"),
    ]:
        with pytest.raises(ConfigError, match=line):
            skip_record(data, "main", topics, wrong, reason)
    with pytest.raises(DataError, match=r"payments/0/99 was delivered \(the stream is at 120\)"):
        skip_record(data, "main", topics, "payments/0/99", "x")
    skip_record(data, "main", topics, "payments/0/120", "a producer of the old fleet")
    skip_record(data, "main", topics, "payments/0/150", "poison")
    world.run()
    assert world.report()["next"] == 240
    (first, second) = stream_status(data, "main")["skipped"]
    assert (first["topic"], first["partition"], first["offset"], first["reason"]) == ("payments", 0, 120, "a producer of the old fleet")
    assert first["by"] and first["at"] and second["offset"] == 150
    kept = [json.loads(p) for n, p in enumerate(GOOD) if not 120 <= n < 130 and n != 150]
    upto = (T0 + 239 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE)
    want = sorted(oracle_rows(kept, world.group, -1, upto), key=lambda r: (r["account"], r["event_timestamp"]))
    got = [
        {**r, "event_timestamp": pa.scalar(r["event_timestamp"], pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()}
        for r in world.rows()
    ]
    assert got == want
    assert world.rows() and any("is left out: poison" in line for line in world.control.said()[0])


class Inner:
    """A topic that does what it is told."""

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.written: list[tuple[int, bytes | None, str]] = []

    def write(self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Any, reasons: Any, details: Any) -> None:
        if self.error is not None:
            raise self.error
        found = fetched.original(np.asarray(rows))
        self.written += [(int(fetched.offsets[r]), v, reason) for r, (_, v, _), reason in zip(rows, found, reasons, strict=True)]

    def close(self) -> None: ...


def fetched_of(values: list[bytes | None]) -> FetchResult:
    n = np.arange(len(values))
    return FetchResult(pa.array(values, pa.binary()), n + 7, n + 1, 99, 99, False, "id")


def test_letters_that_nobody_takes_wait_in_a_file(tmp_path: Path) -> None:
    """SECURITY H1: a dead-letter topic that is down, or refuses, does not stop the stream for ever; nothing is lost."""
    inner, said, now = Inner(), list[str](), [0.0]
    spool = SpooledLetters(inner, tmp_path / "letters", 30.0, said.append)
    spool.clock = lambda: now[0]

    def write(*values: bytes | None) -> None:
        n = len(values)
        spool.write("t", 3, "s", fetched_of(list(values)), np.arange(n), ["r"] * n, [None] * n)

    write(b"a")
    inner.error = BrokerAway("nobody answers")
    for now[0] in (10.0, 39.0):
        with pytest.raises(BrokerAway):
            write(b"b", None)
    now[0] = 40.0
    write(b"b", None)
    assert letters_waiting(tmp_path / "letters") == 2
    assert said == [
        f"t/3/7 and 1 more: nobody answers; the letters wait in {tmp_path / 'letters'} and the stream goes on; so will those that follow"
    ]
    inner.error = LetterRefused("too large")
    write(b"c" * 100)
    assert letters_waiting(tmp_path / "letters") == 3
    now[0] = 80.0
    spool.flush()
    spool.close()
    assert letters_waiting(tmp_path / "letters") == 3
    inner.error = None
    again = SpooledLetters(inner, tmp_path / "letters", 30.0, said.append)  # another process
    again.flush()
    again.close()
    assert letters_waiting(tmp_path / "letters") == 0 and said[-1] == "3 dead letters that waited are in their topic now"
    assert sorted(inner.written, key=str) == sorted([(7, b"a", "r"), (7, b"b", "r"), (8, None, "r"), (7, b"c" * 100, "r")], key=str)
    inner.error = StoreError("no right to")
    with pytest.raises(StoreError, match="no right to"):
        write(b"d")


def test_nobody_waits_twice_for_a_topic_that_is_down(tmp_path: Path) -> None:
    """SECURITY H1: its broker alone is away, and each try takes as long as it may: the stream waits for one, and others look on."""
    now, said, here, looked = [0.0], list[str](), threading.Event(), threading.Event()

    class Slow(Inner):
        tries = 0

        def write(self, *letters: Any) -> None:
            self.tries += 1
            now[0] += 30.0
            raise BrokerAway("no answer for 30 s")

    class Beside(Inner):
        closed = 0

        def write(self, *letters: Any) -> None:
            looked.set()
            assert here.wait(60)
            if letters[3].original(np.arange(1))[0][1] == b"0":
                raise LetterRefused("too large")
            super().write(*letters)

        def close(self) -> None:
            self.closed += 1

    slow, beside = Slow(), Beside()
    spool = SpooledLetters(slow, tmp_path / "letters", 30.0, said.append, lambda: beside)
    spool.clock = lambda: now[0]

    def write(value: bytes) -> None:
        spool.write("t", 3, "s", fetched_of([value]), np.arange(1), ["r"], [None])

    for n in range(100):
        write(str(n).encode())
        spool.flush()
    assert slow.tries == 1 and now[0] == 30.0, "the others were kept at once"
    assert letters_waiting(tmp_path / "letters") == 100 and len(said) == 1
    now[0] += 30.0
    spool.flush()
    assert looked.wait(60)
    write(b"100")
    spool.flush()
    assert slow.tries == 1, "whoever looks whether it is back holds nobody up"
    here.set()
    spool.close()
    assert letters_waiting(tmp_path / "letters") <= 2, "one that is refused keeps no other waiting; what came meanwhile may wait"
    assert len(beside.written) >= 99 and beside.closed == 1
    write(b"101")
    assert slow.tries == 2, "it is back: letters go to the topic again"


def test_letters_that_neither_topic_nor_disk_take_are_waited_with(tmp_path: Path) -> None:
    """A disk that takes nothing is waited for like a broker: the position has not moved, and nothing is lost."""
    inner = Inner()
    inner.error = LetterRefused("too large")
    (tmp_path / "letters").write_text("a file where the folder would be")
    spool = SpooledLetters(inner, tmp_path / "letters", 30.0, print)
    with pytest.raises(BrokerAway, match=r"too large, and the letters cannot be kept in .*/letters: .*; free its disk"):
        spool.write("t", 3, "s", fetched_of([b"a"]), np.arange(1), ["r"], [None])
    (tmp_path / "letters").unlink()
    spool.write("t", 3, "s", fetched_of([b"a"]), np.arange(1), ["r"], [None])
    assert letters_waiting(tmp_path / "letters") == 1


def test_the_stream_goes_on_beside_a_topic_that_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H1."""

    class Refusing(Inner):
        error = LetterRefused("the topic takes nothing")

        def __init__(self) -> None: ...

    monkeypatch.setattr(Broker, "open_dead_letters", lambda *_: Refusing())
    world.send([b"{}", *GOOD[:1]])
    world.run()
    assert world.report()["next"] == 242 and letters_waiting(world.folder / "letters") == 1
    assert any("payments/0/240: the topic takes nothing; the letters wait in" in line for line in world.control.said()[0])
    monkeypatch.undo()
    world.run()
    assert [a.offset for a in letters(world)] == [240], "what waited; its record is not read again"
    assert letters_waiting(world.folder / "letters") == 0
    assert vars(poll)["SpooledLetters"] is SpooledLetters
