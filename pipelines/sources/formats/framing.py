"""Confluent's framing of records: a zero byte and the schema's id as four bytes, big-endian, before the record: read in bulk."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["HEADER", "Frames", "frames"]

HEADER = struct.Struct(">bI")
"""The zero byte and the id."""


@dataclass(frozen=True)
class Frames:
    """Of N payloads: which are ``framed``, which begin as such and are too short to be (``cut``), their ``ids`` (int64 [N], -1: none), and
    the ``bodies`` (binary [N]) without their headers."""

    framed: npt.NDArray[np.bool_]
    cut: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    bodies: pa.Array


def frames(payloads: pa.Array) -> Frames:
    """The frames of N payloads (binary, nulls allowed). A payload that does not begin with a zero byte has none."""
    payloads = payloads.cast(pa.binary())
    n = len(payloads)
    _, ends, data = payloads.buffers()
    if not n or data is None or not data.size:
        none = np.zeros(n, bool)
        return Frames(none, none, np.full(n, -1), payloads)
    edges = np.frombuffer(ends, np.int32)[payloads.offset : payloads.offset + n + 1]
    text, begins, lengths = np.frombuffer(data, np.uint8), edges[:-1], np.diff(edges)
    zero = (lengths > 0) & (text[np.minimum(begins, len(text) - 1)] == 0)
    if payloads.null_count:
        zero &= payloads.is_valid().to_numpy(zero_copy_only=False)
    framed = zero & (lengths >= HEADER.size)
    ids = np.full(n, -1)
    if not zero.any():
        return Frames(framed, zero, ids, payloads)
    at = begins[framed].astype(np.int64)
    ids[framed] = sum(text[at + 1 + place].astype(np.int64) << (24 - 8 * place) for place in range(4))
    both = np.empty(2 * n, np.int32)  # bodies and the gaps between them are an array over the same bytes; every second one is taken
    both[0::2], both[1::2] = begins + HEADER.size * framed, edges[1:]
    whole = pa.Array.from_buffers(pa.binary(), len(both) - 1, [None, pa.py_buffer(both), data])
    null = ~payloads.is_valid().to_numpy(zero_copy_only=False) if payloads.null_count else None
    bodies = whole.take(pa.array(np.arange(0, len(both), 2, dtype=np.int32), mask=null))
    return Frames(framed, zero & ~framed, ids, bodies)
