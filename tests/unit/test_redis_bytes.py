"""Rows as bytes of Redis' protocol, against commands written value by value; and answers that are not looked at one by one."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from types import SimpleNamespace

import hiredis
import numpy as np
import pyarrow as pa
import pytest
import redis
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from serving.online_store.order import Rows
from serving.online_store.redis_bytes import pack
from serving.online_store.redis_calls import Header, Transactions, WriteCalls, chunks
from serving.online_store.redis_link import _executed, _numbers

VALUES = st.one_of(st.just(b""), st.sampled_from([b"a", b"bc", b"\0\r\n"]), st.binary(max_size=40), st.just(b"x" * 1500))


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=60), st.integers(0, 3), st.sampled_from([b"", b"end"]))
def test_rows_are_packed_as_they_are_written_value_by_value(rows: list[tuple[bytes, bytes, bytes]], before: int, last: bytes) -> None:
    a, b, c = (pa.array([b"other"] * before + [row[n] for row in rows], pa.binary()).slice(before) for n in range(3))
    packed = pack([(b"*4", a), (b"", b), (b"\r\n$2\r\nf1", c), (b"*2", None)], last)
    for n, (x, y, z) in enumerate(rows):
        want = b"*4\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nf1\r\n$%d\r\n%b*2" % (len(x), x, len(y), y, len(z), z)
        assert bytes(packed[n : n + 1]) == want + last
    assert bytes(packed[0 : len(rows)]) == b"".join(bytes(packed[n : n + 1]) for n in range(len(rows)))


@dataclass(frozen=True)
class Row:
    """A row by itself."""

    key: bytes
    event_us: int
    revision: int
    packed: bytes
    values: tuple[bytes, ...]

    @property
    def time(self) -> bytes:
        """What its time field holds."""
        return self.packed + Timestamp(seconds=self.event_us // 10**6, nanos=self.event_us % 10**6 * 1000).SerializeToString()

    def written(self, ttl: int) -> bytes:
        """The commands that write it."""
        order = b"%d %d print 7" % (self.event_us, self.revision)
        fields = [b"_tandem:v", order, b"_ts:v", self.time, *(x for pair in zip(NAMES, self.values, strict=True) for x in pair)]
        return said(b"HSET", self.key, *fields) + (said(b"EXPIRE", self.key, b"%d" % ttl) if ttl else b"")


NAMES = [b"name", b"n2", b"another name"]
RULE = [b"v", b"_tandem:v", b"_ts:v", b"print", b"7", b"", b"me"]
STATE = [b"state", b"other state"]
ROW = st.builds(
    Row, VALUES, st.integers(0, 2 * 10**15), st.integers(0, 10**12), st.sampled_from([b"", b"12"]), st.tuples(VALUES, VALUES, VALUES)
)


def said(*arguments: bytes) -> bytes:
    """A command."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments)


def check(rows: list[Row], ttl: int, keeps_packed: bool, losing: set[int]) -> None:
    """The questions, the transactions and the calls of a script are those written value by value."""
    rows = rows if keeps_packed else [Row(r.key, r.event_us, r.revision, b"", r.values) for r in rows]
    head = Header("v", "print", 7, None, ttl, NAMES, "me")
    columns = Rows(
        pa.array([r.key for r in rows], pa.binary()),
        np.array([r.event_us for r in rows], np.int64),
        np.array([r.revision for r in rows], np.int64),
        pa.array(["print"] * len(rows)),
        [pa.array([r.values[n] for r in rows], pa.binary()) for n in range(len(NAMES))],
        packed=pa.array([r.packed for r in rows], pa.binary()) if keeps_packed else None,
    )
    state = [each.decode() for each in STATE]
    made, seen = Transactions("sha", state, head, columns), []
    for number in range(len(made)):
        places = list(made.rows(number))
        some = [rows[place] for place in places]
        seen += places
        keys, orders = [r.key for r in some], [x for r in some for x in (b"%d" % r.event_us, b"%d" % r.revision)]
        asked = said(b"EVALSHA", b"sha", b"%d" % (len(STATE) + len(keys)), *STATE, *keys, *RULE, *orders)
        assert b"".join(made.ask(number)) == said(b"WATCH", *STATE, *keys) + asked
        lost = [n for n, place in enumerate(places) if place in losing]
        kept = [r for n, r in enumerate(some) if n not in lost]
        written = said(b"MULTI") + b"".join(r.written(ttl) for r in kept) + said(b"EXEC") if kept else said(b"UNWATCH")
        parts, count = made.write(number, lost)
        assert (b"".join(parts), count) == (written, len(kept) * (2 if ttl else 1))
    assert sorted(seen) == list(range(len(rows)))

    parts_of = chunks(np.zeros(len(rows), np.int64))
    calls = WriteCalls("sha", lambda place: state, head, columns, parts_of)
    for number, (_, first, end) in enumerate(parts_of):
        some = rows[first:end]
        arguments = [x for r in some for x in (b"%d" % r.event_us, b"%d" % r.revision, r.time, *r.values)]
        shared = [*RULE, b"%d" % ttl, b"%d" % len(NAMES), *NAMES]
        keys = [b"%d" % (len(STATE) + len(some)), *STATE, *(r.key for r in some)]
        assert b"".join(calls[number]) == said(b"EVALSHA", b"sha", *keys, *shared, *arguments)


