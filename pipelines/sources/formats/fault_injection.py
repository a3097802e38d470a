"""Broken copies of records: one function per way in which producers break them, for replays and tests.

Whatever it is made from, a broken copy is refused by the contract of its source, so that dead letters can be counted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from transforms.definitions import EventSource, Field

__all__ = ["AVRO_KINDS", "JSON_KINDS", "PROTOBUF_KINDS", "UNKNOWN_ID", "break_avro", "break_json", "break_protobuf"]

UNKNOWN_ID = 2**31 - 7
"""A schema id that no registry gives out."""
HUGE_BYTES = 512 * 1024
"""Above what the contract allows for a text, below what a broker takes by default."""
_CENTURY_US = 100 * 365 * 86_400_000_000

Record = dict[str, Any]


def _first(source: EventSource, *dtypes: str) -> Field | None:
    return next((f for f in source.fields if f.dtype in dtypes), None)


def _encode(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _noise(dice: int) -> bytes:
    """Bytes that are neither JSON nor a Confluent message: the first one can open neither."""
    random = np.random.default_rng(dice)
    return bytes([(0x01, 0xFF)[dice & 1]]) + random.bytes(int(random.integers(1, 200)))


def _number(source: EventSource, record: Record, value: Any) -> bytes:
    """A number that its field cannot be; in the event time where no field is a number."""
    f = _first(source, "float64", "int64")
    return _encode({**record, (f.name if f else source.event_time): value})


def _time(source: EventSource, record: Record, change: Callable[[int], int]) -> bytes:
    now = record.get(source.event_time)
    return _encode({**record, source.event_time: change(now if type(now) is int and now > 0 else 10**15)})


_JSON: dict[str, Callable[[EventSource, Record, bytes, int], bytes | None]] = {
    "empty": lambda source, record, payload, dice: b"",
    "no_payload": lambda source, record, payload, dice: None,
    "truncated": lambda source, record, payload, dice: payload[: 1 + dice % (len(payload) - 1)],
    "invalid_utf8": lambda source, record, payload, dice: payload[:-1] + b',"note":"caf\xe9"}',
    "random_bytes": lambda source, record, payload, dice: _noise(dice),
    "unknown_schema": lambda source, record, payload, dice: struct.pack(">bI", 0, UNKNOWN_ID) + payload,
    "wrong_type": lambda source, record, payload, dice: _encode({**record, source.tie_breaker: [record.get(source.tie_breaker)]}),
    "missing_field": lambda source, record, payload, dice: _encode({k: v for k, v in record.items() if k != source.tie_breaker}),
    "overflow": lambda source, record, payload, dice: _number(source, record, 10**30),
    "nan": lambda source, record, payload, dice: _number(source, record, float("nan")),
    "huge": lambda source, record, payload, dice: _encode({**record, source.tie_breaker: "x" * HUGE_BYTES}),
    "deep": lambda source, record, payload, dice: payload[:-1] + b',"note":' + b"[" * 100 + b"]" * 100 + b"}",
    "duplicate_keys": lambda source, record, payload, dice: payload[:-1] + b"," + payload[1:],
    "seconds": lambda source, record, payload, dice: _time(source, record, lambda us: us // 10**6),
    "milliseconds": lambda source, record, payload, dice: _time(source, record, lambda us: us // 1000),
    "far_future": lambda source, record, payload, dice: _time(source, record, lambda us: us + _CENTURY_US),
}
JSON_KINDS = tuple(_JSON)
"""The ways to break a JSON record."""


def break_json(kind: str, payload: bytes, source: EventSource, dice: int) -> bytes | None:
    """A broken copy of the JSON object in ``payload`` (None: no payload). ``dice`` are random bits. Anything else becomes noise."""
    try:
        record = json.loads(payload)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not record:
        return _noise(dice)
    return _JSON[kind](source, record, payload.strip(), dice)


AVRO_KINDS = ("empty", "no_payload", "truncated", "invalid_utf8", "random_bytes", "unknown_schema", "json", "no_body", "trailing")
"""The ways to break an Avro record in Confluent's framing."""


def break_avro(kind: str, payload: bytes, key: bytes, dice: int) -> bytes | None:
    """A broken copy of a framed Avro record whose tie-breaker's text is ``key``, as :func:`break_json`."""
    made: dict[str, bytes | None] = {
        "empty": b"",
        "no_payload": None,
        "truncated": payload[: 5 + dice % max(1, len(payload) - 5)],
        "invalid_utf8": payload.replace(key, b"\xff" * len(key), 1) if key and key in payload[5:] else _noise(dice),
        "random_bytes": _noise(dice),
        "unknown_schema": payload[:1] + struct.pack(">I", UNKNOWN_ID) + payload[5:],
        "json": b'{"not":"avro"}',
        "no_body": payload[:5],
        "trailing": payload + b"\x00",
    }
    return made[kind] if len(payload) > 5 else _noise(dice)


PROTOBUF_KINDS = (
    "empty",
    "no_payload",
    "cut_length",
    "invalid_utf8",
    "random_bytes",
    "unknown_schema",
    "json",
    "no_body",
    "deep",
    "wrong_wire",
)
"""The ways to break a Protobuf record in Confluent's framing."""


def break_protobuf(kind: str, payload: bytes, key: bytes, dice: int) -> bytes | None:
    """A broken copy of a framed Protobuf record whose tie-breaker's text is ``key``, as :func:`break_json`."""
    made: dict[str, bytes | None] = {
        "empty": b"",
        "no_payload": None,
        "cut_length": payload + b"\xfa\x01\xff\xff\xff\x7f" + b"x" * (dice % 100),  # a field that says to be longer than the record
        "invalid_utf8": payload.replace(key, b"\xff" * len(key), 1) if key and key in payload[6:] else _noise(dice),
        "random_bytes": b"\xff" + _noise(dice),
        "unknown_schema": payload[:1] + struct.pack(">I", UNKNOWN_ID) + payload[5:],
        "json": b'{"not":"protobuf"}',
        "no_body": payload[:5],
        "deep": payload + b"\x83\x7d" * 500,  # groups in groups
        "wrong_wire": payload + b"\x0f",  # a wire type that there is not
    }
    return made[kind] if len(payload) > 6 else _noise(dice)
