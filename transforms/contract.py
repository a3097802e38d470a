"""The contract of a source: which events count, and why the others do not.

:func:`check` judges a batch of Arrow rows, :func:`check_json` a batch of JSON payloads; both by the same rules and both
columnar, so batch and stream cannot differ. A reject is data: a reason code, a detail that names field and value, and
(in :data:`DEAD_LETTER_SCHEMA`) the original bytes. The verdict on a record never depends on the records beside it.

What is accepted, whatever carries it (the rest of the type rules is "nothing else"):

* string: text that is valid UTF-8, at most 64 KiB of it; in Arrow also large, dictionary and binary columns that hold such text.
* int64: integers; floats that are integral and in range (``5.0``). Never a bool.
* float64: floats (``-0.0`` becomes ``0.0``); integers up to 2^53 in magnitude, which a float64 holds exactly. Never a bool.
* bool: true and false.
* timestamp: in Arrow a timestamp of any unit, without a zone read as UTC, nanoseconds floored to microseconds; an integer
  as microseconds since 1970 UTC; text ``YYYY-MM-DDThh:mm:ss[.f]`` with one to six digits of fraction and a zone, ``Z`` or
  ``+hh:mm``. Only the years 1 to 9999. No floats, no leap seconds, no text without a zone. An event time in the first 60 days
  of 1970 is a time in seconds or milliseconds taken for microseconds, and is refused as such.
* Unknown fields are accepted and dropped; a missing optional field is null; a null is a missing value.

A JSON payload is one object in UTF-8 without a byte-order mark. A repeated key at any depth makes it malformed (nobody
can say which value was meant), and so do more than 64 levels of nesting. The tokens NaN, Infinity and -Infinity are read
as these floats, so they get their own reason where a field of the contract holds them.
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

from transforms.definitions import ARROW_TYPES, TIMESTAMP, EventSource, Field, micros
from transforms.json_columns import read_columns

__all__ = ["DEAD_LETTER_SCHEMA", "REASONS", "Checked", "check", "check_json", "check_records", "dead_letters", "encode_json"]

UNREADABLE_FILE = "unreadable_file"
"""A whole file cannot be read: damaged, truncated, not of its format."""
MALFORMED = "malformed"
"""Not JSON, not an object, no payload at all, a repeated key, nested too deep; a batch with a field's column twice."""
INVALID_UTF8 = "invalid_utf8"
"""A payload or a string field is not valid UTF-8 (in JSON also an unpaired surrogate escape)."""
UNKNOWN_SCHEMA = "unknown_schema"
"""A payload names a schema that its registry does not know, or that no event can be read by."""
MISSING_TIMESTAMP = "missing_timestamp"
"""The event time is absent or null."""
WRONG_TYPE_TIMESTAMP = "wrong_type_timestamp"
"""The event time is no timestamp."""
NONPOSITIVE_TIMESTAMP = "nonpositive_timestamp"
"""The event time is zero or negative: at or before 1970."""
WRONG_UNIT_TIMESTAMP = "wrong_unit_timestamp"
"""The event time lies in the first 60 days of 1970: seconds or milliseconds where microseconds are meant."""
FUTURE_TIMESTAMP = "future_timestamp"
"""The event time is further ahead of now than allowed."""
MISSING_FIELD = "missing_field"
"""A required field, such as an entity's key, is absent or null."""
WRONG_TYPE = "wrong_type"
"""A field's value is not of the field's type."""
OVERFLOW = "overflow"
"""A number that its field's type cannot hold exactly: beyond int64, or an integer beyond 2^53 for a float64."""
TOO_LONG = "too_long"
"""A text of more than 64 KiB in UTF-8: nothing that a feature is made of, but enough of them fill every memory on the way."""
NAN = "nan"
"""A number is not a number."""
INFINITE = "infinite"
"""A number is infinite (in JSON also a float beyond float64, ``1e999``)."""
OUT_OF_RANGE = "out_of_range"
"""A number is below ``min`` or above ``max``; a timestamp field is outside of the years 1 to 9999."""
NOT_IN_DOMAIN = "not_in_domain"
"""A value is none of the field's ``domain``."""

