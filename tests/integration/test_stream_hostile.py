"""Records that a stream cannot take, and dead letters that nobody takes: it goes on, and tells."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.broker import BrokerAway, BrokerRefused, DamagedLog, FetchResult, LetterRefused
from pipelines.sources.letter_spool import SpooledLetters, keep_waiting, letters_waiting, waiting_records
from pipelines.sources.letters import Letter
from pipelines.sources.memory import MemoryBroker, MemoryPartitionReader
from pipelines.streaming import status
from pipelines.streaming.stages import poll
from pipelines.streaming.stream_control import skip_record, stream_status
from tests.integration.kafka_world import drain
from tests.integration.stages_world import HOUR, T0, World, payment, payments
from tests.oracle import rows as oracle_rows
from transforms.errors import ConfigError, DataError, StoreError, TandemError

MINUTE = HOUR // 60
GOOD = [payment(n, T0 + n * MINUTE) for n in range(240)]


class Reader(MemoryPartitionReader):
    """Some offsets cannot be read: of a record that is too large, or of a batch that is damaged."""

    damaged: tuple[int, int] = (0, 0)
    large: tuple[int, ...] = ()
    denied: str = ""
    """What may not be done any more: poll, or ends."""

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]:
        if self.denied == "ends":
            raise BrokerRefused(f"the Kafka broker denied permission to describe topic {topic!r}")
        return super().ends(topic, partitions)

    def poll(self, topic: str, partition: int, offset: int, max_records: int, timeout_ms: int) -> FetchResult:
        if self.denied == "poll":
            raise BrokerRefused(f"the Kafka broker denied permission to read topic {topic!r}")
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
        ("payments/0", "x", "not a record of this stream"),
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
    (first, second) = stream_status(data, "main").skipped
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
    assert world.rows() and any("is skipped: poison" in line for line in world.control.said()[0])


class Inner:
    """A topic that does what it is told."""

    def __init__(self) -> None:
        self.error: TandemError | None = None
        self.written: list[tuple[int, bytes | None, str]] = []

    def write(self, topic: str, partition: int, source: str, fetched: FetchResult, rows: Any, reasons: Any, details: Any) -> None:
        if self.error is not None:
            raise self.error
        assert fetched.run == "run"
        found = fetched.original(np.asarray(rows))
        self.written += [(int(fetched.offsets[r]), v, reason) for r, (_, v, _), reason in zip(rows, found, reasons, strict=True)]

    def close(self) -> None: ...


def fetched_of(values: list[bytes | None]) -> FetchResult:
    n = np.arange(len(values))
    return FetchResult(pa.array(values, pa.binary()), n + 7, n + 1, 99, 99, False, "id", run="run")


@pytest.mark.parametrize("denied", ["poll", "ends"])
def test_a_right_to_the_topic_that_is_taken_away_is_waited_for(world: World, denied: str) -> None:
    """It ended the stream. Nothing is lost, ``stream status`` says why, and it goes on once the right is back."""
    world.run()
    before = len(world.rows())
    world.send([payment(n, T0 + n * MINUTE) for n in range(240, 300)])
    damage(world).made = {"denied": denied}
    world.run()
    found = status.Tracker(world.control).look()
    assert world.control.failure() is None and len(world.rows()) == before
    assert found.away == ("payments-0",) and "denied permission to" in status.line(found) and "\n" not in status.line(found)
    assert any("denied permission to" in said for said in world.control.said()[0])
    damage(world).made = {}
    world.run()
    found = status.Tracker(world.control).look()
    assert not found.away and found.lag == {("payments", 0): 0} and len(world.rows()) > before


@pytest.mark.parametrize("kind", [BrokerAway, BrokerRefused])
def test_letters_that_nobody_takes_wait_in_a_file(tmp_path: Path, kind: type[TandemError]) -> None:
    """SECURITY H1: a dead-letter topic that is down, or refuses, does not stop the stream for ever; nothing is lost. So of one whose
    right to it was taken away."""
    inner, said, now = Inner(), list[str](), [0.0]
    spool = SpooledLetters(inner, tmp_path / "letters", 30.0, said.append)
    spool.clock = lambda: now[0]

    def write(*values: bytes | None) -> None:
        n = len(values)
        spool.write("t", 3, "s", fetched_of(list(values)), np.arange(n), ["r"] * n, [None] * n)

    write(b"a")
    inner.error = kind("nobody answers")
    for now[0] in (10.0, 39.0):
        with pytest.raises(kind):
            write(b"b", None)
    now[0] = 40.0
    write(b"b", None)
    assert letters_waiting(tmp_path / "letters") == 2
    assert said == [
        f"t/3/7 and 1 more: nobody answers; the dead letters are kept in {tmp_path / 'letters'} and the stream continues;"
        " so will those that follow"
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
    assert letters_waiting(tmp_path / "letters") == 0 and said[-1] == "3 pending dead letters were written to their topic"
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


def spool_of(inner: Any, folder: Path, now: list[float], said: list[str] | None = None) -> SpooledLetters:
    spool = SpooledLetters(inner, folder, 30.0, print if said is None else said.append)
    spool.clock = lambda: now[0]
    return spool


def give_up(spool: SpooledLetters, inner: Inner, now: list[float]) -> None:
    """The topic is away for longer than the patience: letters go to files."""
    inner.error = BrokerAway("nobody answers")
    with pytest.raises(BrokerAway):
        write_one(spool, b"first")
    now[0] += 30.0
    write_one(spool, b"first")
    assert spool.given_up is not None


def write_one(spool: SpooledLetters, value: bytes) -> None:
    spool.write("t", 3, "s", fetched_of([value]), np.arange(1), ["r"], [None])


def wait_for(spool: SpooledLetters) -> None:
    assert spool.trying is not None
    spool.trying.join(60)
    assert not spool.trying.is_alive()


class Gate(Inner):
    """A topic that takes the first letter when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.asked = threading.Event(), threading.Event()

    def write(self, *letters: Any) -> None:
        self.asked.set()
        assert self.open.wait(60)
        super().write(*letters)


