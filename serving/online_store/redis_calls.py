"""The calls of a script over rows, in Redis' protocol: packed column by column, not value by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.online_store.encoding import encode_timestamps, join, once_each
from serving.online_store.order import Rows
from serving.online_store.redis_reading import bulk

__all__ = ["ROWS_PER_CALL", "WriteCalls", "chunks", "command"]

ROWS_PER_CALL = 100
"""A script call holds up all other clients: for a millisecond or two at this size. The arguments of so many rows stay near the processor
while Redis reads them, hands them to Lua and stores them; those of 500 cost a quarter more each."""
_ROWS_PER_PACK = 40 * ROWS_PER_CALL
"""Rows that are packed at once, while Redis works on those before."""
_SHORT = 1024
Ends = npt.NDArray[np.int32]


def command(*arguments: Any) -> bytes:
    """One command."""
    return b"*%d" % len(arguments) + b"".join(map(bulk, arguments)) + b"\r\n"


def chunks(places: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(place, first, end) of each call over rows that are sorted by their places: rows of one place alone, a few hundred at most."""
    edges = [0, *(np.flatnonzero(places[1:] != places[:-1]) + 1).tolist(), len(places)] if len(places) else []
    return [
        (int(places[start]), at, min(at + ROWS_PER_CALL, end)) for start, end in pairwise(edges) for at in range(start, end, ROWS_PER_CALL)
    ]


class WriteCalls:
    """The calls of the writing script: the ``chunks`` of some rows, each with the keys of its place's state. To be taken in order."""

    def __init__(
        self, sha: str, state: Callable[[int], Sequence[str]], head: Sequence[Any], rows: Rows, parts: Sequence[tuple[int, int, int]]
    ) -> None:
        self._sha, self._state, self._rows, self._parts = sha, state, rows, parts
        self._head, self._args_per_call, self._args_per_row = b"".join(map(bulk, head)), len(head), 3 + len(rows.values)
        self._from = self._to = 0
        self._packed: tuple[memoryview, Ends, memoryview, Ends]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int, /) -> Sequence[bytes | memoryview]:
        """The bytes of a call, in parts."""
        place, first, end = self._parts[number]
        if not self._from <= first < end <= self._to:
            self._pack(first)
        keys, key_ends, args, arg_ends = self._packed
        a, b = first - self._from, end - self._from
        state = self._state(place)
        n_keys = len(state) + end - first
        total = 3 + n_keys + self._args_per_call + (end - first) * self._args_per_row
        begin = b"*%d" % total + b"".join(map(bulk, ["EVALSHA", self._sha, n_keys, *state]))
        return [begin, keys[key_ends[a] : key_ends[b]], self._head, args[arg_ends[a] : arg_ends[b]], b"\r\n"]

    def _pack(self, start: int) -> None:
        """Bytes and ends of rows' keys, and of their arguments."""
        r, count = self._rows, min(_ROWS_PER_PACK, len(self._rows) - start)
        at = slice(start, start + count)
        stamps = encode_timestamps(r.event_us[at])
        columns = [
            once_each(r.event_us[at], _decimals),
            _decimals(r.revision[at]),
            stamps if r.packed is None else join(r.packed.slice(start, count), stamps),
            *(v.slice(start, count) for v in r.values),
        ]
        parts: list[Any] = []
        for column in columns:
            parts += [_headers(column), column]
        keys = r.keys.slice(start, count)
        self._packed = (*_bytes(join(_headers(keys), keys)), *_bytes(join(*parts)))
        self._from, self._to = start, start + count


def _decimals(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string()).cast(pa.binary())


@cache
def _short_headers() -> pa.Array:
    return pa.array([b"\r\n$%d\r\n" % n for n in range(_SHORT)], pa.binary())


def _headers(column: pa.Array) -> pa.Array:
    """What stands before each value in Redis' protocol."""
    lengths = pc.binary_length(column)
    if len(column) and pc.max(lengths).as_py() < _SHORT:
        return _short_headers().take(lengths)
    return pa.array([b"\r\n$%d\r\n" % n for n in lengths.to_pylist()], pa.binary())


def _bytes(array: pa.Array) -> tuple[memoryview, Ends]:
    _, ends, data = array.buffers()
    return memoryview(data), np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]
