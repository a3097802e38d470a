"""The servers behind a connection string, as the Redis online store talks to them: one (also the one that a Sentinel names), or a cluster
(:mod:`serving.online_store.redis_cluster`).

What a view's rows are judged by (the applied fingerprint, what is covered) is read by the script that writes them, so it lies where they
lie: once on one server, once per slot in a cluster. A **place** is a number that keys have in common which one script may touch.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import redis
from redis.exceptions import NoScriptError, ResponseError

from serving.online_store.redis_calls import Transactions, command
from serving.online_store.redis_reading import AskedRows, borrowed, exchange
from transforms.errors import StoreError

__all__ = [
    "Answers",
    "Call",
    "Calls",
    "Committed",
    "Link",
    "Lives",
    "OneServer",
    "Replicas",
    "exchanged",
    "life_of",
    "opened",
    "received",
    "send",
]

Call = bytes | Sequence[bytes | memoryview]
"""A command in Redis' protocol, whole or in parts."""
Answers = list[Any]
_AT_ONCE = 131_072
"""Bytes of calls that are sent together: one call of the kernel for some calls of a script, and Redis begins with the first ones while the
next are made."""
_READ_BYTES = 65_536
_ANSWERS = {int, bytes, list, type(None)}


class Calls(Protocol):
    """Calls by their numbers, which may be made when they are taken, one after the other."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Call: ...


class Replicas:
    """How many replicas must have a write before it counts, and how long they are waited for."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.command = command("WAIT", count, max(1, round(seconds * 1000))) if count else b""

    def check(self, answer: Any) -> None:
        """Raises StoreError if that is not how it was; what was written stays, and may be written again."""
        if isinstance(answer, Exception):
            raise answer
        if answer < self.count:
            raise StoreError(
                f"online store redis: {answer} of the {self.count} replicas that wait_replicas asks for had a write in time;"
                " look at the replicas, or set wait_replicas lower in feature_store.yaml"
            )


@dataclass(frozen=True)
class Committed:
    """What became of rows: how many were ``written``; ``undecided``: the places of those whose keys others changed meanwhile, which were
    not written; ``refused``: what the rule ended with (``row_order.lua``), and then no more were written."""

    written: int
    undecided: list[int]
    refused: Sequence[bytes] = ()


