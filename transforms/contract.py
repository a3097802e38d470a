"""The contract of a source: which events count, and why the others do not.

:func:`check` judges a batch of Arrow rows, :func:`check_json` a batch of JSON payloads; both by the same rules and both
columnar, so batch and stream cannot differ. A reject is data: a reason code, a detail that names field and value, and
(in :data:`DEAD_LETTER_SCHEMA`) the original bytes. The verdict on a record never depends on the records beside it.

What is accepted, whatever carries it (the rest of the type rules is "nothing else"):

* string: text that is valid UTF-8, at most 64 KiB of it; in Arrow also large, dictionary and binary columns that hold such text.
* int64: integers; floats that are integral (``5.0``) and exact: below 2^53 in magnitude, float32 2^24, float16 2^11. Never a bool.
* float64: floats (``-0.0`` becomes ``0.0``); integers up to 2^53 in magnitude, which a float64 holds exactly. Never a bool.
* bool: true and false.
* timestamp: in Arrow a timestamp of any unit, without a zone read as UTC, nanoseconds floored to microseconds; an integer
  as microseconds since 1970 UTC; text ``YYYY-MM-DDThh:mm:ss[.f]`` with a zone, ``Z``, ``+hh:mm`` or ``+hhmm`` (RFC 3339), and any
  number of digits of fraction, floored to microseconds. Only the years 1 to 9999. No floats, no leap seconds, no text without a
  zone. An event time in the first 60 days of 1970 is a time in seconds or milliseconds taken for microseconds, and is refused as such.
* Unknown fields are accepted and dropped; a missing optional field is null; a null is a missing value.

A JSON payload is one object in UTF-8 without a byte-order mark. A repeated key at any depth makes it malformed (nobody
can say which value was meant), and so do more than 64 levels of nesting and more than 16 MiB. The tokens NaN, Infinity and
-Infinity are read as these floats, so they get their own reason where a field of the contract holds them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import (
    CODE,
    EXACT,
    MAX_INT64,
    OK,
    Codes,
    Column,
    Refused,
    all_ok,
    as_bytes,
    convert,
    float64_values,
    from_values,
    int64_values,
    is_valid,
    json_values,
    mark,
    parse_json,
    raw_value,
    target_type,
    typed_fields,
)
from transforms.definitions import TIMESTAMP, EventSource, Field, micros
from transforms.fields import LIST_TYPES, MAX_TEXT_BYTES
from transforms.instants import micros_of
from transforms.json_columns import read_columns
from transforms.origin import Origin
from transforms.reasons import (
    FUTURE_TIMESTAMP,
    INFINITE,
    INVALID_UTF8,
    MALFORMED,
    MISSING_FIELD,
    MISSING_TIMESTAMP,
    NAN,
    NONPOSITIVE_TIMESTAMP,
    NOT_IN_DOMAIN,
    OUT_OF_RANGE,
    OVERFLOW,
    REASONS,
    TOO_LONG,
    WRONG_TYPE,
    WRONG_TYPE_TIMESTAMP,
    WRONG_UNIT_TIMESTAMP,
)

__all__ = [
    "DEAD_LETTER_SCHEMA",
    "Checked",
    "Now",
    "Origin",
    "check",
    "check_json",
    "check_records",
    "dead_letters",
    "encode_json",
    "field_of",
]
DEAD_LETTER_SCHEMA = pa.schema([
    pa.field("source", pa.string(), nullable=False),
    pa.field("file", pa.string()),
    pa.field("row", pa.int64()),
    pa.field("topic", pa.string()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string(), nullable=False),
    pa.field("payload", pa.binary()),
    pa.field("event_time", TIMESTAMP),
])  # fmt: skip
"""One row per reject. ``row`` is the 0-based row or line of ``file``; ``payload`` the original bytes (null: there were none)."""

_COLUMNAR_FROM = 64
"""Payloads from which on it pays to read them by columns."""
# Seconds taken for microseconds lie within the first hours of 1970, milliseconds within its first 60 days until the year 2111.
_WRONG_UNIT_US = micros(timedelta(days=60))
_MIN_US = micros_of(datetime.min.replace(tzinfo=UTC))
_MAX_US = micros_of(datetime.max.replace(tzinfo=UTC))

_TIMES = "send whole microseconds since 1970, or text with a zone such as 2024-05-01T10:00:00.123456Z or ...+02:00"

Now = int | npt.NDArray[np.int64]
"""The instant at which records are judged: one for all, or one for each."""


@dataclass(frozen=True)
class Checked:
    """The verdict on N records, in their order.

    ``valid`` holds the accepted records, exactly in ``source.arrow_schema``; ``reasons`` and ``details`` (strings of
    length N) are null for these; ``times`` (timestamps of length N) is every record's event time as far as it can be read.
    """

    valid: pa.RecordBatch
    reasons: pa.Array
    details: pa.Array
    times: pa.Array
    records: npt.NDArray[np.int64] | None = None
    """The record of each row of ``valid``, where a record may be several events or, though it is no reject, none."""
    passed_over: int = 0
    """The events that the source's ``where`` does not take."""
    empty: int = 0
    """The records without an event: the list that the source explodes is empty, null or missing."""

    @property
    def accepted(self) -> npt.NDArray[np.int64]:
        """The record of each row of ``valid``, ascending: row i of ``valid`` is of record ``accepted[i]``."""
        return np.flatnonzero(~is_valid(self.reasons)) if self.records is None else self.records

    @property
    def rejected(self) -> npt.NDArray[np.int64]:
        """The positions of the rejected records, ascending."""
        return np.flatnonzero(is_valid(self.reasons))


