"""Rows of several views from Redis in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
from feast.infra.online_stores.helpers import _mmh3

from serving.online_store.columns import ColumnRead, StoredColumns
from serving.online_store.decoding import decode_times

__all__ = ["Commands", "bulk"]


class Commands:
    """The commands that read some views, in Redis' protocol: of views with the same list of keys one per key."""

    def __init__(self, reads: Sequence[ColumnRead]) -> None:
        self._reads = reads
        self._alike: dict[int, list[ColumnRead]] = {}
        for read in reads:
            self._alike.setdefault(id(read.keys), []).append(read)
        parts: list[bytes] = []
        for some in self._alike.values():
            fields = [_asked_fields(read.table.name, read.names) for read in some]
            head, tail = b"*%d\r\n$5\r\nHMGET" % (2 + sum(count for count, _ in fields)), b"".join(data for _, data in fields) + b"\r\n"
            heads = {n: b"%b\r\n$%d\r\n" % (head, n) for n in set(map(len, some[0].keys))}
            for key in some[0].keys:
                parts += (heads[len(key)], key, tail)
        self._data = b"".join(parts)
        self._count = sum(len(some[0].keys) for some in self._alike.values())

    def exchange(self, client: Any) -> list[list[bytes | None]]:
        """The answer to each. Raises what redis-py raises."""
        return _exchange(client, self._data, self._count)

    def stamps(self, answers: list[list[bytes | None]]) -> list[list[bytes | None]]:
        """Per read the stored times of its keys: what is read of reads without names."""
        made: dict[int, list[bytes | None]] = {}
        for some in self._alike.values():
            n = len(some[0].keys)
            mine, answers = answers[:n], answers[n:]
            for at, read in enumerate(some):
                made[id(read)] = [answer[at] for answer in mine]
        return [made[id(read)] for read in self._reads]

    def columns(self, answers: list[list[bytes | None]]) -> list[StoredColumns]:
        """What was asked for, from the answers."""
        made: dict[int, StoredColumns] = {}
        for some in self._alike.values():
            n, at = len(some[0].keys), 0
            mine, answers = answers[:n], answers[n:]
            columns = list(zip(*mine)) if n else [()] * sum(len(read.names) + 1 for read in some)
            for read in some:
                width = len(read.names)
                made[id(read)] = StoredColumns(*decode_times(columns[at + width]), columns[at : at + width])
                at += width + 1
        return [made[id(read)] for read in self._reads]


def bulk(value: Any) -> bytes:
    """A value behind the end of the one before, as Redis' protocol has it."""
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"\r\n$%d\r\n%b" % (len(data), data)


@lru_cache(maxsize=1024)
def _asked_fields(view: str, names: tuple[str, ...]) -> tuple[int, bytes]:
    """(how many, the arguments in Redis' protocol) of the fields of some features of a row, and of its time."""
    return len(names) + 1, b"".join(map(bulk, [*(_mmh3(f"{view}:{name}") for name in names), f"_ts:{view}"]))


_POOL_ARGUMENTS = () if int(redis.__version__.split(".")[0]) >= 5 else ("HMGET",)


def _exchange(client: Any, data: bytes, count: int) -> list[list[bytes | None]]:
    """The answers, lists all, to ``count`` commands in one round trip. The pool, its retries and the socket stay redis-py's."""
    pool = client.connection_pool
    connection = pool.get_connection(*_POOL_ARGUMENTS)
    try:
        answers: list[list[bytes | None]] = connection.retry.call_with_retry(
            lambda: _answers(connection, data, count), lambda _: connection.disconnect()
        )
        return answers
    except BaseException:
        connection.disconnect()  # answers that were not read must not be taken for those of the next command
        raise
    finally:
        pool.release(connection)


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
