"""The rules of the contract over columns of a source's fields, and what a reject is told: see :mod:`transforms.contract`."""

from __future__ import annotations

import decimal
import math
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.columns import CODE, MAX_INT64, OK, Codes, Column, float64_values, int64_values, is_valid, mark
from transforms.durations import micros
from transforms.event_source import EventSource
from transforms.fields import MAX_TEXT_BYTES, TIMESTAMP, Field
from transforms.instants import MAX_US, MIN_US
from transforms.parsing import MAX_SCALE
from transforms.reasons import (
    FUTURE_TIMESTAMP,
    INFINITE,
    INVALID_UTF8,
    MISSING_FIELD,
    MISSING_TIMESTAMP,
    NAN,
    NONPOSITIVE_TIMESTAMP,
    NOT_IN_DOMAIN,
    OUT_OF_RANGE,
    OVERFLOW,
    TOO_LONG,
    WRONG_TYPE,
    WRONG_TYPE_TIMESTAMP,
    WRONG_UNIT_TIMESTAMP,
)

__all__ = ["Checked", "Now", "apply_rules", "detail_of", "field_of", "now_of"]

# Seconds taken for microseconds lie within the first hours of 1970, milliseconds within its first 60 days until the year 2111.
_WRONG_UNIT_US = micros(timedelta(days=60))

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
    tombstones: int = 0
    """The records of a topic that have a key and no value: no event, and no fault."""

    @property
    def accepted(self) -> npt.NDArray[np.int64]:
        """The record of each row of ``valid``, ascending: row i of ``valid`` is of record ``accepted[i]``."""
        return np.flatnonzero(~is_valid(self.reasons)) if self.records is None else self.records

    @property
    def rejected(self) -> npt.NDArray[np.int64]:
        """The positions of the rejected records, ascending."""
        return np.flatnonzero(is_valid(self.reasons))


_NAMED = re.compile(r"([a-z][a-z0-9_]*)(?: is missing or null(?: \(element |\Z)|=| \((?:an object|a list)\) )")


def field_of(detail: str | None) -> str | None:
    """The field that a reject's detail is about; None where it is about the record as a whole."""
    found = _NAMED.match(detail or "")
    return found[1] if found else None


def now_of(now_us: Now, rows: npt.NDArray[np.int64]) -> Now:
    """The instants at which the records at these positions are judged."""
    return now_us if isinstance(now_us, int) else now_us[rows]


