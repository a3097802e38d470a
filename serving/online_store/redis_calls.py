"""Rows on their way to Redis, in its protocol: packed column by column, not value by value.

Two ways lead there. **A script's calls** (:class:`WriteCalls`) compare and write in one step. **Transactions** (:class:`Transactions`) have
a script say which of some rows would lose, and write the others as plain commands, which hold only if none of the keys has changed since:
half the work for the server, as no value goes through Lua.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.online_store.encoding import encode_timestamps, join, once_each
from serving.online_store.order import Rows
from serving.online_store.redis_bytes import PackedBytes, pack
from serving.online_store.redis_reading import bulk

__all__ = ["ROWS_PER_CALL", "Header", "Transactions", "WriteCalls", "chunks", "command"]

ROWS_PER_CALL = 100
"""A call holds up all other clients: for a millisecond or two at this size. The arguments of so many rows stay near the processor
while Redis reads them, hands them to Lua and stores them; those of 500 cost a quarter more each. And a key that is watched is compared
with all that are watched already."""
_ROWS_PER_PACK = 40 * ROWS_PER_CALL
"""Rows that are packed at once, while Redis works on those before."""
Bytes = list[bytes | memoryview]


def command(*arguments: Any) -> bytes:
    """One command."""
    return b"*%d" % len(arguments) + b"".join(map(bulk, arguments)) + b"\r\n"


def chunks(places: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(place, first, end) of each call over rows that are sorted by their places: rows of one place alone, a few hundred at most."""
    edges = [0, *(np.flatnonzero(places[1:] != places[:-1]) + 1).tolist(), len(places)] if len(places) else []
    return [
        (int(places[start]), at, min(at + ROWS_PER_CALL, end)) for start, end in pairwise(edges) for at in range(start, end, ROWS_PER_CALL)
    ]


@dataclass(frozen=True)
class Header:
    """What all rows of a write have in common. ``names``: the field of each feature; ``key_ttl`` in seconds, 0: none; ``writer``: who
    writes, empty: who is not asked."""

    view: str
    fingerprint: str
    stamp: int
    upto_us: int | None
    key_ttl: int
    names: Sequence[bytes]
    writer: str = ""

    @property
    def fields(self) -> tuple[str, str]:
        """Those of a row's order and of its time."""
        return f"_tandem:{self.view}", f"_ts:{self.view}"

    @property
    def rule(self) -> list[Any]:
        """The arguments of the rule (``row_order.lua``)."""
        return [self.view, *self.fields, self.fingerprint, self.stamp, "" if self.upto_us is None else self.upto_us, self.writer]


class WriteCalls:
    """The calls of the writing script: the ``chunks`` of some rows, each with the keys of its place's state. To be taken in order."""

    def __init__(
        self, sha: str, state: Callable[[int], Sequence[str]], head: Header, rows: Rows, parts: Sequence[tuple[int, int, int]]
    ) -> None:
        self._sha, self._state, self._rows, self._parts = sha, state, rows, parts
        shared = [*head.rule, head.key_ttl, len(head.names), *head.names]
        self._head, self._args_per_call, self._args_per_row = b"".join(map(bulk, shared)), len(shared), 3 + len(rows.values)
        self._from = self._to = 0
        self._keys: PackedBytes
        self._args: PackedBytes

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int, /) -> Sequence[bytes | memoryview]:
        """The bytes of a call, in parts."""
        place, first, end = self._parts[number]
        if not self._from <= first < end <= self._to:
            self._pack(first)
        a, b = first - self._from, end - self._from
        state = self._state(place)
        n_keys = len(state) + end - first
        total = 3 + n_keys + self._args_per_call + (end - first) * self._args_per_row
        begin = b"*%d" % total + b"".join(map(bulk, ["EVALSHA", self._sha, n_keys, *state]))
        return [begin, self._keys[a:b], self._head, self._args[a:b], b"\r\n"]

    def _pack(self, start: int) -> None:
        rows = _slice(self._rows, start)
        columns = [*_order(rows), _stamps(rows), *rows.values]
        self._keys, self._args = pack([(b"", rows.keys)]), pack([(b"", column) for column in columns])
        self._from, self._to = start, start + len(rows)