def check(batch: pa.RecordBatch, source: EventSource, now_us: Now, max_future_us: int, origin: Origin | None = None) -> Checked:
    """Judge N Arrow rows of any schema at the instant ``now_us`` (UTC microseconds; an int64 array [N] gives each row its own).

    An event time later than ``now_us + max_future_us`` is refused. ``origin`` is what the N records carry beside their values. Never
    raises for what the rows hold.
    """
    _not_yet(source)
    n = batch.num_rows
    names = batch.schema.names
    columns: dict[str, Column] = {}
    raw: dict[str, pa.Array] = {}
    start, notes = all_ok(n), {}
    for name, dtype in typed_fields(source):
        places = [i for i, other in enumerate(names) if other == name]
        raw[name] = batch.column(places[0]) if places else pa.nulls(n)
        columns[name] = convert(raw[name], dtype)
        if len(places) > 1:
            start[:] = CODE[MALFORMED]
            notes = dict.fromkeys(range(n), f"the column {name!r} is there {len(places)} times")
    return _judge(source, columns, start, notes, lambda name, row: raw_value(raw[name], row), now_us, max_future_us)


def check_json(
    payloads: pa.Array | Sequence[bytes | None], source: EventSource, now_us: Now, max_future_us: int, origin: Origin | None = None
) -> Checked:
    """Judge N payloads (a binary or string array, or a sequence of bytes or None), each one JSON object; as :func:`check`."""
    _not_yet(source)
    if isinstance(payloads, pa.Array) and pa.types.is_binary(payloads.type) and len(payloads) >= _COLUMNAR_FROM:
        return _check_json_columns(payloads, source, now_us, max_future_us)
    if isinstance(payloads, (pa.Array, pa.ChunkedArray)):
        payloads = as_bytes(payloads)
    records: list[dict[str, Any]] = []
    refused: dict[int, tuple[str, str]] = {}
    for row, payload in enumerate(payloads):
        try:
            records.append(parse_json(payload))
        except Refused as e:
            records.append({})
            refused[row] = e.reason, e.detail
    return check_records(records, refused, source, now_us, max_future_us)


def check_records(
    records: Sequence[Mapping[str, Any]], refused: Mapping[int, tuple[str, str]], source: EventSource, now_us: Now, max_future_us: int,
    origin: Origin | None = None,
) -> Checked:  # fmt: skip
    """Judge N decoded records, whatever carried them; as :func:`check`.

    Values are None, bool, int, float, str, bytes (text, for a string field), or anything else, which is of no field's type; dicts and
    lists are stepped through by paths. ``refused`` maps the positions of records that could not be decoded to (reason, detail); what
    stands there is not looked at.
    """
    _not_yet(source)
    start = all_ok(len(records))
    for row, (reason, _) in refused.items():
        start[row] = CODE[reason]
    notes = {row: detail for row, (_, detail) in refused.items()}
    columns = {name: from_values([r.get(name) for r in records], dtype) for name, dtype in typed_fields(source)}
    return _judge(source, columns, start, notes, lambda name, row: records[row].get(name), now_us, max_future_us)