def test_what_waits_is_written_by_one_of_those_that_share_the_folder(tmp_path: Path) -> None:
    """A worker has an instance of Poll per thread, each with a spool of the one folder: all of them wrote all that waits."""
    now, folder, refusing, gate = [0.0], tmp_path / "letters", Inner(), Gate()
    refusing.error = LetterRefused("too large")
    for n in range(50):
        write_one(spool_of(refusing, folder, now), b"%d" % n)
    one, other = spool_of(gate, folder, now), spool_of(gate, folder, now)
    one.flush()
    assert gate.asked.wait(60)
    other.given_up = away = BrokerAway("nobody answers")
    other.flush()
    wait_for(other)
    assert not gate.written and other.given_up is away, "it has not seen the topic: another one is at it"
    gate.open.set()
    wait_for(one)
    assert len(gate.written) == 50 == len({value for _, value, _ in gate.written}) and letters_waiting(folder) == 0
    now[0] += 30.0
    other.flush()
    assert other.given_up is None, "nothing waits any more"


def test_another_process_that_writes_what_waits_is_left_alone(tmp_path: Path) -> None:
    now, folder, inner = [0.0], tmp_path / "letters", Inner()
    inner.error = LetterRefused("too large")
    write_one(spool_of(inner, folder, now), b"a")
    inner.error = None
    held = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        spool = spool_of(inner, folder, now)
        spool.flush()
        wait_for(spool)
        assert not inner.written and letters_waiting(folder) == 1
        process.communicate()
    now[0] += 30.0
    spool.flush()
    wait_for(spool)
    assert [value for _, value, _ in inner.written] == [b"a"] and letters_waiting(folder) == 0


KEPT: dict[str, Any] = {
    "topic": "t", "partition": 3, "source": "s", "identity": "id", "run": "run", "reasons": ["r"], "details": [None], "offsets": [7],
    "stamps_us": [1], "refused": {}, "records": [[None, "YQ==", [["h", None]]]],
}  # fmt: skip
ODD: dict[str, Any] = {
    "no object": [], "null": None, "a text": "letters", "nothing": {}, "no lists": {**KEPT, "records": 5, "offsets": 5},
    "records of another shape": {**KEPT, "records": [[None, "YQ=="]]},
    "a record as an object": {**KEPT, "records": [{"k": 1, "v": 2, "h": 3}]},
    "a payload that is a number": {**KEPT, "records": [[None, 5, []]]}, "no base64": {**KEPT, "records": [[None, "\u00e9\u00e9", []]]},
    "cut base64": {**KEPT, "records": [[None, "YQ", []]]}, "a header's name of a number": {**KEPT, "records": [[None, None, [[5, None]]]]},
    "headers as an object": {**KEPT, "records": [[None, None, {"h": None}]]}, "refused as a list": {**KEPT, "refused": []},
    "a reason of null": {**KEPT, "reasons": [None]}, "more reasons": {**KEPT, "reasons": ["r", "r"]},
    "an offset beyond 64 bits": {**KEPT, "offsets": [2**70]}, "an offset in a list": {**KEPT, "offsets": [[7]]},
    "a topic of null": {**KEPT, "topic": None}, "a partition of null": {**KEPT, "partition": None},
}  # fmt: skip