class Transactions:
    """Rows of one server, in chunks: of each what asks which rows would lose, and what writes the others. To be taken in order."""

    def __init__(self, sha: str, state: Sequence[str], head: Header, rows: Rows) -> None:
        """``sha`` of the script that asks; ``state``: the keys that the rule reads, which are watched, too."""
        self._sha, self._head, self._rows = sha, head, rows
        self._state, self._rule = b"".join(map(bulk, state)), b"".join(map(bulk, head.rule))
        self._state_keys, self._rule_args = len(state), len(head.rule)
        self._from = self._to = 0
        self._keys: PackedBytes
        self._orders: PackedBytes
        self._commands: PackedBytes

    def __len__(self) -> int:
        return -(-len(self._rows) // ROWS_PER_CALL)

    def rows(self, number: int) -> range:
        """The places of a chunk's rows."""
        return range(number * ROWS_PER_CALL, min((number + 1) * ROWS_PER_CALL, len(self._rows)))

    def ask(self, number: int) -> Bytes:
        """Two commands, in parts: the keys of a chunk are watched, then the script says which rows lose."""
        a, b = self._packed(number)
        keys, orders = self._keys[a:b], self._orders[a:b]
        n_keys = self._state_keys + b - a
        watch = b"*%d" % (1 + n_keys) + bulk("WATCH")
        call = b"\r\n*%d" % (3 + n_keys + self._rule_args + 2 * (b - a)) + b"".join(map(bulk, ["EVALSHA", self._sha, n_keys]))
        return [watch, self._state, keys, call, self._state, keys, self._rule, orders, b"\r\n"]

    def write(self, number: int, losing: Sequence[int]) -> tuple[Bytes, int]:
        """(the transaction that writes the rows of a chunk that do not lose, in parts; the number of its commands). If all lose: that
        nothing is watched any more, 0."""
        a, b = self._packed(number)
        if len(losing) == b - a:
            return [command("UNWATCH")], 0
        edges = [a, *(a + place for place in losing), b]
        parts: Bytes = [self._commands[first + (n > 0) : end] for n, (first, end) in enumerate(pairwise(edges))]
        count = (b - a - len(losing)) * (2 if self._head.key_ttl else 1)
        return [command("MULTI"), *parts, command("EXEC")], count

    def _packed(self, number: int) -> tuple[int, int]:
        """Where the rows of a chunk are among those that are packed."""
        chunk = self.rows(number)
        if not self._from <= chunk.start < chunk.stop <= self._to:
            self._pack(chunk.start)
        return chunk.start - self._from, chunk.stop - self._from

    def _pack(self, start: int) -> None:
        rows, head = _slice(self._rows, start), self._head
        event, revision = _order(rows)
        order = join(event, _scalar(b" "), revision, _scalar(f" {head.fingerprint} {head.stamp}".encode()))
        fields = [(bulk(name), column) for name, column in zip((*head.fields, *head.names), (order, _stamps(rows), *rows.values))]
        begin = b"*%d" % (2 + 2 * len(fields)) + bulk("HSET")
        last = b"\r\n" + (b"*3" + bulk("EXPIRE") if head.key_ttl else b"")
        pieces = [(begin, rows.keys), *fields, (last, rows.keys if head.key_ttl else None)]
        self._keys, self._orders = pack([(b"", rows.keys)]), pack([(b"", event), (b"", revision)])
        self._commands = pack(pieces, bulk(head.key_ttl) + b"\r\n" if head.key_ttl else b"")
        self._from, self._to = start, start + len(rows)


def _slice(rows: Rows, start: int) -> Rows:
    """The rows that are packed at once."""
    return rows.part(slice(start, start + _ROWS_PER_PACK))


def _order(rows: Rows) -> tuple[pa.Array, pa.Array]:
    """(event times, revisions) in decimals."""
    return once_each(rows.event_us, _decimals), _decimals(rows.revision)


def _stamps(rows: Rows) -> pa.Array:
    """What the time field holds, the packed row before the time."""
    stamps = encode_timestamps(rows.event_us)
    return stamps if rows.packed is None else join(rows.packed, stamps)


def _scalar(data: bytes) -> pa.Scalar:
    return pa.scalar(data, pa.binary())


def _decimals(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string()).cast(pa.binary())