def _check_json_columns(payloads: pa.Array, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """As :func:`check_json`, by columns where that is safe. What is not accepted this way is judged record by record, so that every
    reject has its own reason and detail, whatever its neighbours are."""
    n = len(payloads)
    schema = pa.schema([(name, target_type(dtype)) for name, dtype in typed_fields(source)])
    found, places, times = [], [], []
    for rows, batch in read_columns(payloads, schema):
        columns = {name: convert(batch.column(i), dtype) for i, (name, dtype) in enumerate(typed_fields(source))}
        for f in source.fields:
            if f.dtype == "float64":  # of an integer this large a float64 is not known to be exact
                array, codes = columns[f.name]
                codes[np.abs(float64_values(array)) >= EXACT] = CODE[OVERFLOW]
        arrays, by_column, when = _apply(source, columns, now_us if isinstance(now_us, int) else now_us[rows], max_future_us)
        good = np.logical_and.reduce([codes == OK for codes in by_column.values()])
        keep = pa.array(good)
        found.append(pa.RecordBatch.from_arrays(arrays, schema=source.arrow_schema).filter(keep))
        places.append(rows[good])
        times.append(when.filter(keep))
    done = np.zeros(n, dtype=bool)
    for rows in places:
        done[rows] = True
    rest = np.flatnonzero(~done)
    if len(rest) or len(found) != 1:
        slow = check_json(
            as_bytes(payloads.take(pa.array(rest))), source, now_us if isinstance(now_us, int) else now_us[rest], max_future_us
        )
        order = np.argsort(np.concatenate([*places, rest[slow.accepted]]), kind="stable")
        by_row = np.argsort(np.concatenate([*places, rest]), kind="stable")
        batches = [*found, slow.valid]
        valid = pa.RecordBatch.from_arrays(
            [pa.concat_arrays([b.column(i) for b in batches]).take(pa.array(order)) for i in range(len(schema))], schema=source.arrow_schema
        )
        none = pa.nulls(n - len(rest), pa.string())
        reasons, details = (pa.concat_arrays([none, each]).take(pa.array(by_row)) for each in (slow.reasons, slow.details))
        return Checked(valid, reasons, details, pa.concat_arrays([*times, slow.times]).take(pa.array(by_row)))
    none = pa.nulls(n, pa.string())
    return Checked(found[0], none, none, times[0])


def _not_yet(source: EventSource) -> None:
    if source.mapped or any(f.dtype in LIST_TYPES for f in source.fields):
        raise NotImplementedError(f"source {source.name!r}: paths, parse, value, where, explode and lists are declared, but not read yet")


def encode_json(batch: pa.RecordBatch, source: EventSource | None = None) -> pa.Array:
    """The canonical payload of each row: a binary array of length N, one compact JSON object per row, keys in column order.

    Timestamps are integer microseconds, nulls are ``null``, floats the shortest text that reads back the same. A valid
    batch comes back from :func:`check_json` exactly. Any other batch can be encoded too, so that a reject keeps what it
    held: bytes that are not UTF-8 stand in the payload as they were (so it is not valid UTF-8 either), NaN and infinity
    as the tokens that :func:`check_json` reads; values that JSON has no form for (dates, decimals) as text. With its ``source`` a
    record that :func:`check` refuses is refused by :func:`check_json` too: what would be another value there stands as an object.
    """
    # An encoder per call: surrogate escapes from json_values pass through it and become the original bytes again.
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
    names = batch.schema.names
    dtypes = {} if source is None else dict(typed_fields(source))
    lists = [json_values(column, dtypes.get(name)) for name, column in zip(names, batch.columns, strict=True)]
    rows = zip(*lists, strict=True) if lists else [()] * batch.num_rows
    texts = [encode(dict(zip(names, row, strict=True))).encode("utf-8", "surrogateescape") for row in rows]
    return pa.array(texts, type=pa.binary())


def dead_letters(
    source: EventSource, checked: Checked, payloads: pa.Array, *, file: str | None = None, rows: pa.Array | None = None,
    topic: str | None = None, partition: int | None = None, offsets: pa.Array | None = None,
) -> pa.RecordBatch:  # fmt: skip
    """The R rejects of ``checked`` in :data:`DEAD_LETTER_SCHEMA`.

    ``payloads`` are the rejects' original bytes (binary, length R); ``rows`` and ``offsets`` (int64, length N) number all records.
    """
    at = pa.array(checked.rejected)
    given = {
        "source": source.name, "file": file, "topic": topic, "partition": partition, "payload": payloads,
        "row": None if rows is None else rows.take(at), "offset": None if offsets is None else offsets.take(at),
        "reason": checked.reasons.take(at), "detail": checked.details.take(at), "event_time": checked.times.take(at),
    }  # fmt: skip
    columns = [
        value if isinstance(value, pa.Array) else pa.nulls(len(at), f.type) if value is None
        else pa.array([value] * len(at), f.type)
        for f in DEAD_LETTER_SCHEMA for value in [given[f.name]]
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=DEAD_LETTER_SCHEMA)


_NAMED = re.compile(r"([a-z][a-z0-9_]*)(?: is missing or null\Z|=| \((?:an object|a list)\) )")


def field_of(detail: str | None) -> str | None:
    """The field that a reject's detail is about; None where it is about the record as a whole."""
    found = _NAMED.match(detail or "")
    return found[1] if found else None


# ---- the verdict -------------------------------------------------------------------------------------------------------


def _judge(
    source: EventSource, columns: dict[str, Column], start: Codes, notes: dict[int, str], raw: Callable[[str, int], Any],
    now_us: Now, max_future_us: int,
) -> Checked:  # fmt: skip
    """The verdicts on converted columns. ``start`` and ``notes`` are verdicts that hold for whole records already."""
    arrays, codes, times = _apply(source, columns, now_us, max_future_us)
    verdict = start.copy()
    for column_codes in codes.values():
        np.minimum(verdict, column_codes, out=verdict)
    good = verdict == OK
    bad = np.flatnonzero(~good)
    valid = pa.RecordBatch.from_arrays(arrays, schema=source.arrow_schema)
    if not len(bad):
        none = pa.nulls(len(good), pa.string())
        return Checked(valid, none, none, times)
    details: list[str | None] = [None] * len(good)
    for row in bad.tolist():
        if row in notes:
            details[row] = notes[row]
        else:
            name = next(name for name, c in codes.items() if c[row] == verdict[row])
            details[row] = _detail(source, name, REASONS[verdict[row]], raw(name, row), max_future_us)
    reasons = pa.array(REASONS).take(pa.array(np.where(good, 0, verdict).astype(np.int64), mask=good))
    return Checked(valid.filter(pa.array(good)), reasons, pa.array(details, pa.string()), times)


def _apply(
    source: EventSource, columns: dict[str, Column], now_us: Now, max_future_us: int
) -> tuple[list[pa.Array], dict[str, Codes], pa.Array]:
    """The rules on N converted rows: the columns in ``source.arrow_schema``, a code per column and row, and the event times."""
    us, time_codes = columns[source.event_time]
    micros_of, absent = int64_values(us), ~is_valid(us)
    codes = {source.event_time: time_codes}
    time_codes[time_codes != OK] = CODE[WRONG_TYPE_TIMESTAMP]
    mark(time_codes, absent, MISSING_TIMESTAMP)
    mark(time_codes, micros_of <= 0, NONPOSITIVE_TIMESTAMP)
    mark(time_codes, micros_of < _WRONG_UNIT_US, WRONG_UNIT_TIMESTAMP)
    now_us = max(_MIN_US, min(_MAX_US, now_us)) if isinstance(now_us, int) else np.clip(now_us, _MIN_US, _MAX_US)
    horizon = now_us + min(max_future_us, _MAX_US - _MIN_US)
    mark(time_codes, micros_of > np.minimum(horizon, _MAX_US), FUTURE_TIMESTAMP)
    times = pa.array(micros_of, mask=absent | (micros_of < _MIN_US) | (micros_of > _MAX_US)).cast(TIMESTAMP)
    arrays = [times]
    for f in source.fields:
        array, field_codes = columns[f.name]
        codes[f.name] = _apply_rules(f, array, field_codes)
        arrays.append(array.cast(TIMESTAMP) if f.dtype == "timestamp" else array)
    return arrays, codes, times


def _apply_rules(f: Field, array: pa.Array, codes: Codes) -> Codes:
    present = is_valid(array)
    if f.required:
        mark(codes, ~present, MISSING_FIELD)
    if f.dtype == "timestamp":
        us = int64_values(array)
        mark(codes, (us < _MIN_US) | (us > _MAX_US), OUT_OF_RANGE)
    elif f.dtype == "float64":
        values = float64_values(array)
        mark(codes, np.isnan(values), NAN)
        mark(codes, np.isinf(values), INFINITE)
        if f.min is not None:
            mark(codes, present & (values < f.min), OUT_OF_RANGE)
        if f.max is not None:
            mark(codes, present & (values > f.max), OUT_OF_RANGE)
    elif f.dtype == "int64" and (f.min is not None or f.max is not None):
        whole = int64_values(array)
        low, high = _whole_bounds(f)
        mark(codes, present & ((whole < low) | (whole > high)) if low <= high else present, OUT_OF_RANGE)
    elif f.dtype == "string":
        mark(codes, pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False) > MAX_TEXT_BYTES, TOO_LONG)
    if f.domain is not None:
        known = pc.is_in(array, value_set=pa.array(list(f.domain), type=array.type))
        mark(codes, present & ~known.to_numpy(zero_copy_only=False), NOT_IN_DOMAIN)
    return codes