REASONS = (
    UNREADABLE_FILE, MALFORMED, INVALID_UTF8, UNKNOWN_SCHEMA, MISSING_TIMESTAMP, WRONG_TYPE_TIMESTAMP, NONPOSITIVE_TIMESTAMP,
    WRONG_UNIT_TIMESTAMP, FUTURE_TIMESTAMP, MISSING_FIELD, WRONG_TYPE, OVERFLOW, TOO_LONG, NAN, INFINITE, OUT_OF_RANGE, NOT_IN_DOMAIN,
)  # fmt: skip
"""All reason codes, in order: the first that holds for any field is the record's reason; among fields, the first in schema order."""

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

_CODE = {reason: np.uint8(i) for i, reason in enumerate(REASONS)}
_OK = np.uint8(255)
_MAX_DEPTH = 64
_COLUMNAR_FROM = 64
"""Payloads from which on it pays to read them by columns."""
_MAX_TEXT_BYTES = 64 << 10
_MAX_INT64, _EXACT = 2**63 - 1, 2**53
# Seconds taken for microseconds lie within the first hours of 1970, milliseconds within its first 60 days until the year 2111.
_WRONG_UNIT_US = micros(timedelta(days=60))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_US = micros(datetime.min.replace(tzinfo=UTC) - _EPOCH)
_MAX_US = micros(datetime.max.replace(tzinfo=UTC) - _EPOCH)
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])")

# The Python types of JSON values that Arrow converts as the contract wants it.
_CLEAN: dict[str, set[type]] = {"string": {str}, "int64": {int}, "float64": {float, int}, "bool": {bool}, "timestamp": {int}}

Now = int | npt.NDArray[np.int64]
"""The instant at which records are judged: one for all, or one for each."""
Codes = npt.NDArray[np.uint8]
Column = tuple[pa.Array, Codes]
"""A column converted to its field's type, and a code per row: ``_OK`` or the index of a reason."""


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

    @property
    def accepted(self) -> npt.NDArray[np.int64]:
        """The positions of the accepted records, ascending: row i of ``valid`` is record ``accepted[i]``."""
        return np.flatnonzero(~_valid(self.reasons))

    @property
    def rejected(self) -> npt.NDArray[np.int64]:
        """The positions of the rejected records, ascending."""
        return np.flatnonzero(_valid(self.reasons))