def apply_rules(
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
    now_us = max(MIN_US, min(MAX_US, now_us)) if isinstance(now_us, int) else np.clip(now_us, MIN_US, MAX_US)
    horizon = now_us + min(max_future_us, MAX_US - MIN_US)
    mark(time_codes, micros_of > np.minimum(horizon, MAX_US), FUTURE_TIMESTAMP)
    times = pa.array(micros_of, mask=absent | (micros_of < MIN_US) | (micros_of > MAX_US)).cast(TIMESTAMP)
    arrays = [times]
    for f in source.fields:
        array, field_codes = columns[f.name]
        codes[f.name] = _field_rules(f, array, field_codes)
        arrays.append(array.cast(TIMESTAMP) if f.dtype == "timestamp" else array)
    return arrays, codes, times


def _field_rules(f: Field, array: pa.Array, codes: Codes) -> Codes:
    present = is_valid(array)
    if f.required:
        mark(codes, ~present, MISSING_FIELD)
    if f.dtype == "timestamp":
        us = int64_values(array)
        mark(codes, (us < MIN_US) | (us > MAX_US), OUT_OF_RANGE)
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
    elif f.length is not None:
        mark(codes, present & (pc.list_value_length(array).fill_null(f.length).to_numpy(zero_copy_only=False) != f.length), OUT_OF_RANGE)
    if f.domain is not None:
        known = pc.is_in(array, value_set=pa.array(list(f.domain), type=array.type))
        mark(codes, present & ~known.to_numpy(zero_copy_only=False), NOT_IN_DOMAIN)
    return codes


def _whole_bounds(f: Field) -> tuple[int, int]:
    """The inclusive int64 bounds that are the same as the field's bounds for integers; low > high allows none."""
    low = -MAX_INT64 - 1 if f.min is None or f.min < -MAX_INT64 - 1 else MAX_INT64 + 1 if f.min > MAX_INT64 else math.ceil(f.min)
    high = MAX_INT64 if f.max is None or f.max > MAX_INT64 else -MAX_INT64 - 2 if f.max < -MAX_INT64 - 1 else math.floor(f.max)
    return (low, high) if low <= MAX_INT64 and high >= -MAX_INT64 - 1 else (1, 0)


def detail_of(source: EventSource, name: str, reason: str, value: Any, max_future_us: int, why: str = "") -> str:
    """One line that names the field, the value and the rule; ``why`` is its end where the field has its own."""
    if reason in (MISSING_TIMESTAMP, MISSING_FIELD):
        return f"{name} is missing or null"
    if isinstance(value, (dict, list, set, tuple)):
        shown = f"{name} ({'an object' if isinstance(value, dict) else 'a list'})"
    else:
        shown = repr(value[:80] if isinstance(value, (str, bytes)) else value)
        shown = f"{name}={shown if len(shown) <= 100 else shown[:97] + '...'}"
    if why:
        return f"{shown} {why}"
    if reason == FUTURE_TIMESTAMP:
        return f"{shown} lies more than {timedelta(microseconds=max_future_us)} ahead of the instant that it is judged at"
    if reason == WRONG_UNIT_TIMESTAMP:
        return f"{shown} lies in early 1970: it looks like seconds or milliseconds; send microseconds"
    if reason == TOO_LONG:
        return f"{shown} is longer than {MAX_TEXT_BYTES} bytes"
    if reason == NONPOSITIVE_TIMESTAMP:
        return f"{shown} is not after 1970"
    if reason == WRONG_TYPE_TIMESTAMP:
        return f"{shown} is no timestamp; {_read_by(value, 'timestamp') or _TIMES}"
    f = source.field(name)
    if reason == OUT_OF_RANGE and f.length is not None:
        return f"{shown} has {len(value)} elements, not {f.length}"
    if reason == OUT_OF_RANGE:
        low, high = (1, 9999) if f.dtype == "timestamp" else (f.min, f.max)
        return f"{shown} is outside of {'the years ' if f.dtype == 'timestamp' else ''}{low} to {high}".replace("None", "any")
    if reason == NOT_IN_DOMAIN:
        allowed = list(f.domain or ())
        return f"{shown} is none of {', '.join(map(repr, allowed)) if len(allowed) <= 8 else f'the {len(allowed)} allowed values'}"
    fix = _read_by(value, f.dtype) or (_TIMES if f.dtype == "timestamp" else "")
    taken = f"; {fix}" if fix else ""
    ends = {WRONG_TYPE: f"is no {f.dtype}{taken}", OVERFLOW: f"does not fit {f.dtype} exactly{taken}", INVALID_UTF8: "is not valid UTF-8"}
    return f"{shown} {ends.get(reason, 'is not a finite number')}"


def _read_by(value: Any, dtype: str | None) -> str:
    """What reads a value that has a type of its own; "": nothing that a field could say."""
    if isinstance(value, decimal.Decimal) and dtype in ("float64", "int64") and value.is_finite():
        return f"the field's parse=Decimal(scale={min(MAX_SCALE, max(0, -int(value.as_tuple().exponent)))}) reads it"
    if isinstance(value, date) and not isinstance(value, datetime) and dtype == "timestamp":
        return "the field's parse=Date() reads it"
    if isinstance(value, time) and dtype == "int64":
        return "the field's parse=TimeOfDay() reads it"
    if type(value) is int and abs(value) < 10**400:
        if dtype == "string":
            return "the field's parse=Text() reads it"
        if dtype == "int64":
            return 'a field of dtype "string" holds it with parse=Text()'
    return ""
