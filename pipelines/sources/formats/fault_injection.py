"""Broken copies of records: one function per way in which producers break them, for replays and tests.

Whatever it is made from, a broken copy is refused by the contract of its source, so that dead letters can be counted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from transforms.contract import check_json
from transforms.definitions import EventSource, Field
from transforms.instants import now_us

__all__ = ["AVRO_KINDS", "JSON_KINDS", "PROTOBUF_KINDS", "UNKNOWN_ID", "break_avro", "break_json", "break_protobuf"]

UNKNOWN_ID = 2**31 - 7
"""A schema id that no registry gives out."""
HUGE_BYTES = 512 * 1024
"""Above what the contract allows for a text, below what a broker takes by default."""
_CENTURY_US = 100 * 365 * 86_400_000_000

Record = dict[str, Any]


def _put(record: Record, field: Field, value: Any) -> Record:
    """The record with ``value`` where the field stands; as it is, if that is in no member of it."""
    steps = field.place
    if not isinstance(steps, tuple) or field.value is not None:
        return record
    made = at = dict(record)
    for step in steps[:-1]:
        inner = at.get(cast(str, step))
        if not isinstance(inner, dict):
            return record
        at[cast(str, step)] = at = dict(inner)
    at[cast(str, steps[-1])] = value
    return made


def _value(record: Record, field: Field) -> Any:
    found: Any = record
    for step in field.place if isinstance(field.place, tuple) else ():
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _tie(source: EventSource) -> Field:
    return next(f for f in source.fields if f.name == source.tie_breaker)


def _refused(payload: bytes, source: EventSource) -> bool:
    """Whether the contract takes nothing of it, and makes it a dead letter: a filter may leave it out, another path read past the fault."""
    checked = check_json([payload], source, now_us(), 0)
    return not checked.valid.num_rows and len(checked.rejected) > 0


def _encode(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _noise(dice: int) -> bytes:
    """Bytes that are neither JSON nor a Confluent message: the first one can open neither."""
    random = np.random.default_rng(dice)
    return bytes([(0x01, 0xFF)[dice & 1]]) + random.bytes(int(random.integers(1, 200)))


def _number(source: EventSource, record: Record, value: Any) -> bytes:
    """A number that its field cannot be; in the event time where no field is a number."""
    numbers = (f for f in source.fields if f.dtype in ("float64", "int64") and f.value is None)
    return _encode(_put(record, next(numbers, source.all_fields[0]), value))


def _time(source: EventSource, record: Record, change: Callable[[int], int]) -> bytes:
    field = source.all_fields[0]
    now = _value(record, field)
    return _encode(_put(record, field, change(now if type(now) is int and now > 0 else 10**15)))


def _without_tie(source: EventSource, record: Record) -> bytes:
    return _encode({k: v for k, v in _put(record, _tie(source), None).items() if k != source.tie_breaker})


_JSON: dict[str, Callable[[EventSource, Record, bytes, int], bytes | None]] = {
    "empty": lambda source, record, payload, dice: b"",
    "no_payload": lambda source, record, payload, dice: None,
    "truncated": lambda source, record, payload, dice: payload[: 1 + dice % (len(payload) - 1)],
    "invalid_utf8": lambda source, record, payload, dice: payload[:-1] + b',"note":"caf\xe9"}',
    "random_bytes": lambda source, record, payload, dice: _noise(dice),
    "unknown_schema": lambda source, record, payload, dice: struct.pack(">bI", 0, UNKNOWN_ID) + payload,
    "wrong_type": lambda source, record, payload, dice: _encode(_put(record, _tie(source), [_value(record, _tie(source))])),
    "missing_field": lambda source, record, payload, dice: _without_tie(source, record),
    "overflow": lambda source, record, payload, dice: _number(source, record, 10**30),
    "nan": lambda source, record, payload, dice: _number(source, record, float("nan")),
    "huge": lambda source, record, payload, dice: _encode(_put(record, _tie(source), "x" * HUGE_BYTES)),
    "deep": lambda source, record, payload, dice: payload[:-1] + b',"note":' + b"[" * 100 + b"]" * 100 + b"}",
    "duplicate_keys": lambda source, record, payload, dice: payload[:-1] + b"," + payload[1:],
    "seconds": lambda source, record, payload, dice: _time(source, record, lambda us: us // 10**6),
    "milliseconds": lambda source, record, payload, dice: _time(source, record, lambda us: us // 1000),
    "far_future": lambda source, record, payload, dice: _time(source, record, lambda us: us + _CENTURY_US),
}
JSON_KINDS = tuple(_JSON)
"""The ways to break a JSON record."""


def break_json(kind: str, payload: bytes, source: EventSource, dice: int) -> bytes | None:
    """A broken copy of the JSON object in ``payload`` (None: no payload). ``dice`` are random bits.

    It is noise where ``payload`` is no object, or where the source's contract would take an object that is broken in this way.
    """
    try:
        record = json.loads(payload)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not record:
        return _noise(dice)
    made = _JSON[kind](source, record, payload.strip(), dice)
    return made if made is None or _refused(made, source) else _noise(dice)


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