class Link(Protocol):
    """Commands to servers, and what they answer. Safe to use from many threads. Raises what redis-py raises, and StoreError."""

    copies: Sequence[int]
    """The places that have a copy of a view's state; the first is the one that is written last and read first."""

    def places(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The place of each key."""

    def tag(self, place: int) -> str:
        """What the name of a key ends with that shall lie at a place."""

    def run(self, calls: Calls, places: Sequence[int], script: str = "", writes: bool = False) -> Answers:
        """What each call is answered, an error never. Calls of one place keep their order. ``script`` is the one they name.

        ``writes``: as many replicas as are asked for have what was written when this returns.
        """

    def commit(self, rows: Transactions, script: str) -> Committed | None:
        """Write the rows that win, replicas as in :meth:`run`; None, and nothing is written, where they may lie on several servers.
        ``script`` is the one that ``rows`` name."""

    def ask(self, asked: AskedRows) -> list[list[bytes | None]]:
        """The lists that commands which read are answered."""

    def witnesses(self) -> Sequence[int]:
        """Places of which every server has one at least, the first of :attr:`copies` among them."""

    def lives(self) -> frozenset[str]:
        """The processes that hold the data now, by names that a restarted or newly promoted one does not get again; none where they may
        not be asked."""

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        """The keys that match; some perhaps twice."""

    def servers(self) -> Sequence[Any]:
        """redis-py's clients of the servers that hold the data."""

    def open_socket(self, at: str) -> socket.socket | None:
        """A connection to a server that is let in; None where sockets are not plain ones."""


class OneServer:
    """One server: every key lies at place 0."""

    copies: Sequence[int] = (0,)

    def __init__(self, client: Any, replicas: Replicas) -> None:
        """``client``: redis-py's."""
        self._client, self._replicas = client, replicas

    def places(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        return np.zeros(len(keys), np.int64)

    def tag(self, place: int) -> str:
        return ""

    def run(self, calls: Calls, places: Sequence[int], script: str = "", writes: bool = False) -> Answers:
        """All in one round trip; after a restart of Redis, those that did not find the script once more."""
        answers: Answers = [None] * len(calls)
        todo = list(range(len(calls)))
        for attempt in range(2):
            for i, answer in zip(todo, exchanged(self._client, (calls[i] for i in todo), self._replicas if writes else None)):
                answers[i] = answer
            todo = [i for i in todo if isinstance(answers[i], NoScriptError)]
            if not todo or attempt:
                break
            self._client.script_load(script)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def commit(self, rows: Transactions, script: str) -> Committed:
        with borrowed(self._client) as connection:
            try:
                return _commit(connection, rows, script, self._replicas)
            except BaseException:
                connection.disconnect()  # what was not read, or is still watched, is nothing to the next command
                raise

    def ask(self, asked: AskedRows) -> list[list[bytes | None]]:
        return exchange(self._client, asked.data, asked.count)

    def witnesses(self) -> Sequence[int]:
        return self.copies

    def lives(self) -> frozenset[str]:
        return frozenset(life_of(self._client))

    def scan(self, pattern: bytes) -> Iterator[bytes]:
        yield from self._client.scan_iter(pattern, count=1000)

    def servers(self) -> Sequence[Any]:
        return [self._client]

    def open_socket(self, at: str) -> socket.socket | None:
        return opened(self._client)


class Lives:
    """Which servers held the data when: whether one was lost."""

    def __init__(self) -> None:
        self._first: frozenset[str] | None = None
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    def begin(self, look: Callable[[], frozenset[str]]) -> None:
        """Before the first write."""
        if self._first is None:
            self._first = look()

    def lost(self, now: frozenset[str], name: str) -> bool:
        """Whether, since this was asked last for the name, one of those that were there went and one came that was never there before:
        servers that only went or only came were emptied before, or filled after, by a move of slots."""
        first = now if self._first is None else self._first
        seen, then = self._known.get(name, (first, first))
        self._known[name] = (seen | now, now)
        return bool(now - seen) and bool(then - now)


def life_of(client: Any) -> list[str]:
    """The name of a server's life as a primary; none where it may not be asked."""
    told = exchanged(client, [command("INFO", "server"), command("INFO", "replication")])
    if any(isinstance(each, Exception) for each in told):  # the user may not, or some service has no INFO
        return []
    run, replicated = (info_field(text, name) for text, name in zip(told, (b"run_id", b"master_replid")))
    return [f"{run}/{replicated}"]


def info_field(text: bytes, name: bytes) -> str | None:
    """What a line of INFO's answer says; None without such a line."""
    found = re.search(rb"^%s:(.*?)\r?$" % name, text, re.MULTILINE)
    return None if found is None else found[1].decode()


def opened(client: Any) -> socket.socket | None:
    """A new connection of a client's, as its socket; None if it is no plain one."""
    pool = client.connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    connection.connect()
    made, connection._sock = connection._sock, None  # it closes what it has when it is forgotten
    if type(made) is socket.socket:
        return made
    made.close()
    return None


def exchanged(client: Any, calls: Any, replicas: Replicas | None = None) -> Answers:
    """What a server answers to calls in one round trip, errors as they are.

    Written to the connection as they are made, so that Redis works while the next ones are; the pool stays redis-py's.
    """
    with borrowed(client) as connection:
        try:
            count = send(connection, calls)
            wait = replicas.command if replicas is not None else b""
            if wait:
                connection.send_packed_command([wait])
            answers = received(connection, count + bool(wait))
        except BaseException:
            connection.disconnect()  # answers that were not read must not be taken for those of the next command
            raise
    if wait and replicas is not None:
        replicas.check(answers.pop())
    return answers


def _commit(connection: Any, rows: Transactions, script: str, replicas: Replicas) -> Committed:
    """Chunk by chunk; the question about the next one goes with the transaction before, so that the server does not wait for us."""
    written, undecided = 0, list[int]()
    losing = _losing(connection, rows, script, 0)
    for number in range(len(rows)):
        if losing and isinstance(losing[0], bytes):
            connection.disconnect()
            return Committed(written, undecided, losing)
        parts, count = rows.write(number, losing)
        last = number + 1 == len(rows)
        connection.send_packed_command([b"".join([*parts, *([replicas.command] if last else rows.ask(number + 1))])])
        if not count:
            _check(received(connection, 1))
        elif _executed(connection, count):
            written += len(rows.rows(number)) - len(losing)
        else:
            undecided += rows.rows(number)
        if not last:
            answers = received(connection, 2)
            forgot = isinstance(answers[1], NoScriptError)  # meanwhile, as after SCRIPT FLUSH
            losing = _losing(connection, rows, script, number + 1) if forgot else _answered(answers)
    if replicas.command:
        replicas.check(received(connection, 1)[0])
    return Committed(written, undecided)


def _executed(connection: Any, count: int) -> bool:
    """Whether a transaction of so many commands was carried out, of which each is answered by a number; False where a key had changed.
    Raises what one of them failed with."""
    if _numbers(connection, count):
        return True
    answers = received(connection, count + 2)  # MULTI, its commands and EXEC have an answer each
    _check(answers)
    if answers[-1] is None:
        return False
    _check(answers[-1])
    return True


def _numbers(connection: Any, count: int) -> bool:
    """Whether the next answers are those of a transaction that was carried out and answered by numbers: then they are taken. An object for
    each costs more than the answers. What is something else, or lies behind them, is left to redis-py's parser.

    Raises redis-py's errors where the connection breaks or nothing comes in time; it is of no use then."""
    parser = getattr(connection, "_parser", None)
    reader, sock = getattr(parser, "_reader", None), getattr(parser, "_sock", None)
    if reader is None or sock is None:
        return False
    begin = b"+OK\r\n" + b"+QUEUED\r\n" * count + b"*%d\r\n" % count
    numbers, got, end = _pattern(count), b"", 0
    while not end:
        try:
            more = sock.recv(_READ_BYTES)
        except TimeoutError as error:  # not left to the parser, which would wait as long again
            raise redis.exceptions.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            raise redis.exceptions.ConnectionError(f"Error while reading from socket: {error.args}") from error
        got += more
        if not more or not (got.startswith(begin) if len(got) >= len(begin) else begin.startswith(got)):
            break
        if got.count(b"\n", len(begin)) >= count:
            found = numbers.match(got, len(begin))
            if found is None:
                break
            end = found.end()
    if end < len(got):
        reader.feed(got[end:])
    return bool(end)


@lru_cache(maxsize=1024)
def _pattern(count: int) -> re.Pattern[bytes]:
    """So many whole numbers as answers."""
    return re.compile(rb"(?::\d+\r\n){%d}" % count)


def _losing(connection: Any, rows: Transactions, script: str, number: int) -> list[Any]:
    """Which rows of a chunk lose. A server that does not know the script is given it."""
    for attempt in range(2):
        connection.send_packed_command([b"".join(rows.ask(number))])
        answers = received(connection, 2)
        if attempt or not isinstance(answers[1], NoScriptError):
            break
        connection.send_packed_command([command("SCRIPT", "LOAD", script)])
        _check(received(connection, 1))
    return _answered(answers)


def _answered(answers: Answers) -> list[Any]:
    """What a question is answered."""
    _check(answers)
    out: list[Any] = answers[1]
    return out


def _check(answers: Answers) -> None:
    """Raises the first error among answers."""
    if not _ANSWERS.issuperset(map(type, answers)):
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer


def send(connection: Any, calls: Any) -> int:
    """Send calls, some of them together; how many there were."""
    waiting: list[bytes | memoryview] = []
    size = count = 0
    for call in calls:
        count += 1
        parts = [call] if isinstance(call, bytes) else call
        waiting += parts
        size += sum(map(len, parts))
        if size >= _AT_ONCE:
            connection.send_packed_command([b"".join(waiting)])
            waiting, size = [], 0
    if waiting:
        connection.send_packed_command([b"".join(waiting)])
    return count


def received(connection: Any, count: int) -> Answers:
    """So many answers, errors as they are."""
    # One by one through redis-py costs more than the answers: what its parser has at hand already is taken from it at once.
    reader = getattr(getattr(connection, "_parser", None), "_reader", None)
    answers: Answers = []
    while len(answers) < count:
        try:
            answer = connection.read_response()
        except ResponseError as error:
            answer = error
        while True:
            answers.append(answer)
            if reader is None or len(answers) == count:
                break
            answer = reader.gets()
            if type(answer) not in _ANSWERS and not isinstance(answer, Exception):  # what says that there is none differs by version
                break
    return answers
