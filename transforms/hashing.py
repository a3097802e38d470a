"""A hash of values that is the same on every machine, process and day; the ground of shards and of distinct counts.

Definition, all numbers modulo 2^64. ``mix`` is one step of splitmix64: ``z = x + 0x9E3779B97F4A7C15``;
``z = (z ^ z>>30) * 0xBF58476D1CE4E5B9``; ``z = (z ^ z>>27) * 0x94D049BB133111EB``; ``z ^ z>>31``.
A value is bytes ``b``: a string's UTF-8; an integer's eight bytes in two's complement, a float's eight bytes of IEEE 754,
both little-endian. ``h = mix(len(b))``, then ``h = mix(h ^ w)`` for every eight-byte little-endian word ``w`` of ``b``,
the last one padded with zero bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import DataError

__all__ = ["hash64", "mix", "shard_of"]

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
# _KEEP[n] keeps the n lowest bytes of a word.
_KEEP = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)


def mix(x: U64) -> U64:
    """One step of splitmix64 over an array of N uint64; returns a new array."""
    z = x + _GOLDEN
    z ^= z >> _S30
    z *= _M1
    z ^= z >> _S27
    z *= _M2
    z ^= z >> _S31
    return z


def hash64(array: pa.Array) -> U64:
    """The hashes of N values: uint64 of length N.

    Takes string, large_string, dictionaries of these, int64, float64 (``-0.0`` hashes as ``0.0``), bool (as 0 and 1) and
    timestamps (as their integers). Raises DataError for nulls and for other types.
    """
    if array.null_count:
        raise DataError(f"{array.null_count} null values cannot be hashed; filter them out first")
    kind = array.type
    if pa.types.is_dictionary(kind):
        # Unused entries of a dictionary may be null; the indices may be of any integer type.
        words = array.dictionary
        used = np.asarray(array.indices.cast(pa.int64()))
        if words.null_count:
            if words.is_null().to_numpy(zero_copy_only=False)[used].any():
                raise DataError("null values in a dictionary cannot be hashed; filter them out first")
            words = words.fill_null("")
        hashed: U64 = hash64(words)[used]
        return hashed
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _hash_strings(array, np.dtype("<i8" if pa.types.is_large_string(kind) else "<i4"))
    if pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        array = array.cast(pa.int64())
    elif pa.types.is_float64(kind):
        values = array.to_numpy(zero_copy_only=False) + 0.0  # -0.0 + 0.0 is 0.0
        return _hash_words(values.view(np.uint64))
    elif not pa.types.is_int64(kind):
        raise DataError(f"values of type {kind} cannot be hashed; cast them to string, int64 or float64")
    return _hash_words(array.to_numpy(zero_copy_only=False).view(np.uint64))


def shard_of(keys: Sequence[pa.Array], shards: int) -> npt.NDArray[np.int32]:
    """The shard of each of N entity keys: int32 in ``[0, shards)``.

    ``keys`` are the key columns in the entity's order, each of length N. ``h = 0``, then ``h = mix(h ^ hash64(column))``
    for each column; the shard is ``h % shards``. Raises DataError for nulls, no columns, or ``shards`` below one.
    """
    if not keys:
        raise DataError("a shard needs at least one key column; an entity always has one")
    if not 1 <= shards <= 2**31 - 1:
        raise DataError(f"shards is {shards}; give a number from 1 to 2147483647")
    h = np.zeros(len(keys[0]), dtype=np.uint64)
    for column in keys:
        h = mix(h ^ hash64(column))
    return (h % np.uint64(shards)).astype(np.int32)


def _hash_words(words: U64) -> U64:
    return mix(mix(np.full(1, 8, dtype=np.uint64)) ^ words)


def _hash_strings(array: pa.Array, offset_type: np.dtype[Any]) -> U64:
    n = len(array)
    if n == 0:
        return np.zeros(0, dtype=np.uint64)
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=offset_type)[array.offset : array.offset + n + 1].astype(np.int64)
    start = offsets[:-1] - offsets[0]
    length = np.diff(offsets)
    h = mix(length.astype(np.uint64))
    total = int(offsets[-1] - offsets[0])
    if total == 0:
        return h
    # Eight zero bytes behind the text, so that a word may be read at every byte of it.
    text = np.zeros(total + 8, dtype=np.uint8)
    text[:total] = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]]
    word_at: U64 = np.ndarray(shape=(total,), dtype="<u8", buffer=text.data, strides=(1,))
    at, left, row = start, length, np.arange(n)
    while True:
        longer = left > 0
        if not longer.all():
            at, left, row = at[longer], left[longer], row[longer]
        if len(row) == 0:
            return h
        h[row] = mix(h[row] ^ (word_at[at] & _KEEP[np.minimum(left, 8)]))
        at, left = at + 8, left - 8