def _whole_bounds(f: Field) -> tuple[int, int]:
    """The inclusive int64 bounds that are the same as the field's bounds for integers; low > high allows none."""
    low = -MAX_INT64 - 1 if f.min is None or f.min < -MAX_INT64 - 1 else MAX_INT64 + 1 if f.min > MAX_INT64 else math.ceil(f.min)
    high = MAX_INT64 if f.max is None or f.max > MAX_INT64 else -MAX_INT64 - 2 if f.max < -MAX_INT64 - 1 else math.floor(f.max)
    return (low, high) if low <= MAX_INT64 and high >= -MAX_INT64 - 1 else (1, 0)


def _detail(source: EventSource, name: str, reason: str, value: Any, max_future_us: int) -> str:
    """One line that names the field, the value and the rule."""
    if reason in (MISSING_TIMESTAMP, MISSING_FIELD):
        return f"{name} is missing or null"
    if isinstance(value, (dict, list, set, tuple)):
        shown = f"{name} ({'an object' if isinstance(value, dict) else 'a list'})"
    else:
        shown = repr(value[:80] if isinstance(value, (str, bytes)) else value)
        shown = f"{name}={shown if len(shown) <= 100 else shown[:97] + '...'}"
    if reason == FUTURE_TIMESTAMP:
        return f"{shown} lies more than {timedelta(microseconds=max_future_us)} ahead of the instant that it is judged at"
    if reason == WRONG_UNIT_TIMESTAMP:
        return f"{shown} lies in early 1970: it looks like seconds or milliseconds; send microseconds"
    if reason == TOO_LONG:
        return f"{shown} is longer than {MAX_TEXT_BYTES} bytes"
    if reason in (WRONG_TYPE_TIMESTAMP, NONPOSITIVE_TIMESTAMP):
        return f"{shown} {f'is no timestamp; {_TIMES}' if reason == WRONG_TYPE_TIMESTAMP else 'is not after 1970'}"
    f = source.field(name)
    if reason == OUT_OF_RANGE:
        low, high = (1, 9999) if f.dtype == "timestamp" else (f.min, f.max)
        return f"{shown} is outside of {'the years ' if f.dtype == 'timestamp' else ''}{low} to {high}".replace("None", "any")
    if reason == NOT_IN_DOMAIN:
        allowed = list(f.domain or ())
        return f"{shown} is none of {', '.join(map(repr, allowed)) if len(allowed) <= 8 else f'the {len(allowed)} allowed values'}"
    taken = f"; {_TIMES}" if f.dtype == "timestamp" else ""
    ends = {WRONG_TYPE: f"is no {f.dtype}{taken}", OVERFLOW: f"does not fit {f.dtype} exactly", INVALID_UTF8: "is not valid UTF-8"}
    return f"{shown} {ends.get(reason, 'is not a finite number')}"
