"""Rows as bytes of Redis' protocol, against commands written value by value; and answers that are not looked at one by one."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import hiredis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.online_store.redis_bytes import Column, Field, pack, shapes
from serving.online_store.redis_link import _numbers

VALUES = st.one_of(st.just(b""), st.sampled_from([b"a", b"bc", b"\0\r\n"]), st.binary(max_size=40), st.just(b"x" * 1500))


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 3))
def test_rows_are_packed_as_they_are_written_value_by_value(rows: list[tuple[bytes, bytes, bytes]], most: int, before: int) -> None:
    columns = [Column(pa.array([b"other"] * before + [row[n] for row in rows], pa.binary()).slice(before)) for n in range(3)]
    a, b, c = columns
    fields: list[Field] = [(b"*4\r\n$1\r\nk", [a]), (b"\r\n$2\r\nf1", [b, b" ", c]), (b"", [c])]
    shape = shapes(columns, most)
    assert len(set(shape.tolist())) <= most
    places = np.argsort(shape, kind="stable")
    packed = pack(fields, b"\r\n", places, shape[places])
    for n, place in enumerate(places.tolist()):
        x, y, z = rows[place]
        both = y + b" " + z
        want = b"*4\r\n$1\r\nk\r\n$%d\r\n%b\r\n$2\r\nf1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(x), x, len(both), both, len(z), z)
        assert bytes(packed[n : n + 1]) == want
    assert bytes(packed[0 : len(rows)]) == b"".join(bytes(packed[n : n + 1]) for n in range(len(rows)))


def test_rows_of_one_number_have_the_same_lengths_where_these_are_few() -> None:
    lengths = [(n % 2, n % 3, n) for n in range(300)]  # the third column's are too many
    columns = [Column(pa.array([b"x" * row[k] for row in lengths], pa.binary())) for k in range(3)]
    shape = shapes(columns, 10).tolist()
    assert {number: {row[:2] for row, own in zip(lengths, shape) if own == number} for number in shape} == {
        number: {lengths[shape.index(number)][:2]} for number in range(6)
    }


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