@pytest.mark.parametrize("content", [*(json.dumps(odd) for odd in ODD.values()), "", "{", "[" * 100_000, "\ud800"], ids=[*ODD, *"1234"])
def test_an_odd_file_keeps_no_letter_waiting(tmp_path: Path, content: str) -> None:
    """One that holds `[]` ended the thread with a traceback: what sorts behind it waited for ever, and letters went to files for ever."""
    now, said, folder, inner = [0.0], list[str](), tmp_path / "letters", Inner()
    spool = spool_of(inner, folder, now, said)
    give_up(spool, inner, now)
    (folder / "0-1.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"0-1\.json holds no dead letters$"):
        waiting_records(folder / "0-1.json")
    with pytest.raises(ValueError, match=r"0-1\.json holds no dead letters$"):
        keep_waiting(folder / "0-1.json", [True])
    inner.error = None
    for _ in range(2):
        now[0] += 30.0
        spool.flush()
        wait_for(spool)
    assert [value for _, value, _ in inner.written] == [b"first"] and spool.given_up is None
    line = f"{folder}/0-1.json holds no dead letters; take it away"
    assert said.count(line) == 1 and (folder / "0-1.json").exists(), "told once, and left to who looks after it"
    write_one(spool, b"second")
    assert [value for _, value, _ in inner.written] == [b"first", b"second"]


@pytest.mark.parametrize("name", ["0-x.json", "0-.json", "0-\u00b2.json", "0-1.json.part", ".0-1.json"])
def test_a_file_of_another_name_holds_no_letters(tmp_path: Path, name: str) -> None:
    """`0-x.json` ended the stream's poll, and `tandem stream status`, with a traceback."""
    (tmp_path / name).write_text(json.dumps(KEPT))
    spool = spool_of(inner := Inner(), tmp_path, [0.0])
    spool.flush()
    assert letters_waiting(tmp_path) == 0 and spool.trying is None and not inner.written


def test_a_file_as_it_is_kept_is_read(tmp_path: Path) -> None:
    """The oracle of the odd ones: they differ from this in one thing."""
    (path := tmp_path / "0-1.json").write_text(json.dumps(KEPT))
    assert waiting_records(path) == ("s", [(None, b"a", [("h", None)])])
    keep_waiting(path, [True])
    (kept,) = tmp_path.glob("*-1.json")
    assert json.loads(kept.read_text()) == KEPT


def test_whatever_ends_the_look_the_next_letter_asks_the_topic_itself(tmp_path: Path) -> None:
    now, said, inner = [0.0], list[str](), Inner()
    spool = spool_of(inner, tmp_path / "letters", now, said)
    give_up(spool, inner, now)

    def gone() -> Any:
        raise StoreError("no right to")

    spool.again = gone
    now[0] += 30.0
    spool.flush()
    wait_for(spool)
    assert spool.given_up is None and said[-1] == f"the letters in {tmp_path / 'letters'} cannot be written: no right to"


@pytest.mark.parametrize("waiting", [True, False], ids=["a full disk", "no folder"])
def test_a_topic_that_is_back_takes_letters_though_the_folder_takes_none(tmp_path: Path, waiting: bool) -> None:
    """While letters went to files, each write failed there, ended its poll, and nobody looked whether the topic is back."""
    now, folder, inner = [0.0], tmp_path / "letters", Inner()
    spool = spool_of(inner, folder, now)
    give_up(spool, inner, now)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not waiting:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file where the folder would be")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if waiting else soft, hard))  # no file takes a byte
        with pytest.raises(BrokerAway, match="nobody answers, and the letters cannot be kept in"):
            write_one(spool, b"second")
        inner.error = None
        now[0] += 30.0
        with pytest.raises(BrokerAway, match="nobody answers, and the letters cannot be kept in"):
            write_one(spool, b"second")
        if spool.trying is not None:
            wait_for(spool)
        write_one(spool, b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [value for _, value, _ in inner.written] == [b"first"] * waiting + [b"second"]


def test_the_stream_goes_on_beside_a_topic_that_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H1."""

    class Refusing(Inner):
        error = LetterRefused("the topic takes nothing")

        def __init__(self) -> None: ...

    monkeypatch.setattr(Broker, "open_dead_letters", lambda *_: Refusing())
    world.send([b"{}", *GOOD[:1]])
    world.run()
    assert world.report()["next"] == 242 and letters_waiting(world.folder / "letters") == 1
    assert any("payments/0/240: the topic takes nothing; the dead letters are kept in" in line for line in world.control.said()[0])
    monkeypatch.undo()
    world.run()
    assert [a.offset for a in letters(world)] == [240], "what waited; its record is not read again"
    assert letters_waiting(world.folder / "letters") == 0
    assert vars(poll)["SpooledLetters"] is SpooledLetters
