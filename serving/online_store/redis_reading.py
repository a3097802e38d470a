"""Rows of several views from Redis in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import redis
from feast.infra.online_stores.helpers import _mmh3

from serving.online_store.decoding import decode_times
from serving.online_store.keys import KeyMatrix
from serving.online_store.lazily import lazily
from serving.online_store.packed_rows import PackedRows
from serving.online_store.store_columns import ColumnRead, StoredColumns

__all__ = ["AskedRows", "Commands", "PackedCommands", "borrowed", "bulk", "exchange"]


class AskedRows:
    """The commands that read some views, in Redis' protocol: of views with the same list of keys one per key."""

    def __init__(self, reads: Sequence[ColumnRead], names: Callable[[ColumnRead], tuple[str, ...]]) -> None:
        """``names``: the features that are read by their fields."""
        self._reads = reads
        self._alike = _alike(reads)
        self._asked = [(some[0].keys, _asked_fields(tuple((read.table.name, names(read)) for read in some))) for some in self._alike]
        self.count = sum(len(keys) for keys, _ in self._asked)

    @lazily
    def data(self) -> bytes:
        """All of them."""
        return b"".join([_commands(*each) for each in self._asked])

    @lazily
    def by_key(self) -> tuple[list[bytes], list[bytes]]:
        """The key of each, and each by itself."""
        keys = [key for some, _ in self._asked for key in some]
        return keys, [b"%b\r\n$%d\r\n%b%b" % (head, len(key), key, tail) for some, (head, tail) in self._asked for key in some]


class PackedCommands(AskedRows):
    """Those that read the packed rows."""

    def __init__(self, reads: Sequence[ColumnRead]) -> None:
        super().__init__(reads, lambda read: ())

    def rows(self, answers: Sequence[list[bytes | None]]) -> list[PackedRows | None]:
        """Per read what the answers hold; None where any row has no packed copy of the view as it is now."""
        made: dict[int, PackedRows | None] = {}
        start = 0
        for some in self._alike:
            mine = answers[start : start + len(some[0].keys)]
            start += len(mine)
            cells = [(cell,) for cell in mine[0]] if len(mine) == 1 else list(zip(*mine)) or [()] * len(some)
            for read, own in zip(some, cells):
                made[id(read)] = PackedRows.read(read.layout, own, read.names)
        return [made[id(read)] for read in self._reads]


class Commands(AskedRows):
    """Those that read Feast's fields."""

    def __init__(self, reads: Sequence[ColumnRead]) -> None:
        super().__init__(reads, lambda read: read.names)

    def columns(self, answers: list[list[bytes | None]]) -> list[StoredColumns]:
        """What was asked for, from the answers."""
        made: dict[int, StoredColumns] = {}
        for some in self._alike:
            n, at = len(some[0].keys), 0
            mine, answers = answers[:n], answers[n:]
            columns = list(zip(*mine)) if n else [()] * sum(len(read.names) + 1 for read in some)
            for read in some:
                width = len(read.names)
                made[id(read)] = StoredColumns(*decode_times(columns[at + width]), columns[at : at + width])
                at += width + 1
        return [made[id(read)] for read in self._reads]


def _alike(reads: Sequence[ColumnRead]) -> list[list[ColumnRead]]:
    """Those with one list of keys together."""
    alike: dict[int, list[ColumnRead]] = {}
    for read in reads:
        alike.setdefault(id(read.keys), []).append(read)
    return list(alike.values())


def _commands(keys: Sequence[bytes], fields: tuple[bytes, bytes]) -> bytes:
    """A command per key."""
    head, tail = fields
    if isinstance(keys, KeyMatrix):
        return keys.between(b"%b\r\n$%d\r\n" % (head, keys.width), tail)
    if len(keys) == 1:
        return b"%b\r\n$%d\r\n%b%b" % (head, len(keys[0]), keys[0], tail)
    heads = {n: b"%b\r\n$%d\r\n" % (head, n) for n in set(map(len, keys))}
    return b"".join([part for key in keys for part in (heads[len(key)], key, tail)])


def bulk(value: Any) -> bytes:
    """A value behind the end of the one before, as Redis' protocol has it."""
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"\r\n$%d\r\n%b" % (len(data), data)


@lru_cache(maxsize=1024)
def _asked_fields(views: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[bytes, bytes]:
    """(what stands before the key of a command, what behind it) that asks for some features of rows, and for their times."""
    fields = [bulk(field) for view, names in views for field in (*(_mmh3(f"{view}:{name}") for name in names), f"_ts:{view}")]
    return b"*%d\r\n$5\r\nHMGET" % (2 + len(fields)), b"".join(fields) + b"\r\n"


_POOL_ARGUMENTS = () if int(redis.__version__.split(".")[0]) >= 5 else ("HMGET",)


@contextmanager
def borrowed(client: Any) -> Iterator[Any]:
    """A connection of a client's pool. redis-py's own client of one connection makes a table of all its commands' answers each time."""
    pool = client.connection_pool
    connection = pool.get_connection(*_POOL_ARGUMENTS)
    try:
        yield connection
    finally:
        pool.release(connection)


def exchange(client: Any, data: bytes, count: int) -> list[list[bytes | None]]:
    """The answers, lists all, to ``count`` commands in one round trip. The pool, its retries and the socket stay redis-py's."""
    with borrowed(client) as connection:
        try:
            answers: list[list[bytes | None]] = connection.retry.call_with_retry(
                lambda: _answers(connection, data, count), lambda _: connection.disconnect()
            )
            return answers
        except BaseException:
            connection.disconnect()  # answers that were not read must not be taken for those of the next command
            raise


def _answers(connection: Any, data: bytes, count: int) -> list[list[bytes | None]]:
    connection.send_packed_command([data])
    # One by one through redis-py costs more than the answers: what its parser has at hand already is taken from it at once.
    reader = getattr(getattr(connection, "_parser", None), "_reader", None)
    answers: list[list[bytes | None]] = []
    while len(answers) < count:
        answer = connection.read_response()
        while type(answer) is list:
            answers.append(answer)
            if reader is None or len(answers) == count:
                break
            answer = reader.gets()
        if isinstance(answer, Exception):
            raise answer
    return answers