def check(batch: pa.RecordBatch, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """Judge N Arrow rows of any schema at the instant ``now_us`` (UTC microseconds; an int64 array [N] gives each row its own).

    An event time later than ``now_us + max_future_us`` is refused. Never raises for what the rows hold.
    """
    n = batch.num_rows
    names = batch.schema.names
    columns: dict[str, Column] = {}
    raw: dict[str, pa.Array] = {}
    start, notes = _all_ok(n), {}
    for name, dtype in _typed(source):
        places = [i for i, other in enumerate(names) if other == name]
        raw[name] = batch.column(places[0]) if places else pa.nulls(n)
        columns[name] = _convert(raw[name], dtype)
        if len(places) > 1:
            start[:] = _CODE[MALFORMED]
            notes = dict.fromkeys(range(n), f"the column {name!r} is there {len(places)} times")
    return _judge(source, columns, start, notes, lambda name, row: _raw(raw[name], row), now_us, max_future_us)


def check_json(payloads: pa.Array | Sequence[bytes | None], source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """Judge N payloads (a binary or string array, or a sequence of bytes or None), each one JSON object; as :func:`check`."""
    if isinstance(payloads, pa.Array) and pa.types.is_binary(payloads.type) and len(payloads) >= _COLUMNAR_FROM:
        return _check_json_columns(payloads, source, now_us, max_future_us)
    if isinstance(payloads, (pa.Array, pa.ChunkedArray)):
        payloads = _as_bytes(payloads)
    records: list[dict[str, Any]] = []
    refused: dict[int, tuple[str, str]] = {}
    for row, payload in enumerate(payloads):
        try:
            records.append(_parse(payload))
        except _Refused as e:
            records.append({})
            refused[row] = e.reason, e.detail
    return check_records(records, refused, source, now_us, max_future_us)


def check_records(
    records: Sequence[Mapping[str, Any]], refused: Mapping[int, tuple[str, str]], source: EventSource, now_us: Now, max_future_us: int
) -> Checked:
    """Judge N decoded records, whatever carried them; as :func:`check`.

    Values are None, bool, int, float, str, bytes (text, for a string field), or anything else, which is of no field's type.
    ``refused`` maps the positions of records that could not be decoded to (reason, detail); what stands there is not looked at.
    """
    start = _all_ok(len(records))
    for row, (reason, _) in refused.items():
        start[row] = _CODE[reason]
    notes = {row: detail for row, (_, detail) in refused.items()}
    columns = {name: _from_values([r.get(name) for r in records], dtype) for name, dtype in _typed(source)}
    return _judge(source, columns, start, notes, lambda name, row: records[row].get(name), now_us, max_future_us)


def _check_json_columns(payloads: pa.Array, source: EventSource, now_us: Now, max_future_us: int) -> Checked:
    """As :func:`check_json`, by columns where that is safe. What is not accepted this way is judged record by record, so that every
    reject has its own reason and detail, whatever its neighbours are."""
    n = len(payloads)
    schema = pa.schema([(name, _target(dtype)) for name, dtype in _typed(source)])
    found, places, times = [], [], []
    for rows, batch in read_columns(payloads, schema):
        columns = {name: _convert(batch.column(i), dtype) for i, (name, dtype) in enumerate(_typed(source))}
        for f in source.fields:
            if f.dtype == "float64":  # of an integer this large a float64 is not known to be exact
                array, codes = columns[f.name]
                codes[np.abs(_float64(array)) >= _EXACT] = _CODE[OVERFLOW]
        arrays, by_column, when = _apply(source, columns, now_us if isinstance(now_us, int) else now_us[rows], max_future_us)
        good = np.logical_and.reduce([codes == _OK for codes in by_column.values()])
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
            _as_bytes(payloads.take(pa.array(rest))), source, now_us if isinstance(now_us, int) else now_us[rest], max_future_us
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


def encode_json(batch: pa.RecordBatch) -> pa.Array:
    """The canonical payload of each row: a binary array of length N, one compact JSON object per row, keys in column order.

    Timestamps are integer microseconds, nulls are ``null``, floats the shortest text that reads back the same. A valid
    batch comes back from :func:`check_json` exactly. Any other batch can be encoded too, so that a reject keeps what it
    held: bytes that are not UTF-8 stand in the payload as they were (so it is not valid UTF-8 either), NaN and infinity
    as the tokens that :func:`check_json` reads; values that JSON has no form for (dates, decimals) as text.
    """
    # An encoder per call: surrogate escapes from _json_values pass through it and become the original bytes again.
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
    names = batch.schema.names
    lists = [_json_values(column) for column in batch.columns]
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
    good = verdict == _OK
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
    micros_of, absent = _int64(us), ~_valid(us)
    codes = {source.event_time: time_codes}
    time_codes[time_codes != _OK] = _CODE[WRONG_TYPE_TIMESTAMP]
    _mark(time_codes, absent, MISSING_TIMESTAMP)
    _mark(time_codes, micros_of <= 0, NONPOSITIVE_TIMESTAMP)
    _mark(time_codes, micros_of < _WRONG_UNIT_US, WRONG_UNIT_TIMESTAMP)
    now_us = max(_MIN_US, min(_MAX_US, now_us)) if isinstance(now_us, int) else np.clip(now_us, _MIN_US, _MAX_US)
    horizon = now_us + min(max_future_us, _MAX_US - _MIN_US)
    _mark(time_codes, micros_of > np.minimum(horizon, _MAX_US), FUTURE_TIMESTAMP)
    times = pa.array(micros_of, mask=absent | (micros_of < _MIN_US) | (micros_of > _MAX_US)).cast(TIMESTAMP)
    arrays = [times]
    for f in source.fields:
        array, field_codes = columns[f.name]
        codes[f.name] = _apply_rules(f, array, field_codes)
        arrays.append(array.cast(TIMESTAMP) if f.dtype == "timestamp" else array)
    return arrays, codes, times


def _apply_rules(f: Field, array: pa.Array, codes: Codes) -> Codes:
    present = _valid(array)
    if f.required:
        _mark(codes, ~present, MISSING_FIELD)
    if f.dtype == "timestamp":
        us = _int64(array)
        _mark(codes, (us < _MIN_US) | (us > _MAX_US), OUT_OF_RANGE)
    elif f.dtype == "float64":
        values = _float64(array)
        _mark(codes, np.isnan(values), NAN)
        _mark(codes, np.isinf(values), INFINITE)
        if f.min is not None:
            _mark(codes, present & (values < f.min), OUT_OF_RANGE)
        if f.max is not None:
            _mark(codes, present & (values > f.max), OUT_OF_RANGE)
    elif f.dtype == "int64" and (f.min is not None or f.max is not None):
        whole = _int64(array)
        low, high = _whole_bounds(f)
        _mark(codes, present & ((whole < low) | (whole > high)) if low <= high else present, OUT_OF_RANGE)
    elif f.dtype == "string":
        _mark(codes, pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False) > _MAX_TEXT_BYTES, TOO_LONG)
    if f.domain is not None:
        known = pc.is_in(array, value_set=pa.array(list(f.domain), type=array.type))
        _mark(codes, present & ~known.to_numpy(zero_copy_only=False), NOT_IN_DOMAIN)
    return codes


def _whole_bounds(f: Field) -> tuple[int, int]:
    """The inclusive int64 bounds that are the same as the field's bounds for integers; low > high allows none."""
    low = -_MAX_INT64 - 1 if f.min is None or f.min < -_MAX_INT64 - 1 else _MAX_INT64 + 1 if f.min > _MAX_INT64 else math.ceil(f.min)
    high = _MAX_INT64 if f.max is None or f.max > _MAX_INT64 else -_MAX_INT64 - 2 if f.max < -_MAX_INT64 - 1 else math.floor(f.max)
    return (low, high) if low <= _MAX_INT64 and high >= -_MAX_INT64 - 1 else (1, 0)


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
        return f"{shown} lies more than {timedelta(microseconds=max_future_us)} ahead of now"
    if reason == WRONG_UNIT_TIMESTAMP:
        return f"{shown} lies in early 1970: it looks like seconds or milliseconds; send microseconds"
    if reason == TOO_LONG:
        return f"{shown} is longer than {_MAX_TEXT_BYTES} bytes"
    if reason in (WRONG_TYPE_TIMESTAMP, NONPOSITIVE_TIMESTAMP):
        return f"{shown} {'is no timestamp' if reason == WRONG_TYPE_TIMESTAMP else 'is not after 1970'}"
    f = source.field(name)
    if reason == OUT_OF_RANGE:
        low, high = (1, 9999) if f.dtype == "timestamp" else (f.min, f.max)
        return f"{shown} is outside of {'the years ' if f.dtype == 'timestamp' else ''}{low} to {high}".replace("None", "any")
    if reason == NOT_IN_DOMAIN:
        allowed = list(f.domain or ())
        return f"{shown} is none of {', '.join(map(repr, allowed)) if len(allowed) <= 8 else f'the {len(allowed)} allowed values'}"
    ends = {WRONG_TYPE: f"is no {f.dtype}", OVERFLOW: f"does not fit {f.dtype} exactly", INVALID_UTF8: "is not valid UTF-8"}
    return f"{shown} {ends.get(reason, 'is not a finite number')}"


# ---- columns to the types of fields ------------------------------------------------------------------------------------


def _typed(source: EventSource) -> list[tuple[str, str]]:
    return [(source.event_time, "timestamp")] + [(f.name, f.dtype or "") for f in source.fields]


def _convert(column: pa.Array, dtype: str) -> Column:
    """A column of any Arrow type as ``dtype``; timestamps as int64 microseconds, saturated at the ends of int64."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    t, n = column.type, len(column)
    texts = _is_text(t)
    if pa.types.is_null(t):
        return pa.nulls(n, _target(dtype)), _all_ok(n)
    if dtype == "string" and texts:
        return _strings(column)
    if dtype == "bool" and pa.types.is_boolean(t):
        return column, _all_ok(n)
    if dtype == "int64" and (pa.types.is_integer(t) or pa.types.is_float32(t) or pa.types.is_float64(t)):
        return _integers(column)
    if dtype == "float64" and (pa.types.is_integer(t) or pa.types.is_float32(t) or pa.types.is_float64(t)):
        return _floats(column)
    if dtype == "timestamp" and (pa.types.is_timestamp(t) or pa.types.is_integer(t)):
        return _timestamps(column), _all_ok(n)
    if dtype == "timestamp" and texts:
        return _one_by_one(_texts(column), dtype)
    codes = _all_ok(n)
    codes[_valid(column)] = _CODE[WRONG_TYPE]
    return pa.nulls(n, _target(dtype)), codes


def _strings(column: pa.Array) -> Column:
    codes = _all_ok(len(column))
    binary = column.cast(pa.large_binary() if _is_large(column.type) else pa.binary())
    try:
        return binary.cast(pa.string()), codes  # the cast looks at every byte
    except pa.ArrowInvalid:
        values = _as_bytes(binary)
        for row in np.flatnonzero(~pc.fill_null(pc.string_is_ascii(_relabel(binary)), True).to_numpy(zero_copy_only=False)).tolist():
            try:
                values[row].decode()
            except UnicodeDecodeError:
                values[row], codes[row] = None, _CODE[INVALID_UTF8]
        return pa.array(values, pa.binary()).cast(pa.string()), codes


def _integers(column: pa.Array) -> Column:
    codes, null = _all_ok(len(column)), ~_valid(column)
    if pa.types.is_uint64(column.type):
        big: npt.NDArray[np.uint64] = column.fill_null(0).to_numpy(zero_copy_only=False)
        _mark(codes, big > np.uint64(_MAX_INT64), OVERFLOW)
        return pa.array(np.where(codes == _OK, big, 0).astype(np.int64), mask=null | (codes != _OK)), codes
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()), codes
    values = _float64(column.cast(pa.float64()))
    _mark(codes, np.isnan(values), NAN)
    _mark(codes, np.isinf(values), INFINITE)
    _mark(codes, values != np.floor(values), WRONG_TYPE)
    _mark(codes, (values < -(2.0**63)) | (values >= 2.0**63), OVERFLOW)
    return pa.array(np.where(codes == _OK, values, 0).astype(np.int64), mask=null | (codes != _OK)), codes


def _floats(column: pa.Array) -> Column:
    if pa.types.is_integer(column.type):
        whole, codes = _integers(column)
        values = _int64(whole)
        _mark(codes, (values > _EXACT) | (values < -_EXACT), OVERFLOW)
        return pa.array(values.astype(np.float64), mask=~_valid(whole) | (codes != _OK)), codes
    real = _float64(column.cast(pa.float64()))
    return pa.array(real + 0.0, mask=~_valid(column)), _all_ok(len(column))


def _timestamps(column: pa.Array) -> pa.Array:
    null = ~_valid(column)
    if pa.types.is_uint64(column.type):
        us = np.minimum(column.fill_null(0).to_numpy(zero_copy_only=False), np.uint64(_MAX_INT64)).astype(np.int64)
    else:
        us = _int64(column.cast(pa.int64()))
        factor = {"s": 1_000_000, "ms": 1_000}.get(column.type.unit if pa.types.is_timestamp(column.type) else "us", 1)
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            us = np.floor_divide(us, 1000)
        elif factor > 1:
            most = _MAX_INT64 // factor
            us = np.where(us > most, _MAX_INT64, np.where(us < -most, -_MAX_INT64, np.clip(us, -most, most) * factor))
    return pa.array(us, mask=null)


def _from_values(values: list[Any], dtype: str) -> Column:
    """Python values as a column: at once when their types are clean, one by one otherwise, with the same verdicts."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= _CLEAN[dtype]:
        try:
            return _convert(pa.array(values, pa.int64() if dtype == "timestamp" else ARROW_TYPES[dtype]), dtype)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # some value is too large for its type or not UTF-8: look at each
    return _one_by_one(values, dtype)


def _one_by_one(values: list[Any], dtype: str) -> Column:
    converted, codes = [], _all_ok(len(values))
    for row, value in enumerate(values):
        try:
            converted.append(None if value is None else _value(value, dtype))
        except _Refused as e:
            converted.append(None)
            codes[row] = _CODE[e.reason]
    return pa.array(converted, _target(dtype)), codes


def _value(value: Any, dtype: str) -> Any:
    """One value as ``dtype``; raises _Refused with the reason. NaN and infinity pass for float64: its rules see them."""
    kind = type(value)
    if dtype == "string" and kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused(INVALID_UTF8) from None
        return value
    if dtype == "string" and kind is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise _Refused(INVALID_UTF8) from None
    if dtype == "bool" and kind is bool:
        return value
    if dtype == "float64" and kind is float:
        return value + 0.0
    if dtype == "float64" and kind is int:
        if abs(value) > _EXACT:
            raise _Refused(OVERFLOW)
        return float(value)
    if dtype == "int64" and kind is float:
        if not math.isfinite(value):
            raise _Refused(NAN if math.isnan(value) else INFINITE)
        if not value.is_integer():
            raise _Refused(WRONG_TYPE)
        value, kind = int(value), int
    if dtype == "int64" and kind is int:
        if not -_MAX_INT64 - 1 <= value <= _MAX_INT64:
            raise _Refused(OVERFLOW)
        return value
    if dtype == "timestamp" and kind is int:
        return max(-_MAX_INT64, min(_MAX_INT64, value))
    if dtype == "timestamp" and kind is str and _ISO.fullmatch(value):
        try:
            return micros(datetime.fromisoformat(value) - _EPOCH)
        except ValueError:
            raise _Refused(WRONG_TYPE) from None  # 30 February
    raise _Refused(WRONG_TYPE)


# ---- JSON --------------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(MALFORMED, f"the key {twice[:80]!r} is there more than once")
    return made


def _clipped_int(text: str) -> int:
    """An integer of any length; beyond 400 digits only its sign and hugeness are kept, as no field can hold it."""
    return int(text) if len(text) <= 400 else (-1 if text[0] == "-" else 1) * 10**400


_decode = json.JSONDecoder(object_pairs_hook=_object).decode
_decode_huge = json.JSONDecoder(object_pairs_hook=_object, parse_int=_clipped_int).decode
_NESTING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def _too_deep(payload: bytes) -> bool:
    if payload.count(b"[") + payload.count(b"{") <= _MAX_DEPTH:
        return False
    depth = 0
    for token in _NESTING.finditer(payload):
        first = token[0][:1]
        depth += 1 if first in b"[{" else -1 if first in b"]}" else 0
        if depth > _MAX_DEPTH:
            return True
    return False


def _parse(payload: bytes | None) -> dict[str, Any]:
    if not payload:
        raise _Refused(MALFORMED, "there is no payload" if payload is None else "the payload is empty")
    try:
        text = payload.decode()
    except UnicodeDecodeError as e:
        raise _Refused(INVALID_UTF8, f"byte {e.start} of the payload is 0x{payload[e.start]:02x}, not valid UTF-8") from None
    if _too_deep(payload):  # a fixed limit: the interpreter's own depends on who calls
        raise _Refused(MALFORMED, f"nested deeper than {_MAX_DEPTH} levels")
    try:
        try:
            record = _decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # the interpreter refuses integers of thousands of digits
            record = _decode_huge(text)
    except json.JSONDecodeError as e:
        raise _Refused(MALFORMED, f"not JSON: {e.msg} at character {e.pos}") from None
    if type(record) is not dict:
        raise _Refused(MALFORMED, f"a JSON {type(record).__name__}, not an object")
    return record


def _json_values(column: pa.Array) -> list[Any]:
    """A column as values for JSON; text that is not UTF-8 with surrogate escapes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    t = column.type
    if _is_text(t):
        return [None if b is None else b.decode("utf-8", "surrogateescape") for b in _as_bytes(column)]
    if pa.types.is_timestamp(t):
        values = column.cast(pa.int64()).to_pylist()
        scale = {"s": 1_000_000, "ms": 1_000}.get(t.unit, 1)
        return [None if v is None else v // 1000 if t.unit == "ns" else v * scale for v in values]
    if pa.types.is_float64(t) or pa.types.is_int64(t):
        values = list((_float64(column) if pa.types.is_float64(t) else _int64(column)).tolist())
        for row in np.flatnonzero(~_valid(column)).tolist():
            values[row] = None
        return values
    return [_raw(column, row) for row in range(len(column))]


# ---- small tools -------------------------------------------------------------------------------------------------------


def _all_ok(n: int) -> Codes:
    return np.full(n, _OK)


def _mark(codes: Codes, where: npt.NDArray[np.bool_], reason: str) -> None:
    """Give the rows of ``where`` that have no code yet this one."""
    codes[where & (codes == _OK)] = _CODE[reason]


def _valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _int64(array: pa.Array) -> npt.NDArray[np.int64]:
    """The values of an int64 array; 1 for null, which no rule of numbers minds."""
    values: npt.NDArray[np.int64] = (array.fill_null(1) if array.null_count else array).to_numpy(zero_copy_only=False)
    return values


def _float64(array: pa.Array) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = (array.fill_null(1.0) if array.null_count else array).to_numpy(zero_copy_only=False)
    return values


def _target(dtype: str) -> pa.DataType:
    return pa.int64() if dtype == "timestamp" else ARROW_TYPES[dtype]


def _is_large(t: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(t) or pa.types.is_large_binary(t))


def _is_text(t: pa.DataType) -> bool:
    return bool(pa.types.is_string(t) or pa.types.is_binary(t)) or _is_large(t)


def _as_bytes(column: pa.Array) -> list[Any]:
    """Text of any kind as bytes or None, without a look at its encoding."""
    binary = column.cast(pa.large_binary() if _is_large(column.type) else pa.binary())
    values: list[Any] = binary.to_numpy(zero_copy_only=False).tolist()
    return values


def _relabel(binary: pa.Array) -> pa.Array:
    """A binary array as strings without a check of the encoding; its buffers are shared."""
    t = pa.large_string() if _is_large(binary.type) else pa.string()
    return pa.Array.from_buffers(t, len(binary), binary.buffers(), offset=binary.offset)


def _texts(column: pa.Array) -> list[str | None]:
    return [None if b is None else b.decode("utf-8", "surrogateescape") for b in _as_bytes(column)]


def _raw(column: pa.Array, row: int) -> Any:
    """One value of a column of any type, as Python, for a detail or a payload; never raises for what it holds."""
    if pa.types.is_dictionary(column.type):
        column = column[row : row + 1].dictionary_decode() if len(column) else column
        row = 0
    if _is_text(column.type) or pa.types.is_timestamp(column.type):
        return _json_values(column[row : row + 1])[0]
    try:
        return column[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return f"a value of type {column.type}"
