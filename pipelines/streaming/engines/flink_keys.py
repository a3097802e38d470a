"""On which of its parallel tasks Flink works on a key, and keys that spread evenly: by their hash, few keys leave some tasks idle.

Beam's runner keys by the encoded key in a ``ByteBuffer``; Flink takes that one's ``hashCode``, mixes it (``MathUtils.murmurHash``) into one
of ``maxParallelism`` key groups, and gives each task a range of these (``KeyGroupRangeAssignment``).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import count

__all__ = ["MAX_PARALLELISM", "even_keys", "subtask_of"]

MAX_PARALLELISM = 128
"""Flink's key groups; the jobs' option ``max_parallelism``."""
_32 = 0xFFFFFFFF


def _signed(x: int) -> int:
    x &= _32
    return x - (1 << 32) if x >> 31 else x


def _rotated(x: int, by: int) -> int:
    x &= _32
    return (x << by | x >> (32 - by)) & _32


def _java_hash(key: bytes) -> int:
    """``ByteBuffer.hashCode``: from the last byte to the first, as signed ones."""
    h = 1
    for byte in reversed(key):
        h = (31 * h + (byte - 256 if byte > 127 else byte)) & _32
    return h


def _murmur(code: int) -> int:
    """``org.apache.flink.util.MathUtils.murmurHash``."""
    code = _rotated(code * 0xCC9E2D51, 15) * 0x1B873593
    code = (_rotated(code, 13) * 5 + 0xE6546B64) & _32
    code ^= 4
    code ^= code >> 16
    code = code * 0x85EBCA6B & _32
    code ^= code >> 13
    code = code * 0xC2B2AE35 & _32
    code = _signed(code ^ code >> 16)
    return abs(code) if code != -(1 << 31) else 0


def _varint(value: int) -> bytes:
    """As Beam encodes a whole number from 0 up."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def subtask_of(key: int, parallelism: int) -> int:
    """The number of the task, of ``parallelism``, that works on a key (a whole number from 0 up)."""
    return _murmur(_java_hash(_varint(key))) % MAX_PARALLELISM * parallelism // MAX_PARALLELISM


@lru_cache(maxsize=64)
def even_keys(shards: int, parallelism: int) -> tuple[int, ...]:
    """A key for each shard, all different: shard ``n`` is worked on by task ``n % parallelism``, so no task has two more than another."""
    free: dict[int, list[int]] = {n: [] for n in range(parallelism)}
    out: list[int] = []
    candidates = count()
    for shard in range(shards):
        mine = free[shard % parallelism]
        while not mine:
            key = next(candidates)
            free[subtask_of(key, parallelism)].append(key)
        out.append(mine.pop(0))
    return tuple(out)
