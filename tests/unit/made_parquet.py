"""Parquet files that say what no writer does: one column ``city`` of texts, and the description of it as a test gives it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

DICTIONARY, DELTA_BYTE_ARRAY, PLAIN_DICTIONARY, PLAIN = "dictionary", 7, 2, 0
UNCOMPRESSED, ZSTD = 0, 6


class Long(int):
    """A whole number of 64 bits."""


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def thrift(fields: Mapping[int, Any]) -> bytes:
    """A struct in Thrift's compact protocol: whole numbers, texts, structs, and lists of one of these."""
    out, last = b"", 0
    for number, value in fields.items():
        kind, data = _value(value)
        out += bytes([(number - last) << 4 | kind]) + data
        last = number
    return out + b"\0"


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, int):
        return 6 if isinstance(value, Long) else 5, zigzag(value)
    if isinstance(value, str):
        return 8, varint(len(value)) + value.encode()
    if isinstance(value, dict):
        return 12, thrift(value)
    made = [_value(each) for each in value]
    return 9, bytes([len(made) << 4 | made[0][0]]) + b"".join(data for _, data in made)


def delta_packed(values: Sequence[int]) -> bytes:
    """Whole numbers in DELTA_BINARY_PACKED, in blocks of 128."""
    deltas = np.diff(np.array(values, np.int64))
    out = varint(128) + varint(4) + varint(len(values)) + zigzag(values[0])
    for at in range(0, len(deltas), 128):
        block = np.zeros(128, np.int64)
        some = deltas[at : at + 128]
        least = int(some.min())
        block[: len(some)] = some - least
        width = int(block.max()).bit_length()
        bits = (block[:, None] >> np.arange(width)) & 1
        out += zigzag(least) + bytes([width] * 4) + np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    return out


def one_text(text: bytes, rows: int) -> bytes:
    """The same text again and again, in DELTA_BYTE_ARRAY: all of the one before, and nothing behind it."""
    n = len(text)
    return delta_packed([0, *[n] * (rows - 1)]) + delta_packed([n, *[0] * (rows - 1)]) + text


def texts_apart(texts: Sequence[bytes]) -> bytes:
    """Texts in DELTA_BYTE_ARRAY, none of which takes anything of the one before."""
    return delta_packed([0] * len(texts)) + delta_packed([len(text) for text in texts]) + b"".join(texts)


def page(values: bytes, rows: int, encoding: Any, codec: int = ZSTD) -> bytes:
    packed = bytes(pa.compress(values, "zstd", asbytes=True)) if codec == ZSTD else values
    kind = 2 if encoding == DICTIONARY else 0
    head = {1: rows, 2: PLAIN} if encoding == DICTIONARY else {1: rows, 2: encoding, 3: 3, 4: 3}
    return thrift({1: kind, 2: len(values), 3: len(packed), 7 if kind else 5: head}) + packed


def parquet(pages: Sequence[bytes], rows: int, encodings: Sequence[int], codec: int = ZSTD, uncompressed: int = 500) -> bytes:
    """A file of these pages, whose end says that they take ``uncompressed`` bytes."""
    body = b"".join(pages)
    dictionary = len(pages) > 1
    places = {9: Long(4 + len(pages[0])), 11: Long(4)} if dictionary else {9: Long(4)}
    chunk = {1: 6, 2: list(encodings), 3: ["city"], 4: codec, 5: Long(rows), 6: Long(uncompressed), 7: Long(len(body)), **places}
    end = {
        1: 1,
        2: [{4: "schema", 5: 1}, {1: 6, 3: 0, 4: "city", 6: 0}],
        3: Long(rows),
        4: [{1: [{2: Long(4), 3: chunk}], 2: Long(uncompressed), 3: Long(rows)}],
    }
    footer = thrift(end)
    return b"PAR1" + body + footer + struct.pack("<I", len(footer)) + b"PAR1"