@given(st.lists(ROW, min_size=1, max_size=30), st.sampled_from([0, 60]), st.booleans(), st.sets(st.integers(0, 29)))
def test_what_is_sent_is_what_is_written_value_by_value(rows: list[Row], ttl: int, keeps_packed: bool, losing: set[int]) -> None:
    check(rows, ttl, keeps_packed, losing)


@pytest.mark.parametrize("kinds", [1, 2, 40])
def test_so_are_more_rows_than_are_packed_at_once_of_so_many_lengths(kinds: int) -> None:
    rng, n = random.Random(kinds), 8_050  # 40 kinds of lengths in each column: 64,000 of a row
    rows = [
        Row(b"%06d" % i, 10**15 + rng.randrange(10) * 10**6, rng.randrange(kinds), b"p", (*(b"x" * rng.randrange(kinds) for _ in NAMES),))
        for i in range(n)
    ]
    check(rows, 60, True, {*range(100), *rng.sample(range(n), 500)})


DONE = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n:12\r\n"
REST = b"+OK\r\n*1\r\n:0\r\n"


@pytest.fixture(params=[1, 7, 65_536])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many bytes come at once."""
    monkeypatch.setattr("serving.online_store.redis_link._READ_BYTES", request.param)


@pytest.mark.usefixtures("at_once")
def test_answers_of_a_transaction_that_was_carried_out_are_taken_however_they_come() -> None:
    answers = Answers(DONE + REST)
    assert _numbers(answers.connection, 2)
    assert answers.left() == [b"OK", [0]]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n", [b"OK", b"QUEUED", b"QUEUED", None]),  # a key had changed
        (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n$1\r\n1\r\n", [b"OK", b"QUEUED", b"QUEUED", [1, b"1"]]),
        (b"-ERR no\r\n", ["no"]),
        (b"+OK\r\n-OOM no room\r\n", [b"OK", "no room"]),
    ],
)
def test_other_answers_are_left_to_the_parser(data: bytes, want: list[object]) -> None:
    answers = Answers(data)
    assert not _numbers(answers.connection, 2)
    assert [str(each).removeprefix("OOM ").removeprefix("ERR ") if isinstance(each, Exception) else each for each in answers.left()] == want


def test_a_server_that_stops_answering_is_waited_for_once() -> None:
    answers = Answers(b"+OK\r\n+QUEUED\r\n")
    answers.client.settimeout(0.01)
    with pytest.raises(redis.TimeoutError, match="Timeout reading from socket"):
        _executed(answers.connection, 2)  # it has no read_response that could wait once more


def test_a_connection_that_breaks_within_the_answers_is_said_to_be_broken() -> None:
    answers = Answers(b"+OK\r\n+QUEUED\r\n")
    answers.client.sendall(b"never read")  # so that the end of the other side is a reset
    answers.server.close()
    with pytest.raises(redis.ConnectionError, match="Connection reset by peer"):
        _executed(answers.connection, 2)


class Answers:
    """A connection whose server said something, and ends."""

    def __init__(self, data: bytes) -> None:
        self.server, client = socket.socketpair()
        self.reader = hiredis.Reader(replyError=RuntimeError)
        self.connection = SimpleNamespace(_parser=SimpleNamespace(_reader=self.reader, _sock=client))
        self.client = client
        self.server.sendall(data)

    def left(self) -> list[object]:
        """What is still to be read."""
        self.server.close()
        while more := self.client.recv(1000):
            self.reader.feed(more)
        self.client.close()
        out = []
        while (answer := self.reader.gets()) is not False:
            out.append(answer)
        return out
